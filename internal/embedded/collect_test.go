package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd/internal/embedded"
)

const indexType = "application/vnd.oci.image.index.v1+json"

// A shelf is a registry with what is pushed to it.
type shelf struct {
	*embedded.Registry
	t   *testing.T
	dir string
}

func newShelf(t *testing.T) *shelf {
	dir := t.TempDir()
	return &shelf{Registry: startRegistry(t, dir, quiet()), t: t, dir: dir}
}

func (s *shelf) base(name string) string { return "http://" + s.Address() + "/v2/" + name }

// layer pushes a blob of that many bytes and answers its digest.
func (s *shelf) layer(name, text string, size int) string {
	s.t.Helper()
	blob := bytes.Repeat([]byte(text), size/len(text)+1)
	header, _ := call(s.t, "POST", s.base(name)+"/blobs/uploads/", nil, http.StatusAccepted)
	call(s.t, "PUT", header.Get("Location")+"&digest="+digestOf(blob), blob, http.StatusCreated)
	return digestOf(blob)
}

// image pushes a manifest of the layers under the tag, or by digest without one.
func (s *shelf) image(name, tag string, layers ...string) string {
	s.t.Helper()
	var list []string
	for _, layer := range layers {
		list = append(list, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":1}`, layer))
	}
	config := s.layer(name, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`, 1)
	return s.manifest(name, tag, manifestType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1},"layers":[%s]}`,
		manifestType, config, strings.Join(list, ",")))
}

