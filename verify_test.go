package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

const (
	shelfA = "a.test/demo/hello"
	shelfB = "b.test/demo/hello"
)

// A shelf is a registry to be looked into, beside the real index.
type shelf struct {
	t     *testing.T
	index *index.Index
	tags  map[string]any         // repository:tag -> digest, ocispec.Descriptor or error
	lacks map[digest.Digest]any  // root -> imgd.Lack or error
	look  func(tag string) error // called first

	mu     sync.Mutex // guards what follows
	now    int        // who looks
	most   int        // at once
	drifts []imgd.Drift
	untold error
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{t: t, tags: map[string]any{}, lacks: map[digest.Digest]any{}, look: func(string) error { return nil }}
	var err error
	if s.index, err = index.Open(index.Config{Dir: t.TempDir(), Registry: s}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.index.Close() })
	return s
}

func (s *shelf) verifier() *imgd.Verifier {
	return &imgd.Verifier{Index: s.index, Registry: s, Drifts: s}
}

func (*shelf) Resolve(context.Context, string, string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, imgd.ErrNotFound
}

func (*shelf) Capture(context.Context, []string, digest.Digest) (d ocispec.Descriptor, p []ocispec.Descriptor, err error) {
	return d, p, imgd.ErrNotFound
}

func (s *shelf) Look(_ context.Context, repository, tag string, _ digest.Digest) (ocispec.Descriptor, error) {
	s.mu.Lock()
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
	}()
	if err := s.look(tag); err != nil {
		return ocispec.Descriptor{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch there := s.tags[repository+":"+tag].(type) {
	case digest.Digest:
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: there}, nil
	case ocispec.Descriptor:
		return there, nil
	case error:
		return ocispec.Descriptor{}, there
	}
	return ocispec.Descriptor{}, imgd.ErrNotFound
}

func (s *shelf) Lacks(_ context.Context, repository string, root digest.Digest, depth imgd.VerifyDepth, known *imgd.Known) ([]imgd.Lack, error) {
	if depth != imgd.DepthParts && depth != imgd.DepthBytes || known == nil {
		s.t.Errorf("looked into %s with depth %q and %v", root, depth, known)
	}
	part := imgd.Part{Repository: repository, Digest: root, Size: 1}
	if known.Whole(part) {
		return nil, nil
	}
	switch there := s.lacks[root].(type) {
	case imgd.Lack:
		return []imgd.Lack{there, there}, nil
	case error:
		return nil, there
	}
	known.Add(part)
	return nil, nil
}

func (s *shelf) ReportDrift(_ context.Context, d imgd.Drift) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.untold == nil {
		s.drifts = append(s.drifts, d)
	}
	return s.untold
}

// admit admits a release of the tag, of two platforms if it is an index.
func (s *shelf) admit(tag string, kind version.Kind, list bool, repositories ...string) imgd.Release {
	s.t.Helper()
	manifest := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(tag + "/" + fmt.Sprint(s.index.Seq())), Size: 479,
		Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	rel := imgd.Release{Image: "demo/hello", Repositories: repositories, Root: manifest, Platforms: []ocispec.Descriptor{manifest}, Pushed: true,
		Request: imgd.Request{ID: fmt.Sprintf("%032x", s.index.Seq()), AskedAt: time.Now()}, Tags: []imgd.ReleaseTag{{Name: tag, Kind: kind}}}
	if list {
		arm := manifest
		arm.Digest, arm.Platform = digest.FromString(tag+"arm"), &ocispec.Platform{OS: "linux", Architecture: "arm64"}
		rel.Root = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(tag + "index"), Size: 900}
		rel.Platforms = append(rel.Platforms, arm)
	}
	rel, err := s.index.Admit(s.t.Context(), rel, "")
	if err != nil {
		s.t.Fatal(err)
	}
	return rel
}

func (s *shelf) serve(rel imgd.Release) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, repository := range rel.Repositories {
		s.tags[repository+":"+rel.Tags[0].Name] = rel.Root
	}
}

