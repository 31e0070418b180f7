package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/imgd/imgd"
)

// verified is what verify has found.
type verified struct {
	keep  bool                // those that are as they should be too
	items []imgd.Verification // that differ or could not be read, and those kept
	line  statusLine

	done, total     int
	differ, unknown int
}

func (f *verified) add(one imgd.Verification) {
	f.done++
	switch {
	case one.OK:
	case one.Unknown():
		f.unknown++
	default:
		f.differ++
	}
	if f.keep || !one.OK {
		f.items = append(f.items, one)
	}
}

func (f *verified) progress(p imgd.VerifyProgress) {
	f.total = p.Total
	text := fmt.Sprintf("%d of %d tags, %s", p.Done, p.Total, f.summary())
	if p.Parts > 0 {
		text += fmt.Sprintf("; %d parts", p.Parts)
	}
	if p.Bytes > 0 {
		text += ", " + size(p.Bytes) + " read"
	}
	f.line.show(text)
}

// summary says in a few words how it was.
func (f *verified) summary() string {
	text := strconv.Itoa(f.differ) + " differ"
	if f.differ == 1 {
		text = "1 differs"
	}
	if f.unknown > 0 {
		text += fmt.Sprintf(", %d could not be read", f.unknown)
	}
	return text
}

func (f *verified) result(several bool) result {
	if f.items == nil {
		f.items = []imgd.Verification{}
	}
	slices.SortFunc(f.items, func(a, b imgd.Verification) int { // they came as they ended
		return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Tag, b.Tag))
	})
	return result{items: f.items, table: func(row func(...string)) {
		if several && len(f.items) == 0 {
			return // stderr says it
		}
		row("REPOSITORY", "TAG", "SAME", "FOUND", "WANTED", "WHY")
		for _, v := range f.items {
			if v.Error != "" {
				row(v.Image, v.Tag, "-", "-", v.Want.String(), v.Error)
			}
			for _, at := range v.Repositories {
				if !several || !at.Same {
					row(at.Repository, v.Tag, same(at), orDash(at.Found.String()), v.Want.String(), difference(at))
				}
			}
		}
	}}
}

// difference says how it differs.
func difference(at imgd.Verified) string {
	switch {
	case at.Same:
		return "-"
	case at.Error != "":
		return string(at.Kind) + ": " + at.Error
	case len(at.Lacks) > 0:
		text := fmt.Sprintf("%s: %s %s: %s", at.Kind, at.Lacks[0].Part, at.Lacks[0].Digest, at.Lacks[0].Why)
		if more := len(at.Lacks) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more)", more)
		}
		return text
	}
	return string(at.Kind)
}

// A statusLine is one line on a terminal that says how far something has come, in
// the place of what it said before.
type statusLine struct {
	to io.Writer
	on bool
}

const eraseLine = "\r\x1b[K"

func (s statusLine) show(text string) {
	if s.on {
		fmt.Fprint(s.to, eraseLine+strings.ReplaceAll(text, "\n", " "))
	}
}

func (s statusLine) clear() {
	if s.on {
		fmt.Fprint(s.to, eraseLine)
	}
}

// same says whether it is the same, as far as somebody knows.
func same(at imgd.Verified) string {
	switch {
	case at.Same:
		return "yes"
	case at.Kind == imgd.DriftUnreachable:
		return "-"
	}
	return "no"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
