package check

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/imgd/imgd/integration/kit"
)

// A Site says where a world is looked at, past all gates.
type Site struct {
	Data string // imgd's data directory
	NATS string // URL
	// Hosts are the registries by the names that imgd has for them; one that is not here is asked by that name.
	Hosts map[string]string
	// Repositories, registry/name as imgd names them, are looked into besides those that the index knows.
	Repositories []string
}

// Look reads images.json, the streams and the registries.
func Look(ctx context.Context, site Site) (*World, error) {
	w := &World{Tags: map[string]map[string]string{}, Roots: map[string][]string{}, Gone: map[string]bool{}, States: map[string]State{}}
	for _, step := range []func(context.Context, Site) error{w.readEvents, w.readStates, w.readQueue, w.readDead, w.readIndex, w.readTags, w.readRoots} {
		if err := step(ctx, site); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *World) bad(invariant, format string, args ...any) {
	w.Bad = append(w.Bad, invariant+": "+fmt.Sprintf(format, args...))
}

func (w *World) readIndex(_ context.Context, site Site) (err error) {
	w.Index, err = ReadIndex(site.Data)
	return err
}

// ReadIndex reads images.json of a data directory.
func ReadIndex(data string) (Index, error) {
	images, err := kit.ReadImages(data)
	if err != nil {
		return Index{}, err
	}
	x := Index{ID: images.ID, Seq: images.Seq, Told: images.Told, Records: images.Records}
	if x.Tags, err = parse[Tag](images.Tags); err != nil {
		return x, fmt.Errorf("tags of images.json: %w", err)
	}
	if x.Releases, err = parse[Release](images.Releases); err != nil {
		return x, fmt.Errorf("releases of images.json: %w", err)
	}
	return x, nil
}

// Release is that with the ID, the empty one if there is none.
func (x Index) Release(id string) Release {
	for _, r := range x.Releases {
		if r.ID == id {
			return r
		}
	}
	return Release{}
}

// Tag is the one of the image, the empty one if there is none.
func (x Index) Tag(image, tag string) Tag {
	for _, t := range x.Tags {
		if t.Image == image && t.Tag == tag {
			return t
		}
	}
	return Tag{}
}

func parse[T any](raw []json.RawMessage) ([]T, error) {
	all := make([]T, len(raw))
	for i := range raw {
		if err := json.Unmarshal(raw[i], &all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (w *World) readEvents(ctx context.Context, site Site) error {
	messages, err := kit.ReadStream(ctx, site.NATS, "IMGD_EVENTS", "imgd.events.>", 0)
	if err != nil {
		return err
	}
	for _, m := range messages {
		e := Event{StreamSeq: m.Seq}
		if e.What, e.Image, e.ID, err = kit.ParseEventSubject(m.Subject); err != nil {
			w.bad("I1", "%v", err)
			continue
		}
		if err := e.read(m); err != nil {
			w.bad("I1", "event on %s: %v", m.Subject, err)
			continue
		}
		if e.What == "drift" {
			var event struct{ Data Drift }
			if err := json.Unmarshal(m.Data, &event); err != nil {
				w.bad("I6", "event on %s: %v", m.Subject, err)
				continue
			}
			e.Drift = event.Data
		}
		w.Events = append(w.Events, e)
	}
	return nil
}

// read reads what the event tells.
func (e *Event) read(m kit.Message) error {
	if e.What == Published {
		event, err := kit.ParsePublished(m)
		if err != nil {
			return err
		}
		e.Source, e.Request, e.Seq, e.Root, e.Records = event.Source, event.Custom.Request, event.Custom.Seq, event.Purl.Version, event.Custom.Records
		return nil
	}
	var envelope struct {
		ID, Source, Type string
		Data             State
	}
	if err := json.Unmarshal(m.Data, &envelope); err != nil {
		return err
	}
	if id := header(m, "Nats-Msg-Id"); envelope.ID != e.ID || id != e.ID || !strings.Contains(envelope.Type, "."+e.What+".") {
		return fmt.Errorf("it says that it is %s %q, with message ID %q", envelope.Type, envelope.ID, id)
	}
	e.Source, e.End = envelope.Source, envelope.Data
	return nil
}

func (w *World) readStates(ctx context.Context, site Site) error {
	messages, err := kit.ReadStream(ctx, site.NATS, "IMGD_STATUS", "imgd.status.>", 0)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if len(m.Data) == 0 {
			continue // in place of one that was removed: what is removed alone may come back when NATS dies
		}
		var s State
		if err := json.Unmarshal(m.Data, &s); err != nil || m.Subject != "imgd.status."+s.Request || s.State == "" {
			w.bad("I3", "state on %s: %v: %s", m.Subject, err, m.Data)
			continue
		}
		w.States[s.Request] = s // the stream keeps one for each
	}
	return nil
}

func (w *World) readQueue(ctx context.Context, site Site) error {
	messages, err := kit.ReadQueue(ctx, site.NATS, "IMGD_REQUESTS")
	for _, m := range messages {
		w.Queue = append(w.Queue, queued(m.Subject, header(m, "Nats-Msg-Id"), header(m, "Imgd-Nonce"), m))
	}
	return err
}

func (w *World) readDead(ctx context.Context, site Site) error {
	messages, err := kit.ReadStream(ctx, site.NATS, "IMGD_DEAD", "imgd.dead.>", 0)
	for _, m := range messages {
		w.Dead = append(w.Dead, Letter{Delivery: header(m, "Imgd-Msg-Id"), Request: header(m, "Imgd-Request"),
			Project: strings.TrimPrefix(m.Subject, "imgd.dead."), Reason: header(m, "Imgd-Reason")})
	}
	return err
}

func header(m kit.Message, key string) string { return strings.Join(m.Header[key], ",") }

// queued reads a message of the queue. What it cannot read has no request.
func queued(subject, delivery, nonce string, m kit.Message) Queued {
	q := Queued{Seq: m.Seq, Delivery: delivery}
	q.Project, _, _ = strings.Cut(strings.TrimPrefix(subject, "imgd.requests."), ".")
	var body struct {
		Request
		Rebuild bool   `json:"rebuild"`
		AskedAt string `json:"askedAt"` // "" is no time
	}
	if err := json.Unmarshal(m.Data, &body); err != nil || body.Ref == "" {
		return q
	}
	r := body.Request
	r.Project = q.Project
	if body.Force || body.Rebuild {
		r.Nonce = cmp.Or(nonce, delivery, strconv.FormatUint(m.Seq, 10))
	}
	q.Ref, q.Commit, q.Request = r.Ref, r.Commit, r.hash()
	return q
}

// hash is the ID of a request by its fields, as imgd's FORMATS gives it.
func (r Request) hash() string {
	platforms, args := slices.Sorted(slices.Values(r.Platforms)), r.Args
	if platforms == nil {
		platforms = []string{}
	}
	if args == nil {
		args = map[string]string{}
	}
	sum := sha256.Sum256([]byte(text([]any{r.Project, r.Ref, r.Commit, platforms, args, r.Target, r.Nonce})))
	return hex.EncodeToString(sum[:16])
}

func (w *World) readTags(ctx context.Context, site Site) error {
	puller, err := remote.NewPuller(remote.WithContext(ctx))
	if err != nil {
		return err
	}
	repositories := slices.Clone(site.Repositories)
	for _, r := range w.Index.Releases {
		repositories = append(repositories, r.Repositories...)
	}
	slices.Sort(repositories)
	for _, repository := range slices.Compact(repositories) {
		at, err := site.at(repository)
		if err != nil {
			return err
		}
		if w.Tags[repository], err = w.tagsOf(ctx, puller, at); err != nil {
			return fmt.Errorf("read tags of %s: %w", repository, err)
		}
	}
	return nil
}

// at is the repository where it is to be asked.
func (s Site) at(repository string) (name.Repository, error) {
	host, path, _ := strings.Cut(repository, "/")
	if real, ok := s.Hosts[host]; ok {
		host = real
	}
	return name.NewRepository(host+"/"+path, name.Insecure)
}

func (w *World) tagsOf(ctx context.Context, puller *remote.Puller, repository name.Repository) (map[string]string, error) {
	names, err := puller.List(ctx, repository)
	if notFound(err) { // nothing was tagged yet
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	tags := map[string]string{}
	for _, tag := range names {
		desc, err := puller.Get(ctx, repository.Tag(tag))
		if notFound(err) { // it went just now; or a kill has cut its removal, and a collection ends that
			continue
		}
		if err != nil {
			return nil, err
		}
		tags[tag] = desc.Digest.String()
		if w.Roots[tags[tag]], err = manifests(desc); err != nil {
			w.bad("I6", "%s:%s: %v", repository, tag, err)
		}
	}
	return tags, nil
}

// manifests are those of the platforms of a root, sorted; attestations are none.
func manifests(root *remote.Descriptor) ([]string, error) {
	if !root.MediaType.IsIndex() {
		return []string{root.Digest.String()}, nil
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(root.Manifest, &index); err != nil {
		return nil, err
	}
	var all []string
	for _, m := range index.Manifests {
		if m.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
			all = append(all, m.Digest.String())
		}
	}
	slices.Sort(all)
	return all, nil
}

func notFound(err error) bool {
	var refused *transport.Error
	return errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound
}

// readRoots looks for the roots that immutable tags named before without having been forced away, for only a root that is
// gone may be replaced.
func (w *World) readRoots(ctx context.Context, site Site) error {
	puller, err := remote.NewPuller(remote.WithContext(ctx))
	if err != nil {
		return err
	}
	c := &checker{World: w}
	for key, line := range c.lines() {
		for i := 1; i < len(line); i++ {
			before := line[i-1]
			if taken, _ := before.took(key.tag); !immutable(taken.Kind) || samePlatforms(before, line[i]) || line[i].Request.Force || line[i].free(before, taken.Kind) {
				continue
			}
			gone := true
			for _, repository := range before.Repositories {
				at, err := site.at(repository)
				if err != nil {
					return err
				}
				if _, err := puller.Head(ctx, at.Digest(before.Root.Digest)); err == nil {
					gone = false
				} else if !notFound(err) {
					return fmt.Errorf("look for %s: %w", before.Root.Digest, err)
				}
			}
			w.Gone[before.Root.Digest] = gone
		}
	}
	return nil
}
