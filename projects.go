package imgd

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/imgd/imgd/version"
)

// Projects are the configured projects, which a reload replaces all at once.
// Whoever decides something reads what it needs of a project once: the next
// read may be of another config. Safe for concurrent use; nil has none.
type Projects struct {
	now atomic.Pointer[map[string]Project]
}

// Set replaces all of them in one step. The map is not kept.
func (p *Projects) Set(byName map[string]Project) {
	all := maps.Clone(byName)
	p.now.Store(&all)
}

// Get is the project of that name, false if none is configured.
func (p *Projects) Get(name string) (Project, bool) {
	project, ok := p.all()[name]
	return project, ok
}

// All are the projects, sorted by name.
func (p *Projects) All() []Project {
	all := p.all()
	var sorted []Project
	for _, name := range slices.Sorted(maps.Keys(all)) {
		sorted = append(sorted, all[name])
	}
	return sorted
}

func (p *Projects) all() map[string]Project {
	if p == nil {
		return nil
	}
	if all := p.now.Load(); all != nil {
		return *all
	}
	return nil
}

// Repositories are those of every project that makes the image, in the order of
// the config.
func (p *Projects) Repositories(image string) []string {
	projects := p.all()
	var names []string // few of many: a verification asks for each tag
	for name := range projects {
		if projects[name].Image == image {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var all []string
	for _, name := range names {
		for _, repository := range projects[name].Repositories {
			if !slices.Contains(all, repository) {
				all = append(all, repository)
			}
		}
	}
	return all
}

// Rules are how the project's images are named. The error is version.Complaints.
func (p Project) Rules() (*version.Rules, error) {
	return version.Parse(version.Config{Tags: p.Tags, Flavor: p.Flavor, Labels: p.Labels, Annotations: p.Annotations,
		Immutable: p.Immutable, Moving: p.Moving})
}
