package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd/internal/httpapi"
)

// found is the tags of the records that a path answers, through all its pages.
func (w *world) found(path string, query url.Values) string {
	w.t.Helper()
	var tags []string
	for {
		got := w.get(path + "?" + query.Encode())
		var page httpapi.RecordsAnswer
		if path != "/v1/records" { // repositories are a list there
			var one httpapi.ImageAnswer
			if err := json.Unmarshal([]byte(got.body), &one); err != nil || got.status != http.StatusOK {
				w.t.Fatalf("%s: got %d %s", path, got.status, got.body)
			}
			page.List = one.List
		} else if err := json.Unmarshal([]byte(got.body), &page); err != nil || got.status != http.StatusOK {
			w.t.Fatalf("%s: got %d %s", path, got.status, got.body)
		}
		for _, r := range page.Items {
			tags = append(tags, r.Tag+" "+strings.TrimPrefix(r.Platform, "linux/"))
		}
		if page.Next == "" {
			return strings.Join(tags, ", ")
		}
		query.Set("cursor", page.Next)
	}
}

func TestFind(t *testing.T) {
	w, _, second := full(t)
	w.push("registry.test/tools/lint", "v9.0.0", "D")
	w.check(w.record("/v1/images/tools/lint/tags/v9.0.0", digest.FromString("D"), `,"ttl":"7d","labels":{"env":"test"}`), http.StatusCreated, "new")
	before, after := epoch.Add(-time.Hour).Format(time.RFC3339), epoch.Add(time.Hour).Format(time.RFC3339)
	const both = "1.3 amd64, 1.3 arm64, latest amd64, latest arm64, v1.3.0 amd64, v1.3.0 arm64"
	for _, test := range []struct{ query, want string }{
		{"image=tools/lint", "v9.0.0 amd64"},
		{"version=^1.3", both},
		{"commit=" + commit("b"), both},
		{"digest=" + second.Root.Digest.String(), both},
		{"digest=" + digest.FromString("C").String(), "1.3 arm64, latest arm64, v1.3.0 arm64"},
		{"label=env=test", "v9.0.0 amd64"},
		{"label=env=prod&version=^1.2&sort=version&limit=2", both + ", 1.2 amd64, v1.2.3 amd64"},
		{"label=env=prod&label=team=red", ""},
		{"project=other", ""},
		{"expires-within=8d", "v9.0.0 amd64"},
		{"expires-within=1h", ""},
		{"since=1h&image=tools/lint", "v9.0.0 amd64"},
		{"since=" + after, ""},
		{"until=" + before, ""},
		{"since=" + before + "&until=" + after + "&sort=published&limit=1&image=demo/hello&version=^1.3", both},
	} {
		query, err := url.ParseQuery(test.query)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.found("/v1/records", query); got != test.want {
			t.Errorf("%s: got %q, want %q", test.query, got, test.want)
		}
	}
	if got := w.found("/v1/images/demo/hello", url.Values{"version": {"1.2.x"}, "limit": {"1"}}); got != "1.2 amd64, v1.2.3 amd64" {
		t.Errorf("got %q", got)
	}
	if got := w.found("/v1/images/demo/hello", url.Values{"label": {"env=test"}}); got != "" {
		t.Errorf("got %q", got)
	}
	golden(t, "records", w.get("/v1/records?label=env=prod&limit=1").body)
	w.check(w.get("/v1/images?label=env=test"), http.StatusOK, `"items":[{"image":"tools/lint","tags":1,`)
	w.check(w.get("/v1/images?sort=published&limit=1"), http.StatusOK, `"items":[{"image":"demo/hello","tags":5,`, `"next"`)
}

func TestFindRefuses(t *testing.T) {
	w, _, _ := full(t)
	var page httpapi.RecordsAnswer
	if err := json.Unmarshal([]byte(w.get("/v1/records?limit=1&sort=version").body), &page); err != nil || page.Next == "" {
		t.Fatal(err)
	}
	for _, query := range []string{"sort=size", "since=yesterday", "until=-1d", "version=newest", "label=env", "label==prod", "label=a=1&label=a=2", "digest=sha256:x",
		"commit=abc", "expires-within=soon", "expires-within=", "cursor=x", "cursor=" + page.Next, "sort=version&sort=name", "labels=a"} {
		for _, path := range []string{"/v1/records", "/v1/images/demo/hello"} {
			if got := w.get(path + "?" + query); got.status != http.StatusBadRequest || !strings.Contains(got.body, `"usage"`) {
				t.Errorf("%s?%s: got %d %s", path, query, got.status, got.body)
			}
		}
	}
	w.check(w.get("/v1/images?sort=version"), http.StatusBadRequest, "/v1/records")
	w.check(w.get("/v1/images/demo/none?label=a=1"), http.StatusNotFound, "demo/none")
	w.check(w.get(fmt.Sprintf("/v1/records?seq=%d", w.index.Seq())), http.StatusOK, "items")
}
