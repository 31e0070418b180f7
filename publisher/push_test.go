package publisher_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// uploads are those that were to be cancelled, by the places that the registry
// gave them.
type uploads struct {
	mu     sync.Mutex
	places map[string]bool // guarded by mu
}

func (u *uploads) note(place string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.places == nil {
		u.places = map[string]bool{}
	}
	u.places[place] = true
}

// open says how many the registry still has.
func (u *uploads) open(reg *registry) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for place := range u.places {
		if status, _, _ := reg.direct("GET", strings.TrimPrefix(place, "/v2/"), "", nil); status == http.StatusNoContent {
			n++
		}
	}
	return n
}

func TestCanPush(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := newPublisher()
	for range 2 { // and repeated
		if err := p.CanPush(t.Context(), reg.addr+"/demo/new"); err != nil {
			t.Fatal(err)
		}
	}
	if posts, deletes := reg.count("POST"), reg.count("DELETE"); posts != 2 || deletes != 2 {
		t.Errorf("%d uploads begun, %d cancelled", posts, deletes)
	}
	if _, _, body := reg.direct("GET", "_catalog", "", nil); strings.Contains(string(body), "demo/new") {
		t.Errorf("it left a repository: %s", body)
	}
	if err := p.CanPush(t.Context(), reg.addr+"/demo/new:tag"); err == nil {
		t.Error("a tag is taken for a repository")
	}
}

func TestCanPushFaults(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	times := 0
	answer := func(method string, status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == method {
				w.WriteHeader(status)
				w.Write([]byte(body))
			}
		}
	}
	for _, row := range []struct {
		name   string
		broken http.HandlerFunc
		want   string // in the error; empty: none
		open   bool   // the upload stays, for the registry to clear away
	}{
		{name: "no account", broken: answer("POST", 401, ""), want: "401 Unauthorized (the registry does not allow this to imgd: check credentials and rights); give imgd an account of " + reg.addr + " that may pull from and push to demo/hello"},
		{name: "no rights", broken: answer("POST", 403, `{"errors":[{"code":"DENIED","message":"quota"}]}`), want: "403 Forbidden: quota"},
		{name: "no such project", broken: answer("POST", 404, `{"errors":[{"code":"NAME_UNKNOWN","message":"project demo not found"}]}`), want: "project demo not found"},
		{name: "no place", broken: answer("POST", 202, ""), want: "without a place"},
		{name: "uploads are not cancelled there", broken: answer("DELETE", 405, ""), open: true},
		{name: "the cancel was done already", broken: answer("DELETE", 404, ""), open: true},
		{name: "read-only for a while", broken: func(w http.ResponseWriter, r *http.Request) {
			if times++; r.Method == "POST" && times < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}},
		{name: "the cancel is lost on the way", open: true, want: "cancel the upload", broken: func(_ http.ResponseWriter, r *http.Request) {
			if r.Method == "DELETE" {
				panic(http.ErrAbortHandler)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var begun uploads
			reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "DELETE" {
					begun.note(r.URL.Path + "?" + r.URL.RawQuery)
				}
				row.broken(w, r)
			})
			err := newPublisher().CanPush(t.Context(), reg.addr+"/demo/hello")
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
			reg.misbehave(nil)
			if open := begun.open(reg); (open > 0) != row.open {
				t.Errorf("%d uploads are open", open)
			}
		})
	}
}

// The token must be one for pushes; and a token server that gives none is the
// registry's refusal.
func TestCanPushToken(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	status, scope := http.StatusOK, ""
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			scope = r.URL.Query().Get("scope")
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(map[string]any{"token": "t", "expires_in": 60})
			return
		}
		if r.Header.Get("Authorization") != "Bearer t" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, reg.addr))
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	if err := newPublisher().CanPush(t.Context(), reg.addr+"/demo/hello"); err != nil || scope != "repository:demo/hello:pull,push" {
		t.Errorf("got %v, with scope %q", err, scope)
	}
	status = http.StatusForbidden
	if err := newPublisher().CanPush(t.Context(), reg.addr+"/demo/hello"); err == nil || !strings.Contains(err.Error(), "give imgd an account") {
		t.Errorf("got %v", err)
	}
}

// The place of an upload may be anywhere; the account is the registry's alone.
func TestCanPushElsewhere(t *testing.T) {
	t.Parallel()
	reg, other := newRegistry(t), newRegistry(t)
	sent := ""
	other.misbehave(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Method + " " + r.URL.Path + r.Header.Get("Authorization")
		w.WriteHeader(http.StatusNoContent)
	})
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			json.NewEncoder(w).Encode(map[string]any{"token": "t", "expires_in": 60})
			return
		}
		if r.Header.Get("Authorization") != "Bearer t" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, reg.addr))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Location", "http://"+other.addr+"/upload/1?signature=s3cret")
		w.WriteHeader(http.StatusAccepted)
	})
	if err := newPublisher().CanPush(t.Context(), reg.addr+"/demo/hello"); err != nil || sent != "DELETE /upload/1" {
		t.Errorf("got %v, and the other host %q", err, sent)
	}
}

func TestCanPushInterrupted(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	ctx, cancel := context.WithCancel(t.Context())
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
		w.WriteHeader(http.StatusTeapot)
	})
	if err := newPublisher().CanPush(ctx, reg.addr+"/demo/hello"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	reg.misbehave(nil)
	if err := newPublisher().CanPush(t.Context(), reg.addr+"/demo/hello"); err != nil {
		t.Error(err)
	}
}
