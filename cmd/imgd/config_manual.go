package main

import (
	_ "embed" // the source of Config is its manual
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strconv"
	"strings"
	"time"
)

//go:embed config.go
var configSource string

// manual is what the comments in config.go say, by type and field.
func manual() (map[string]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", configSource, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("read the manual: %w", err)
	}
	said := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if fields, ok := spec.Type.(*ast.StructType); ok {
			for _, field := range fields.Fields.List {
				for _, name := range field.Names {
					said[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
				}
			}
		}
		return false
	})
	return said, nil
}

// The pieces of the reference page.
const (
	tablesHead  = "| key | default | reload | meaning |\n|---|---|---|---|\n"
	projectHead = "\nEach element of `projects`, all of which a reload adds, changes and removes:\n\n| key | default | meaning |\n|---|---|---|\n"
)

// tables are those of docs/config.md.
func tables() (string, error) {
	said, err := manual()
	if err != nil {
		return "", err
	}
	var out strings.Builder
	out.WriteString(tablesHead)
	cfg := defaultConfig()
	rows(reflectOf(&cfg), "", said, func(key, value, reload, text string) {
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", key, value, reload, text)
	})
	out.WriteString(projectHead)
	project := defaultProject()
	rows(reflect.ValueOf(&project).Elem(), "", said, func(key, value, _, text string) {
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", key, value, text)
	})
	return out.String(), nil
}

// rows calls f with the cells of every key of the struct.
func rows(v reflect.Value, path string, said map[string]string, f func(key, value, reload, text string)) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		key := join(path, nameOf(field))
		if field.Type.Kind() == reflect.Struct {
			rows(v.Field(i), key, said, f)
			continue
		}
		reload := "restart"
		if field.Tag.Get("reload") != "" {
			reload = "at once"
		}
		f(key, cell(v.Field(i), field), reload, strings.ReplaceAll(said[v.Type().Name()+"."+field.Name], "|", `\|`))
		switch v.Field(i).Interface().(type) {
		case []RetentionRuleConfig:
			rows(reflect.ValueOf(RetentionRuleConfig{}), key+"[]", said, f)
		case []HoldConfig:
			rows(reflect.ValueOf(HoldConfig{}), key+"[]", said, func(key, value, _, text string) { f(key, value, reload, text) })
		}
	}
}

// cell is the default of a field.
func cell(v reflect.Value, field reflect.StructField) string {
	if unset := field.Tag.Get("unset"); unset != "" {
		if strings.HasPrefix(unset, "<") || strings.HasPrefix(unset, "build.") {
			return "`" + unset + "`"
		}
		return unset
	}
	switch value := v.Interface().(type) {
	case []string:
		return strings.Join(quoted(value), ", ")
	case string:
		return strings.Join(quoted([]string{value}), "")
	case time.Duration:
		return "`" + short(value) + "`"
	case bool, int:
		return fmt.Sprintf("`%v`", value)
	}
	return ""
}

func quoted(words []string) []string {
	var all []string
	for _, w := range words {
		if w != "" {
			all = append(all, "`"+w+"`")
		}
	}
	return all
}

// short is a duration as people write it.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// schema is the JSON schema of the config file.
func schema() ([]byte, error) {
	said, err := manual()
	if err != nil {
		return nil, err
	}
	cfg := defaultConfig()
	top := object(reflectOf(&cfg), said)
	top["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	top["title"] = "imgd.yaml"
	text, err := json.MarshalIndent(top, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write schema: %w", err)
	}
	return append(text, '\n'), nil
}

// object is the schema of a struct with these defaults.
func object(v reflect.Value, said map[string]string) map[string]any {
	properties, required := map[string]any{}, []string{}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		one := property(v.Field(i), field, said)
		if text := said[v.Type().Name()+"."+field.Name]; text != "" {
			one["description"] = text
		}
		properties[nameOf(field)] = one
		if field.Tag.Get("required") != "" {
			required = append(required, nameOf(field))
		}
	}
	schema := map[string]any{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		schema["required"] = required
	}
	return schema
}

// property is the schema of one key. `key:` alone is null and says nothing.
func property(v reflect.Value, field reflect.StructField, said map[string]string) map[string]any {
	text := map[string]any{"type": "string"}
	var one map[string]any
	switch v.Interface().(type) {
	case string:
		one = map[string]any{"type": []string{"string", "null"}}
	case bool:
		one = map[string]any{"type": []string{"boolean", "null"}}
	case int:
		one = map[string]any{"type": []string{"integer", "null"}}
	case time.Duration: // Go's, as in 1h30m; 0 needs no unit
		one = map[string]any{"type": []string{"string", "integer", "null"}, "pattern": `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`, "maximum": 0, "minimum": 0}
	case Lines:
		one = map[string]any{"type": []string{"array", "string", "null"}, "items": text}
	case []string:
		one = map[string]any{"type": []string{"array", "null"}, "items": text}
	case map[string]string:
		one = map[string]any{"type": []string{"object", "null"}, "additionalProperties": map[string]any{"type": []string{"string", "number", "boolean", "null"}}}
	case []ProjectConfig:
		project := defaultProject()
		one = map[string]any{"type": []string{"array", "null"}, "items": object(reflect.ValueOf(&project).Elem(), said)}
	case []HoldConfig:
		one = map[string]any{"type": []string{"array", "null"}, "items": object(reflect.ValueOf(HoldConfig{}), said)}
	case []RetentionRuleConfig:
		one = map[string]any{"type": []string{"array", "null"}, "items": object(reflect.ValueOf(RetentionRuleConfig{}), said)}
	default:
		return object(v, said)
	}
	if words := field.Tag.Get("enum"); words != "" {
		one["enum"] = enum(words, field)
	}
	if least, err := strconv.Atoi(field.Tag.Get("min")); err == nil {
		one["minimum"] = least
	}
	if d, ok := v.Interface().(time.Duration); ok && d > 0 {
		one["default"] = short(d)
	} else if !ok && !v.IsZero() {
		one["default"] = v.Interface()
	}
	return one
}

// enum are the words, and that nothing is said.
func enum(words string, field reflect.StructField) []any {
	all := []any{nil}
	if field.Tag.Get("unset") != "" {
		all = append(all, "")
	}
	for word := range strings.SplitSeq(words, ",") {
		all = append(all, word)
	}
	return all
}
