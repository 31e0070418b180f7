package publisher_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/publisher"
)

var madeAt = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// A file is one entry of a layer.
type file struct {
	tar.Header
	content string
}

// plain is a file as most are, changed.
func plain(name, content string, change ...func(*tar.Header)) file {
	f := file{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: madeAt, Size: int64(len(content)), Format: tar.FormatPAX}, content}
	for _, c := range change {
		c(&f.Header)
	}
	return f
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipped(t testing.TB, level int, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// A recipe is an image to be pushed.
type recipe struct {
	env         string
	annotations map[string]string
	platform    ocispec.Platform
	mediaType   string // of the layers; default gzip
	layers      [][]byte
	change      func(*ocispec.Manifest)
}

// push pushes the image, with a config as BuildKit writes it.
func (r *registry) push(repository string, i recipe) ocispec.Descriptor {
	r.t.Helper()
	if i.platform.OS == "" {
		i.platform = amd64()
	}
	if i.mediaType == "" {
		i.mediaType = ocispec.MediaTypeImageLayerGzip
	}
	config := ocispec.Image{Platform: i.platform, Created: &madeAt, RootFS: ocispec.RootFS{Type: "layers"}}
	if i.env != "" {
		config.Config.Env = []string{i.env}
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Annotations: i.annotations}
	for _, layer := range i.layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromString("unpacked"+string(layer)))
		m.Layers = append(m.Layers, r.blob(repository, i.mediaType, layer))
	}
	body, err := json.Marshal(config)
	if err != nil {
		r.t.Fatal(err)
	}
	m.Config = r.blob(repository, ocispec.MediaTypeImageConfig, body)
	if i.change != nil {
		i.change(&m)
	}
	return r.manifest(repository, "", ocispec.MediaTypeImageManifest, m)
}

const compared = "demo/hello"

