package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// A palette says whether colours are written to one stream.
type palette bool

// palette is on for a terminal that can show colours, and whose user has not
// said that he wants none. Each stream is looked at by itself.
func (a *app) palette(w io.Writer) palette {
	if a.noColor || a.find.Getenv("NO_COLOR") != "" || a.find.Getenv("TERM") == "dumb" {
		return false
	}
	return palette(isTerminal(w))
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// The colours, whose codes are of one length: a table counts them as text.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	usual  = "39"
)

func (p palette) paint(colour, text string) string {
	if !p {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// colourOf is the colour of a word that says how something stands.
func colourOf(word string) string {
	switch word {
	case "published", "ok", "yes":
		return green
	case "failed", "dead", "conflict", "no":
		return red
	case "queued", "resolving", "building", "publishing":
		return yellow
	}
	return usual
}

// coloured are the columns, and the names in a sheet, whose values have colours.
func coloured(name string) bool {
	return slices.Contains([]string{"STATE", "SAME", "RESULT", "State:"}, name)
}

func printTable(w io.Writer, p palette, table func(row func(...string))) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var columns []int // with colours
	first := true
	table(func(cells ...string) {
		cells = slices.Clone(cells)
		for i, cell := range cells {
			if first && coloured(cell) {
				columns = append(columns, i)
			}
			if sheet := i == 1 && coloured(cells[0]); sheet || slices.Contains(columns, i) {
				cells[i] = p.paint(colourOf(cell), cell)
			}
		}
		first = false
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	})
	return t.Flush()
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
