package publisher

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// A meaning is what an answer of a registry, other than 2xx, is to imgd.
type meaning int

const (
	passes      meaning = iota // it may be another one next time
	absent                     // what is asked for is not there: imgd.ErrNotFound
	locked                     // imgd's credentials or rights do not suffice; they can be mended
	refused                    // the last word on a write, if the repository takes others: imgd.ErrRefused
	undeletable                // refused, as the registry deletes nothing by such a name
)

// An answer is a row of the table: the answers that have any of the statuses, or
// a status of the class, or any of the codes in their body; all, if it names
// nothing.
type answer struct {
	statuses []int
	class    int // 4: 4xx
	codes    []string
	methods  []string // of the requests; none: of all

	means meaning
	again bool   // is asked again here; by the status alone, as the body is not read by then
	todo  string // what the error says of it
}

const (
	tellRights = "the registry does not allow this to imgd: check credentials and rights"
	tellRate   = "the registry limits the rate of requests"
	tellSize   = "the registry, or a proxy before it, limits the size of requests"
)

// answerTable is all that imgd knows of a registry's answers: the first row that
// matches one says what it means. All others ask here. docs/registries.md has the
// same table, and says what follows. A read has no last word: what cannot be
// read now may be later.
func answerTable() []answer {
	writes := []string{http.MethodPut, http.MethodDelete}
	return []answer{
		{statuses: []int{404}, codes: []string{"MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"}, means: absent},
		{statuses: []int{401}, codes: []string{"UNAUTHORIZED"}, means: locked, todo: tellRights},
		{statuses: []int{429}, codes: []string{"TOOMANYREQUESTS"}, means: passes, again: true, todo: tellRate},
		{statuses: []int{408, 500, 502, 503, 504}, means: passes, again: true},
		{statuses: []int{407, 409, 421, 423, 425}, means: passes},
		{class: 5, means: passes},
		{statuses: []int{400, 405}, codes: []string{"UNSUPPORTED"}, methods: []string{http.MethodDelete}, means: undeletable},
		{statuses: []int{403}, methods: writes, means: refused, todo: tellRights},
		{statuses: []int{413}, methods: writes, means: refused, todo: tellSize},
		{class: 4, methods: writes, means: refused},
		{statuses: []int{403}, means: locked, todo: tellRights},
		{statuses: []int{413}, means: passes, todo: tellSize},
		{means: passes},
	}
}

// answerOf is the row for an answer to a request; without method and codes the
// row of what is known by the status alone.
func answerOf(method string, status int, codes []string) answer {
	all := answerTable()
	return all[slices.IndexFunc(all, func(a answer) bool { return a.matches(method, status, codes) })] // the last matches
}

func (a answer) matches(method string, status int, codes []string) bool {
	if len(a.methods) > 0 && !slices.Contains(a.methods, method) {
		return false
	}
	if len(a.statuses) == 0 && a.class == 0 && len(a.codes) == 0 {
		return true
	}
	has := func(code string) bool { return slices.Contains(a.codes, code) }
	return slices.Contains(a.statuses, status) || a.class == status/100 || slices.ContainsFunc(codes, has)
}

const (
	// retries of one request, with waits that grow linearly from firstWait and
	// about 4 s in all: a registry that restarts, or a hiccup of what is before
	// it. Longer outages are the queue's business.
	retries   = 4
	firstWait = 250 * time.Millisecond
	// longestWait is the longest Retry-After that is waited for here. A registry
	// that asks for more is not asked again before the queue comes back.
	longestWait = 10 * time.Second
)

// askAgain decides about another try. It answers no error for a status, as the
// response would be lost.
func askAgain(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return retryablehttp.ErrorPropagatedRetryPolicy(ctx, nil, err)
	}
	asked := retryablehttp.DefaultBackoff(0, 0, 0, resp) // Retry-After, else 0; negative if it is absurd
	return answerOf("", resp.StatusCode, nil).again && asked >= 0 && asked <= longestWait, nil
}

func backoff(lo, hi time.Duration, n int, resp *http.Response) time.Duration {
	return min(retryablehttp.RateLimitLinearJitterBackoff(lo, hi, n, resp), longestWait)
}