func TestCompare(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	pack := func(files ...file) []byte { return gzipped(t, 6, tarOf(t, files...)) }
	base := pack(plain("etc/base", "base"))
	one := recipe{layers: [][]byte{base, pack(plain("a", "same"), plain("x", "1234"), plain("z", "z"))}}
	second := func(files ...file) recipe { return recipe{layers: [][]byte{base, pack(files...)}} }
	later := func(h *tar.Header) { h.ModTime = madeAt.Add(time.Second) }
	rows := []struct {
		name string
		a, b recipe
		want imgd.Difference // Platform is linux/amd64
	}{
		{"an annotation", one, recipe{layers: one.layers, annotations: map[string]string{"org.example.by": "ada"}},
			imgd.Difference{Part: "manifest", Field: "annotations", B: `{"org.example.by":"ada"}`}},
		{"another annotation", recipe{layers: one.layers, annotations: map[string]string{"org.example.by": "bob"}}, recipe{layers: one.layers, annotations: map[string]string{"org.example.by": "ada"}},
			imgd.Difference{Part: "manifest", Field: `annotations["org.example.by"]`, A: `"bob"`, B: `"ada"`}},
		{"env", recipe{layers: one.layers, env: "A=1"}, recipe{layers: second(plain("b", "b")).layers, env: "A=2"},
			imgd.Difference{Part: "config", Field: "config.Env[0]", A: `"A=1"`, B: `"A=2"`}},
		{"content", one, second(plain("a", "same"), plain("x", "1299", later), plain("z", "y")),
			imgd.Difference{Part: "layer", Layer: 2, File: "x", Field: "content", A: `"34" from byte 2 on`, B: `"99" from byte 2 on`}},
		{"content after a time", one, second(plain("a", "same", later), plain("x", "1234"), plain("z", "y")),
			imgd.Difference{Part: "layer", Layer: 2, File: "z", Field: "content", A: `"z" from byte 0 on`, B: `"y" from byte 0 on`}},
		{"a time alone", one, second(plain("a", "same"), plain("x", "1234", later), plain("z", "z", later)),
			imgd.Difference{Part: "layer", Layer: 2, File: "x", Field: "mtime", A: "2026-11-21T10:00:00Z", B: "2026-11-21T10:00:01Z"}},
		{"size", one, second(plain("a", "same!")), imgd.Difference{Part: "layer", Layer: 2, File: "a", Field: "size", A: "4", B: "5"}},
		{"mode", one, second(plain("a", "same", func(h *tar.Header) { h.Mode = 0o4755 })), imgd.Difference{Part: "layer", Layer: 2, File: "a", Field: "mode", A: "0644", B: "04755"}},
		{"uid", one, second(plain("a", "same", func(h *tar.Header) { h.Uid = 7 })), imgd.Difference{Part: "layer", Layer: 2, File: "a", Field: "uid", A: "0", B: "7"}},
		{"gid", one, second(plain("a", "same", func(h *tar.Header) { h.Gid = 7 })), imgd.Difference{Part: "layer", Layer: 2, File: "a", Field: "gid", A: "0", B: "7"}},
		{"type", one, second(plain("a", "", func(h *tar.Header) { h.Typeflag, h.Linkname = tar.TypeSymlink, "/etc/passwd" })),
			imgd.Difference{Part: "layer", Layer: 2, File: "a", Field: "type", A: "file", B: "symbolic link"}},
		{"xattr", one, second(plain("a", "same", func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"} })),
			imgd.Difference{Part: "layer", Layer: 2, File: "a", Field: "SCHILY.xattr.security.capability", B: `\x01\x00`}},
		{"another file", one, second(plain("a", "same"), plain("../\x1b[2J", "1234")), imgd.Difference{Part: "layer", Layer: 2, Field: "name", A: "x", B: `../\x1b[2J`}},
		{"a file less", one, second(plain("a", "same"), plain("x", "1234")), imgd.Difference{Part: "layer", Layer: 2, Field: "name", A: "z"}},
		{"packed otherwise", one, recipe{layers: [][]byte{base, gzipped(t, 1, tarOf(t, plain("a", "same"), plain("x", "1234"), plain("z", "z")))}},
			imgd.Difference{Part: "layer", Layer: 2, Field: "bytes", A: "*", B: "*"}},
		{"a layer more", one, recipe{layers: append(one.layers[:2:2], base)}, imgd.Difference{Part: "layer", Field: "count", A: "2", B: "3"}},
		{"zstd", recipe{mediaType: ocispec.MediaTypeImageLayerZstd, layers: [][]byte{zstandard(t, tarOf(t, plain("x", "1")))}},
			recipe{mediaType: ocispec.MediaTypeImageLayerZstd, layers: [][]byte{zstandard(t, tarOf(t, plain("x", "2")))}},
			imgd.Difference{Part: "layer", Layer: 1, File: "x", Field: "content", A: `"1" from byte 0 on`, B: `"2" from byte 0 on`}},
		{"not packed", recipe{mediaType: ocispec.MediaTypeImageLayer, layers: [][]byte{tarOf(t, plain("x", "1"))}},
			recipe{mediaType: ocispec.MediaTypeImageLayer, layers: [][]byte{tarOf(t, plain("x", "2"))}},
			imgd.Difference{Part: "layer", Layer: 1, File: "x", Field: "content", A: `"1" from byte 0 on`, B: `"2" from byte 0 on`}},
		{"packed by another", recipe{mediaType: ocispec.MediaTypeImageLayerZstd, layers: [][]byte{zstandard(t, tarOf(t, plain("x", "1")))}},
			recipe{layers: [][]byte{pack(plain("x", "1"))}},
			imgd.Difference{Part: "layer", Layer: 1, Field: "mediaType", A: ocispec.MediaTypeImageLayerZstd, B: ocispec.MediaTypeImageLayerGzip}},
		{"of no known kind", recipe{mediaType: "application/vnd.example.wasm", layers: [][]byte{[]byte("one")}}, recipe{mediaType: "application/vnd.example.wasm", layers: [][]byte{[]byte("two")}},
			imgd.Difference{Part: "layer", Layer: 1, Field: "digest", A: digest.FromString("one").String(), B: digest.FromString("two").String()}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			a, b := reg.push(compared, row.a), reg.push(compared, row.b)
			got, err := newPublisher().Compare(t.Context(), reg.addr+"/"+compared, a.Digest, b.Digest)
			if err != nil || got.Same || got.Difference == nil || got.A != a.Digest || got.B != b.Digest {
				t.Fatalf("got %+v, %v", got, err)
			}
			row.want.Platform = "linux/amd64"
			if row.want.A == "*" && got.Difference.A != got.Difference.B {
				row.want.A, row.want.B = got.Difference.A, got.Difference.B
			}
			if *got.Difference != row.want {
				t.Errorf("got  %+v\nwant %+v", *got.Difference, row.want)
			}
			back, err := newPublisher().Compare(t.Context(), reg.addr+"/"+compared, b.Digest, a.Digest)
			if err != nil || back.Difference.A != got.Difference.B || back.Difference.B != got.Difference.A || back.Difference.Where() != got.Difference.Where() {
				t.Errorf("the other way round: %+v, %v", back.Difference, err)
			}
		})
	}
}

// Fresh provenance is no other image, nor is the same image without an index.
func TestCompareSame(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image(compared, "one", amd64())
	index := func(about string) ocispec.Descriptor {
		attested := reg.image(compared, about, ocispec.Platform{OS: "unknown", Architecture: "unknown"})
		attested.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
		return reg.index(compared, image, attested)
	}
	first, second := index("provenance"), index("another")
	for _, pair := range [][2]ocispec.Descriptor{{image, image}, {first, second}, {image, first}} {
		got, err := newPublisher().Compare(t.Context(), reg.addr+"/"+compared, pair[0].Digest, pair[1].Digest)
		if err != nil || !got.Same || got.Difference != nil {
			t.Errorf("got %+v, %v; want the same", got, err)
		}
	}
}

func TestCompareRoots(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	amd, other := reg.push(compared, recipe{env: "A=1"}), reg.push(compared, recipe{env: "A=2"})
	arm := reg.push(compared, recipe{platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}})
	both, one, changed := reg.index(compared, amd, arm), reg.index(compared, amd), reg.index(compared, other, arm)
	for _, row := range []struct {
		a, b  ocispec.Descriptor
		where string
	}{
		{amd, both, "root: mediaType"}, {both, one, "platforms"}, {both, changed, "linux/amd64, config: config.Env[0]"},
	} {
		got, err := newPublisher().Compare(t.Context(), reg.addr+"/"+compared, row.a.Digest, row.b.Digest)
		if err != nil || got.Difference == nil || got.Difference.Where() != row.where {
			t.Errorf("got %+v, %v; want %s", got.Difference, err, row.where)
		}
	}
}

