package main_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/imgd/imgd"
)

// A registry is one that imgctl asks itself, at REGISTRY. Beside what was pushed to
// it, it has the tags of the world's, of which it tells the digest alone.
type registry struct {
	w *world

	mu    sync.Mutex
	files map[string]file // guarded by mu: path -> what is served
}

type file struct {
	mediaType string
	body      []byte
}

func (r *registry) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	f, ok := r.files[req.URL.Path]
	r.mu.Unlock()
	if name, tag, tagged := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/manifests/"); !ok && tagged && req.Method == http.MethodHead {
		r.w.mu.Lock()
		d := r.w.served["registry.test/"+name+":"+tag]
		r.w.mu.Unlock()
		if ok = d != ""; ok {
			f.mediaType = ocispec.MediaTypeImageManifest
			rw.Header().Set("Docker-Content-Digest", d.String())
		}
	}
	if !ok {
		http.NotFound(rw, req)
		return
	}
	rw.Header().Set("Content-Type", f.mediaType)
	_, _ = rw.Write(f.body)
}

// put serves the body by its digest and these names.
func (r *registry) put(at, mediaType string, body []byte, names ...string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range append(names, d.Digest.String()) {
		r.files["/v2/"+at+"/"+name] = file{mediaType, body}
	}
	return d
}

// push REPOSITORY TAG NAME [ARCH…] puts an image into REGISTRY; NAME, NAME_ARCH and
// NAME_layer are its digests. With several platforms it is a list.
func push(ts *testscript.TestScript, _ bool, args []string) {
	r, repository, tag, name, arches := worldOf(ts).registry, args[0], args[1], args[2], args[3:]
	manifest := func(mediaType string, v any) ocispec.Descriptor {
		body, err := json.Marshal(v)
		ts.Check(err)
		d := r.put(repository+"/manifests", mediaType, body, tag)
		ts.Setenv(name, d.Digest.String())
		return d
	}
	layer := r.put(repository+"/blobs", ocispec.MediaTypeImageLayer, []byte("layer of "+name))
	ts.Setenv(name+"_layer", layer.Digest.String())
	var list ocispec.Index
	list.SchemaVersion, list.MediaType = 2, ocispec.MediaTypeImageIndex
	for _, arch := range append(arches, "amd64")[:max(1, len(arches))] {
		config, err := json.Marshal(ocispec.Image{Author: name, Platform: ocispec.Platform{OS: "linux", Architecture: arch}})
		ts.Check(err)
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: r.put(repository+"/blobs", ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{layer}}
		m.SchemaVersion = 2
		d := manifest(ocispec.MediaTypeImageManifest, m)
		ts.Setenv(name+"_"+arch, d.Digest.String())
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		list.Manifests = append(list.Manifests, d)
	}
	if len(list.Manifests) > 1 {
		manifest(ocispec.MediaTypeImageIndex, list)
	}
}

// damaged REPOSITORY DIGEST [BODY] makes REGISTRY serve a blob with other bytes, or
// not any more.
func damaged(ts *testscript.TestScript, _ bool, args []string) {
	r, path := worldOf(ts).registry, "/v2/"+args[0]+"/blobs/"+args[1]
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.files[path]
	if !ok {
		ts.Fatalf("there is no %s", path)
	}
	if delete(r.files, path); len(args) > 2 {
		r.files[path] = file{f.mediaType, []byte(args[2])}
	}
}

// lacks DEPTH DIGEST WHY makes a layer of what the daemon's registry has damaged,
// for who looks so far.
func lacks(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.change(func() {
		w.lacks[args[0]+" "+args[1]] = imgd.Lack{Part: "layer", Digest: digest.FromString("layer"), Why: args[2]}
	})
}

// stuck TAG makes the daemon's registry answer nothing for that tag.
func stuck(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.change(func() { w.stuck = args[0] })
}

func (w *world) Look(ctx context.Context, repository, tag string, _ digest.Digest) (ocispec.Descriptor, error) {
	w.mu.Lock()
	stuck := tag == w.stuck
	w.mu.Unlock()
	if stuck {
		w.change(func() { w.watched++ })
		<-ctx.Done()
		return ocispec.Descriptor{}, ctx.Err()
	}
	return w.Resolve(ctx, repository, tag)
}

func (w *world) Lacks(_ context.Context, repository string, root digest.Digest, depth imgd.VerifyDepth, known *imgd.Known) ([]imgd.Lack, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if lack, ok := w.lacks[string(depth)+" "+root.String()]; ok {
		return []imgd.Lack{lack, lack}, nil
	}
	known.Add(imgd.Part{Repository: repository, Digest: root, Size: 3 << 20})
	return nil, nil
}
