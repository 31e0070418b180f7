package embedded_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/internal/embedded"
)

// TestCollectPauses says how long it keeps writes waiting.
func TestCollectPauses(t *testing.T) {
	if testing.Short() {
		t.Skip("pushes 320 blobs")
	}
	s := newShelf(t)
	for i := range 80 {
		var layers []string
		for n := range 3 {
			layers = append(layers, s.layer("demo/app", fmt.Sprint(i, n, " "), 1000))
		}
		s.image("demo/app", fmt.Sprint("t", i%40), layers...)
	}
	s.age()
	began := time.Now()
	done := s.collect()
	t.Logf("%+v in %s", done, time.Since(began))
	if done.Manifests != 40 || done.Blobs != 160 {
		t.Errorf("removed %+v, want 40 manifests and 160 blobs", done)
	}
}

// TestCollectDoesNotWaitForUploads: a client that is slow, or hangs, keeps
// neither the collection nor other writes waiting.
func TestCollectDoesNotWaitForUploads(t *testing.T) {
	s := newShelf(t)
	s.image("demo/app", "", s.layer("demo/app", "dead", 1000))
	s.age()
	blob := []byte("slowly pushed")
	header, _ := call(t, "POST", s.base("demo/app")+"/blobs/uploads/", nil, http.StatusAccepted)
	body, write := io.Pipe()
	req, err := http.NewRequestWithContext(within(t), "PUT", header.Get("Location")+"&digest="+digestOf(blob), body)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusCreated {
				err = errors.New(resp.Status)
			}
		}
		ended <- err
	}()
	if _, err := write.Write(blob[:6]); err != nil {
		t.Fatal(err)
	}
	if done := s.collect(); done.Manifests != 1 {
		t.Errorf("removed %+v, want a manifest", done)
	}
	if _, err := write.Write(blob[6:]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write.Close(), <-ended); err != nil {
		t.Fatal(err)
	}
	s.gone("demo/app", nil, digestOf([]byte("nothing")))
	s.do("GET", s.base("demo/app")+"/blobs/"+digestOf(blob), "", "", http.StatusOK)
}

// BenchmarkCollect removes 1,000 blobs that 250 images without a tag had: pause-ms is
// how long that keeps writes waiting in all, longest-ms at a time. docs/decisions/0021
// has the bound.
func BenchmarkCollect(b *testing.B) {
	dir := b.TempDir()
	r, err := embedded.StartRegistry(b.Context(), embedded.RegistryConfig{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close(b.Context())
	var paused, longest time.Duration
	for range b.N {
		b.StopTimer()
		shelve(b, filepath.Join(dir, "docker/registry/v2"), 250)
		b.StartTimer()
		done, err := r.Collect(b.Context(), keeping())
		if err != nil || done.Blobs != 1000 || done.Manifests != 250 {
			b.Fatalf("removed %+v, %v", done, err)
		}
		paused, longest = paused+done.Paused, max(longest, done.Pause)
	}
	b.ReportMetric(float64(paused.Milliseconds())/float64(b.N), "pause-ms")
	b.ReportMetric(float64(longest.Milliseconds()), "longest-ms")
}

// shelve puts so many old images of three layers each into a registry's directory,
// as if they had been pushed.
func shelve(b *testing.B, root string, images int) {
	b.Helper()
	put := func(text string, path ...string) {
		at := filepath.Join(append([]string{root}, path...)...)
		then := time.Now().Add(-48 * time.Hour)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text), 0o644), os.Chtimes(at, then, then)); err != nil {
			b.Fatal(err)
		}
	}
	for i := range images {
		var layers []string
		for n := range 3 {
			text := fmt.Sprintf("layer %d of image %d", n, i)
			d := digestOf([]byte(text))
			put(text, "blobs/sha256", d[7:9], d[7:], "data")
			put(d, "repositories/demo/app/_layers/sha256", d[7:], "link")
			layers = append(layers, fmt.Sprintf(`{"digest":%q}`, d))
		}
		text := fmt.Sprintf(`{"layers":[%s]}`, strings.Join(layers, ","))
		d := digestOf([]byte(text))
		put(text, "blobs/sha256", d[7:9], d[7:], "data")
		put(d, "repositories/demo/app/_manifests/revisions/sha256", d[7:], "link")
	}
}
