package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/imgd/imgd"
	names "github.com/imgd/imgd/version"
)

// sampleRefs are what config check tries the rules on.
func sampleRefs(prefix string) []string {
	return []string{"refs/heads/main", "refs/heads/feature/x", "refs/tags/" + prefix + "v1.2.3", "refs/tags/" + prefix + "v0.3.1",
		"refs/tags/" + prefix + "v1.2.3-rc.1", "refs/pull/7/head"}
}

// sample is a build of ref, as if the default branch were main.
func sample(project imgd.Project, ref string) imgd.Request {
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	req := imgd.Request{Project: project.Name, Ref: ref, Commit: strings.Repeat("0123456789", 4), AskedAt: at, CommitTime: at,
		Prefix: project.TagPrefix, DefaultBranch: "main"}
	if !strings.HasPrefix(ref, "refs/tags/") {
		req.Describe = "v1.2.3-4-g0123456"
	}
	return req
}

// showTags prints what images of the projects that say so would be called. With
// why it is of all projects, and says of each rule what it gave, or why nothing.
func showTags(w io.Writer, projects []imgd.Project, why bool) error {
	if !why {
		projects = slices.DeleteFunc(projects, func(p imgd.Project) bool { return len(p.Tags)+len(p.Immutable)+len(p.Moving) == 0 })
	}
	if len(projects) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROJECT\tREF\tTAGS")
	var notes []string
	for _, project := range projects {
		rules, err := project.Rules()
		if err != nil {
			return fmt.Errorf("read how project %s names images: %w", project.Name, err)
		}
		kinds := sampleKinds{}
		for _, ref := range sampleRefs(project.TagPrefix) {
			named, err := rules.Apply(sample(project, ref).Info())
			fmt.Fprintf(table, "%s\t%s\t%s\n", project.Name, ref, sampleTags(project, ref, named, err))
			if !project.Allows(ref) {
				continue
			}
			for _, step := range named.Steps {
				if why {
					fmt.Fprintf(table, "\t  %s\t%s\n", step.Rule, strings.TrimSpace(step.Tag+" "+step.Note))
				}
			}
			notes = append(notes, kinds.add(project.Name, ref, named.Tags)...)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, note := range notes {
		fmt.Fprintln(w, note)
	}
	return nil
}

// sampleKinds are the tags of a project so far, each with its kind and its ref.
type sampleKinds map[string]struct {
	kind names.Kind
	ref  string
}

// add says which of the tags have had another kind: the index lets a tag keep the
// kind that took it first.
func (k sampleKinds) add(project, ref string, tags []names.Tag) (notes []string) {
	for _, tag := range tags {
		was, ok := k[tag.Name]
		if !ok {
			was.kind, was.ref = tag.Kind, ref
			k[tag.Name] = was
		} else if was.kind != tag.Kind {
			notes = append(notes, fmt.Sprintf("note: project %s: %s is of kind %s at %s and of kind %s at %s; who takes it first keeps it from the other: "+
				"name it in moving, or in immutable", project, tag.Name, was.kind, was.ref, tag.Kind, ref))
		}
	}
	return notes
}

func sampleTags(project imgd.Project, ref string, named names.Named, err error) string {
	switch {
	case !project.Allows(ref):
		return "not built: see refs"
	case err != nil:
		return err.Error()
	case len(named.Tags) == 0:
		return "none, so it is not built"
	}
	var words []string
	for _, tag := range named.Tags {
		words = append(words, fmt.Sprintf("%s (%s)", tag.Name, tag.Kind))
	}
	if named.TTL > 0 {
		words = append(words, fmt.Sprintf("for %d days", named.TTL/(24*time.Hour)))
	}
	return strings.Join(words, ", ")
}
