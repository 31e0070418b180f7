package git_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/imgd/imgd"
)

func TestProbe(t *testing.T) {
	o := newOrigin(t)
	c := o.config(t.TempDir())
	r := open(t, c)
	probe := func(want string) {
		t.Helper()
		if got, err := r.Probe(t.Context(), project); err != nil || got != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	probe("it is empty")
	head := o.push("main")
	probe("main is at " + head[:12])
	probe("main is at " + head[:12])
	o.git("symbolic-ref", "HEAD", "refs/heads/none")
	probe("it is empty")
	o.git("update-ref", "--no-deref", "HEAD", head)
	probe("HEAD is at " + head[:12])
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) > 0 {
		t.Errorf("a probe left %v, %v", left, err)
	}
	if _, err := r.Probe(t.Context(), "none"); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestProbeFails(t *testing.T) {
	o := newOrigin(t)
	o.push("main")
	c := o.config(t.TempDir())
	c.Projects = configured(map[string]imgd.Project{
		project: {Name: project, Git: strings.Replace(o.url(), "://", "://robot:old-"+secret+"@", 1)},
	})
	r := open(t, c)
	o.intercept(locked("robot", secret))
	_, err := r.Probe(t.Context(), project)
	if err == nil || !strings.Contains(err.Error(), "403") || !strings.Contains(err.Error(), "/hello.git") || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v, want the server's refusal without the secret", err)
	}
	o.intercept(func(http.Handler) http.Handler { return http.NotFoundHandler() })
	if _, err = r.Probe(t.Context(), project); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("got %v", err)
	}
	came, went := make(chan struct{}), make(chan struct{})
	o.intercept(silent(came, went))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-came; cancel() }()
	if _, err := r.Probe(ctx, project); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-went
	o.server.Close()
	if _, err := r.Probe(t.Context(), project); err == nil {
		t.Error("a server that is gone answers")
	}
}
