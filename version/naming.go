package version

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Apply names a build by the rules, or by imgd's defaults if there are none. It reads all of i. That there is no tag is no
// error, but the defaults refuse a ref that can never have one. Every tag passes ValidTag.
func (r *Rules) Apply(i Info) (Named, error) {
	if r == nil {
		r = &Rules{}
	}
	n := &naming{Info: i, rules: r}
	if err := n.run(); err != nil {
		return Named{}, fmt.Errorf("name tags of ref %.*q: %w", shown, i.Ref, err)
	}
	named := Named{Tags: n.tags, Steps: n.steps, Labels: n.filled(r.labels), Annotations: n.filled(r.annotations)}
	if len(r.rules) > 0 && len(n.tags) > 0 {
		named.Version = n.tags[0].Name
	}
	if n.name.pull != "" && !n.lasting && len(n.tags) > 0 {
		named.TTL = pullTTL
	}
	return named, nil
}

// Reasons says in one line why the rules that gave no tag gave none.
func (n Named) Reasons() string {
	var reasons []string
	for _, step := range n.Steps {
		if step.Tag == "" {
			reasons = append(reasons, step.Rule+": "+step.Note)
		}
	}
	return strings.Join(reasons, "; ")
}

// A naming is one Apply under way.
type naming struct {
	Info
	rules *Rules
	name  refName

	tags    []Tag
	steps   []Step
	lasting bool // one of the tags is not the pull request's alone
}

// An answer is what one rule gives.
type answer struct {
	value  string // "" nothing
	kind   Kind
	latest bool   // flavor latest=auto adds latest to it
	pull   bool   // of a pull request it is a tag that nothing else has
	note   string // why it gives nothing, or what was ignored
}

func (n *naming) run() error {
	for _, s := range []string{n.Ref, n.BaseRef, n.Describe, n.Prefix, n.DefaultBranch, n.Event} {
		if len(s) > maxRef {
			return fmt.Errorf("%.*q is longer than %d bytes", shown, s, maxRef)
		}
	}
	if n.Commit != "" {
		if err := ValidCommit(n.Commit); err != nil {
			return err
		}
	}
	n.name = readRef(n.Ref)
	if len(n.rules.rules) == 0 {
		return n.defaults()
	}
	var first *answer
	for _, rule := range n.rules.rules {
		a, err := n.ask(rule)
		if err != nil {
			return err
		}
		if n.take(rule.text, a) && first == nil {
			first = &a
		}
	}
	n.latest(first)
	return nil
}

// take adds what a rule gives to the tags and tells of it; false if it is nothing.
func (n *naming) take(rule string, a answer) bool {
	step := Step{Rule: cut(rule), Note: a.note}
	if a.value != "" {
		var fixed string
		step.Tag, fixed = sanitise(a.value)
		step.note(fixed)
	}
	if step.Tag != "" {
		step.note(n.add(Tag{step.Tag, n.kind(step.Tag, a.kind)}))
		n.lasting = n.lasting || !a.pull || n.kind(step.Tag, a.kind) == KindVersion
	}
	n.steps = append(n.steps, step)
	return step.Tag != ""
}

func (s *Step) note(text string) {
	switch {
	case text == "":
	case s.Note == "":
		s.Note = text
	default:
		s.Note += "; " + text
	}
}

// cut is as much of a rule or a name as a step repeats.
func cut(s string) string {
	if len(s) > shown {
		s = s[:shown] + "…"
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// add appends a tag. Of two with one name the kind that promises more counts, at the place of the first.
func (n *naming) add(tag Tag) (note string) {
	i := slices.IndexFunc(n.tags, func(t Tag) bool { return t.Name == tag.Name })
	if i < 0 {
		n.tags = append(n.tags, tag)
		return ""
	}
	if promise(tag.Kind) > promise(n.tags[i].Kind) {
		n.tags[i].Kind = tag.Kind
	}
	return "the build has it already"
}

// promise orders kinds by how little their tags move.
func promise(k Kind) int {
	return slices.Index([]Kind{KindOther, KindBranch, KindSeries, KindCommit, KindVersion}, k)
}

// kind is that of the rule, unless a glob of the config says otherwise.
func (n *naming) kind(tag string, own Kind) Kind {
	matches := func(glob string) bool { ok, _ := path.Match(glob, tag); return ok }
	switch {
	case slices.ContainsFunc(n.rules.moving, matches):
		return KindOther
	case slices.ContainsFunc(n.rules.immutable, matches):
		return KindVersion
	}
	return own
}

// latest adds the automatic latest, which the first rule that gave a tag decides on.
func (n *naming) latest(first *answer) {
	f, rule := n.rules.flavor, "flavor latest="+n.rules.flavor.when()
	switch {
	case first == nil:
		n.steps = append(n.steps, Step{Rule: rule, Note: "no rule gave a tag"})
	case f.when() == "false":
		n.steps = append(n.steps, Step{Rule: rule, Note: "it is off"})
	case f.when() == "auto" && !first.latest:
		n.steps = append(n.steps, Step{Rule: rule, Note: "the first rule that gave a tag decides, and its tag is no stable release"})
	default:
		n.take(rule, answer{value: n.fill(f.onLatest(f.prefix)) + "latest" + n.fill(f.onLatest(f.suffix)), kind: n.series()})
	}
}

// series is the kind of a tag that goes to the highest version. That is the git
// tag's: of another ref nothing says which is higher, so the newest ask has it.
func (n *naming) series() Kind {
	if strings.HasPrefix(n.Ref, tagRefs) {
		return KindSeries
	}
	return KindOther
}

// filled are labels or annotations with their expressions filled in, none of more than 32 KiB.
func (n *naming) filled(m map[string]expression) map[string]string {
	if len(m) == 0 {
		return nil
	}
	all := make(map[string]string, len(m))
	for name, e := range m {
		all[name] = n.fill(e)
	}
	return all
}
