package integration_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd/integration/kit"
)

func readOpenAPI(t *testing.T) map[string]any {
	t.Helper()
	var raw any
	if err := yaml.Unmarshal(readFile(t, filepath.Join(docs, "openapi.yaml")), &raw); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	return asJSON(t, data).(map[string]any)
}

// objects calls f with every object in v.
func objects(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(v)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			objects(v[name], f)
		}
	case []any:
		for _, element := range v {
			objects(element, f)
		}
	}
}

// The document is OpenAPI 3.1 by its official schema, which refuses it with anything of another type, anything unknown, or
// without a field it needs.
func TestOpenAPI(t *testing.T) {
	c := jsonschema.NewCompiler()
	schema, err := c.Compile("testdata/openapi-3.1.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(readOpenAPI(t)); err != nil {
		t.Error(err)
	}
	for pointer, v := range map[string]any{"/openapi": "3.0.3", "/info/title": []any{}, "/more": "of this", "/info/license/identifier": 1,
		"/components/responses/Problem/description": nil, "/components/parameters/limit/in": "body", "/servers/0/url": 7} {
		doc := readOpenAPI(t)
		at(doc, pointer, func(parent any, key string) { set(parent, key, v) })
		if err := schema.Validate(doc); err == nil {
			t.Errorf("%s may be %v", pointer, v)
		}
	}
	newContract(t) // its schemas are schemas
}

// Whatever the document refers to is there, and what it has is referred to.
func TestOpenAPIRefs(t *testing.T) {
	doc := readOpenAPI(t)
	used := map[string]bool{}
	objects(doc, func(o map[string]any) {
		if to, ok := o["$ref"].(string); ok {
			used[to] = true
		}
	})
	var there []string
	for kind, all := range doc["components"].(map[string]any) {
		for name := range all.(map[string]any) {
			there = append(there, "#/components/"+kind+"/"+name)
		}
	}
	slices.Sort(there)
	if refs := slices.Sorted(maps.Keys(used)); !slices.Equal(refs, there) {
		t.Errorf("referred to are %q\nthere are       %q", refs, there)
	}
}

// A contract is the document as answers are held to it: what it does not name may not be in them, though readers are told to
// ignore that.
type contract struct {
	t        *testing.T
	doc      map[string]any
	compiler *jsonschema.Compiler
	seen     map[string]bool // "operationId status" of what was held to it
}

func newContract(t *testing.T) *contract {
	t.Helper()
	c := &contract{t: t, doc: readOpenAPI(t), compiler: jsonschema.NewCompiler(), seen: map[string]bool{}}
	objects(c.doc, func(o map[string]any) {
		if _, open := o["additionalProperties"]; !open && o["type"] == "object" && o["properties"] != nil {
			o["additionalProperties"] = false
		}
	})
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource("openapi.json", c.doc); err != nil {
		t.Fatal(err)
	}
	for name := range c.doc["components"].(map[string]any)["schemas"].(map[string]any) {
		c.schema("/components/schemas/" + name)
	}
	return c
}

func (c *contract) schema(pointer string) *jsonschema.Schema {
	c.t.Helper()
	schema, err := c.compiler.Compile("openapi.json#" + pointer)
	if err != nil {
		c.t.Fatal(err)
	}
	return schema
}

// operations are the documented ones by their IDs: where they stand.
func (c *contract) operations() map[string]string {
	all := map[string]string{}
	for path, methods := range c.doc["paths"].(map[string]any) {
		for method, op := range methods.(map[string]any) {
			all[op.(map[string]any)["operationId"].(string)] = "/paths/" + strings.ReplaceAll(path, "/", "~1") + "/" + method
		}
	}
	return all
}

