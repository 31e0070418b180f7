package integration_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd/events"
)

// An asyncAPI is docs/asyncapi.yaml, as far as imgd's tests look at it.
type asyncAPI struct {
	Channels map[string]struct {
		Address    string         `json:"address"`
		Stream     string         `json:"x-jetstream-stream"`
		Parameters map[string]any `json:"parameters"`
		Messages   map[string]ref `json:"messages"`
	} `json:"channels"`
	Operations map[string]struct {
		Action  string `json:"action"`
		Channel ref    `json:"channel"`
	} `json:"operations"`
	Components struct {
		Messages map[string]struct {
			Name    string `json:"name"`
			Payload struct {
				Schema ref `json:"schema"`
			} `json:"payload"`
		} `json:"messages"`
	} `json:"components"`
}

type ref struct {
	To string `json:"$ref"`
}

// readAsyncAPI is the document as JSON, for schemas, and as the tests read it.
func readAsyncAPI(t *testing.T) (any, asyncAPI) {
	t.Helper()
	var raw any
	if err := yaml.Unmarshal(readFile(t, filepath.Join(docs, "asyncapi.yaml")), &raw); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	var doc asyncAPI
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	return asJSON(t, data), doc
}

// The document is AsyncAPI 3.0.0 by its official schema, which refuses it with
// anything of another type, anything unknown, or without a field it needs.
func TestAsyncAPI(t *testing.T) {
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	schema, err := c.Compile("testdata/asyncapi-3.0.0.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, _ := readAsyncAPI(t)
	if err := schema.Validate(doc); err != nil {
		t.Error(err)
	}
	for pointer, v := range map[string]any{
		"/asyncapi": "2.6.0", "/info/title": []any{}, "/more": "of this", "/channels/published/addr": "imgd.events",
		"/components/parameters/image/schema": map[string]any{"type": "string"}, "/operations/published/action": "publish",
		"/servers/nats/protocol": 4222, "/components/messages/drift/payload/schemaFormat": 7,
	} {
		doc, _ := readAsyncAPI(t)
		at(doc, pointer, func(parent any, key string) { set(parent, key, v) })
		if err := schema.Validate(doc); err == nil {
			t.Errorf("%s may be %v", pointer, v)
		}
	}
}

// Whatever the document refers to is there.
func TestAsyncAPIRefs(t *testing.T) {
	doc, _ := readAsyncAPI(t)
	found, lost := refs(doc)
	if len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	if want := len(kinds()) * 7; len(found) < want {
		t.Errorf("only %d references, want at least %d", len(found), want)
	}
	at(doc, "/channels/published/servers/0", func(parent any, key string) { set(parent, key, map[string]any{"$ref": "#/servers/nowhere"}) })
	at(doc, "/components/messages/dead/payload/schema", func(parent any, key string) { set(parent, key, map[string]any{"$ref": "events/nothing.schema.json"}) })
	if _, lost := refs(doc); !slices.Equal(lost, []string{"#/servers/nowhere", "events/nothing.schema.json"}) {
		t.Errorf("got %v as lost", lost)
	}
}

// refs are all references in the document, and those to what is not there.
func refs(doc any) (found, lost []string) {
	pointers := pointersOf(doc, "")
	for _, pointer := range pointers {
		if !strings.HasSuffix(pointer, "/$ref") {
			continue
		}
		at(doc, pointer, func(parent any, key string) {
			to, _ := parent.(map[string]any)[key].(string)
			found = append(found, to)
			inside, isInside := strings.CutPrefix(to, "#")
			switch _, err := os.Stat(filepath.Join(docs, to)); {
			case isInside && !slices.Contains(pointers, inside), !isInside && errors.Is(err, fs.ErrNotExist):
				lost = append(lost, to)
			}
		})
	}
	slices.Sort(lost)
	return found, lost
}

// Every kind of event has its channel, and every channel is one of a kind.
func TestAsyncAPIIsOfTheCode(t *testing.T) {
	_, doc := readAsyncAPI(t)
	for name, of := range map[string][]string{"channels": slices.Sorted(maps.Keys(doc.Channels)),
		"operations": slices.Sorted(maps.Keys(doc.Operations)), "messages": slices.Sorted(maps.Keys(doc.Components.Messages))} {
		if !slices.Equal(of, kinds()) {
			t.Errorf("got %s %v, want %v", name, of, kinds())
		}
	}
	for _, what := range kinds() {
		channel, operation, message := doc.Channels[what], doc.Operations[what], doc.Components.Messages[what]
		got := []string{channel.Address, channel.Stream, channel.Messages[what].To, operation.Action, operation.Channel.To, message.Name, message.Payload.Schema.To}
		want := []string{"imgd.events." + what + ".{image}.{id}", "IMGD_EVENTS", "#/components/messages/" + what, "send", "#/channels/" + what,
			events.Types()[what], "events/" + what + ".schema.json"}
		if !slices.Equal(got, want) || len(channel.Messages) != 1 || len(channel.Parameters) != 2 {
			t.Errorf("%s: got  %q\nwant %q", what, got, want)
		}
	}
}

// channelOf is the one channel of the document whose address the subject is.
func channelOf(t *testing.T, doc asyncAPI, subject string) string {
	t.Helper()
	var found []string
	for name, channel := range doc.Channels {
		token := regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(regexp.QuoteMeta(channel.Address), `[A-Za-z0-9_-]+`)
		if regexp.MustCompile("^" + token + "$").MatchString(subject) {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s is on channels %v, want one", subject, found)
	}
	return found[0]
}
