package httpapi_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

func TestCompare(t *testing.T) {
	w, first, second := full(t)
	path := func(a, b digest.Digest) string {
		return fmt.Sprintf("/v1/compare?image=%s&a=%s&b=%s", image, a, b)
	}
	w.change(func() {
		w.difference = &imgd.Difference{Platform: "linux/amd64", Part: imgd.PartLayer, Layer: 2, File: "etc/date", Field: imgd.FieldContent,
			A: `"12" from byte 0 on`, B: `"34" from byte 0 on`}
	})
	golden(t, "compare", w.get(path(first.Root.Digest, second.Root.Digest)).body)
	golden(t, "compare-same", w.get(path(first.Root.Digest, first.Root.Digest)).body)
	for _, wrong := range []string{"", "?image=" + image, "?image=" + image + "&a=" + first.Root.Digest.String() + "&b=latest", "?image=" + image + "&c=1"} {
		checkProblem(t, w.get("/v1/compare"+wrong), 400, "usage", "")
	}
	both := "&a=" + first.Root.Digest.String() + "&b=" + second.Root.Digest.String()
	checkProblem(t, w.get("/v1/compare?image=demo/none"+both), 404, "not-found", "demo/none")
	checkProblem(t, w.get("/v1/compare?image="+both), 404, "not-found", "")
	for _, row := range []struct {
		err    error
		status int
		code   string
	}{{imgd.ErrNotFound, 404, "not-found"}, {errors.New("the registry is away"), 502, "failed"}} {
		w.change(func() { w.broken = fmt.Errorf("compare: %w", row.err) })
		if got := w.get(path(first.Root.Digest, second.Root.Digest)); got.status != row.status {
			t.Errorf("%v: got %d %s", row.err, got.status, got.body)
		}
	}
}