func (s *shelf) publish(tag string, list bool, repositories ...string) imgd.Release {
	s.t.Helper()
	rel := s.admit(tag, version.KindOther, list, repositories...)
	s.serve(rel)
	rel, err := s.index.Publish(s.t.Context(), rel.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	return rel
}

func TestVerify(t *testing.T) {
	t.Parallel()
	stranger := digest.FromString("stranger")
	strangeIndex := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: stranger}
	lack := imgd.Lack{Part: "layer", Digest: digest.FromString("layer"), Why: "it is not there"}
	down := errors.New("connection refused")
	for _, test := range []struct {
		name  string
		list  bool // what was published is an index
		there any  // in shelfA; default: what was published
		lacks any
		depth imgd.VerifyDepth

		kind      imgd.DriftKind
		complaint string
		unknown   bool
	}{
		{name: "same"},
		{name: "same index", list: true, depth: imgd.DepthTag},
		{name: "whole", depth: imgd.DepthParts},
		{name: "missing", there: imgd.ErrNotFound, kind: imgd.DriftMissing, complaint: shelfA + ":v1 is not there"},
		{name: "moved", there: stranger, kind: imgd.DriftMoved, complaint: shelfA + ":v1 is " + stranger.String() + ", and should be"},
		{name: "moved to no image", there: fmt.Errorf("signature: %w", imgd.ErrInvalid), kind: imgd.DriftMoved, complaint: "or no image"},
		{name: "became an index", there: strangeIndex, kind: imgd.DriftBecameIndex, complaint: "is the image index " + stranger.String()},
		{name: "became an index, of docker", there: ocispec.Descriptor{MediaType: "application/vnd.docker.distribution.manifest.list.v2+json", Digest: stranger},
			kind: imgd.DriftBecameIndex, complaint: "single image"},
		{name: "another index", list: true, there: strangeIndex, kind: imgd.DriftMoved, complaint: "and should be"},
		{name: "parts missing", lacks: lack, depth: imgd.DepthParts, kind: imgd.DriftBlobMissing, complaint: "its layer " + lack.Digest.String() + " is damaged there: it is not there (and 1 more)"},
		{name: "parts missing, and nobody looks", lacks: lack, depth: imgd.DepthTag},
		{name: "moved is not looked into", there: stranger, lacks: lack, depth: imgd.DepthBytes, kind: imgd.DriftMoved, complaint: "and should be"},
		{name: "unreachable", there: down, kind: imgd.DriftUnreachable, complaint: "could not be read: connection refused", unknown: true},
		{name: "unreachable parts", lacks: down, depth: imgd.DepthBytes, kind: imgd.DriftUnreachable, complaint: "could not be read", unknown: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t)
			rel := s.publish("v1", test.list, shelfA, shelfB)
			if test.there != nil {
				s.tags[shelfA+":v1"] = test.there
			}
			if test.lacks != nil {
				s.lacks[rel.Root.Digest] = test.lacks
				s.tags[shelfB+":v1"] = imgd.ErrNotFound
			}
			got, err := s.verifier().Verify(t.Context(), "demo/hello", "v1", test.depth, nil)
			if err != nil {
				t.Fatal(err)
			}
			a := got.Repositories[0]
			if a.Kind != test.kind || a.Same != (test.kind == "") || !strings.Contains(got.Complaint(), test.complaint) {
				t.Errorf("got %+v, complaint %q; want kind %q, complaint %q", a, got.Complaint(), test.kind, test.complaint)
			}
			if test.lacks != nil { // shelfB differs for sure
				got.Repositories = got.Repositories[:1]
				s.drifts = slices.DeleteFunc(s.drifts, func(d imgd.Drift) bool { return d.Repository == shelfB })
				got.OK = got.Complaint() == ""
			}
			if got.OK != (test.kind == "") || got.Unknown() != test.unknown || got.Want != rel.Root.Digest {
				t.Errorf("got %+v, unknown %v", got, got.Unknown())
			}
			wantDrifts := 1
			if test.kind == "" || test.unknown {
				wantDrifts = 0
			}
			if len(s.drifts) != wantDrifts || wantDrifts > 0 && (s.drifts[0].Kind != test.kind || s.drifts[0].Wanted != rel.Root.Digest || (s.drifts[0].Lack != nil) != (test.kind == imgd.DriftBlobMissing)) {
				t.Errorf("told of %+v", s.drifts)
			}
		})
	}
}

