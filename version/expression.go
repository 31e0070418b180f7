package version

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What may stand in {{…}}, by where it does.
const (
	globals  = "branch tag sha base_ref is_default_branch is_not_default_branch date commit_date"
	dates    = "date commit_date"
	versions = "raw version major minor patch"
)

// An expression is text with {{…}} in it: the part of Handlebars that docker/metadata-action documents, a name, and after
// date and commit_date a format and a time zone in quotes. No Go template.
type expression []piece

// A piece is text, or a name.
type piece struct {
	text, name string
	format     moment
	zone       *time.Location
}

// wholeVersion is {{version}}.
var wholeVersion = expression{{name: "version"}}

// parseExpression reads an expression in which names may stand.
func parseExpression(s, names string) (expression, error) {
	if len(s) > maxLine {
		return nil, fmt.Errorf("longer than %d bytes", maxLine)
	}
	var e expression
	for s != "" {
		text, rest, found := strings.Cut(s, "{{")
		if text != "" {
			e = append(e, piece{text: text})
		}
		if !found {
			break
		}
		if strings.HasSuffix(text, "$") {
			return nil, errors.New("${{…}} is GitHub's, which fills it in before docker/metadata-action sees the line; here nobody does: write {{…}}")
		}
		if strings.HasSuffix(text, `\`) {
			return nil, errors.New(`\{{ is not supported: a text cannot have {{ in it`)
		}
		p, after, err := parsePiece(rest, names)
		if err != nil {
			return nil, err
		}
		e, s = append(e, p), after
	}
	return e, nil
}

var (
	mustacheName = regexp.MustCompile(`^\s*([A-Za-z_][A-Za-z0-9_]*)`)
	mustacheEnd  = regexp.MustCompile(`^\s*\}\}`)
	mustacheArg  = regexp.MustCompile(`^\s+(?:([A-Za-z_]+)=)?(?:'((?:[^'\\]|\\[^'])*)'|"((?:[^"\\]|\\[^"])*)")`)
)

// parsePiece reads what follows {{, to its end.
func parsePiece(s, names string) (p piece, rest string, err error) {
	if !strings.Contains(s, "}}") {
		return p, "", fmt.Errorf("{{%.*s is not closed by }}", shown, s)
	}
	found := mustacheName.FindStringSubmatch(s)
	if found == nil {
		return p, "", fmt.Errorf("{{%.*s is not supported: conditions, loops, comments and {{{…}}} of Handlebars are not, only {{name}} is", shown, s)
	}
	p.name, rest = found[1], s[len(found[0]):]
	if !slices.Contains(strings.Fields(names), p.name) {
		return p, "", fmt.Errorf("{{%.*s}} is not known here: only %s are", shown, p.name, list(names))
	}
	var args []attribute
	for {
		if end := mustacheEnd.FindString(rest); end != "" {
			rest = rest[len(end):]
			return p, rest, p.take(args)
		}
		at := mustacheArg.FindStringSubmatch(rest)
		if at == nil {
			return p, "", fmt.Errorf("{{%s%.*s: want }} or, of date and commit_date, a format and tz= in quotes, as in {{date 'YYYYMMDD' tz='UTC'}}", p.name, shown, rest)
		}
		args, rest = append(args, attribute{at[1], at[2] + at[3]}), rest[len(at[0]):]
	}
}

// take reads what stands after the name.
func (p *piece) take(args []attribute) error {
	if !slices.Contains(strings.Fields(dates), p.name) {
		if len(args) > 0 {
			return fmt.Errorf("{{%s}} takes nothing", p.name)
		}
		return nil
	}
	if len(args) == 0 || args[0].name != "" {
		return fmt.Errorf("{{%s}} needs a format, as in {{%s 'YYYYMMDD'}}", p.name, p.name)
	}
	p.zone = time.UTC
	for _, arg := range args[1:] {
		if arg.name != "tz" {
			return fmt.Errorf("{{%s}} takes a format and tz=, not %.*s", p.name, shown, arg)
		}
		zone, err := time.LoadLocation(arg.value)
		if err != nil || arg.value == "Local" || arg.value == "" {
			return fmt.Errorf("tz %.*q is no time zone, as Europe/Berlin is", shown, arg.value)
		}
		p.zone = zone
	}
	var err error
	p.format, err = parseMoment(args[0].value)
	return err
}

func list(names string) string {
	words := strings.Fields(names)
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// constant is the expression's text if nothing in it is filled in.
func (e expression) constant() (string, bool) {
	var all strings.Builder
	for _, p := range e {
		if p.name != "" {
			return "", false
		}
		all.WriteString(p.text)
	}
	return all.String(), true
}

// escape does what Handlebars does to every value, so that an image gets the same tags here as there.
var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#x27;", "`", "&#x60;", "=", "&#x3D;")

// expand fills in the names. What is longer than a template may get ends there.
func (e expression) expand(value func(piece) string) string {
	var all strings.Builder
	for _, p := range e {
		if all.Len() > maxTemplate {
			return all.String()[:maxTemplate]
		}
		if p.name == "" {
			all.WriteString(p.text)
		} else {
			all.WriteString(escape.Replace(value(p)))
		}
	}
	return all.String()
}

// fill fills in the names that stand for what is known of the build.
func (n *naming) fill(e expression) string { return e.expand(n.global) }

func (n *naming) global(p piece) string {
	switch p.name {
	case "branch":
		return n.name.branch
	case "tag":
		return n.name.tag
	case "sha":
		return n.Commit[:min(len(n.Commit), metaCommitLen)]
	case "base_ref":
		if n.name.isBranch {
			return ""
		}
		return strings.TrimPrefix(n.BaseRef, headRefs)
	case "is_default_branch":
		return fmt.Sprint(n.isDefault())
	case "is_not_default_branch":
		return fmt.Sprint(!n.isDefault())
	case "date":
		return p.format.of(n.asked().In(p.zone))
	case "commit_date":
		t := n.CommitTime
		if t.IsZero() {
			t = n.asked()
		}
		return p.format.of(t.In(p.zone))
	}
	panic("unreachable: unknown names are refused by Parse: " + p.name)
}

// isDefault reports whether the build is of the default branch; a schedule is always of it.
func (n *naming) isDefault() bool {
	return n.name.isBranch && n.name.branch == n.DefaultBranch && n.DefaultBranch != "" || strings.Contains(n.Event, "schedule")
}

// asked is when the build was asked for, or the commit's time if nobody says.
func (n *naming) asked() time.Time {
	if n.AskedAt.IsZero() {
		return n.CommitTime
	}
	return n.AskedAt
}
