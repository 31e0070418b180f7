package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	names "github.com/imgd/imgd/version"
)

func (a *app) explainCommand() *cobra.Command {
	var o output
	var ref, commit, event string
	cmd := &cobra.Command{
		Use:   "explain PROJECT --ref REF",
		Short: "Show what a build of a branch or tag would be called, and why, without building",
		Long: `Show what a build of a branch or tag would be called, and why, without building: its commit, git
describe and version, what each tag rule gives or why it gives nothing, each tag with its kind, whether
it would be taken at this moment and who has it now, and the build args and labels.`,
		Example: `  imgctl explain hello --ref v1.2.3
  imgctl explain hello --ref main --jq '.[].tags[] | select(.taken) | .tag'`,
		Args:              between(1, 1, "one PROJECT"),
		ValidArgsFunction: first(a.projects),
		RunE: func(cmd *cobra.Command, args []string) error {
			if ref == "" {
				return usage("--ref is missing: which branch or tag? As in: imgctl explain %s --ref main", args[0])
			}
			if err := checkProject(args[0]); err != nil {
				return err
			}
			ctx, cancel := a.within(cmd, buildTime)
			defer cancel()
			query := url.Values{"ref": {ref}}
			if commit != "" {
				query.Set("commit", commit)
			}
			if event != "" {
				query.Set("event", event)
			}
			var e imgd.Explanation
			if err := a.client().Get(ctx, "/v1/projects/"+args[0]+"/explain", query, &e); err != nil {
				return err
			}
			return o.print(ctx, a.stdout, result{items: []imgd.Explanation{e}, table: func(row func(...string)) { sheet(row).explanation(e) }})
		},
	}
	cmd.Flags().StringVar(&ref, "ref", "", "branch or tag, short or full (required)")
	cmd.Flags().StringVar(&commit, "commit", "", "full commit that the ref contains (default: what it names now)")
	cmd.Flags().StringVar(&event, "event", "", "schedule: as if a clock asked")
	for _, name := range []string{"ref", "commit", "event"} {
		completeFlag(cmd, name, cobra.NoFileCompletions)
	}
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

func (s sheet) explanation(e imgd.Explanation) {
	s.put("Project", e.Project)
	s.put("Ref", e.Ref)
	s.put("Commit", e.Commit+" of "+moment(e.CommitTime))
	s.put("Describe", e.Describe)
	s.put("Version", e.Version)
	s.put("Image", e.Image)
	s.put("Rules", steps(e.Rules))
	s.put("Tags", previews(e))
	s.put("Request", e.Request)
	s.put("Would end", string(e.End))
	s.put("Because", e.Why)
	if e.Release != "" {
		s.put("Built", "already, as release "+e.Release)
	}
	s.put("Platforms", strings.Join(e.Platforms, "\n"))
	s.put("Dockerfile", e.Dockerfile)
	s.put("Target", e.Target)
	s.put("Build args", pairs(e.Args))
	s.put("Labels", pairs(e.Labels))
	s.put("Annotations", pairs(e.Annotations))
}

// steps are what became of each rule, each on a line.
func steps(all []names.Step) string {
	var lines []string
	for _, step := range all {
		line := step.Rule + ": " + cmp.Or(step.Tag, "nothing")
		if step.Note != "" {
			line += ", " + step.Note
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// previews are the tags, each on a line: whether it would be taken, and what it
// names now.
func previews(e imgd.Explanation) string {
	var lines []string
	for _, t := range e.Tags {
		line := fmt.Sprintf("%s (%s): ", t.Tag, t.Kind)
		switch {
		case !t.Taken:
			line += "not taken, " + t.Reason
		case t.Release == "":
			line += "taken"
		default:
			line += fmt.Sprintf("taken from release %s, which made it %s", t.Release, orNothing(t.Root))
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// pairs are name=value, sorted, each on a line.
func pairs(values map[string]string) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		lines = append(lines, name+"="+values[name])
	}
	return strings.Join(lines, "\n")
}