// hold holds one answer of the operation to the document.
func (c *contract) hold(operation string, status int, contentType string, body []byte) error {
	pointer, ok := c.operations()[operation]
	if !ok {
		return fmt.Errorf("there is no operation %s", operation)
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return fmt.Errorf("%s: content type %q: %w", operation, contentType, err)
	}
	responses, key := c.responses(pointer), fmt.Sprint(status)
	if _, ok := responses[key]; !ok {
		key = fmt.Sprintf("%dXX", status/100)
	}
	response, ok := responses[key].(map[string]any)
	if !ok {
		return fmt.Errorf("%s: status %d is not documented", operation, status)
	}
	at := pointer + "/responses/" + key
	if to, ok := response["$ref"].(string); ok {
		at = strings.TrimPrefix(to, "#")
		response = c.doc["components"].(map[string]any)["responses"].(map[string]any)[filepath.Base(to)].(map[string]any)
	}
	if _, ok := response["content"].(map[string]any)[mediaType]; !ok {
		return fmt.Errorf("%s: %d comes as %s, which is not documented", operation, status, mediaType)
	}
	var v any = string(body)
	if strings.HasSuffix(mediaType, "json") && mediaType != "application/x-ndjson" {
		v = asJSON(c.t, body)
	}
	if err := c.schema(at + "/content/" + strings.ReplaceAll(mediaType, "/", "~1") + "/schema").Validate(v); err != nil {
		return fmt.Errorf("%s: %d: %w\n%s", operation, status, err, body)
	}
	c.seen[operation+" "+fmt.Sprint(status)] = true
	return nil
}

// goldens say of which operation and status the golden answers of internal/httpapi are.
var goldens = map[string]string{
	"build": "askBuild 202", "cancel": "cancelRequest 200", "drop": "dropRequest 200", "drop-letter": "dropRequest 200", "image": "getImage 200",
	"image-last-page": "getImage 200", "image-page": "getImage 200", "images": "listImages 200", "letter": "getLetter 200",
	"explain": "explain 200", "explain-conflict": "explain 200", "why": "getWhy 200",
	"history": "getHistory 200", "records": "listRecords 200",
	"letters": "listLetters 200", "letters-gone": "listLetters 200", "letters-page": "listLetters 200", "releases": "listReleases 200",
	"releases-none": "listReleases 200", "request": "getRequest 200", "request-unchanged": "getRequest 200", "requests": "listRequests 200",
	"requests-dead": "listRequests 200", "requests-none": "listRequests 200", "requests-page": "listRequests 200", "retry": "retryRequest 202",
	"retry-letter": "retryRequest 202", "retry-unreadable": "retryRequest 202", "tag": "getTag 200", "tag-platforms": "getTag 200", "verify": "verifyTag 200",
	"verify-digest": "verifyTag 200", "version": "getVersion 200", "projects": "listProjects 200", "projects-page": "listProjects 200",
	"compare": "compare 200", "compare-same": "compare 200",
}

// holdGoldens holds the answers that package httpapi's tests compare byte by byte.
func (c *contract) holdGoldens() {
	c.t.Helper()
	files, err := filepath.Glob("../internal/httpapi/testdata/*.json")
	if err != nil || len(files) != len(goldens) {
		c.t.Errorf("%d golden answers, %d are known: %v", len(files), len(goldens), err)
	}
	for _, file := range files {
		var operation string
		var status int
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		if _, err := fmt.Sscan(goldens[name], &operation, &status); err != nil {
			c.t.Errorf("of which operation is %s?", file)
			continue
		}
		if err := c.hold(operation, status, "application/json", readFile(c.t, file)); err != nil {
			c.t.Errorf("%s: %v", file, err)
		}
	}
}

// Nothing of an answer may be missing, more, or other than the document says.
func TestOpenAPIIsStrict(t *testing.T) {
	c := newContract(t)
	good := `{"image":"a","tag":"b","want":"sha256:` + strings.Repeat("0", 64) + `","repositories":[{"repository":"r/a","same":true}],"records":[],"ok":true,"seq":1}`
	for _, tt := range []struct{ old, new, want string }{
		{"", "", ""}, {`"seq":1`, `"seq":-1`, "seq"}, {`,"seq":1`, "", "seq"}, {`"same":true`, `"same":true,"more":1`, "more"},
		{`"ok":true`, `"ok":"yes"`, "ok"}, {"sha256:", "md5:", "want"},
	} {
		err := c.hold("verifyTag", 200, "application/json", []byte(strings.Replace(good, tt.old, tt.new, 1)))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("with %s: got %v, want %q", tt.new, err, tt.want)
		}
	}
	for _, err := range []error{c.hold("verifyTag", 201, "application/json", []byte(good)), c.hold("verifyTag", 200, "text/plain", []byte(good)),
		c.hold("verifies", 200, "application/json", []byte(good)), c.hold("livez", 200, "text/plain", []byte("no\n"))} {
		if err == nil {
			t.Error("what is not documented is taken")
		}
	}
}