// Of repositories each is told for itself.
func TestVerifyRepositories(t *testing.T) {
	s := newShelf(t)
	rel := s.publish("v1", false, shelfA, shelfB)
	s.tags[shelfA+":v1"] = errors.New("it is down")
	s.tags[shelfB+":v1"] = imgd.ErrNotFound
	got, err := s.verifier().Verify(t.Context(), "demo/hello", "v1", imgd.DepthTag, nil)
	if err != nil || got.OK || got.Unknown() || got.Repositories[0].Kind != imgd.DriftUnreachable || got.Repositories[1].Kind != imgd.DriftMissing {
		t.Errorf("got %+v, %v", got, err)
	}
	if len(s.drifts) != 1 || s.drifts[0].Repository != shelfB {
		t.Errorf("told of %+v", s.drifts)
	}
	s.untold = errors.New("NATS is away")
	got, _ = s.verifier().Verify(t.Context(), "demo/hello", "v1", imgd.DepthTag, nil)
	if !strings.Contains(got.Unreported, "NATS is away") || !strings.Contains(got.Complaint(), "drift not reported") {
		t.Errorf("got %+v", got)
	}
	elsewhere := s.verifier() // config says where
	elsewhere.Projects = configured(map[string]imgd.Project{"p": {Image: "demo/hello", Repositories: []string{"c.test/demo/hello"}}})
	s.tags["c.test/demo/hello:v1"] = rel.Root
	if got, err := elsewhere.Verify(t.Context(), "demo/hello", "v1", "", nil); err != nil || !got.OK || len(got.Repositories) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestVerifyExpect(t *testing.T) {
	s := newShelf(t)
	rel := s.publish("v1", true, shelfA)
	got, err := s.verifier().Verify(t.Context(), "demo/hello", "v1", imgd.DepthTag, nil)
	if err != nil {
		t.Fatal(err)
	}
	for d, want := range map[digest.Digest]bool{"": true, rel.Root.Digest: true, rel.Platforms[1].Digest: true, digest.FromString("stranger"): false} {
		if got.Expect(d); got.OK != want || (got.Complaint() == "") != want || got.Unknown() {
			t.Errorf("%s: got %+v", d, got)
		}
	}
}

func TestVerifyUnknown(t *testing.T) {
	s := newShelf(t)
	s.publish("unseen", false)
	for tag, records := range map[string]int{"v9": 0, "unseen": 1} {
		got, err := s.verifier().Verify(t.Context(), "demo/hello", tag, imgd.DepthTag, nil)
		if !errors.Is(err, imgd.ErrNotFound) || len(got.Records) != records {
			t.Errorf("%s: got %+v, %v", tag, got, err)
		}
	}
}

// A release that is just being published has written the tag: it is no drift, and
// verified as soon as the index has it.
func TestVerifyWaitsForPublish(t *testing.T) {
	s := newShelf(t)
	old := s.publish("main", false, shelfA)
	next := s.admit("main", version.KindOther, false, shelfA)
	s.serve(next)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	got, err := s.verifier().Verify(ctx, "demo/hello", "main", imgd.DepthTag, nil)
	if err != nil || got.OK || got.Pending != next.ID || got.Want != old.Root.Digest || len(s.drifts) > 0 {
		t.Errorf("not published: got %+v, %v, told of %v", got, err, s.drifts)
	}
	var published sync.WaitGroup
	s.look = func(string) error {
		s.look = func(string) error { return nil }
		published.Go(func() {
			if _, err := s.index.Publish(t.Context(), next.ID); err != nil {
				t.Error(err)
			}
		})
		return nil
	}
	got, err = s.verifier().Verify(t.Context(), "demo/hello", "main", imgd.DepthTag, nil)
	published.Wait()
	if err != nil || !got.OK || got.Pending != "" || got.Want != next.Root.Digest {
		t.Errorf("published: got %+v, %v", got, err)
	}
}

func TestVerifyAll(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	var tags []imgd.TagName
	for i := range 20 {
		tag := fmt.Sprintf("v%02d", i)
		s.publish(tag, false, shelfA)
		tags = append(tags, imgd.TagName{Image: "demo/hello", Tag: tag})
	}
	s.publish("unseen", false)
	tags = append(tags, imgd.TagName{Image: "demo/hello", Tag: "gone"}, imgd.TagName{Image: "demo/hello", Tag: "unseen"})
	s.tags[shelfA+":v03"] = errors.New("it is down")
	s.tags[shelfA+":v04"] = imgd.ErrNotFound
	s.look = func(string) error {
		for range 100 { // others may begin meanwhile
			runtime.Gosched()
		}
		return nil
	}
	found := map[string]imgd.Verification{}
	var told []imgd.VerifyProgress
	err := s.verifier().VerifyAll(t.Context(), imgd.VerifyAll{Tags: tags, Depth: imgd.DepthParts, Parallel: 3,
		Each:     func(v imgd.Verification) error { found[v.Tag] = v; return nil },
		Progress: func(p imgd.VerifyProgress) error { told = append(told, p); return nil }})
	if err != nil || len(found) != 21 {
		t.Fatalf("got %d, %v; want 21", len(found), err)
	}
	for tag, v := range found {
		ok, unknown := tag != "v03" && tag != "v04" && tag != "unseen", tag == "v03" || tag == "unseen"
		if v.OK != ok || v.Unknown() != unknown {
			t.Errorf("%s: got %+v, complaint %q", tag, v, v.Complaint())
		}
	}
	if !strings.Contains(found["unseen"].Complaint(), "no repository") {
		t.Errorf("complaint %q", found["unseen"].Complaint())
	}
	if s.most < 2 || s.most > 3 {
		t.Errorf("%d looked at once, want 2 or 3", s.most)
	}
	if want := (imgd.VerifyProgress{Done: 22, Total: 22, Parts: 18, Bytes: 18}); len(told) < 2 || told[0] != (imgd.VerifyProgress{Total: 22}) || told[len(told)-1] != want {
		t.Errorf("told of %+v, want %+v at last", told, want)
	}
}

func TestVerifyAllEnds(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	var tags []imgd.TagName
	for i := range 10 {
		tag := fmt.Sprintf("v%02d", i)
		s.publish(tag, false, shelfA)
		tags = append(tags, imgd.TagName{Image: "demo/hello", Tag: tag})
	}
	full, n := errors.New("nobody takes more"), 0
	err := s.verifier().VerifyAll(t.Context(), imgd.VerifyAll{Tags: tags, Each: func(imgd.Verification) error { n++; return full }})
	if !errors.Is(err, full) || n != 1 {
		t.Errorf("got %v after %d", err, n)
	}
	if err := s.verifier().VerifyAll(t.Context(), imgd.VerifyAll{Progress: func(imgd.VerifyProgress) error { return full }}); !errors.Is(err, full) {
		t.Errorf("progress: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	err = s.verifier().VerifyAll(ctx, imgd.VerifyAll{Tags: tags, Parallel: 1, Each: func(imgd.Verification) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	}})
	if !errors.Is(err, context.Canceled) || n != 3 {
		t.Errorf("got %v after %d", err, n)
	}
}

// records are an index of which only the records are at hand.
type records []imgd.Record

func (all records) Find(f imgd.Find) (found []imgd.Record, more bool, seq uint64) {
	for _, r := range all {
		if f.Has(r, "") && (f.After == nil || f.Sort.Compare(*f.After, r) < 0) {
			found = append(found, r)
		}
	}
	if f.Limit > 0 && len(found) > f.Limit {
		return found[:f.Limit], true, 1
	}
	return found, false, 1
}

func TestTagsOf(t *testing.T) {
	var all records
	for i := range 1201 {
		for _, arch := range []string{"amd64", "arm64"} {
			r := imgd.Record{Image: "demo/hello", Tag: fmt.Sprintf("v%04d", i), Platform: "linux/" + arch, Labels: map[string]string{"env": "test"}}
			if i == 7 {
				r.Labels["env"] = "prod"
			}
			all = append(all, r)
		}
	}
	got := imgd.TagsOf(all, imgd.Find{Sort: imgd.ByPublished, Limit: 1})
	if len(got) != 1201 || got[0].Tag != "v0000" || got[1200].Tag != "v1200" || len(slices.Compact(slices.Clone(got))) != 1201 {
		t.Errorf("got %d tags", len(got))
	}
	if got := imgd.TagsOf(all, imgd.Find{Labels: map[string]string{"env": "prod"}}); len(got) != 1 || got[0] != (imgd.TagName{Image: "demo/hello", Tag: "v0007"}) {
		t.Errorf("got %v", got)
	}
}

// A part that was not whole may be put back while a long audit goes on; one that was whole is believed.
func TestKnownLackIsLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k imgd.Known
		d, looks := digest.FromString("layer"), 0
		look := func(lack string) string {
			got, err := k.Once(t.Context(), imgd.Part{Repository: shelfA, Digest: d, Size: 1}, func() (string, int64, error) { looks++; return lack, 0, nil })
			if err != nil {
				t.Error(err)
			}
			return got
		}
		for i, row := range []struct{ is, want string }{{"gone", "gone"}, {"", "gone"}, {"", ""}, {"gone", ""}} {
			if got := look(row.is); got != row.want {
				t.Errorf("look %d: got %q, want %q", i, got, row.want)
			}
			<-time.After(40 * time.Second)
		}
		if looks != 2 {
			t.Errorf("looked %d times, want 2", looks)
		}
	})
}

