package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func TestProjects(t *testing.T) {
	urls := map[string]string{
		"token": "https://s3cret@git.test/a.git", "password": "https://robot:s3cret@git.test/b.git", "ssh": "ssh://git@git.test/c.git",
		"plain": "https://git.test:8443/d.git", "bad": "https://s3cret@git.test/%zz",
	}
	w := newWorld(t, func(c *httpapi.Config) {
		all := map[string]imgd.Project{}
		for name, url := range urls {
			all[name] = imgd.Project{Name: name, Git: url, Image: "demo/" + name, Repositories: []string{repo}, Refs: []string{"refs/tags/*"}}
		}
		c.Projects = configured(all)
	})
	golden(t, "projects", w.get("/v1/projects").body)
	golden(t, "projects-page", w.get("/v1/projects?limit=2&cursor=YmFk").body)
	checkProblem(t, w.get("/v1/projects?state=queued"), 400, "usage", "does not take")
	checkProblem(t, w.do("POST", "/v1/projects", "{}"), 405, "usage", "takes GET")
}

func probed(name, todo string, run func(context.Context) (string, error)) httpapi.Probe {
	return httpapi.Probe{Name: name, Run: run, Todo: todo}
}

func TestCheck(t *testing.T) {
	var wrong error
	w := newWorld(t, func(c *httpapi.Config) {
		c.Probes = func() []httpapi.Probe {
			return []httpapi.Probe{
				probed("nats", "start it", func(context.Context) (string, error) { return "at nats://x", nil }),
				probed("push r/a", "log in", func(context.Context) (string, error) { return "half", wrong }),
			}
		}
	})
	check := func() httpapi.Checkup {
		t.Helper()
		got := w.do("POST", "/v1/check", "")
		var c httpapi.Checkup
		if err := json.Unmarshal([]byte(got.body), &c); err != nil || got.status != 200 {
			t.Fatalf("got %d %s: %v", got.status, got.body, err)
		}
		for i := range c.Items {
			c.Items[i].TookMS = 0
		}
		return c
	}
	want := func(got httpapi.Checkup, ok bool, items ...httpapi.Checked) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(httpapi.Checkup{OK: ok, Items: items}) {
			t.Errorf("got %+v, want %+v", got, items)
		}
	}
	nats := httpapi.Checked{Name: "nats", OK: true, Found: "at nats://x"}
	want(check(), true, nats, httpapi.Checked{Name: "push r/a", OK: true, Found: "half"})
	wrong = errors.New("401\nUnauthorized")
	want(check(), false, nats, httpapi.Checked{Name: "push r/a", Error: "401 Unauthorized", Todo: "log in"})
	wrong = nil
	want(check(), true, nats, httpapi.Checked{Name: "push r/a", OK: true, Found: "half"}) // nothing is kept

	checkProblem(t, w.do("POST", "/v1/check", "", "Content-Type", "text/plain"), 415, "usage", "application/json")
	checkProblem(t, w.do("POST", "/v1/check", `{"all":true}`), 400, "usage", "unknown field")
	checkProblem(t, w.do("POST", "/v1/check?all=1", ""), 400, "usage", "does not take")
	checkProblem(t, w.get("/v1/check"), 405, "usage", "takes POST")
	if got := newWorld(t).do("POST", "/v1/check", ""); got.body != `{"ok":true,"items":[]}`+"\n" {
		t.Errorf("without probes: got %s", got.body)
	}
}

// A part that hangs holds up nobody, and is told by its name; and with many
// projects they are asked a few at a time.
func TestCheckIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probes []httpapi.Probe
		for i := range 40 {
			probes = append(probes, probed(fmt.Sprint("git ", i), "", func(ctx context.Context) (string, error) {
				<-ctx.Done()
				return "", fmt.Errorf("ask git.test: %w", ctx.Err())
			}))
		}
		began := time.Now()
		got := httpapi.LookAt(t.Context(), append(probes, probed("nats", "", func(context.Context) (string, error) { return "", nil })))
		for i, c := range got.Items[:40] {
			if want := "no answer within 10s: ask git.test: context deadline exceeded"; c.OK || c.Error != want || c.TookMS != 10_000 || c.Name != fmt.Sprint("git ", i) {
				t.Errorf("got %+v, want %q", c, want)
			}
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("40 that hang took %s, want three turns of 16 at a time", took)
		}
		if last := got.Items[40]; !last.OK || got.OK {
			t.Errorf("got %+v", last)
		}
	})
}
