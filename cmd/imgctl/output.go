package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"

	"github.com/itchyny/gojq"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd"
)

// An output is what -o and --jq ask for. Its flags are read before a command
// runs, so that nothing is asked of the daemon which could not be shown.
type output struct {
	formats     []string // that the command has
	text, query string   // as they were given

	format   string // table, json, yaml, digest, template, or one of pasted
	template *template.Template
	jq       *gojq.Code
	palette  palette // of stdout
}

const templateForm = "template="

// outputFlags gives cmd -o with these formats, and --jq.
func (a *app) outputFlags(cmd *cobra.Command, o *output, formats ...string) {
	o.formats = formats
	cmd.Flags().StringVarP(&o.text, "output", "o", formats[0], "output: "+forms(formats))
	cmd.Flags().StringVar(&o.query, "jq", "", "show what a jq expression makes of -o json; text without quotes")
	completeFlag(cmd, "output", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return strings.Split(strings.Replace(strings.Join(formats, " "), "template", templateForm, 1), " "), cobra.ShellCompDirectiveNoFileComp
	})
	completeFlag(cmd, "jq", cobra.NoFileCompletions)
	cmd.PreRunE = func(*cobra.Command, []string) error {
		o.palette = a.palette(a.stdout)
		return o.parse()
	}
}

func (o *output) parse() error {
	o.format = o.text
	if text, ok := strings.CutPrefix(o.text, templateForm); ok && slices.Contains(o.formats, "template") {
		t, err := template.New("-o").Parse(text)
		if err != nil {
			return usage("-o template: %v; it goes over what -o json shows, as template='{{range .}}{{.tag}} {{.digest}}{{\"\\n\"}}{{end}}'", err)
		}
		o.format, o.template = "template", t
	} else if o.text == "template" || !slices.Contains(o.formats, o.text) {
		return usage("-o %q is none of %s", o.text, forms(o.formats))
	}
	if o.query == "" {
		return nil
	}
	if o.format != o.formats[0] && o.format != "json" {
		return usage("--jq goes over -o json: leave -o %s out", o.format)
	}
	o.format = "jq"
	return o.parseQuery()
}

func (o *output) parseQuery() error {
	query, err := gojq.Parse(o.query)
	if err == nil {
		o.jq, err = gojq.Compile(query)
	}
	if err != nil {
		return usage("--jq %s: %v; it goes over what -o json shows, as in: --jq '.[].digest'", o.query, err)
	}
	return nil
}

// forms are the formats as they are given.
func forms(formats []string) string {
	return strings.Replace(strings.Join(formats, ", "), "template", templateForm+"…", 1)
}

// A result is what a command prints.
type result struct {
	items   any                       // for json, yaml, template and jq
	table   func(row func(...string)) // the first row is the header
	digests []string                  // registry/image@sha256:…
	tag     string                    // that they are all of, if it is one
}

func (o *output) print(ctx context.Context, w io.Writer, r result) error {
	switch o.format {
	case "json":
		return printJSON(w, r.items)
	case "yaml":
		return printYAML(w, r.items)
	case "template":
		return o.printTemplate(w, r.items)
	case "jq":
		return o.printQuery(ctx, w, r.items)
	case "table":
		return printTable(w, o.palette, r.table)
	}
	for _, d := range r.digests {
		fmt.Fprintln(w, pasted(o.format, d, r.tag))
	}
	return nil
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

// generic is v as JSON shows it, by the same names.
func generic(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err = d.Decode(&out)
	return out, err
}

func (o *output) printTemplate(w io.Writer, v any) error {
	shown, err := generic(v)
	if err != nil {
		return err
	}
	if err := o.template.Execute(w, shown); err != nil {
		return usage("-o template: %v", err)
	}
	_, err = fmt.Fprintln(w)
	return err
}

// printQuery prints each thing that the expression gives: text as it is, the
// rest as JSON in a line. ctx ends an expression that does not end.
func (o *output) printQuery(ctx context.Context, w io.Writer, v any) error {
	shown, err := generic(v)
	if err != nil {
		return err
	}
	for found := o.jq.RunWithContext(ctx, shown); ; {
		v, more := found.Next()
		if !more {
			return nil
		}
		var halt *gojq.HaltError
		switch v := v.(type) {
		case error:
			if errors.As(v, &halt) && halt.Value() == nil {
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return usage("--jq %s: %v", o.query, v)
		case string:
			_, err = fmt.Fprintln(w, v)
		default:
			err = printCompact(w, v)
		}
		if err != nil {
			return err
		}
	}
}

func printCompact(w io.Writer, v any) error {
	b, err := gojq.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// pastes are the formats that show a digest as people paste it.
func pastes() []string { return []string{"pull", "compose", "k8s", "env"} }

// pasted is a reference in the form of one of pastes, else as it is.
func pasted(format, reference, tag string) string {
	switch format {
	case "pull":
		return "docker pull " + reference
	case "compose", "k8s":
		return "image: " + reference + " # " + tag
	case "env":
		return "IMAGE=" + reference
	}
	return reference
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
		if ref := referenceOf(r, repositories); !slices.Contains(all, ref) {
			all = append(all, ref)
		}
	}
	return all
}

func referenceOf(r imgd.Record, repositories []string) string {
	name := r.Image
	if len(repositories) > 0 {
		name = repositories[0]
	}
	return name + "@" + r.Root().String()
}
