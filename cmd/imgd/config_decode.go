package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// A decoding reads YAML into a Config key by key, so that each complaint has its
// line, and one does not hide the next.
type decoding struct {
	*config
	aliases []*yaml.Node // that are being followed: one may lead into itself
}

func reflectOf(cfg *Config) reflect.Value { return reflect.ValueOf(cfg).Elem() }

// value reads node, which stands under key, into v.
func (d *decoding) value(node *yaml.Node, v reflect.Value, key string) {
	if node.Kind == yaml.AliasNode {
		if slices.Contains(d.aliases, node.Alias) {
			d.at(node, key, "*%s contains itself", node.Value)
			return
		}
		d.aliases = append(d.aliases, node.Alias)
		d.value(node.Alias, v, key)
		d.aliases = d.aliases[:len(d.aliases)-1]
		return
	}
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
		return // `key:` alone says nothing
	}
	d.places[key] = place{d.file, node.Line, node.Column}
	switch {
	case v.Kind() == reflect.Struct:
		d.mapping(node, v, key)
	case v.Type() == reflect.TypeFor[Lines]() && node.Kind == yaml.ScalarNode:
		d.lines(node, v, key)
	case v.Kind() == reflect.Slice:
		d.list(node, v, key)
	case v.Kind() == reflect.Map:
		d.table(node, v, key)
	case node.Kind != yaml.ScalarNode:
		d.at(node, key, "want %s, not %s", wanted(v.Type()), kindOf(node))
	default:
		if err := setScalar(v, node.Value); err != nil {
			d.at(node, key, "%v", err)
		}
	}
}

func (d *decoding) at(node *yaml.Node, key, format string, args ...any) {
	d.wrong = append(d.wrong, complaint{place{d.file, node.Line, node.Column}, key, fmt.Sprintf(format, args...)})
}

// pairs calls f with the keys of a mapping and what they name, those that it
// takes over by `<<` first, so that its own count.
func (d *decoding) pairs(node *yaml.Node, key string, f func(name, value *yaml.Node)) {
	if node.Kind != yaml.MappingNode {
		d.at(node, key, "want keys with values, as in `key: value`, not %s", kindOf(node))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		if name.ShortTag() == "!!merge" {
			d.merged(value, key, f)
		} else if line, twice := seen[name.Value]; twice {
			d.at(name, join(key, name.Value), "it stands in line %d already", line)
		} else {
			seen[name.Value] = name.Line
		}
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].ShortTag() != "!!merge" {
			f(node.Content[i], node.Content[i+1])
		}
	}
}

// merged is what `<<` takes over: a mapping, or several, of which the first counts.
func (d *decoding) merged(value *yaml.Node, key string, f func(name, value *yaml.Node)) {
	source := value
	if value.Kind == yaml.AliasNode {
		source = value.Alias
	}
	if slices.Contains(d.aliases, source) {
		d.at(value, key, "*%s contains itself", value.Value)
		return
	}
	d.aliases = append(d.aliases, source)
	defer func() { d.aliases = d.aliases[:len(d.aliases)-1] }()
	if source.Kind == yaml.SequenceNode {
		for _, one := range slices.Backward(source.Content) {
			d.merged(one, key, f)
		}
		return
	}
	d.pairs(source, key, f)
}

func (d *decoding) mapping(node *yaml.Node, v reflect.Value, key string) {
	d.pairs(node, key, func(name, value *yaml.Node) {
		for i := range v.NumField() {
			if nameOf(v.Type().Field(i)) == name.Value {
				d.value(value, v.Field(i), join(key, name.Value))
				return
			}
		}
		d.at(name, join(key, name.Value), "there is no such key%s", meant(name.Value, v.Type(), key))
	})
}

func (d *decoding) list(node *yaml.Node, v reflect.Value, key string) {
	if node.Kind != yaml.SequenceNode {
		d.at(node, key, "want a list, as in [a, b], not %s", kindOf(node))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content)))
	for i, item := range node.Content {
		d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", key, i))
	}
}

// lines reads a text of several lines. In a block each has its own in the file.
func (d *decoding) lines(node *yaml.Node, v reflect.Value, key string) {
	lines := strings.Split(node.Value, "\n")
	for i := range lines {
		at := place{d.file, node.Line, node.Column}
		if node.Style&yaml.LiteralStyle != 0 {
			at.line, at.column = node.Line+1+i, 1
		}
		d.places[fmt.Sprintf("%s[%d]", key, i)] = at
	}
	v.Set(reflect.ValueOf(Lines(lines)))
}

func (d *decoding) table(node *yaml.Node, v reflect.Value, key string) {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	d.pairs(node, key, func(name, value *yaml.Node) {
		to := reflect.New(v.Type().Elem()).Elem()
		d.value(value, to, join(key, name.Value))
		v.SetMapIndex(reflect.ValueOf(name.Value), to)
	})
}

// nameOf is the field's key.
func nameOf(f reflect.StructField) string { return f.Tag.Get("yaml") }

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "keys with values"
	case yaml.SequenceNode:
		return "a list"
	default:
		return fmt.Sprintf("%q", node.Value)
	}
}

// wanted says what a value of the type looks like.
func wanted(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration, as in 30s, 10m or 1h30m"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int:
		return "a whole number"
	default:
		return "a text"
	}
}

// meant guesses which key of the struct, or of another, an unknown one means.
func meant(name string, t reflect.Type, key string) string {
	best, distance := "", 3 // typing errors, not other words
	var all []string
	for i := range t.NumField() {
		known := nameOf(t.Field(i))
		all = append(all, known)
		if n := edits(strings.ToLower(name), strings.ToLower(known)); n < distance && n < len(known) {
			best, distance = known, n
		}
	}
	if best != "" {
		return "; did you mean " + best + "?"
	}
	if key == "" {
		for i := range t.NumField() {
			if f := t.Field(i); f.Type.Kind() == reflect.Struct {
				for j := range f.Type.NumField() {
					if strings.EqualFold(nameOf(f.Type.Field(j)), name) {
						return fmt.Sprintf("; did you mean %s.%s?", nameOf(f), nameOf(f.Type.Field(j)))
					}
				}
			}
		}
	}
	return "; there are " + strings.Join(all, ", ")
}

// edits is how many letters make a of b (Levenshtein), two that changed places
// being one.
func edits(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			other := 1
			if a[i-1] == b[j-1] {
				other = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+other)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
