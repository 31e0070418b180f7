package httpapi

import (
	"net/http"
	"net/url"

	"github.com/imgd/imgd"
)

// A Project is what the API tells of a configured one.
type Project struct {
	Name         string   `json:"name"`
	Git          string   `json:"git"` // URL to clone from, without credentials
	Image        string   `json:"image"`
	Repositories []string `json:"repositories"` // registry/name; all hold the same
	Refs         []string `json:"refs"`         // patterns of what may be built
	Platforms    []string `json:"platforms"`
}

func (a *API) listProjects(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "limit", "cursor", "seq")
	if err != nil {
		return err
	}
	seq, err := a.seq(r.Context(), q)
	if err != nil {
		return err
	}
	var all []Project
	for _, project := range a.Projects.All() {
		all = append(all, projectOf(project))
	}
	list, err := page(q, all, seq, func(p Project) string { return p.Name })
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list)
}

func projectOf(p imgd.Project) Project {
	return Project{Name: p.Name, Git: withoutCredentials(p.Git), Image: p.Image,
		Repositories: orEmpty(p.Repositories), Refs: orEmpty(p.Refs), Platforms: orEmpty(p.Platforms)}
}

// withoutCredentials is the URL as others may see it. The user of an ssh URL is
// part of the address, as in ssh://git@host; any other may be a token.
func withoutCredentials(raw string) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return ""
	case u.Scheme == "ssh" && u.User != nil:
		u.User = url.User(u.User.Username())
	default:
		u.User = nil
	}
	return u.String()
}
