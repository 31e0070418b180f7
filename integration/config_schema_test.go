package integration_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd/integration/kit"
)

// What `imgd config schema` prints is a schema, and takes what imgd takes.
func TestConfigSchema(t *testing.T) {
	imgd, err := kit.Bin("imgd")
	if err != nil {
		t.Fatal(err)
	}
	out := func(args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), imgd, args...)
		cmd.Env = append(os.Environ(), "IMGD_DATA="+t.TempDir())
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("imgd %q: %v", args, err)
		}
		return text
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(out("config", "schema")))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("imgd.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("imgd.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	const example = `listen: 127.0.0.1:7070
build: {slots: 2, timeout: 1h30m, grace: 0}
nats: {url: "", credsFile: "", listen: 127.0.0.1:4222}
registry: {address: "", plainHTTP: false, caFile: "", dockerConfig: "", listen: 127.0.0.1:5000}
git: {allowHosts: [git.example.com], plainHTTP: false, allowPrivate: false, caFile: ""}
log: {level: info, format: auto}
disk:
projects:
  - name: hello
    git: https://git.example.com/demo/hello.git
    image: demo/hello
    labels: {env: prod, version: 1.0}
    timeout: 30m
    webhook: {forge: github, secretFile: /etc/imgd/hello.secret}
`
	for name, tt := range map[string]struct {
		text string
		ok   bool
	}{
		"the defaults":     {string(out("config", "show")), true},
		"an example":       {example, true},
		"nothing":          {"{}", true},
		"unknown key":      {"buidl: {slots: 2}", false},
		"unknown below":    {"build: {slot: 2}", false},
		"in a project":     {example + "    imgae: x\n", false},
		"no image":         {"projects: [{name: a, git: 'https://g.test/a.git'}]", false},
		"a number of time": {"build: {timeout: 30}", false},
		"no unit":          {"build: {timeout: '30'}", false},
		"a word":           {"log: {level: loud}", false},
		"no slots":         {"build: {slots: 0}", false},
		"a text":           {"git: {allowHosts: h}", false},
	} {
		t.Run(name, func(t *testing.T) {
			var value any
			if err := yaml.Unmarshal([]byte(tt.text), &value); err != nil {
				t.Fatal(err)
			}
			asJSON, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			value, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(value); (err == nil) != tt.ok {
				t.Errorf("got %v, want ok %t", err, tt.ok)
			}
		})
	}
}
