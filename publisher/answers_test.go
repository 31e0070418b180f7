package publisher_test

import (
	"os"
	"strings"
	"testing"

	"github.com/imgd/imgd/publisher"
)

// docs/registries.md has the table that the code asks, row by row, and the waits.
func TestAnswersAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/registries.md")
	if err != nil {
		t.Fatal(err)
	}
	const head = "| answer | to | means | asked again at once | then |\n|---|---|---|---|---|\n"
	_, table, found := strings.Cut(string(text), head)
	table, rest, _ := strings.Cut(table, "\n\n")
	if !found || !strings.Contains(rest, publisher.AnswerTimes()) {
		t.Errorf("the page lacks %q or %q", head, publisher.AnswerTimes())
	}
	got, want := strings.Split(table, "\n"), publisher.AnswerRows()
	if len(got) != len(want) {
		t.Fatalf("%d rows, the code has %d", len(got), len(want))
	}
	for i, row := range want {
		if then, ok := strings.CutPrefix(got[i], row); !ok || len(then) < len("x |") {
			t.Errorf("row %d is\n%s\nwant it to begin with\n%s", i+1, got[i], row)
		}
	}
}