func TestKnownOnce(t *testing.T) { synctest.Test(t, knownOnce) }

func knownOnce(t *testing.T) {
	var k imgd.Known
	layer, lookOn, down := imgd.Part{Repository: shelfA, Digest: digest.FromString("layer"), Size: 5}, make(chan struct{}), errors.New("it is down")
	var others sync.WaitGroup
	others.Go(func() {
		if _, err := k.Once(t.Context(), layer, func() (string, int64, error) { <-lookOn; return "", 3, down }); !errors.Is(err, down) {
			t.Errorf("the first: got %v", err)
		}
	})
	synctest.Wait()
	looks := 0
	for range 4 { // one of them looks again, the others hear of it
		others.Go(func() {
			lack, err := k.Once(t.Context(), layer, func() (string, int64, error) { looks++; return "it is not there", 5, nil })
			if lack != "it is not there" || err != nil {
				t.Errorf("got %q, %v", lack, err)
			}
		})
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Once(gone, layer, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("who went away got %v", err)
	}
	synctest.Wait()
	close(lookOn)
	others.Wait()
	if parts, bytes := k.Read(); looks != 1 || parts != 1 || bytes != 8 || k.Whole(layer) {
		t.Errorf("%d looks, %d parts, %d bytes, whole: %v", looks, parts, bytes, k.Whole(layer))
	}
	manifest := imgd.Part{Repository: shelfA, Digest: digest.FromString("other"), Size: 2}
	root, copied, longer := manifest, manifest, manifest
	root.Size, copied.Repository, longer.Size = -1, shelfB, 3
	k.Add(manifest)
	if !k.Whole(manifest) || !k.Whole(root) || k.Whole(copied) || k.Whole(longer) {
		t.Error("what is whole is so in its repository, and in its size")
	}
}
