package builder_test

import (
	"strings"
	"testing"

	"github.com/imgd/imgd/builder"
)

func TestVersion(t *testing.T) {
	t.Parallel()
	if world == nil {
		t.Skip("needs root and bin/buildkitd (make tools)")
	}
	got, err := newBuilder(t, func(*builder.Config) {}).Version(t.Context())
	if err != nil || !strings.HasPrefix(got, "v0.") {
		t.Errorf("got %q, %v", got, err)
	}
	nobody := newBuilder(t, func(c *builder.Config) { c.Address = "unix:///nonexistent/buildkitd.sock" })
	if got, err := nobody.Version(t.Context()); err == nil || got != "" || !strings.Contains(err.Error(), "/nonexistent/") {
		t.Errorf("got %q, %v; want an error with the address", got, err)
	}
}
