// Command bench measures imgd beside its peers: both sides in the same run, on
// the same machine, interleaved, medians of several rounds. It prints a table
// and writes one JSON object a line. What it claims and what it measured last
// stands in docs/benchmarks.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"text/tabwriter"
)

// A figure is one result, in the form of a line of bin/bench.jsonl.
type figure struct {
	Name    string   `json:"name"`
	Value   float64  `json:"value"`
	Unit    string   `json:"unit"`
	Bound   *float64 `json:"bound,omitempty"` // the goal; nil: none was set
	Holds   *bool    `json:"holds,omitempty"` // whether value reaches it
	Peer    string   `json:"peer,omitempty"`
	Command string   `json:"command"`
}

// atLeast sets the goal of a figure that should be high, atMost of one that
// should be low.
func (f figure) atLeast(bound float64) figure {
	holds := f.Value >= bound
	f.Bound, f.Holds = &bound, &holds
	return f
}

func (f figure) atMost(bound float64) figure {
	holds := f.Value <= bound
	f.Bound, f.Holds = &bound, &holds
	return f
}

// benchmarks, by the name that ONLY chooses.
var benchmarks = map[string]func(ctx context.Context, progress io.Writer) ([]figure, error){
	"index":           indexBench,
	"intake":          intake,
	"keep":            keep,
	"overhead":        overhead,
	"overhead-memory": memory,
	"tags":            tags,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	only := flag.String("only", ".", "run the benchmarks whose names match this regular expression")
	out := flag.String("out", "", "file to write one JSON object a line to")
	start := flag.String("start", "", "only open the index in this directory, and print how many seconds that took: index starts itself so")
	flag.Parse()
	if *start != "" {
		if err := printStart(*start); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only, out string) error {
	chosen, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("read -only: %w", err)
	}
	var figures []figure
	for _, name := range slices.Sorted(keys(benchmarks)) {
		if !chosen.MatchString(name) {
			continue
		}
		found, err := benchmarks[name](ctx, os.Stderr)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for i := range found {
			found[i].Name, found[i].Command = name+"/"+found[i].Name, "make bench ONLY="+name
		}
		figures = append(figures, found...)
	}
	if len(figures) == 0 {
		return fmt.Errorf("no benchmark matches %q; there are %q", only, slices.Sorted(keys(benchmarks)))
	}
	if err := show(os.Stdout, figures); err != nil || out == "" {
		return err
	}
	return write(out, figures)
}

func show(w io.Writer, figures []figure) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tVALUE\tUNIT\tGOAL\tHOLDS\tPEER")
	for _, f := range figures {
		goal, holds := "", ""
		if f.Bound != nil {
			goal, holds = fmt.Sprintf("%.2f", *f.Bound), fmt.Sprint(*f.Holds)
		}
		fmt.Fprintf(table, "%s\t%.2f\t%s\t%s\t%s\t%s\n", f.Name, f.Value, f.Unit, goal, holds, f.Peer)
	}
	return table.Flush()
}

func write(name string, figures []figure) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(file)
	for _, f := range figures {
		if err := encoder.Encode(f); err != nil {
			return err
		}
	}
	return file.Close()
}
