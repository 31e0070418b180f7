package version

import (
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
)

// A rule is one line of tags.
type rule struct {
	text     string // as it was written
	kind     string // its type: semver, ref, …
	priority float64

	enable, value  expression
	prefix, suffix *expression // nil: the flavor's

	pattern expression     // of schedule, semver and pep440
	raw     bool           // the pattern is {{raw}} alone
	full    bool           // the pattern has the whole version
	re      *regexp.Regexp // of match, and match= of semver and pep440; nil none
	group   int            // of match
	all     bool           // flag g of match: group counts matches
	branch  string         // of edge
	event   string         // of ref
	long    bool           // of sha
}

// An attribute is one field of a line. A field without = is a value.
type attribute struct{ name, value string }

func (a attribute) String() string { return a.name + "=" + a.value }

// attributes splits a line, CSV, into its fields, and these at their first =.
func attributes(line string) ([]attribute, error) {
	if len(line) > maxLine {
		return nil, fmt.Errorf("longer than %d bytes", maxLine)
	}
	r := csv.NewReader(strings.NewReader(strings.TrimSpace(line)))
	r.FieldsPerRecord = -1
	fields, err := r.Read()
	if err != nil || strings.ContainsAny(line, "\r\n") && strings.ContainsAny(strings.TrimSpace(line), "\r\n") {
		return nil, fmt.Errorf("%.*q is no line of CSV: fields stand between commas, and one that has a comma in it as a whole in quotes, as in \"pattern=v(.{1,3})\"", shown, line)
	}
	var all []attribute
	for _, field := range fields {
		name, value, ok := strings.Cut(field, "=")
		if !ok || name == "" {
			name, value = "value", field
		}
		all = append(all, attribute{strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)})
	}
	return all, nil
}

// ruleType is a type's priority, its own attributes, and the one it needs; not ok if there is no such type.
func ruleType(name string) (priority float64, attrs []string, needs string, ok bool) {
	switch name {
	case "schedule":
		return 1000, []string{"pattern"}, "", true
	case "semver", "pep440":
		return 900, []string{"pattern", "value", "match"}, "pattern", true
	case "match":
		return 800, []string{"pattern", "value", "group"}, "pattern", true
	case "edge":
		return 700, []string{"branch"}, "", true
	case "ref":
		return 600, []string{"event"}, "event", true
	case "describe":
		return 500, nil, "", true
	case "raw":
		return 200, []string{"value"}, "value", true
	case "sha":
		return 100, []string{"format"}, "", true
	}
	return 0, nil, "", false
}

const allTypes = "schedule, semver, pep440, match, edge, ref, describe, raw, sha"

// parseRule reads one line that is not blank.
func parseRule(line string) (rule, error) {
	r := rule{text: strings.TrimSpace(line)}
	fields, err := attributes(line)
	if err != nil {
		return r, err
	}
	given := map[string]string{"type": "raw"}
	for _, field := range fields {
		given[field.name] = field.value
	}
	r.kind = given["type"]
	priority, attrs, needs, ok := ruleType(r.kind)
	if !ok {
		return r, fmt.Errorf("unknown type %.*s: want one of %s", shown, r.kind, allTypes)
	}
	attrs = append(attrs, "enable", "priority", "prefix", "suffix")
	for _, field := range fields {
		if field.name != "type" && !slices.Contains(attrs, field.name) {
			return r, fmt.Errorf("type %s has no %.*s: it takes %s", r.kind, shown, field.name, strings.Join(attrs, ", "))
		}
	}
	if _, ok := given[needs]; needs != "" && !ok {
		return r, fmt.Errorf("type %s needs %s=", r.kind, needs)
	}
	if r.priority, err = parsePriority(given, priority); err != nil {
		return r, err
	}
	return r, errors.Join(r.readCommon(given), r.readOwn(given))
}

func parsePriority(given map[string]string, otherwise float64) (float64, error) {
	s, ok := given["priority"]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("priority %.*q is no number", shown, s)
	}
	return n, nil
}