// An apiCall is one request to a real daemon, and what it must answer.
type apiCall struct {
	operation, method, path, body string
	status                        int
	header                        string // of the request, "name: value"
}

// What a real daemon answers is what the document says, for each of its operations, and for each status that is no error.
func TestOpenAPIAnswers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	c, s := newContract(t), bareSite(t, scratchFiles("answers"))
	c.holdGoldens()
	config, file := s.config(), filepath.Join(t.TempDir(), "secret")
	s.must(os.WriteFile(file, []byte(hookSecret), 0o600))
	config.Projects[0].Webhook = &kit.WebhookConfig{Forge: "github", SecretFile: file}
	s.daemon = kit.RunDaemon(t, t.TempDir(), config)
	built := s.build("main")[0]
	s.commit("broken", map[string]string{"Dockerfile": "FROM scratch\nCOPY nothing /\n"})
	s.exit(7, "build", "hello", "--ref", "main", "--wait")
	broken := s.ask("main") // it fails once more
	s.exit(7, "build", "hello", "--ref", "main", "--wait")
	letter := s.letter("not a request")
	hook := `{"ref":"refs/heads/main","after":"` + strings.Repeat("a", 40) + `"}`
	id, tag := requestOf(built), "/v1/images/"+image+"/tags/"+built.Tag
	digest, err := pushImage(t.Context(), s.daemon.Registry+"/tools/lint:v1.0.0")
	s.must(err)
	second, err := pushImage(t.Context(), s.daemon.Registry+"/tools/lint:v1.1.0")
	s.must(err)
	source := `","source":"https://git.example.com/tools/lint@` + strings.Repeat("a", 40) + `"}`
	pushed, lint := `{"digest":"`+digest+source, "/v1/images/tools/lint/tags/"
	for _, do := range []apiCall{
		{"listImages", "GET", "/v1/images", "", 200, ""}, {"listImages", "GET", "/v1/images?limit=0", "", 400, ""},
		{"getImage", "GET", "/v1/images/" + image, "", 200, ""}, {"getImage", "GET", "/v1/images/none", "", 404, ""},
		{"getTag", "GET", tag, "", 200, ""}, {"getTag", "GET", tag + "x", "", 404, ""},
		{"verifyTag", "POST", tag + "/verify", "", 200, ""}, {"verifyTag", "POST", tag + "x/verify", "", 404, ""},
		{"verify", "POST", "/v1/verify", `{"depth":"bytes"}`, 200, ""}, {"verify", "POST", "/v1/verify?image=none", "", 404, ""},
		{"verifyTag", "POST", tag + "/verify", `{"digest":"sha256:` + strings.Repeat("0", 64) + `"}`, 409, ""},
		{"askBuild", "POST", "/v1/projects/hello/builds", `{"ref":"main"}`, 202, ""}, {"askBuild", "POST", "/v1/projects/none/builds", `{"ref":"main"}`, 404, ""},
		{"explain", "GET", "/v1/projects/hello/explain?ref=main", "", 200, ""}, {"explain", "GET", "/v1/projects/hello/explain?ref=none", "", 404, ""},
		{"getWhy", "GET", tag + "/why", "", 200, ""}, {"getWhy", "GET", tag + "x/why", "", 404, ""},
		{"listRequests", "GET", "/v1/requests", "", 200, ""}, {"getRequest", "GET", "/v1/requests/" + id, "", 200, ""},
		{"getRequest", "GET", "/v1/requests/" + broken + "?wait=1m", "", 200, ""}, {"getRequest", "GET", "/v1/requests/none", "", 404, ""},
		{"cancelRequest", "POST", "/v1/requests/" + id + "/cancel", "", 409, ""}, {"cancelRequest", "POST", "/v1/requests/" + strings.Repeat("0", 32) + "/cancel", "", 404, ""},
		{"retryRequest", "POST", "/v1/requests/" + id + "/retry", "", 409, ""}, {"retryRequest", "POST", "/v1/requests/dead-99/retry", "", 404, ""},
		{"retryRequest", "POST", "/v1/requests/" + broken + "/retry", "", 202, ""}, {"getRequest", "GET", "/v1/requests/" + broken + "?wait=1m", "", 200, ""},
		{"dropRequest", "POST", "/v1/requests/dead-99/drop", "", 404, ""}, {"dropRequest", "POST", "/v1/requests/" + id + "/drop", "", 409, ""},
		{"getLog", "GET", "/v1/requests/" + id + "/log", "", 200, ""}, {"getLog", "GET", "/v1/requests/" + id + "/log?follow=1", "", 200, ""}, {"getLog", "GET", "/v1/requests/none/log", "", 404, ""},
		{"listLetters", "GET", "/v1/letters", "", 200, ""}, {"getLetter", "GET", "/v1/letters/" + letter, "", 200, ""}, {"getLetter", "GET", "/v1/letters/dead-99", "", 404, ""},
		{"dropRequest", "POST", "/v1/requests/" + letter + "/drop", `{"reason":"no request"}`, 200, ""},
		{"listReleases", "GET", "/v1/releases?open=1", "", 200, ""}, {"listReleases", "GET", "/v1/releases", "", 400, ""},
		{"getEvents", "GET", "/v1/events?follow=0", "", 200, ""}, {"getEvents", "GET", "/v1/events?what=none", "", 400, ""},
		{"listProjects", "GET", "/v1/projects", "", 200, ""}, {"check", "POST", "/v1/check", "", 200, ""}, {"reload", "POST", "/v1/reload", "", 200, ""},
		{"getUsage", "GET", "/v1/usage", "", 200, ""}, {"collect", "POST", "/v1/collect", "", 200, ""},
		{"publishTag", "POST", "/v1/images/tools/lint/tags/v1.0.0", pushed, 201, ""}, {"publishTag", "POST", "/v1/images/tools/lint/tags/v1.0.0", pushed, 200, ""},
		{"publishTag", "POST", "/v1/images/tools/lint/tags/v2.0.0", pushed, 404, ""}, {"publishTag", "POST", tag, pushed, 409, ""},
		{"publishTag", "POST", lint + "v1.1.0", `{"digest":"` + second + source, 201, ""},
		{"tagTag", "POST", lint + "v1.0.0/tag", `{"tags":["stable"]}`, 201, ""}, {"tagTag", "POST", lint + digest + "/tag", `{"tags":["stable"]}`, 200, ""},
		{"tagTag", "POST", lint + "v1.1.0/tag", `{"tags":["stable"]}`, 201, ""}, {"tagTag", "POST", lint + "v1.1.0/tag", `{"tags":["v1.0.0"]}`, 409, ""},
		{"rollbackTag", "POST", lint + "stable/rollback", "", 201, ""}, {"rollbackTag", "POST", lint + "stable/rollback", `{"to":"` + digest + `"}`, 200, ""},
		{"rollbackTag", "POST", lint + "v1.0.0/rollback", "", 404, ""},
		{"untagTag", "POST", lint + "stable/untag", `{"reason":"a test"}`, 201, ""}, {"untagTag", "POST", lint + "stable/untag", "", 200, ""},
		{"expire", "POST", "/v1/expire", `{"dryRun":true,"stays":true}`, 200, ""}, {"expire", "POST", "/v1/expire", `{"image":"tools/none"}`, 404, ""},
		{"getDrift", "GET", "/v1/drift", "", 404, ""}, {"audit", "POST", "/v1/drift", `{"image":"demo/hello","depth":"all"}`, 400, ""},
		{"audit", "POST", "/v1/drift", `{"depth":"tag"}`, 200, ""}, {"getDrift", "GET", "/v1/drift?image=demo/hello", "", 200, ""},
		{"untagTag", "POST", lint + "none/untag", "", 404, ""}, {"untagTag", "POST", lint + "v1.0.0/untag", "", 409, ""},
		{"getHistory", "GET", lint + "stable/history", "", 200, ""}, {"getHistory", "GET", lint + "none/history", "", 404, ""},
		{"listRecords", "GET", "/v1/records?sort=published&since=1h", "", 200, ""}, {"listRecords", "GET", "/v1/records?sort=size", "", 400, ""},
		{"compare", "GET", "/v1/compare?image=tools/lint&a=" + digest + "&b=" + second, "", 200, ""}, {"compare", "GET", "/v1/compare?image=tools/lint", "", 400, ""},
		{"watch", "GET", "/v1/watch?since=0&follow=0", "", 200, ""}, {"watch", "GET", "/v1/watch?since=x", "", 400, ""},
		{"getVersion", "GET", "/v1/version", "", 200, ""}, {"livez", "GET", "/livez", "", 200, ""}, {"readyz", "GET", "/readyz", "", 200, ""},
		{"readyz", "GET", "/readyz?verbose", "", 200, ""}, {"metrics", "GET", "/metrics", "", 200, ""},
		{"deliverWebhook", "POST", "/hooks/github/hello", hook, 202, "X-GitHub-Event: push"}, {"deliverWebhook", "POST", "/hooks/github/hello", `{"zen":""}`, 200, "X-GitHub-Event: ping"},
		{"deliverWebhook", "POST", "/hooks/github/hello", hook, 401, "X-Hub-Signature-256: sha256=00"}, {"deliverWebhook", "POST", "/hooks/github/none", hook, 404, ""},
	} {
		if err := s.do(c, do); err != nil {
			t.Errorf("%s %s: %v", do.method, do.path, err)
		}
	}
	scrape, err := kit.Get(t.Context(), s.daemon.HTTP+"/metrics")
	s.must(err)
	for _, row := range metricRow.FindAllStringSubmatch(string(readFile(t, filepath.Join(docs, "metrics.md"))), -1) {
		if !strings.Contains(string(scrape), "\n# TYPE "+row[1]+" "+row[2]+"\n") {
			t.Errorf("the daemon does not serve %s", row[1])
		}
	}
	for operation, pointer := range c.operations() {
		for status := range c.responses(pointer) {
			if strings.HasPrefix(status, "2") && !c.seen[operation+" "+status] {
				t.Errorf("no answer %s of %s was seen", status, operation)
			}
		}
	}
}

