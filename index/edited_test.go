package index_test

import (
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgd/imgd/index"
)

// What a hand has written that cannot be read is refused with what it is, and a
// newer format with its number, whatever else is new in it.
func TestEdited(t *testing.T) {
	const head = `{"schema":1,"id":"x","seq":1,"hash":"h","told":0,"records":[`
	for _, tt := range []struct{ name, text, want string }{
		{"a kind is a number", head + `],"tags":[` + "\n" + `{"image":"a","tag":"b","kind":5}],"releases":[],` + "\n", "tag a:b"},
		{"a release is no JSON", head + `],"tags":[],"releases":[` + "\n" + `oops],` + "\n", "release"},
		{"newer", `{"schema":2,"all":"else"}` + "\n", "use a newer imgd"},
		{"newer on more lines", "{\n  \"schema\": 2,\n  \"records\": {}\n}\n", "use a newer imgd"},
	} {
		dir := t.TempDir()
		sum := crc32.Checksum([]byte(tt.text), crc32.MakeTable(crc32.Castagnoli))
		text := tt.text + fmt.Sprintf("\"crc32c\":\"%08x\"}\n", sum)
		if err := os.WriteFile(filepath.Join(dir, "images.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, checked := index.Check(dir)
		for _, err := range []error{checked, index.FixChecksum(dir)} {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
			}
		}
	}
}