// index pushes an image index of the manifests.
func (s *shelf) index(name, tag string, manifests ...string) string {
	s.t.Helper()
	var list []string
	for _, m := range manifests {
		list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1}`, manifestType, m))
	}
	return s.manifest(name, tag, indexType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, strings.Join(list, ",")))
}

func (s *shelf) manifest(name, tag, mediaType, text string) string {
	s.t.Helper()
	d := digestOf([]byte(text))
	if tag == "" {
		tag = d
	}
	s.do("PUT", s.base(name)+"/manifests/"+tag, mediaType, text, http.StatusCreated)
	return d
}

func (s *shelf) do(method, url, mediaType, body string, status int) []byte {
	s.t.Helper()
	if got, text := s.ask(method, url, mediaType, body); got != status {
		s.t.Fatalf("%s %s: got %d, want %d\n%s", method, url, got, status, text)
	} else {
		return text
	}
	return nil
}

func (s *shelf) ask(method, url, mediaType, body string) (int, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(within(s.t), method, url, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", manifestType+", "+indexType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, text.Bytes()
}

func (s *shelf) untag(name, tag string) {
	s.t.Helper()
	s.do("DELETE", s.base(name)+"/manifests/"+tag, "", "", http.StatusAccepted)
}

// age makes all that there is two days old.
func (s *shelf) age() {
	s.t.Helper()
	then := time.Now().Add(-48 * time.Hour)
	err := filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, then, then))
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) collect(named ...string) embedded.Collected {
	s.t.Helper()
	done, err := s.Collect(within(s.t), keeping(named...))
	if err != nil {
		s.t.Fatal(err)
	}
	return done
}

func keeping(named ...string) embedded.Keep {
	var roots []digest.Digest
	for _, name := range named {
		roots = append(roots, digest.Digest(name))
	}
	return embedded.Keep{For: 24 * time.Hour, Named: func() []digest.Digest { return roots }}
}

// used is what du says.
func (s *shelf) used() (bytes int64) {
	s.t.Helper()
	err := filepath.WalkDir(s.dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		bytes += info.Size()
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return bytes
}

// whole checks that the image or index is served with all that it names.
func (s *shelf) whole(name, reference string, blobs ...string) {
	s.t.Helper()
	s.do("GET", s.base(name)+"/manifests/"+reference, "", "", http.StatusOK)
	for _, blob := range blobs {
		if text := s.do("GET", s.base(name)+"/blobs/"+blob, "", "", http.StatusOK); digestOf(text) != blob {
			s.t.Errorf("blob %s of %s:%s has other bytes", blob, name, reference)
		}
	}
}

func (s *shelf) gone(name string, manifests []string, blobs ...string) {
	s.t.Helper()
	for _, m := range manifests {
		s.do("GET", s.base(name)+"/manifests/"+m, "", "", http.StatusNotFound)
	}
	for _, blob := range blobs {
		s.do("GET", s.base(name)+"/blobs/"+blob, "", "", http.StatusNotFound)
	}
}

func TestCollectFreesWhatNoTagNeeds(t *testing.T) {
	s := newShelf(t)
	shared, only, other := s.layer("demo/app", "shared", 1<<20), s.layer("demo/app", "only", 8<<20), s.layer("demo/app", "other", 1<<20)
	s.image("demo/app", "v1", shared, other)
	m2 := s.image("demo/app", "v2", shared, only)
	loose := s.layer("demo/app", "never named", 2<<20)
	s.untag("demo/app", "v2")
	s.age()
	before := s.used()
	done := s.collect()
	if freed := before - s.used(); freed < 10<<20 || done.Bytes < 10<<20 || done.Manifests != 1 || done.Blobs != 3 {
		t.Errorf("freed %d bytes, and was told %+v; want one manifest, 3 blobs and 10 MiB", freed, done)
	}
	s.whole("demo/app", "v1", shared, other)
	s.gone("demo/app", []string{m2}, only, loose)
	if again := s.collect(); again.Manifests+again.Blobs != 0 {
		t.Errorf("again it removed %+v", again)
	}
	s.layer("demo/app", "only", 8<<20) // and can be pushed again
	s.image("demo/app", "v2", shared, only)
	s.whole("demo/app", "v2", shared, only)
}

func TestCollectKeeps(t *testing.T) {
	s := newShelf(t)
	lay := func(text string) string { return s.layer("demo/app", text, 1000) }
	untagged := func(text string) (string, string) { l := lay(text); return s.image("demo/app", "", l), l }
	named, namedLayer := untagged("named")
	read, readLayer := untagged("read by digest")
	left, leftLayer := lay("left"), ""
	left, leftLayer = s.image("demo/app", "left", left), left
	child, childLayer := untagged("child")
	s.index("demo/app", "multi", child)
	headed := lay("found there by a push")
	signature, signatureLayer := untagged("signature")
	s.index("demo/app", "sha256-"+strings.TrimPrefix(child, "sha256:"), signature)
	dead, deadLayer := untagged("dead")
	deadSignature, deadSignatureLayer := untagged("signature of the dead")
	s.index("demo/app", "sha256-"+strings.TrimPrefix(dead, "sha256:"), deadSignature)
	upload, _ := call(t, "POST", s.base("demo/app")+"/blobs/uploads/", nil, http.StatusAccepted)
	stale, _ := call(t, "POST", s.base("demo/app")+"/blobs/uploads/", nil, http.StatusAccepted)
	call(t, "PATCH", stale.Get("Location"), []byte("given up"), http.StatusAccepted)
	s.age()

	header, _ := call(t, "PATCH", upload.Get("Location"), []byte("half of "), http.StatusAccepted)
	young, youngLayer := untagged("young")
	loose := lay("pushed just now")
	s.do("GET", s.base("demo/app")+"/manifests/"+read, "", "", http.StatusOK)
	call(t, "HEAD", s.base("demo/app")+"/blobs/"+headed, nil, http.StatusOK)
	s.untag("demo/app", "left")
	done := s.collect(named)
	if done.Uploads != 1 {
		t.Errorf("removed %+v, want one upload", done)
	}
	for m, l := range map[string]string{named: namedLayer, read: readLayer, left: leftLayer, child: childLayer, signature: signatureLayer, young: youngLayer} {
		s.whole("demo/app", m, l)
	}
	s.whole("demo/app", "multi", headed, loose)
	s.gone("demo/app", []string{dead, deadSignature, "sha256-" + strings.TrimPrefix(dead, "sha256:")}, deadLayer, deadSignatureLayer)
	call(t, "PUT", header.Get("Location")+"&digest="+digestOf([]byte("half of it")), []byte("it"), http.StatusCreated)
}

// TestCollectWhileOthersPush: what comes to be needed while it is marked what is
// stays whole, though it looked dead when it was looked at, with what refers to it.
func TestCollectWhileOthersPush(t *testing.T) {
	s := newShelf(t)
	retagged, again, dead := s.layer("demo/app", "tagged again", 1000), s.layer("demo/app", "pushed again", 1000), s.layer("demo/app", "dead", 1000)
	other := ""
	m, gone := s.image("demo/app", "", retagged), s.image("demo/app", "", dead)
	signed := s.referrer(m, s.layer("demo/app", "signature", 1000))
	named := s.image("demo/app", "", s.layer("demo/app", "named", 1000))
	s.age()
	s.markedWhile(keeping(), func() {
		s.image("demo/app", "back", retagged)
		s.index("demo/app", "late", named)
		call(t, "HEAD", s.base("demo/app")+"/blobs/"+again, nil, http.StatusOK)
		other = s.layer("demo/app", "new", 1000)
	})
	s.image("demo/app", "new", again, other)
	s.whole("demo/app", m, retagged)
	s.whole("demo/app", "new", again, other)
	s.whole("demo/app", named)
	s.whole("demo/app", referrers(m))
	s.whole("demo/app", signed)
	s.gone("demo/app", []string{gone}, dead)
}

// TestCollectNamedLate: a root that is named only when it is asked a second or a
// third time, before writes are shut out or while they are, stays with all that it
// consists of and what refers to it.
func TestCollectNamedLate(t *testing.T) {
	for _, at := range []int{1, 2, 3} {
		s := newShelf(t)
		layer := s.layer("demo/app", "named late", 1000)
		child := s.image("demo/app", "", layer)
		root := s.index("demo/app", "", child)
		signed := s.referrer(child, s.layer("demo/app", "signature", 1000))
		again := s.referrer(signed, s.layer("demo/app", "of the signature", 1000))
		gone := s.image("demo/app", "", s.layer("demo/app", "dead", 1000))
		s.age()
		asked := 0
		done, err := s.Collect(within(t), embedded.Keep{For: 24 * time.Hour, Named: func() []digest.Digest {
			if asked++; asked == at {
				return []digest.Digest{digest.Digest(root)}
			}
			return nil
		}})
		if err != nil || done.Manifests != 1 {
			t.Errorf("asked for the %d. time: removed %+v, %v; want one manifest", at, done, err)
		}
		s.whole("demo/app", root)
		for _, m := range []string{child, referrers(child), signed, referrers(signed), again} {
			s.whole("demo/app", m, layer)
		}
		s.gone("demo/app", []string{gone})
	}
}

// referrers is the tag that stands for what refers to the digest.
func referrers(d string) string { return "sha256-" + strings.TrimPrefix(d, "sha256:") }

// referrer pushes an image that refers to subject, as clients do where there is no
// referrers API.
func (s *shelf) referrer(subject, layer string) string {
	s.t.Helper()
	m := s.image("demo/app", "", layer)
	s.index("demo/app", referrers(subject), m)
	return m
}

// markedWhile collects, and has others do something in the middle of the marking.
func (s *shelf) markedWhile(keep embedded.Keep, others func()) {
	s.t.Helper()
	marked := filepath.Join(s.dir, "docker/registry/v2/repositories/marked/_manifests/tags/x/current")
	if err := os.MkdirAll(marked, 0o755); err != nil {
		s.t.Fatal(err)
	}
	pipe := filepath.Join(marked, "link") // the marking waits here, for as long as others push
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { _, err := s.Collect(within(s.t), keep); ended <- err }()
	file := openPipe(s.t, pipe)
	others()
	if _, err := file.WriteString(digestOf([]byte("lost"))); err != nil {
		s.t.Fatal(err)
	}
	if err := errors.Join(file.Close(), <-ended); err != nil {
		s.t.Fatal(err)
	}
}

// TestCollectInterrupted cuts collections of random registries anywhere,
// against a model: what is tagged is whole, and what is not goes from above.
func TestCollectInterrupted(t *testing.T) {
	s := newShelf(t)
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	type image struct{ index, child, layer string }
	tags := map[string]image{}
	all := map[image]bool{}
	for round := range 4 {
		for i := range 6 {
			layer := s.layer("demo/app", fmt.Sprint(round, i, " "), 10_000)
			child := s.image("demo/app", "", layer)
			tag := fmt.Sprint("t", random.IntN(4))
			tags[tag] = image{s.index("demo/app", tag, child), child, layer}
			all[tags[tag]] = true
		}
		s.age()
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(8000))*time.Microsecond)
			_, err := s.Collect(ctx, keeping())
			cancel()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			for image := range all {
				s.fromAbove(image.index, image.child, image.layer)
			}
			for tag, image := range tags {
				s.whole("demo/app", tag, image.layer)
				s.whole("demo/app", image.child)
			}
			s.age() // to have read is to use
		}
	}
	s.collect()
	for _, image := range tags {
		s.whole("demo/app", image.index, image.layer)
		delete(all, image)
	}
	for image := range all {
		s.gone("demo/app", []string{image.index, image.child}, image.layer)
	}
}

// fromAbove checks that what is served has all that it names.
func (s *shelf) fromAbove(index, child, layer string) {
	s.t.Helper()
	path := s.base("demo/app")
	above := false
	for _, url := range []string{path + "/manifests/" + index, path + "/manifests/" + child, path + "/blobs/" + layer} {
		status, _ := s.ask("GET", url, "", "")
		if above && status != http.StatusOK {
			s.t.Errorf("%s is gone before what names it", url)
		}
		above = status == http.StatusOK
	}
}

// TestCollectGoesOnAfterDamage: what a crash left in part, and what was lost,
// ends no collection; a manifest that stays and cannot be read does, as nobody
// knows what it needs.
func TestCollectGoesOnAfterDamage(t *testing.T) {
	s := newShelf(t)
	lost, kept := s.layer("demo/app", "lost", 1000), s.layer("demo/app", "kept", 1000)
	m := s.image("demo/app", "lost", lost)
	s.image("demo/app", "kept", kept)
	s.age()
	blobs := filepath.Join(s.dir, "docker/registry/v2/blobs/sha256")
	at := func(d string) string {
		hex := strings.TrimPrefix(d, "sha256:")
		return filepath.Join(blobs, hex[:2], hex, "data")
	}
	if err := errors.Join(os.Remove(at(m)), os.MkdirAll(filepath.Join(blobs, "aa", strings.Repeat("aa", 32)), 0o755)); err != nil {
		t.Fatal(err)
	}
	tags := filepath.Join(s.dir, "docker/registry/v2/repositories/demo/app/_manifests/tags")
	if err := errors.Join(os.MkdirAll(filepath.Join(tags, "half", "index", "sha256"), 0o755), os.Mkdir(filepath.Join(tags, "empty"), 0o755)); err != nil {
		t.Fatal(err)
	}
	s.collect()
	s.whole("demo/app", "kept", kept)
	s.gone("demo/app", nil, lost)
	if list := s.do("GET", s.base("demo/app")+"/tags/list", "", "", http.StatusOK); strings.Contains(string(list), "half") || strings.Contains(string(list), "empty") {
		t.Errorf("tags that name nothing are listed still: %s", list)
	}
	if err := os.WriteFile(at(m), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(within(t), keeping()); err == nil || !strings.Contains(err.Error(), m) {
		t.Errorf("got %v, want an error that names %s", err, m)
	}
	s.whole("demo/app", "kept", kept)
}

// openPipe waits until somebody reads it.
func openPipe(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