// What cannot be trusted, or unpacked, is refused and not told of as a difference.
func TestCompareRefuses(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	good := gzipped(t, 6, tarOf(t, plain("x", "1")))
	image := reg.push(compared, recipe{layers: [][]byte{good}})
	rows := []struct {
		name  string
		layer []byte
		want  string
	}{
		{"no gzip", []byte("no gzip"), "unpack"},
		{"no tar", gzipped(t, 6, bytes.Repeat([]byte("no tar "), 200)), "invalid tar header"},
		{"cut", gzipped(t, 6, tarOf(t, plain("x", "1"))[:300]), "unexpected EOF"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			other := reg.push(compared, recipe{layers: [][]byte{row.layer}})
			for _, pair := range [][2]digest.Digest{{image.Digest, other.Digest}, {other.Digest, image.Digest}} {
				_, err := newPublisher().Compare(t.Context(), reg.addr+"/"+compared, pair[0], pair[1])
				if !errors.Is(err, imgd.ErrInvalid) || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %v, want ErrInvalid with %q", err, row.want)
				}
			}
		})
	}
	gone := digest.FromString("gone")
	if _, err := newPublisher().Compare(t.Context(), reg.addr+"/"+compared, image.Digest, gone); !errors.Is(err, imgd.ErrNotFound) || !strings.Contains(err.Error(), gone.String()) {
		t.Errorf("got %v, want ErrNotFound that names it", err)
	}
}

