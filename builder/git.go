package builder

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/session/secrets/secretsprovider"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// gitSource is how buildkitd gets the commit.
type gitSource struct {
	url    string   // without credentials
	header string   // the credentials, as the value of an Authorization header
	hide   []string // the strings that may not be shown

	plain string // url without its query
	ref   string
	id    string // the commit's
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
	source := credentials(u.User)
	u.User = nil
	source.url = u.String()
	u.RawQuery = ""
	source.plain, source.ref, source.id = u.String(), req.Ref, req.Commit
	return source, nil
}

// hand gives the source to the solve. Credentials go by the session as a secret,
// and whatever a Dockerfile names it can mount: so not by the name that
// BuildKit's frontend would give them, but by one that nobody knows, which takes
// what that frontend makes of a git URL made here.
func (s gitSource) hand(opt *client.SolveOpt, secret string) {
	if s.header == "" {
		opt.FrontendAttrs["context"] = s.url
		return
	}
	state := llb.Git(s.plain, "", llb.GitRef(s.ref), llb.GitChecksum(s.id), llb.GitFetchByCommit(), llb.GitSkipSubmodules(), llb.GitMTimeCommit(),
		llb.AuthHeaderSecret(secret), llb.AuthTokenSecret(""), llb.WithCustomName("[internal] load git source "+s.url))
	opt.FrontendInputs = map[string]llb.State{"context": state, "dockerfile": state}
	opt.Session = append(opt.Session, secretsprovider.FromMap(map[string][]byte{secret: []byte(s.header)}))
}

// credentials become a header.
func credentials(user *url.Userinfo) gitSource {
	if user == nil {
		return gitSource{}
	}
	password, _ := user.Password()
	token := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
	hide := []string{token, user.String(), password, url.QueryEscape(password)}
	if password == "" { // https://token@host
		hide = append(hide, user.Username())
	}
	return gitSource{header: "basic " + token, hide: hide}
}