func (c *contract) responses(pointer string) map[string]any {
	segments := strings.Split(strings.TrimPrefix(pointer, "/paths/"), "/")
	methods := c.doc["paths"].(map[string]any)[strings.ReplaceAll(segments[0], "~1", "/")].(map[string]any)
	return methods[segments[1]].(map[string]any)["responses"].(map[string]any)
}

// do makes the call and holds its answer to the document.
func (s *site) do(c *contract, do apiCall) error {
	req, err := http.NewRequestWithContext(s.Context(), do.method, s.daemon.HTTP+do.path, strings.NewReader(do.body))
	if err != nil {
		return err
	}
	if do.method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Hub-Signature-256", sign([]byte(do.body)))
	}
	if name, value, ok := strings.Cut(do.header, ": "); ok {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != do.status {
		return fmt.Errorf("got %s, want %d\n%s", resp.Status, do.status, body)
	}
	return c.hold(do.operation, resp.StatusCode, resp.Header.Get("Content-Type"), body)
}

// letter puts what is no request into the queue, and waits for its dead letter.
func (s *site) letter(body string) string {
	s.Helper()
	conn, err := nats.Connect(s.daemon.NATS)
	s.must(err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	s.must(err)
	_, err = js.Publish(s.Context(), "imgd.requests.hello.branch", []byte(body))
	s.must(err)
	messages, err := kit.ReadStream(s.Context(), s.daemon.NATS, "IMGD_DEAD", "imgd.dead.hello", 1)
	s.must(err)
	return fmt.Sprint("dead-", messages[0].Seq)
}
