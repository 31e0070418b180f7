package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	cdevents "github.com/cdevents/sdk-go/pkg/api"
	cdevents05 "github.com/cdevents/sdk-go/pkg/api/v05"
	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/integration/kit"
)

// docs is the directory of what users read.
const docs = "../docs"

// kinds are what events can tell.
func kinds() []string { return slices.Sorted(maps.Keys(events.Types())) }

// goldenEvent is the event of that kind which package events checks its
// envelopes against.
func goldenEvent(t *testing.T, what string) []byte {
	t.Helper()
	return readFile(t, filepath.Join("../events/testdata", what+".json"))
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func schemaFile(what string) string { return filepath.Join(docs, "events", what+".schema.json") }

// eventSchema is docs/events/<what>.schema.json.
func eventSchema(t *testing.T, what string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	schema, err := c.Compile(schemaFile(what))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// asJSON is data as jsonschema wants it.
func asJSON(t *testing.T, data []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// mustMatchSchema wants the event to be one of its kind, which its subject
// says, as the schema, CloudEvents and CDEvents have it.
func mustMatchSchema(t *testing.T, m kit.Message) {
	t.Helper()
	what, _, _ := strings.Cut(strings.TrimPrefix(m.Subject, "imgd.events."), ".")
	if events.Types()[what] == "" {
		t.Errorf("%s: no such kind of event", m.Subject)
		return
	}
	event := asJSON(t, m.Data)
	if err := eventSchema(t, what).Validate(event); err != nil {
		t.Errorf("%s: %v\n%s", m.Subject, err, m.Data)
	}
	for _, path := range undescribed(places(t, what), event) {
		t.Errorf("%s: the schema of %s does not describe %s", m.Subject, what, path)
	}
	if err := standard(m.Data); err != nil {
		t.Errorf("%s: %v\n%s", m.Subject, err, m.Data)
	}
}

// standard checks the event by the SDKs of the standards it claims to follow.
func standard(data []byte) error {
	var event cloudevents.Event
	if err := json.Unmarshal(data, &event); err != nil {
		return fmt.Errorf("CloudEvent: %w", err)
	}
	if err := event.Validate(); err != nil {
		return fmt.Errorf("CloudEvent: %w", err)
	}
	if !strings.HasPrefix(event.Type(), "dev.cdevents.") {
		return nil
	}
	inner, err := cdevents05.NewFromJsonBytes(event.Data())
	if err != nil {
		return fmt.Errorf("CDEvent: %w", err)
	}
	if err := cdevents.Validate(inner); err != nil {
		return fmt.Errorf("CDEvent: %w", err)
	}
	_, schema, err := inner.GetSchema()
	if err != nil {
		return fmt.Errorf("CDEvent: %w", err)
	}
	var sent any // the SDK checks what it understood
	if err := json.Unmarshal(event.Data(), &sent); err != nil {
		return fmt.Errorf("CDEvent: %w", err)
	}
	if err := schema.Validate(sent); err != nil {
		return fmt.Errorf("CDEvent: %w", err)
	}
	if inner.GetType().String() != event.Type() || inner.GetSubjectId() != event.Subject() || inner.GetId() != event.ID() {
		return fmt.Errorf("CDEvent %s of type %s about %s in CloudEvent %s of type %s about %s",
			inner.GetId(), inner.GetType(), inner.GetSubjectId(), event.ID(), event.Type(), event.Subject())
	}
	return nil
}

func TestEventSchemas(t *testing.T) {
	var files []string
	for _, what := range kinds() {
		files = append(files, schemaFile(what))
		t.Run(what, func(t *testing.T) {
			mustMatchSchema(t, kit.Message{Subject: "imgd.events." + what + ".ZGVtby9oZWxsbw.id", Data: goldenEvent(t, what)})
			if got := places(t, what)["/type"].constant; got != events.Types()[what] {
				t.Errorf("the schema is of type %v, want %s", got, events.Types()[what])
			}
		})
	}
	there, err := filepath.Glob(filepath.Join(docs, "events", "*"))
	if err != nil || !slices.Equal(there, files) {
		t.Errorf("got files %v, error %v; want %v", there, err, files)
	}
}

// wrong are values of the right type that a field of that name cannot have.
func wrong() map[string][]any {
	const hex = "0123456789abcdef0123456789abcdef"
	digests := []any{"", "sha256:abc", "sha512:" + hex + hex, hex + hex, "sha256:" + strings.ToUpper(hex+hex)}
	times := []any{"", "2026-11-21", "2026-11-21T10:01:00.123+01:00", "2026-13-21T10:01:00Z", "2026-11-21T10:01:00"}
	numbers := []any{json.Number("-1"), json.Number("1.5"), "1"}
	return map[string][]any{
		"specversion": {"", "0.3"}, "type": {"", "dev.imgd.drift.v2"}, "source": {"", "imgd"}, "datacontenttype": {"text/plain"}, "customDataContentType": {"text/plain"},
		"digest": digests, "indexDigest": digests, "previous": digests, "wanted": digests, "found": digests,
		"time": times, "timestamp": times, "publishedAt": times, "askedAt": times, "startedAt": times, "endedAt": times,
		"generation": numbers, "seq": numbers, "size": numbers, "tries": numbers, "line": numbers,
		"request": {"", "abc", hex + "0"}, "release": {"", hex, hex + "-0", hex + "-x"}, "commit": {"", hex}, "sourceRef": {"", "https://git.example.com/a"},
		"platform": {"", "linux", "a/b/c/d"}, "kind": {""}, "state": {"", "published"}, "project": {"", "A", "a/b"}, "ref": {json.Number("1")}, "message": {""}, "id": {""},
	}
}

// Each schema refuses an event that has anything of another type or form, or
// lacks what it requires, and the other kinds of events. It takes additions
// anywhere.
func TestEventSchemasRefuse(t *testing.T) {
	for _, what := range kinds() {
		t.Run(what, func(t *testing.T) {
			schema, described := eventSchema(t, what), places(t, what)
			changed := func(pointer string, change func(parent any, key string)) error {
				event := asJSON(t, goldenEvent(t, what))
				at(event, pointer, change)
				return schema.Validate(event)
			}
			pointers := pointersOf(asJSON(t, goldenEvent(t, what)), "")
			if len(pointers) < 12 {
				t.Errorf("only %d places: %v", len(pointers), pointers)
			}
			for _, pointer := range pointers {
				if err := changed(pointer, func(parent any, key string) { set(parent, key, []any{false}) }); err == nil {
					t.Errorf("%s may be anything", pointer)
				}
				for _, v := range wrong()[pointer[strings.LastIndexByte(pointer, '/')+1:]] {
					if err := changed(pointer, func(parent any, key string) { set(parent, key, v) }); err == nil {
						t.Errorf("%s may be %v", pointer, v)
					}
				}
				p := described[general(pointer)]
				if m, err := lack(changed, pointer); m && (err != nil) != p.required {
					t.Errorf("without %s: got error %v, where required is %v", pointer, err, p.required)
				}
				if p.object && !p.free {
					if err := changed(pointer+"/x-more", func(parent any, key string) { set(parent, key, []any{false}) }); err != nil {
						t.Errorf("an addition to %s: %v", pointer, err)
					}
				}
			}
			if err := changed("/x-more", func(parent any, key string) { set(parent, key, []any{false}) }); err != nil {
				t.Errorf("an addition to the event: %v", err)
			}
			for _, other := range kinds() {
				if err := schema.Validate(asJSON(t, goldenEvent(t, other))); (err == nil) != (other == what) {
					t.Errorf("event %s: got error %v", other, err)
				}
			}
		})
	}
}

// lack removes the place from an event, if it is a field.
func lack(changed func(string, func(any, string)) error, pointer string) (isField bool, err error) {
	err = changed(pointer, func(parent any, key string) {
		if fields, ok := parent.(map[string]any); ok {
			isField = true
			delete(fields, key)
		}
	})
	return isField, err
}

// The schemas describe what the code can write, and nothing else.
func TestEventSchemasAreOfTheCode(t *testing.T) {
	written := map[string]bool{}
	optional := map[string]bool{"/data/subject/content/user": true, "/data/customData/reason": true, "/data/customData/tags/*/previous": true}
	for _, what := range kinds() {
		for _, pointer := range pointersOf(asJSON(t, goldenEvent(t, what)), "") {
			written[general(pointer)] = true
		}
	}
	for what, types := range map[string]map[string]any{
		"published": {"/data/customData/records/*": imgd.Record{}},
		"failed": {"/data": struct {
			imgd.Status
			Image string `json:"image"`
		}{}, "/data/error": imgd.StatusError{}},
		"conflict": nil, "superseded": nil, "dead": nil, "deleted": nil,
		"drift": {"/data": imgd.Drift{}, "/data/lack": imgd.Lack{}},
	} {
		described := places(t, what)
		for place, v := range types {
			var want []string
			for _, field := range reflect.VisibleFields(reflect.TypeOf(v)) {
				name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
				if name == "" || name == "-" {
					continue
				}
				want = append(want, name)
				written[place+"/"+name] = true
				if strings.HasPrefix(options, "omit") {
					optional[place+"/"+name] = true
				}
			}
			var got []string
			for p := range described {
				if parent, name := filepath.Split(p); parent == place+"/" {
					got = append(got, name)
				}
			}
			slices.Sort(got)
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Errorf("%s of %s: got %v, where the code has %v", place, what, got, want)
			}
		}
	}
	maps.DeleteFunc(optional, func(p string, _ bool) bool { return p == "/data/error" || p == "/data/endedAt" }) // an end has them
	for _, what := range kinds() {
		for p, place := range places(t, what) {
			if p != "" && !written[p] {
				t.Errorf("the schema of %s describes %s, which nothing writes", what, p)
			}
			if isField := p != "" && !strings.HasSuffix(p, "*"); isField && place.required == optional[p] {
				t.Errorf("the schema of %s: %s is required: %v, where it may be left out: %v", what, p, place.required, optional[p])
			}
		}
	}
}

// The ends of requests differ in nothing but their names.
func TestEndSchemasAreAlike(t *testing.T) {
	alike := func(what string) string {
		doc, ok := asJSON(t, readFile(t, schemaFile(what))).(map[string]any)
		if !ok {
			t.Fatal("no object")
		}
		delete(doc, "title")
		delete(doc, "description")
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer(`"const":"`+what+`"`, `"const":"WHAT"`, `dev.imgd.`+what+`.v1`, "TYPE").Replace(string(data))
	}
	want := alike("failed")
	for _, what := range []string{"conflict", "superseded", "dead"} {
		if got := alike(what); got != want {
			t.Errorf("%s: got %s\nwant as failed %s", what, got, want)
		}
	}
}

// A place is what a schema says of one field, or of the elements of a list.
type place struct {
	constant any
	required bool
	object   bool
	free     bool // an object of whatever names
}

// places are those of the event's schema, by their path; * is any element.
func places(t *testing.T, what string) map[string]place {
	t.Helper()
	root := asJSON(t, readFile(t, schemaFile(what))).(map[string]any)
	found := map[string]place{}
	var visit func(path string, schema map[string]any, required bool)
	visit = func(path string, schema map[string]any, required bool) {
		if ref, ok := schema["$ref"].(string); ok {
			schema = root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		}
		_, free := schema["additionalProperties"].(map[string]any)
		found[path] = place{constant: schema["const"], required: required, object: schema["type"] == "object", free: free}
		needs, _ := schema["required"].([]any)
		properties, _ := schema["properties"].(map[string]any)
		for name, p := range properties {
			visit(path+"/"+name, p.(map[string]any), slices.Contains(needs, any(name)))
		}
		if items, ok := schema["items"].(map[string]any); ok {
			visit(path+"/*", items, false)
		}
	}
	visit("", root, false)
	return found
}

// undescribed are the places of the event that its schema does not know.
func undescribed(described map[string]place, event any) (unknown []string) {
	for _, pointer := range pointersOf(event, "") {
		parent, _ := filepath.Split(general(pointer))
		if _, known := described[general(pointer)]; !known && !described[strings.TrimSuffix(parent, "/")].free {
			unknown = append(unknown, pointer)
		}
	}
	return unknown
}

// pointersOf are the JSON pointers to all that is in v.
func pointersOf(v any, to string) (pointers []string) {
	if to != "" {
		pointers = append(pointers, to)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			pointers = append(pointers, pointersOf(v[k], to+"/"+k)...)
		}
	case []any:
		for i := range v {
			pointers = append(pointers, pointersOf(v[i], fmt.Sprintf("%s/%d", to, i))...)
		}
	}
	return pointers
}

var index = regexp.MustCompile(`/\d+\b`)

// general is the pointer with * for any element.
func general(pointer string) string { return index.ReplaceAllString(pointer, "/*") }

// at calls do with what holds the place and its key there.
func at(v any, pointer string, do func(parent any, key string)) {
	keys := strings.Split(pointer[1:], "/")
	for _, key := range keys[:len(keys)-1] {
		switch parent := v.(type) {
		case map[string]any:
			v = parent[key]
		case []any:
			i, _ := strconv.Atoi(key)
			v = parent[i]
		}
	}
	do(v, keys[len(keys)-1])
}

func set(parent any, key string, v any) {
	switch parent := parent.(type) {
	case map[string]any:
		parent[key] = v
	case []any:
		i, _ := strconv.Atoi(key)
		parent[i] = v
	}
}
