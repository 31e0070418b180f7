package version

import (
	"errors"
	"fmt"
	"strings"
	"text/template/parse"
	"time"
)

// maxTemplate bounds a template and what it expands to, in bytes: far above any ldflags line, far below what one
// argument of a Linux process may hold (128 KiB).
const maxTemplate = 32 << 10

const fieldNames = "Version Commit ShortCommit Date Describe Branch Tag"

// Values are the fields of ldflags and build-arg templates.
type Values struct {
	Version     string // what Of says
	Commit      string // 40 or 64 lower-case hex digits
	ShortCommit string // the first 12 of them
	Date        string // of the commit, RFC 3339 in UTC: 2026-11-21T10:00:00Z
	Describe    string // git describe's answer, or empty
	Branch      string // short name of a refs/heads/ ref, else empty
	Tag         string // short name of a refs/tags/ ref, else empty
}

// ValuesOf returns the values of a build; it reads all of i. Version, Commit and Date are checked here, for every build
// gets them. Describe, Branch and Tag are checked by Expand where a template uses them, so that a branch named
// fix/#123 can be built as long as nothing injects its name. A name that does not pass is an error and never changed:
// two branches must not become one value unseen.
func ValuesOf(i Info) (Values, error) {
	version, err := Of(i)
	if err != nil {
		return Values{}, err
	}
	if err := errors.Join(ValidCommit(i.Commit), validTime(i.CommitTime)); err != nil {
		return Values{}, fmt.Errorf("take values of ref %.*q: %w", shown, i.Ref, err)
	}
	return Values{
		Version:     version,
		Commit:      i.Commit,
		ShortCommit: i.Commit[:shortCommitLen],
		Date:        i.CommitTime.UTC().Format(time.RFC3339),
		Describe:    i.Describe,
		Branch:      after(i.Ref, headRefs),
		Tag:         after(i.Ref, tagRefs),
	}, nil
}

// after returns what follows prefix in s, or nothing if s does not start with it.
func after(s, prefix string) string {
	if rest, ok := strings.CutPrefix(s, prefix); ok {
		return rest
	}
	return ""
}

// checked returns the value of a field, or an error if there is no such field or a build must not see the value. Empty
// passes: it injects nothing.
func (v Values) checked(name string) (string, error) {
	value, valid := v.field(name)
	if valid == nil {
		return "", fmt.Errorf("no field %s: want one of %s", name, fieldNames)
	}
	if value == "" {
		return "", nil
	}
	if err := valid(value); err != nil {
		return "", fmt.Errorf("field %s: %w", name, err)
	}
	return value, nil
}

// field returns a value and its rule; the rule is nil if there is no field of this name.
func (v Values) field(name string) (string, func(string) error) {
	switch name {
	case "Version":
		return v.Version, ValidVersion
	case "Commit":
		return v.Commit, ValidCommit
	case "ShortCommit":
		return v.ShortCommit, validShortCommit
	case "Date":
		return v.Date, validDate
	case "Describe":
		return v.Describe, validName
	case "Branch":
		return v.Branch, validName
	case "Tag":
		return v.Tag, validName
	}
	return "", nil
}

// Expand fills in a template: text, in which {{.Field}} stands for a field of Values. The syntax is text/template's with
// trim markers and comments, and nothing more: no function, pipeline, variable, condition or loop, so that a template
// cannot run long or grow. The text comes from config and may hold spaces and quotes. The values may not, each that is
// used is checked once more, and so they cannot change how many words the result has; only an empty one can, if it
// stands for a whole word. Template and result hold at most 32 KiB. An error repeats the template.
func Expand(tmpl string, v Values) (string, error) {
	nodes, err := parts(tmpl)
	if err != nil {
		return "", fmt.Errorf("template %.*q: %w", shown, tmpl, err)
	}
	var out strings.Builder
	for _, n := range nodes {
		text, err := n.expand(v)
		if err != nil {
			return "", fmt.Errorf("template %.*q: %w", shown, tmpl, err)
		}
		if out.Len()+len(text) > maxTemplate {
			return "", fmt.Errorf("template %.*q: result is longer than %d bytes", shown, tmpl, maxTemplate)
		}
		out.WriteString(text)
	}
	return out.String(), nil
}

// CheckTemplate reports what is wrong with a template, whatever the values: Expand accepts the ones that pass, unless a
// value does not pass or the result grows too long.
func CheckTemplate(tmpl string) error {
	_, err := Expand(tmpl, Values{})
	return err
}

// part is one piece of a template: text, or the name of a field.
type part struct{ text, field string }

func (p part) expand(v Values) (string, error) {
	if p.field == "" {
		return p.text, nil
	}
	return v.checked(p.field)
}

// parts reads a template with text/template's own parser and refuses all but text and fields.
func parts(tmpl string) ([]part, error) {
	if len(tmpl) > maxTemplate {
		return nil, fmt.Errorf("longer than %d bytes", maxTemplate)
	}
	tree, err := readTree(tmpl)
	if err != nil {
		return nil, err
	}
	var all []part
	for _, n := range tree.Root.Nodes {
		p, ok := partOf(n)
		if !ok {
			return nil, fmt.Errorf("%.*q is not allowed: only text and {{.Field}} are", shown, n)
		}
		all = append(all, p)
	}
	return all, nil
}

func readTree(tmpl string) (*parse.Tree, error) {
	set := map[string]*parse.Tree{}
	tree := parse.New("line")
	tree.Mode = parse.SkipFuncCheck // functions are refused with the other nodes, by a clearer error
	if _, err := tree.Parse(tmpl, "", "", set); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: "))
	}
	for _, t := range set {
		if t != tree {
			return nil, fmt.Errorf("{{define %q}} is not allowed: only text and {{.Field}} are", t.Name)
		}
	}
	return tree, nil
}

func partOf(n parse.Node) (part, bool) {
	if text, ok := n.(*parse.TextNode); ok {
		return part{text: string(text.Text)}, true
	}
	action, ok := n.(*parse.ActionNode)
	if !ok || len(action.Pipe.Decl) != 0 || len(action.Pipe.Cmds) != 1 || len(action.Pipe.Cmds[0].Args) != 1 {
		return part{}, false
	}
	field, ok := action.Pipe.Cmds[0].Args[0].(*parse.FieldNode)
	if !ok || len(field.Ident) != 1 {
		return part{}, false
	}
	return part{field: field.Ident[0]}, true
}
