package version

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Bounds of a Config: far above what anybody writes, and low enough that what rules cost and say stays small.
const (
	maxLine  = 4 << 10 // bytes of one line, one label
	maxRules = 50
	maxRef   = 1 << 10 // bytes of a ref
)

// pullTTL is how long the tags of a pull request stay after they were asked for.
const pullTTL = 7 * 24 * time.Hour

// Config says how a project names its images, in the lines of docker/metadata-action v6 (docs/tags.md has them all).
type Config struct {
	Tags   []string // rules, one a line; none: imgd's defaults
	Flavor []string
	// Labels and Annotations of the image; in their values stand expressions.
	Labels, Annotations map[string]string
	// Globs, as path.Match has them: tags that are of kind version, and tags that are of kind other whatever else they are.
	Immutable, Moving []string
}

// A Complaint is what is wrong with one value of a Config.
type Complaint struct {
	Key  string // tags, flavor, labels, annotations, immutable or moving
	At   string // the index of a list's line, from 0, or the label's name
	Text string // what is wrong, and what to write instead
}

// Complaints are all that is wrong with a Config, in its order.
type Complaints []Complaint

func (c Complaints) Error() string {
	var lines []string
	for _, one := range c {
		lines = append(lines, one.Key+"."+one.At+": "+one.Text)
	}
	return strings.Join(lines, "; ")
}

// Rules are a Config that was read. The nil Rules are those of the zero Config. Safe for concurrent use.
type Rules struct {
	rules               []rule // by priority
	flavor              flavor
	labels, annotations map[string]expression
	immutable, moving   []string
}

// Named is all that a build is called.
type Named struct {
	// Version is the main tag, which the labels give as the image's version. Empty without rules: then it is what Of says.
	Version string
	// Tags has no name twice; the main tag is the first. There may be none.
	Tags []Tag
	// TTL is how long to keep them, 0 for ever.
	TTL time.Duration
	// Labels and Annotations are those of the Config, filled in.
	Labels, Annotations map[string]string
	// Steps tell of each rule, in the order in which they were tried.
	Steps []Step
}

// A Step is what became of one rule. It is bounded: at most 50 rules of a few hundred bytes.
type Step struct {
	Rule string `json:"rule"`           // as it was written
	Tag  string `json:"tag,omitempty"`  // that it gave
	Note string `json:"note,omitempty"` // why it gave none, or what was changed or left out
}

// Parse reads a Config. The error is Complaints: whatever of metadata-action is not supported is one, and says so.
func Parse(c Config) (*Rules, error) {
	r, wrong := &Rules{}, Complaints{}
	bad := func(key, at string, err error) {
		if err != nil {
			wrong = append(wrong, Complaint{key, at, err.Error()})
		}
	}
	for i, line := range c.Tags {
		if blank(line) {
			continue
		}
		rule, err := parseRule(line)
		bad("tags", fmt.Sprint(i), err)
		r.rules = append(r.rules, rule)
	}
	if len(r.rules) > maxRules {
		bad("tags", fmt.Sprint(maxRules), fmt.Errorf("more than %d rules", maxRules))
	}
	slices.SortStableFunc(r.rules, func(a, b rule) int { return cmp.Compare(b.priority, a.priority) })
	for i, line := range c.Flavor {
		switch {
		case blank(line):
		case len(r.rules) == 0:
			bad("flavor", fmt.Sprint(i), errors.New("needs tags: without rules imgd names images by its own defaults, which have no flavor"))
		default:
			bad("flavor", fmt.Sprint(i), r.flavor.read(line))
		}
	}
	r.labels = texts(c.Labels, func(name string, err error) { bad("labels", name, err) })
	r.annotations = texts(c.Annotations, func(name string, err error) { bad("annotations", name, err) })
	for i, glob := range c.Immutable {
		bad("immutable", fmt.Sprint(i), checkGlob(glob))
	}
	for i, glob := range c.Moving {
		bad("moving", fmt.Sprint(i), checkGlob(glob))
	}
	r.immutable, r.moving = c.Immutable, c.Moving
	if len(wrong) > 0 {
		return nil, wrong
	}
	return r, nil
}

// texts reads labels or annotations.
func texts(m map[string]string, bad func(string, error)) map[string]expression {
	all := map[string]expression{}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		e, err := parseExpression(m[name], globals)
		bad(name, err)
		all[name] = e
	}
	return all
}

// blank reports whether a line of rules says nothing: it is empty, or a comment.
func blank(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || line[0] == '#'
}

func checkGlob(glob string) error {
	if _, err := path.Match(glob, ""); err != nil || glob == "" || len(glob) > maxTag {
		return fmt.Errorf("glob %.*q: want a pattern of whole tags, as v* or sha-[0-9a-f]*", shown, glob)
	}
	return nil
}
