package kit_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

// published is an event as FORMATS describes it.
const published = `{"specversion":"1.0","id":"ab12-1","source":"urn:imgd:7f","type":"dev.cdevents.artifact.published.0.3.0",
"subject":"pkg:oci/hello@sha256%3A5f?repository_url=127.0.0.1%3A5000%2Fdemo%2Fhello&tag=v1.0.0","time":"2026-11-21T10:00:00Z",
"datacontenttype":"application/json","data":{
"context":{"specversion":"0.5.1","id":"ab12-1","source":"urn:imgd:7f","type":"dev.cdevents.artifact.published.0.3.0",
"timestamp":"2026-11-21T10:00:00Z"},
"subject":{"id":"pkg:oci/hello@sha256%3A5f?repository_url=127.0.0.1%3A5000%2Fdemo%2Fhello&tag=v1.0.0","content":{}},
"customDataContentType":"application/json",
"customData":{"release":"ab12-1","request":"ab12","seq":2,"records":[{"image":"demo/hello","tag":"v1.0.0"}],
"tags":[{"tag":"v1.0.0","kind":"version","ref":"refs/tags/v1.0.0","generation":1,"askedAt":"2026-11-21T09:59:00Z"}]}}}`

func message(data string) kit.Message {
	return kit.Message{
		Subject: "imgd.events.published.ZGVtby9oZWxsbw.ab12-1",
		Header:  map[string][]string{"Content-Type": {"application/cloudevents+json"}, "Nats-Msg-Id": {"ab12-1"}},
		Data:    []byte(data),
	}
}

func TestParsePublished(t *testing.T) {
	got, err := kit.ParsePublished(message(published))
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != "ab12-1" || got.Purl.Name != "hello" || got.Purl.Version != "sha256:5f" ||
		got.Purl.Qualifiers.Map()["tag"] != "v1.0.0" || got.Custom.Records[0].Image != "demo/hello" || got.Custom.Tags[0].Kind != "version" {
		t.Errorf("read as %+v", got)
	}
	for _, test := range []struct{ name, old, new string }{
		{"no CloudEvent", `"specversion":"1.0",`, ``},
		{"other id inside", `"specversion":"0.5.1","id":"ab12-1"`, `"specversion":"0.5.1","id":"ab12-2"`},
		{"against the schema", `"content":{}`, `"content":{"sbom":3}`},
		{"unknown to the schema", `"content":{}`, `"content":{},"digest":"sha256:5f"`},
		{"no purl", `"subject":{"id":"pkg:oci/hello@`, `"subject":{"id":"oci/hello@`},
		{"other purl outside", `"subject":"pkg:oci/hello@`, `"subject":"pkg:oci/bye@`},
		{"a purl type with namespace", `pkg:oci/hello`, `pkg:oci/demo/hello`},
		{"other release", `"release":"ab12-1"`, `"release":"ab12-2"`},
		{"other time", `"time":"2026-11-21T10:00:00Z"`, `"time":"2026-11-21T10:00:01Z"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := strings.ReplaceAll(published, test.old, test.new)
			if changed == published {
				t.Fatal("nothing was changed")
			}
			if _, err := kit.ParsePublished(message(changed)); err == nil {
				t.Error("taken for a good event")
			}
		})
	}
	headless := message(published)
	headless.Header = nil
	if _, err := kit.ParsePublished(headless); err == nil {
		t.Error("taken without headers")
	}
}

func TestParseImages(t *testing.T) {
	body := `{"schema":1,"id":"7f","seq":2,"hash":"","told":1,"records":[
{"image":"demo/hello","tag":"v1.0.0"}
],"tags":[],"releases":[],
`
	whole := body + fmt.Sprintf(`"crc32c":"%08x"}`, crc32.Checksum([]byte(body), crc32.MakeTable(crc32.Castagnoli))) + "\n"
	for _, test := range []struct {
		name, text string
		ok         bool
	}{
		{"whole", whole, true},
		{"a bit flipped", strings.Replace(whole, "v1.0.0", "v1.0.1", 1), false},
		{"no checksum", body + `"end":1}`, false},
		{"cut", whole[:len(whole)/2], false},
		{"empty", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			images, err := kit.ParseImages([]byte(test.text))
			if (err == nil) != test.ok {
				t.Fatalf("error is %v", err)
			}
			if test.ok && (images.Seq != 2 || images.Records[0].Tag != "v1.0.0") {
				t.Errorf("read as %+v", images)
			}
		})
	}
}

func TestReadEndpoints(t *testing.T) {
	want := kit.Endpoints{HTTP: "http://127.0.0.1:1", NATS: "nats://127.0.0.1:2", Registry: "127.0.0.1:3", BuildKit: "unix:///run/b.sock"}
	for _, text := range []string{
		`{"http":"127.0.0.1:1","nats":"127.0.0.1:2","registry":"127.0.0.1:3","buildkit":"unix:///run/b.sock"}`,
		`{"http":"http://127.0.0.1:1","nats":"nats://127.0.0.1:2","registry":"http://127.0.0.1:3","buildkit":"unix:///run/b.sock"}`,
	} {
		data := t.TempDir()
		if err := os.WriteFile(filepath.Join(data, "endpoints.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := kit.ReadEndpoints(data); err != nil || got != want {
			t.Errorf("%s is read as %+v, %v", text, got, err)
		}
	}
}

func TestLeftoversFindsAProcess(t *testing.T) {
	dir := t.TempDir()
	if left := kit.Leftovers(dir); len(left) > 0 {
		t.Fatalf("left over before anything ran: %v", left)
	}
	for name, cmd := range map[string]*exec.Cmd{
		"by its command": exec.CommandContext(t.Context(), "tail", "-f", os.DevNull, "--pid=1", "--", filepath.Join(dir, "x")),
		"by its place":   exec.CommandContext(t.Context(), "cat"),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "by its place" {
				cmd.Dir = dir
			}
			stdin, err := cmd.StdinPipe() // cat waits for it
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pid := fmt.Sprintf("process %d:", cmd.Process.Pid)
			found := func(left string) bool { return strings.HasPrefix(left, pid) }
			// For a moment after the exec the kernel shows no command line.
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			err = kit.Wait(ctx, func(context.Context) error {
				if left := kit.Leftovers(dir); !slices.ContainsFunc(left, found) {
					return fmt.Errorf("%s is not in %v", pid, left)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			_ = stdin.Close()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if left := kit.Leftovers(dir); len(left) > 0 {
				t.Errorf("still left over: %v", left)
			}
		})
	}
}
