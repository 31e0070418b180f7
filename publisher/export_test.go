package publisher

import (
	"context"
	"fmt"
	"io"
	"strings"

	"golang.org/x/time/rate"

	"github.com/imgd/imgd"
)

// DifferTars is differTars of tars that hold at most a megabyte.
func DifferTars(a, b io.Reader) (*imgd.Difference, error) { return differTars(a, b, 1<<20) }

// AnswerRows are the first columns of the table in docs/registries.md, for each
// row of the table.
func AnswerRows() []string {
	words := map[meaning]string{passes: "passes", absent: "not there", locked: "credentials", refused: "refused", undeletable: "refused: not deleted"}
	var rows []string
	for _, a := range answerTable() {
		said := strings.Trim(strings.ReplaceAll(fmt.Sprint(a.statuses), " ", ", "), "[]")
		if a.class > 0 {
			said = fmt.Sprintf("%dxx", a.class)
		}
		if len(a.codes) > 0 {
			said += ", or `" + strings.Join(a.codes, "`, `") + "`"
		}
		if said == "" {
			said = "any other"
		}
		to, again := "all", "no"
		if len(a.methods) > 0 {
			to = strings.Join(a.methods, ", ")
		}
		if a.again {
			again = "yes"
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s | ", said, to, words[a.means], again))
	}
	return rows
}

// AnswerTimes is the sentence there about waits.
func AnswerTimes() string {
	return fmt.Sprintf("up to %d times, with about 4s of waits in all. A `Retry-After` of up to %s is waited for", retries, longestWait)
}

// Pace is how a Paced Publisher waits for its turn.
func Pace(perSecond func() int) func(ctx context.Context, host string) error {
	return (&pace{perSecond: perSecond, hosts: map[string]*rate.Limiter{}}).wait
}
