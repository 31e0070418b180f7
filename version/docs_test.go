package version_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/version"
)

// TestDocument runs the examples of docs/tags.md, and its table of date tokens.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/tags.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for _, block := range regexp.MustCompile("(?s)```rules\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for _, c := range casesOf(t, block[1]) {
			examples++
			c.check(t)
		}
	}
	rows := regexp.MustCompile("(?m)^\\| `([A-Za-z ]+)` \\| `([^`]+)` \\|").FindAllStringSubmatch(string(text), -1)
	for _, row := range rows {
		at := exampleInfo("refs/heads/x")
		at.AskedAt = time.Date(2020, 1, 10, 0, 30, 5, 678e6, time.UTC)
		rules, err := version.Parse(version.Config{Labels: map[string]string{"x": "{{date '" + row[1] + "' tz='Asia/Tokyo'}}"}})
		if err != nil {
			t.Fatal(err)
		}
		named, err := rules.Apply(at)
		if err != nil || named.Labels["x"] != row[2] {
			t.Errorf("%s gives %q, %v, the page says %q", row[1], named.Labels["x"], err, row[2])
		}
	}
	if examples < 15 || len(rows) < 20 {
		t.Errorf("only %d examples and %d rows were found", examples, len(rows))
	}
	for _, name := range []string{"schedule", "semver", "pep440", "match", "edge", "ref", "describe", "raw", "sha"} {
		if !strings.Contains(string(text), "\n| `"+name+"` |") {
			t.Errorf("type %s is not in the table", name)
		}
	}
}
