package httpapi_test

import (
	"fmt"
	"maps"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd/internal/httpapi"
)

// An openAPI is what of docs/openapi.yaml is compared with the routes.
type openAPI struct {
	Paths map[string]map[string]struct {
		OperationID string `yaml:"operationId"`
		Responses   map[string]struct {
			Ref     string         `yaml:"$ref"`
			Content map[string]any `yaml:"content"`
		}
	}
}

func readOpenAPI(t testing.TB) openAPI {
	t.Helper()
	var doc openAPI
	page, err := os.ReadFile("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(page, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// operation is the documented path that a request's path is one of, as the
// routes see it: names of images keep their slashes, and /tags/ is found from
// the right.
func (doc openAPI) operation(path string) string {
	if rest, ok := strings.CutPrefix(path, "/v1/images/"); ok && rest != "" {
		_, tag, action := httpapi.SplitImage(rest)
		switch {
		case tag == "":
			return "/v1/images/{name}"
		case action == "":
			return "/v1/images/{name}/tags/{tag}"
		}
		return "/v1/images/{name}/tags/{tag}/" + action
	}
	for template := range doc.Paths {
		parts := regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(regexp.QuoteMeta(template), "[^/]+")
		if regexp.MustCompile("^" + parts + "$").MatchString(path) {
			return template
		}
	}
	return ""
}

// check says what of an answer is not documented. Paths and methods that are not
// must be refused.
func (doc openAPI) check(method, path string, got answer) error {
	if method == http.MethodHead || strings.HasPrefix(path, "/hooks/") {
		return nil // as GET, without a body; and what package webhook answers
	}
	path, _, _ = strings.Cut(path, "?")
	template := doc.operation(path)
	op, ok := doc.Paths[template][strings.ToLower(method)]
	if !ok {
		if !slices.Contains([]int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusForbidden, http.StatusTemporaryRedirect}, got.status) {
			return fmt.Errorf("%s %s is not documented and answers %d", method, path, got.status)
		}
		return nil
	}
	response, ok := op.Responses[fmt.Sprint(got.status)]
	if !ok {
		response, ok = op.Responses[fmt.Sprintf("%dXX", got.status/100)]
	}
	if !ok {
		return fmt.Errorf("%s %s: status %d is not documented", method, template, got.status)
	}
	types := slices.Collect(maps.Keys(response.Content))
	if response.Ref == "#/components/responses/Problem" {
		types = []string{"application/problem+json"}
	}
	mediaType, _, err := mime.ParseMediaType(got.header.Get("Content-Type"))
	if err != nil || !slices.Contains(types, mediaType) {
		return fmt.Errorf("%s %s: %d comes as %q, documented is %q", method, template, got.status, got.header.Get("Content-Type"), types)
	}
	return nil
}

// Every route of the mux, with each of its methods, is in the document, and
// nothing else.
func TestOpenAPIRoutes(t *testing.T) {
	doc := readOpenAPI(t)
	var documented, served []string
	for path, operations := range doc.Paths {
		for method := range operations {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	for path, methods := range httpapi.Routes() {
		switch path {
		case "/v1/images/{rest...}": // below it the handlers part the paths: see TestOpenAPIImages
			for _, op := range documented {
				if method, of, _ := strings.Cut(op, " "); strings.HasPrefix(of, "/v1/images/") && slices.Contains(methods, method) {
					served = append(served, op)
				}
			}
			continue
		case "/hooks/":
			path = "/hooks/{forge}/{project}"
		}
		for _, method := range methods {
			served = append(served, method+" "+path)
		}
	}
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("documented are %q\nserved are     %q", documented, served)
	}
	ids := map[string]bool{}
	for path, operations := range doc.Paths {
		for method, op := range operations {
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s %s has the operationId %q", method, path, op.OperationID)
			}
			ids[op.OperationID] = true
		}
	}
}

// Of the paths below /v1/images/ exactly the documented methods are taken.
func TestOpenAPIImages(t *testing.T) {
	w, _, _ := twice(t)
	doc := readOpenAPI(t)
	for _, template := range []string{"/v1/images/{name}", "/v1/images/{name}/tags/{tag}", "/v1/images/{name}/tags/{tag}/verify", "/v1/images/{name}/tags/{tag}/history", "/v1/images/{name}/tags/{tag}/why",
		"/v1/images/{name}/tags/{tag}/rollback", "/v1/images/{name}/tags/{tag}/tag", "/v1/images/{name}/tags/{tag}/untag"} {
		path := strings.NewReplacer("{name}", image, "{tag}", "latest").Replace(template)
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			_, documented := doc.Paths[template][strings.ToLower(method)]
			got := w.do(method, path, "")
			if taken := got.status != http.StatusMethodNotAllowed && got.status != http.StatusNotFound; taken != documented {
				t.Errorf("%s %s answers %d, documented: %v", method, template, got.status, documented)
			}
		}
	}
}

// The check of all answers says nothing if all is well, so this shows that it can.
func TestOpenAPICheck(t *testing.T) {
	doc := readOpenAPI(t)
	json, problem := http.Header{"Content-Type": {"application/json"}}, http.Header{"Content-Type": {"application/problem+json"}}
	for _, tt := range []struct {
		method, path string
		status       int
		header       http.Header
		want         string
	}{
		{"GET", "/v1/images", 200, json, ""},
		{"GET", "/v1/images?limit=1", 400, problem, ""},
		{"GET", "/v1/images/a/b/tags/c", 200, json, ""},
		{"GET", "/v1/images", 200, problem, "comes as"},
		{"GET", "/v1/images", 200, http.Header{}, "comes as"},
		{"GET", "/v1/images", 404, json, "comes as"},
		{"GET", "/v1/images", 206, json, "status 206"},
		{"GET", "/v1/secrets", 200, json, "not documented"},
		{"DELETE", "/v1/images", 200, json, "not documented"},
		{"DELETE", "/v1/images", 405, problem, ""},
	} {
		err := doc.check(tt.method, tt.path, answer{status: tt.status, header: tt.header})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s %d: got %v, want %q", tt.method, tt.path, tt.status, err, tt.want)
		}
	}
}
