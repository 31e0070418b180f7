package builder

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// gitSource is how buildkitd gets the commit.
type gitSource struct {
	url     string            // without credentials
	secrets map[string][]byte // the credentials, as a session hands them out
	hide    []string          // the strings that may not be shown
}

// gitContext is the commit and nothing else: buildkitd fetches it by its ID,
// alone, whatever the ref names by then. BuildKit takes an HTTP URL for git's
// only if it ends in .git, so that is added; the forges serve both. Files get
// the commit's time, so that layers made of them are the same in each build.
func gitContext(p imgd.Project, req imgd.Request) (gitSource, error) {
	query := url.Values{
		"ref": {req.Ref}, "commit": {req.Commit}, "fetch-by-commit": {"true"}, "submodules": {"false"}, "mtime": {"commit"},
	}
	if err := version.ValidCommit(req.Commit); err != nil {
		return gitSource{}, fmt.Errorf("%w: %w", imgd.ErrInvalid, err)
	}
	if !strings.Contains(p.Git, "://") && strings.Contains(p.Git, ":") { // git@host:path
		return gitSource{url: p.Git + "?" + query.Encode()}, nil
	}
	u, err := url.Parse(p.Git)
	if err != nil || u.Host == "" {
		return gitSource{}, fmt.Errorf("%w: the git URL of project %s is none that buildkitd can fetch: want https, http or ssh", imgd.ErrInvalid, p.Name)
	}
	u.RawQuery, u.Fragment = query.Encode(), ""
	if u.Scheme != "https" && u.Scheme != "http" {
		if u.User != nil {
			u.User = url.User(u.User.Username()) // ssh takes no password from a URL
		}
		return gitSource{url: u.String()}, nil
	}
	if !strings.HasSuffix(u.Path, ".git") {
		u.Path = strings.TrimSuffix(u.Path, "/") + ".git"
	}
	source := credentials(u.Host, u.User)
	u.User = nil
	source.url = u.String()
	return source, nil
}

// credentials become a header for that host alone.
func credentials(host string, user *url.Userinfo) gitSource {
	if user == nil {
		return gitSource{}
	}
	password, _ := user.Password()
	token := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
	hide := []string{token, user.String(), password, url.QueryEscape(password)}
	if password == "" { // https://token@host
		hide = append(hide, user.Username())
	}
	return gitSource{secrets: map[string][]byte{"GIT_AUTH_HEADER." + host: []byte("basic " + token)}, hide: hide}
}
