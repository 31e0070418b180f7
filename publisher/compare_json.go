package publisher

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/imgd/imgd"
)

// maxShown bounds what is shown of one value or name, in bytes.
const maxShown = 300

// decode keeps numbers as they are written.
func decode(body []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

// differJSON is the first value in which a and b differ, by path, but those
// below the paths that are passed over.
func differJSON(part string, a, b any, over ...string) *imgd.Difference {
	at, x, y, differ := firstValue("", a, b, over)
	if !differ {
		return nil
	}
	return &imgd.Difference{Part: part, Field: cut(at), A: shownJSON(x), B: shownJSON(y)}
}

func shownJSON(v any) string {
	if _, ok := v.(missing); ok {
		return ""
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic("unreachable: what was decoded marshals: " + err.Error())
	}
	return cut(string(text))
}

// cut ends a text that is too long to be shown with what it lacks.
func cut(text string) string {
	if len(text) <= maxShown {
		return text
	}
	return strings.ToValidUTF8(text[:maxShown], "") + fmt.Sprintf("… (%d bytes)", len(text))
}

// printed escapes what does not print.
func printed(text string) string {
	quoted := strconv.Quote(text)
	return cut(quoted[1 : len(quoted)-1])
}

// missing is what a side does not have, which is not null.
type missing struct{}

// firstValue walks as deep as encoding/json decodes, which is bounded.
func firstValue(at string, a, b any, over []string) (path string, x, y any, differ bool) {
	if slices.Contains(over, at) {
		return "", nil, nil, false
	}
	if a, ok := a.(map[string]any); ok {
		if b, ok := b.(map[string]any); ok {
			return firstMember(at, a, b, over)
		}
	}
	if a, ok := a.([]any); ok {
		if b, ok := b.([]any); ok {
			return firstElement(at, a, b, over)
		}
	}
	return at, a, b, a != b // never two maps or two slices, which do not compare
}

func firstMember(at string, a, b map[string]any, over []string) (path string, x, y any, differ bool) {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if path, x, y, differ = firstValue(member(at, key), memberOf(a, key), memberOf(b, key), over); differ {
			return path, x, y, true
		}
	}
	return "", nil, nil, false
}

func memberOf(object map[string]any, key string) any {
	if v, ok := object[key]; ok {
		return v
	}
	return missing{}
}

func firstElement(at string, a, b []any, over []string) (path string, x, y any, differ bool) {
	elementOf := func(list []any, i int) any {
		if i < len(list) {
			return list[i]
		}
		return missing{}
	}
	for i := range max(len(a), len(b)) {
		if path, x, y, differ = firstValue(fmt.Sprintf("%s[%d]", at, i), elementOf(a, i), elementOf(b, i), over); differ {
			return path, x, y, true
		}
	}
	return "", nil, nil, false
}

var word = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// member is the path of a key: config.Labels["env.of"].
func member(at, key string) string {
	if !word.MatchString(key) {
		return fmt.Sprintf("%s[%q]", at, key)
	}
	if at == "" {
		return key
	}
	return at + "." + key
}
