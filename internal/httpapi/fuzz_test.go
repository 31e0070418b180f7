package httpapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// picky is a queue that looks at what it is given.
type picky struct{ t *testing.T }

func (p picky) Submit(_ context.Context, req imgd.Request, delivery string) (imgd.Request, error) {
	if !strings.HasPrefix(req.Ref, "refs/") || req.Commit == "" || !strings.HasSuffix(delivery, "/"+req.Project) {
		p.t.Errorf("%q is asked for: %+v", delivery, req)
	}
	req.ID = req.Hash()
	return req, nil
}

// Whatever is posted, the answer is one of those that are documented, and JSON.
func FuzzPosts(f *testing.F) {
	paths := []string{"/v1/projects/hello/builds", "/v1/requests/" + strings.Repeat("0", 32) + "/cancel",
		"/v1/requests/" + strings.Repeat("0", 32) + "/retry", "/v1/requests/dead-1/drop", "/v1/images/demo/hello/tags/v1.2.3/verify",
		"/v1/images/demo/hello/tags/v1.2.3"}
	for i, body := range []string{
		`{"ref":"main"}`, `{"reason":"it hangs"}`, `{}`, ``, `null`, `[]`, `{"ref":"refs/heads/main","commit":"` + commit("a") + `"}`,
		`{"ref":"v1","force":true,"reason":"r","args":{"A":"b"},"platforms":["linux/amd64"],"askedAt":"2026-11-22T00:00:00Z"}`,
		`{"digest":"sha256:` + strings.Repeat("0", 64) + `"}`, `{"digest":"sha256:` + strings.Repeat("0", 64) + `","source":"https://git.test/x@` + commit("a") + `","noVerify":true,"ttl":"7d","platform":"linux/arm64","labels":{"a":"b"}}`,
		`{"ref":1}`, `{"ref":"main"}{}`, "\xff", `{"ref":"` + strings.Repeat("x", 70<<10) + `"}`,
	} {
		f.Add(uint8(i), body)
		f.Add(uint8(0), body)
	}
	known := []int{http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusRequestEntityTooLarge}
	f.Fuzz(func(t *testing.T, path uint8, body string) {
		w := newWorld(t, func(c *httpapi.Config) { c.Queue = picky{t} })
		w.refs["refs/heads/main"] = commit("a")
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1"+paths[int(path)%len(paths)], strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		got := httptest.NewRecorder()
		w.api.ServeHTTP(got, r)
		if !slices.Contains(known, got.Code) || !json.Valid(got.Body.Bytes()) {
			t.Errorf("%s: %d %s", r.URL.Path, got.Code, got.Body)
		}
	})
}