// A registry that serves other bytes, fewer or more than it should is found out
// before any difference is told of.
func TestCompareLies(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.push(compared, recipe{layers: [][]byte{gzipped(t, 6, tarOf(t, plain("x", "1")))}})
	layer := gzipped(t, 6, tarOf(t, plain("x", "2"), plain("y", "more")))
	other := reg.push(compared, recipe{layers: [][]byte{layer}})
	for name, served := range map[string][]byte{
		"others": gzipped(t, 6, tarOf(t, plain("x", "3"))), "none": {}, "fewer": layer[:len(layer)-9], "more": append(layer[:len(layer):len(layer)], 0), "the other's": gzipped(t, 6, tarOf(t, plain("x", "1"))),
	} {
		reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, digest.FromBytes(layer).String()) {
				w.Write(served)
			}
		})
		got, err := newPublisher().Compare(t.Context(), reg.addr+"/"+compared, image.Digest, other.Digest)
		if err == nil || !strings.Contains(err.Error(), "of something else") || errors.Is(err, imgd.ErrInvalid) {
			t.Errorf("%s: got %+v, %v; want an error", name, got, err)
		}
	}
}

// A sparse file of a petabyte takes two blocks in a tar. Writers of archive/tar
// make none, so the keys of its format are put in afterwards.
func TestDifferTarsSparse(t *testing.T) {
	t.Parallel()
	f := plain("x", "0\n"+strings.Repeat("\x00", 510), func(h *tar.Header) {
		h.PAXRecords = map[string]string{"GNU-sparse.major": "1", "GNU-sparse.minor": "0", "GNU-sparse.realsize": "1125899906842624"}
	})
	sparse := bytes.ReplaceAll(tarOf(t, f), []byte("GNU-sparse"), []byte("GNU.sparse"))
	if _, err := publisher.DifferTars(bytes.NewReader(sparse), bytes.NewReader(sparse)); err == nil || !strings.Contains(err.Error(), "unpacks to more") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestDifferTarsLongName(t *testing.T) {
	t.Parallel()
	long, short := tarOf(t, plain(strings.Repeat("n", 900<<10), "1")), tarOf(t, plain("n", "1"))
	found, err := publisher.DifferTars(bytes.NewReader(long), bytes.NewReader(short))
	if err != nil || found == nil || len(found.A) > 400 || !strings.HasSuffix(found.A, "nn… (921600 bytes)") || found.B != "n" {
		t.Errorf("got %+v, %v", found, err)
	}
}

// summed puts right the checksums of headers, without which a mutated tar is
// refused at once.
func summed(b []byte) []byte {
	b = bytes.Clone(b)
	for at := 0; at+512 <= len(b); at += 512 {
		block := b[at : at+512]
		if !bytes.HasPrefix(block[257:], []byte("ustar")) {
			continue
		}
		copy(block[148:156], "        ")
		sum := 0
		for _, c := range block {
			sum += int(c)
		}
		copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
	return b
}

// Whatever the tars are there is no panic, the two ways round agree, and a tar
// does not differ from itself.
func FuzzDifferTars(f *testing.F) {
	one, two := tarOf(f, plain("a", "1"), plain("b/", "", func(h *tar.Header) { h.Typeflag = tar.TypeDir })), tarOf(f, plain("a", "2"))
	xattr := tarOf(f, plain("a", "1", func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"} }))
	for _, a := range [][]byte{one, two, xattr, {}, one[:700]} {
		for _, b := range [][]byte{one, two, xattr} {
			f.Add(a, b)
		}
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		a, b = summed(a), summed(b)
		if found, err := publisher.DifferTars(bytes.NewReader(a), bytes.NewReader(a)); found != nil {
			t.Errorf("differs from itself: %+v, %v", found, err)
		}
		there, errThere := publisher.DifferTars(bytes.NewReader(a), bytes.NewReader(b))
		back, errBack := publisher.DifferTars(bytes.NewReader(b), bytes.NewReader(a))
		if (errThere == nil) != (errBack == nil) || (there == nil) != (back == nil) {
			t.Fatalf("there %+v %v, back %+v %v", there, errThere, back, errBack)
		}
		if there == nil {
			return
		}
		if there.A != back.B || there.B != back.A || there.Where() != back.Where() || there.A == there.B && len(there.A) < 300 {
			t.Errorf("there %+v, back %+v", there, back)
		}
		if text := there.Where() + there.A + there.B; len(text) > 2000 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0xfffd }) {
			t.Errorf("it does not print: %q", text)
		}
	})
}
