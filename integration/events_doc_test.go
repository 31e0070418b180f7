package integration_test

import (
	"encoding/base64"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func eventsDoc(t *testing.T) string {
	t.Helper()
	return string(readFile(t, filepath.Join(docs, "events.md")))
}

// blocks are the code blocks of a language in a part of a document.
func blocks(doc, language string) (found []string) {
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(doc, -1) {
		found = append(found, m[1])
	}
	return found
}

// The examples of docs/events.md are parts of what imgd writes, one for each
// kind, and the table names each with its type.
func TestEventsDoc(t *testing.T) {
	doc := eventsDoc(t)
	headings := regexp.MustCompile(`(?m)^### ([a-z]+)$`).FindAllStringSubmatchIndex(doc, -1)
	var documented []string
	for _, h := range headings {
		what := doc[h[2]:h[3]]
		documented = append(documented, what)
		part, _, _ := strings.Cut(doc[h[1]:], "\n#")
		examples := blocks(part, "json")
		if len(examples) != 1 {
			t.Errorf("%s: %d examples, want 1", what, len(examples))
			continue
		}
		if err := included("", asJSON(t, []byte(examples[0])), asJSON(t, goldenEvent(t, what))); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if slices.Sort(documented); !slices.Equal(documented, kinds()) {
		t.Errorf("got %v, want %v", documented, kinds())
	}
	var rows []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+)` \\| `(dev[^`]+)` \\|").FindAllStringSubmatch(doc, -1) {
		rows = append(rows, m[1]+" "+m[2])
	}
	var want []string
	for _, what := range kinds() {
		want = append(want, what+" "+eventType(t, what))
	}
	if slices.Sort(rows); !slices.Equal(rows, want) {
		t.Errorf("got rows %q, want %q", rows, want)
	}
}

// eventType is the type that the golden event has.
func eventType(t *testing.T, what string) string {
	t.Helper()
	typ, _ := asJSON(t, goldenEvent(t, what)).(map[string]any)["type"].(string)
	return typ
}

// included reports what of part is not in whole: a field with another value, or
// an element that is like none of the list.
func included(path string, part, whole any) error {
	switch part := part.(type) {
	case map[string]any:
		fields, _ := whole.(map[string]any)
		for name, v := range part {
			other, ok := fields[name]
			if !ok {
				return fmt.Errorf("%s/%s is nowhere", path, name)
			}
			if err := included(path+"/"+name, v, other); err != nil {
				return err
			}
		}
		return nil
	case []any:
		list, ok := whole.([]any)
		for i, v := range part {
			if !slices.ContainsFunc(list, func(other any) bool { return included("", v, other) == nil }) {
				return fmt.Errorf("%s/%d is like none of the list", path, i)
			}
		}
		if !ok {
			return fmt.Errorf("%s is a list in the example only", path)
		}
		return nil
	default:
		if !reflect.DeepEqual(part, whole) {
			return fmt.Errorf("%s is %v in the example and %v in truth", path, part, whole)
		}
		return nil
	}
}

// The test above says nothing if all is well, so this one shows that it can.
func TestIncluded(t *testing.T) {
	whole := `{"a":1,"b":{"c":"x","d":[{"e":1,"f":2},{"e":3}]}}`
	for part, want := range map[string]string{
		whole: "", `{}`: "", `{"b":{"d":[{"e":3}]}}`: "", `{"b":{"d":[{"f":2}]}}`: "", `{"b":{"d":[]}}`: "",
		`{"a":2}`: "/a is 2", `{"b":{"x":1}}`: "/b/x is nowhere", `{"b":{"d":[{"e":2}]}}`: "/b/d/0", `{"b":{"d":[{"e":3,"f":2}]}}`: "/b/d/0",
		`{"a":[]}`: "a list", `{"a":{"b":1}}`: "nowhere",
	} {
		err := included("", asJSON(t, []byte(part)), asJSON(t, []byte(whole)))
		if (err == nil) != (want == "") || !strings.Contains(fmt.Sprint(err), want) && want != "" {
			t.Errorf("%s: got %v, want %q", part, err, want)
		}
	}
}

// The program in docs/events.md is the one that is tested.
func TestEventsDocProgram(t *testing.T) {
	programs := blocks(eventsDoc(t), "go")
	if want := string(readFile(t, "consumer/main.go")); len(programs) != 1 || programs[0] != want {
		t.Error("docs/events.md does not show integration/consumer/main.go as it is")
	}
}

// What the documents tell a shell to make of an image's name is the token in
// its events' subjects.
func TestEventsDocToken(t *testing.T) {
	for _, name := range []string{"events.md", "asyncapi.yaml"} {
		command := regexp.MustCompile("printf %s demo/hello [^`)]*").FindString(string(readFile(t, filepath.Join(docs, name))))
		for _, image := range []string{"demo/hello", "a", "ab", "abc", "team~1/x?y", strings.Repeat("long/", 50) + "name"} {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(command, "demo/hello", "'"+image+"'"))
			got, err := cmd.Output()
			if want := base64.RawURLEncoding.EncodeToString([]byte(image)); err != nil || string(got) != want {
				t.Errorf("%s: %s: got %q, error %v, want %q", name, command, got, err, want)
			}
		}
	}
}
