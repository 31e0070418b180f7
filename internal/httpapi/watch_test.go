package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/imgd/imgd"
)

// change is the next message of a watch.
func (r *reader) change() (id string, c imgd.Change) {
	r.t.Helper()
	id, data, ok := strings.Cut(r.next(), "|data: ")
	if err := json.Unmarshal([]byte(data), &c); !ok || err != nil {
		r.t.Fatalf("got %q %q: %v", id, data, err)
	}
	return strings.TrimPrefix(id, "id: "), c
}

func TestWatch(t *testing.T) {
	w, first, second := twice(t)
	live := w.stream("/v1/watch?image=demo/hello") // from now
	live.want(hello)
	w.order(latest+"/rollback", "", http.StatusCreated)
	id, c := live.change()
	if id != fmt.Sprint(w.index.Seq()) || c.Seq != w.index.Seq() || len(c.Set) != 1 || c.Set[0].Root() != first.Root.Digest || len(c.Removed) != 1 || c.Removed[0].Platform != "linux/arm64" {
		t.Errorf("got %s %+v", id, c)
	}
	w.order(latest+"/untag", "", http.StatusCreated)
	if _, c := live.change(); len(c.Set) != 0 || len(c.Removed) != 1 {
		t.Errorf("got %+v", c)
	}
	// From the beginning, and resumed.
	all := w.stream("/v1/watch?since=0&follow=0")
	all.want(hello)
	for _, want := range []uint64{first.Seq, second.Seq, c.Seq, w.index.Seq()} {
		if _, c := all.change(); c.Seq != want {
			t.Errorf("got change %d, want %d", c.Seq, want)
		}
	}
	all.want("event: end|data: {}", "EOF")
	resumed := w.stream("/v1/watch?since=0&follow=0", "Last-Event-ID", id)
	resumed.want(hello)
	if _, c := resumed.change(); c.Seq != w.index.Seq() {
		t.Errorf("resumed with change %d", c.Seq)
	}
	resumed.want("event: end|data: {}")
	other := w.stream("/v1/watch?since=0&follow=0&image=demo/none")
	other.want(hello, "event: end|data: {}")
}

func TestWatchRefuses(t *testing.T) {
	w, _, _ := twice(t)
	for _, path := range []string{"/v1/watch?since=x", "/v1/watch?follow=2", "/v1/watch?what=set"} {
		w.check(w.get(path), http.StatusBadRequest, "usage")
	}
	w.check(w.do(http.MethodGet, "/v1/watch", "", "Last-Event-ID", "x"), http.StatusBadRequest, "Last-Event-ID")
	w.api.Close() // else it waits for the entry
	w.check(w.get("/v1/watch?since=999"), http.StatusGatewayTimeout, "is that of another index?")
}
