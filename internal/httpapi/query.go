package httpapi

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Lists are cut into pages of at most maxLimit.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// foldTime bounds ?seq=: who has seen a sequence can expect it within moments.
const foldTime = 30 * time.Second

// A List is the answer of every list: one page of it.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // cursor of the next page, "" on the last
	Seq   uint64 `json:"seq"`            // entry of the index that the page stands for
}

// A query is what stands behind the question mark.
type query struct{ values url.Values }

// repeatable are the parameters that may be given more than once.
var repeatable = []string{"what", "label"}

// parse refuses what is not known: a misspelt filter would answer too much.
func parse(r *http.Request, known ...string) (query, error) {
	if r.URL.RawQuery == "" {
		return query{}, nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, usage("read the query: " + err.Error())
	}
	for name, all := range values {
		if !slices.Contains(known, name) {
			return query{}, usage(fmt.Sprintf("%s does not take the parameter %q; it takes %q", r.URL.Path, name, known))
		}
		if len(all) > 1 && !slices.Contains(repeatable, name) {
			return query{}, usage(fmt.Sprintf("parameter %q is given twice", name))
		}
	}
	return query{values}, nil
}

// number is a parameter's value, or otherwise if it is not there.
func (q query) number(name string, otherwise uint64) (uint64, error) {
	if !q.values.Has(name) {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(q.values.Get(name), 10, 64)
	if err != nil {
		return 0, usage(fmt.Sprintf("parameter %s=%q is not a number from 0", name, q.values.Get(name)))
	}
	return n, nil
}

// flag is a parameter that is 0 or 1, or only there, which means 1.
func (q query) flag(name string, otherwise bool) (bool, error) {
	if !q.values.Has(name) {
		return otherwise, nil
	}
	switch v := q.values.Get(name); v {
	case "", "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	default:
		return false, usage(fmt.Sprintf("parameter %s=%q is neither 0 nor 1", name, v))
	}
}

// duration is a parameter such as 30s, cut to limit.
func (q query) duration(name string, limit time.Duration) (time.Duration, error) {
	if !q.values.Has(name) {
		return 0, nil
	}
	d, err := time.ParseDuration(q.values.Get(name))
	if err != nil || d < 0 {
		return 0, usage(fmt.Sprintf("parameter %s=%q is not a duration as 30s", name, q.values.Get(name)))
	}
	return min(d, limit), nil
}

// moment is a parameter in RFC 3339, the zero time if it is not there.
func (q query) moment(name string) (time.Time, error) {
	if !q.values.Has(name) {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, q.values.Get(name))
	if err != nil {
		return t, usage(fmt.Sprintf("parameter %s=%q is not a time as 2026-11-21T10:00:00Z", name, q.values.Get(name)))
	}
	return t, nil
}

// words are the values of a parameter, each of them known, parted by commas or
// given in several.
func (q query) words(name string, known []string) ([]string, error) {
	var all []string
	for word := range strings.SplitSeq(strings.Join(q.values[name], ","), ",") {
		if word != "" && !slices.Contains(known, word) {
			return nil, usage(fmt.Sprintf("parameter %s=%q is none of %s", name, word, strings.Join(known, ", ")))
		}
		if word != "" && !slices.Contains(all, word) {
			all = append(all, word)
		}
	}
	return all, nil
}

// place is where a page of a list that others keep begins, and how long it is.
func (q query) place() (limit int, before uint64, err error) {
	n, err := q.limit()
	if err != nil {
		return 0, 0, err
	}
	before, err = q.number("cursor", 0)
	if err != nil {
		return 0, 0, usage("parameter cursor is not one that a list has answered")
	}
	return int(n), before, nil
}

func (q query) limit() (uint64, error) {
	limit, err := q.number("limit", defaultLimit)
	if err == nil && (limit < 1 || limit > maxLimit) {
		err = usage(fmt.Sprintf("parameter limit=%d is not from 1 to %d", limit, maxLimit))
	}
	return limit, err
}

// listOf is a page of a list that others keep.
func listOf[T any](items []T, next, seq uint64) List[T] {
	list := List[T]{Items: items, Seq: seq}
	if items == nil {
		list.Items = []T{}
	}
	if next > 0 {
		list.Next = strconv.FormatUint(next, 10)
	}
	return list
}

// seq is where the index stands once the entry that seq= names is folded.
func (a *API) seq(ctx context.Context, q query) (uint64, error) {
	seq, err := q.number("seq", 0)
	if err != nil {
		return 0, err
	}
	if err := a.folded(ctx, seq); err != nil {
		return 0, err
	}
	return a.Index.Seq(), nil
}

func (a *API) folded(ctx context.Context, seq uint64) error {
	if a.Index.Seq() >= seq {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, foldTime)
	defer cancel()
	ctx, stop := a.waits.until(ctx)
	defer stop()
	if err := a.Index.Wait(ctx, seq); err != nil {
		at := a.Index.Seq()
		return problem(http.StatusGatewayTimeout, CodeTimeout, fmt.Sprintf("the index is at entry %d and has not come to %d in time; is that of another index?", at, seq))
	}
	return nil
}

// page cuts items, which are sorted by key, to what limit= and cursor= ask for.
func page[T any](q query, items []T, seq uint64, key func(T) string) (List[T], error) {
	limit, err := q.limit()
	if err != nil {
		return List[T]{}, err
	}
	after, err := base64.RawURLEncoding.DecodeString(q.values.Get("cursor"))
	if err != nil {
		return List[T]{}, usage("parameter cursor is not one that a list has answered")
	}
	if q.values.Has("cursor") {
		at := slices.IndexFunc(items, func(item T) bool { return key(item) > string(after) })
		if at < 0 {
			at = len(items)
		}
		items = items[at:]
	}
	list := List[T]{Items: items, Seq: seq}
	if uint64(len(items)) > limit {
		list.Items = items[:limit]
		list.Next = base64.RawURLEncoding.EncodeToString([]byte(key(items[limit-1])))
	}
	if list.Items == nil {
		list.Items = []T{}
	}
	return list, nil
}