// readCommon reads the attributes that are expressions.
func (r *rule) readCommon(given map[string]string) error {
	if _, ok := given["prefix"]; !ok && (r.kind == "sha" || given["event"] == "pr") {
		given["prefix"] = map[string]string{"sha": "sha-", "ref": "pr-"}[r.kind]
	}
	for name, to := range map[string]**expression{"prefix": &r.prefix, "suffix": &r.suffix} {
		if s, ok := given[name]; ok {
			e, err := parseExpression(s, globals)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			*to = &e
		}
	}
	var err error
	if r.value, err = parseExpression(given["value"], globals); err != nil {
		return fmt.Errorf("value: %w", err)
	}
	enable, ok := given["enable"]
	if !ok {
		enable = "true"
	}
	if r.enable, err = parseExpression(enable, globals); err != nil {
		return fmt.Errorf("enable: %w", err)
	}
	if constant, ok := r.enable.constant(); ok && constant != "true" && constant != "false" {
		return fmt.Errorf("enable %.*q: want true or false, or an expression that gives it", shown, constant)
	}
	return nil
}

// readOwn reads the attributes of the rule's type.
func (r *rule) readOwn(given map[string]string) (err error) {
	pattern := given["pattern"]
	switch r.kind {
	case "schedule":
		if _, ok := given["pattern"]; !ok {
			pattern = "nightly"
		}
		r.pattern, err = parseExpression(pattern, dates)
	case "semver", "pep440":
		err = r.readVersion(pattern, given["match"])
	case "match":
		err = r.readMatch(pattern, given)
	case "edge":
		r.branch = given["branch"]
	case "ref":
		if r.event = given["event"]; !slices.Contains([]string{"branch", "tag", "pr"}, r.event) {
			err = fmt.Errorf("event=%.*s: want branch, tag or pr", shown, r.event)
		}
	case "sha":
		format, ok := given["format"]
		if r.long = format == "long"; ok && !r.long && format != "short" {
			err = fmt.Errorf("format=%.*s: want short or long", shown, format)
		}
	}
	return err
}

func (r *rule) readVersion(pattern, match string) (err error) {
	if r.pattern, err = parseExpression(pattern, versions); err != nil {
		return fmt.Errorf("pattern: %w", err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(r.pattern, func(p piece) bool { return p.name == name })
	}
	r.raw = len(r.pattern) == 1 && has("raw")
	r.full = has("raw") || has("version") || has("major") && has("minor") && has("patch")
	if match == "" {
		return nil
	}
	if r.re, err = compile(match, ""); err != nil {
		return fmt.Errorf("match: %w", err)
	}
	if r.re.NumSubexp() == 0 {
		return fmt.Errorf("match %.*q has no group: put the part that is the version into parentheses", shown, match)
	}
	return nil
}

var slashed = regexp.MustCompile(`^/(.+)/(.*)$`)

func (r *rule) readMatch(pattern string, given map[string]string) (err error) {
	var flags string
	if parts := slashed.FindStringSubmatch(pattern); parts != nil {
		pattern, flags = parts[1], parts[2]
	}
	var keep strings.Builder
	for _, flag := range flags {
		switch flag {
		case 'i', 'm', 's':
			keep.WriteRune(flag)
		case 'g':
			r.all = true
		case 'u', 'd': // it reads Unicode anyway, and nobody sees where the groups are
		default:
			return fmt.Errorf("pattern: flag %c is not supported: i, m, s, g, u and d are", flag)
		}
	}
	if r.re, err = compile(pattern, keep.String()); err != nil {
		return fmt.Errorf("pattern: %w", err)
	}
	if s, ok := given["group"]; ok {
		if r.group, err = strconv.Atoi(s); err != nil || r.group < 0 || r.group > maxGroup {
			return fmt.Errorf("group %.*q is no number of a group, from 0, all that matches, to %d", shown, s, maxGroup)
		}
	}
	return nil
}

// Bounds of a regular expression, as it is compiled: a thousand steps for each character of what it looks at.
const (
	maxProgram = 1000
	maxGroup   = 99
)

// compile reads a regular expression, in RE2's syntax.
func compile(pattern, flags string) (*regexp.Regexp, error) {
	if flags != "" {
		pattern = "(?" + flags + ")" + pattern
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("regular expressions are RE2's, in which there is no lookahead, lookbehind and backreference: %w", err)
	}
	if program, err := syntax.Compile(tree.Simplify()); err != nil || len(program.Inst) > maxProgram {
		return nil, errors.New("the regular expression is too large: repeat less")
	}
	return regexp.Compile(pattern)
}
