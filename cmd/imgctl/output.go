package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd"
)

// An output is what -o asks for.
type output struct {
	format   string // table, json, yaml, digest or template
	template *template.Template
}

const templateForm = "template="

// parseOutput reads -o before anything is asked of the daemon.
func parseOutput(s string, formats ...string) (output, error) {
	if text, ok := strings.CutPrefix(s, templateForm); ok && slices.Contains(formats, "template") {
		t, err := template.New("-o").Parse(text)
		if err != nil {
			return output{}, usage("-o template: %v; it goes over the array that -o json shows, as template='{{range .}}{{.tag}} {{.digest}}{{\"\\n\"}}{{end}}'", err)
		}
		return output{format: "template", template: t}, nil
	}
	if s == "template" || !slices.Contains(formats, s) {
		return output{}, usage("-o %q is none of %s", s, forms(formats))
	}
	return output{format: s}, nil
}

// forms are the formats as they are given.
func forms(formats []string) string {
	return strings.Replace(strings.Join(formats, ", "), "template", templateForm+"…", 1)
}

func outputHelp(formats ...string) string { return "output: " + forms(formats) }

// A result is what a command prints.
type result struct {
	items   any                       // for json, yaml and template
	table   func(row func(...string)) // the first row is the header
	digests []string                  // registry/image@sha256:…
}

func (o output) print(w io.Writer, r result) error {
	switch o.format {
	case "json":
		return printJSON(w, r.items)
	case "yaml":
		return printYAML(w, r.items)
	case "template":
		return o.printTemplate(w, r.items)
	case "digest":
		for _, d := range r.digests {
			fmt.Fprintln(w, d)
		}
		return nil
	}
	return printTable(w, r.table)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printYAML goes by way of JSON, so that the names and their order are the same.
func printYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Load(b, &node); err != nil {
		return err
	}
	plain(&node)
	b, err = yaml.Dump(&node, yaml.WithIndent(2))
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// plain takes JSON's braces and quotes off; what needs quotes gets them anew.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		plain(child)
	}
}

// printTemplate lets a template see what JSON shows, by the same names.
func (o output) printTemplate(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var generic any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&generic); err != nil {
		return err
	}
	if err := o.template.Execute(w, generic); err != nil {
		return usage("-o template: %v", err)
	}
	_, err = fmt.Fprintln(w)
	return err
}

func printTable(w io.Writer, table func(row func(...string))) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	table(func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) })
	return t.Flush()
}

// recordsResult shows records, the first of the repositories standing for all
// in digests.
func recordsResult(records []imgd.Record, repositories []string) result {
	if records == nil {
		records = []imgd.Record{}
	}
	return result{
		items: records,
		table: func(row func(...string)) {
			row("IMAGE", "TAG", "PLATFORM", "VERSION", "PUBLISHED", "DIGEST")
			for _, r := range records {
				row(r.Image, r.Tag, r.Platform, r.Version, moment(r.PublishedAt), r.Digest.String())
			}
		},
		digests: references(records, repositories),
	}
}

// references are the roots that the records stand for, each once.
func references(records []imgd.Record, repositories []string) []string {
	var all []string
	for _, r := range records {
		name := r.Image
		if len(repositories) > 0 {
			name = repositories[0]
		}
		if ref := name + "@" + r.Root().String(); !slices.Contains(all, ref) {
			all = append(all, ref)
		}
	}
	return all
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
