package publisher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"regexp"
	"strconv"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"

	"github.com/imgd/imgd"
)

const (
	// tagsPage is how many tags are asked for at a time.
	tagsPage = 1000
	// maxTagsPage bounds a page, in bytes: registries that do not know pages send
	// all at once, which is some 200,000 tags.
	maxTagsPage = 8 << 20
	// maxTagsPages bounds the pages: a registry that goes round in a circle ends.
	maxTagsPages = 10_000
)

// Tags are the tags of the repository, as the registry lists them, which may be
// twice; a page is read when it is needed. There are none of a repository that
// the registry does not know. An error is the last that comes.
func (p *Publisher) Tags(ctx context.Context, repository string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		r, err := p.repository(repository)
		query := "n=" + strconv.Itoa(tagsPage)
		for page := 0; err == nil && query != ""; page++ {
			var tags []string
			before := query
			tags, query, err = r.tags(ctx, query)
			if err == nil && (query == before || page == maxTagsPages) {
				err = errors.New("the registry lists the same again and again")
			}
			for _, tag := range tags {
				if !yield(tag, nil) {
					return
				}
			}
		}
		if err != nil {
			yield("", fmt.Errorf("list the tags of %s: %w", repository, err))
		}
	}
}

// tags are a page of them, and the query of the next, "" if it is the last.
func (r repository) tags(ctx context.Context, query string) (tags []string, next string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(r.named)+":pull")
	resp, err := r.send(ctx, call{host: r.host, method: http.MethodGet, path: "/" + reference.Path(r.named) + "/tags/list?" + query, accept: "application/json"})
	if errors.Is(err, imgd.ErrNotFound) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTagsPage+1))
	if err != nil {
		return nil, "", fmt.Errorf("read body: %w", err)
	}
	if len(body) > maxTagsPage {
		return nil, "", fmt.Errorf("a page has more than %d bytes", maxTagsPage)
	}
	var listed struct{ Tags []string }
	if err := json.Unmarshal(body, &listed); err != nil {
		return nil, "", fmt.Errorf("decode the list: %w", err)
	}
	next, err = nextPage(resp.Header.Get("Link"))
	return listed.Tags, next, err
}

var nextLink = regexp.MustCompile(`<([^>]*)>\s*;\s*rel="?next"?`)

// nextPage is the query of the page that the header Link names as the next. The
// rest of that address is not followed: it may lead anywhere.
func nextPage(link string) (string, error) {
	m := nextLink.FindStringSubmatch(link)
	if m == nil {
		return "", nil
	}
	u, err := url.Parse(m[1])
	if err != nil || u.RawQuery == "" {
		return "", errors.New("the address of the next page is none")
	}
	return u.RawQuery, nil
}
