package imgd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// auditAtOnce is how many tags an audit looks at together: it is in no hurry,
	// and one that is slow should not hold up the others.
	auditAtOnce = 4
	// auditPage is how many records are decoded at once.
	auditPage = 200
	// maxFindings bounds what an audit tells of one by one, and keeps: more is only
	// counted.
	maxFindings = 10_000
	// silentAfter is how often in a row a repository may give no answer, for as long
	// as slowAnswer; then the rest of it is left to the next audit. Each time may take
	// a minute. A failure that comes at once costs no time: it counts for nothing.
	silentAfter = 5
	slowAnswer  = 2 * time.Second
	// recordTime is for how long a tag must be there that the index does not know:
	// another CI pushes first, and has it recorded then.
	recordTime = 10 * time.Second
)

// A Lister lists what registries have. Safe for concurrent use.
type Lister interface {
	// Tags are the tags of the repository, some of them twice; none of one that the
	// registry does not know. An error is the last that comes.
	Tags(ctx context.Context, repository string) iter.Seq2[string, error]
}

// Records are looked through a page at a time.
type Records interface {
	Finder
	// Generation is the tag's, 0 if the index never had it.
	Generation(image, tag string) uint64
}

// An Auditor compares all that the index holds with the registries, and has what
// differs put right where it is told to. Its methods are safe for concurrent use.
type Auditor struct {
	Verifier *Verifier
	Records  Records
	Lister   Lister
	Pipeline *Pipeline                       // that repairs; default: nothing is
	Ignore   func() []string                 // globs of tags that the index need not know; default: none
	Ready    func(ctx context.Context) error // why the index cannot be relied on, asked before each repair; default: it can
	Patience time.Duration                   // default recordTime
	Now      func() time.Time                // default time.Now

	running places // one audit of the same at a time: each slows the others down

	mu   sync.Mutex // guards last
	last *Audit
}

// An AuditAsk is an ask for one audit.
type AuditAsk struct {
	Image    string      // "": all
	Depth    VerifyDepth // default DepthParts
	Repair   bool        // put right what imgd may and can
	Progress func(AuditProgress)
}

// An AuditProgress is how far an audit has come.
type AuditProgress struct {
	Tags    int    `json:"tags"`    // that were looked at
	Differs int    `json:"differs"` // findings so far
	At      string `json:"at"`      // repository:tag, or the repository that is being listed
}

// An Audit is what was found.
type Audit struct {
	Image   string      `json:"image,omitempty"` // only this one was looked at
	Depth   VerifyDepth `json:"depth"`
	BeganAt time.Time   `json:"beganAt"`
	EndedAt time.Time   `json:"endedAt"`
	Tags    int         `json:"tags"`   // of the index that were compared
	Unread  int         `json:"unread"` // of the index that nobody has ever read, and so were not
	// Complete says that all registries have answered. What they did not say of is
	// among the items, as unreachable.
	Complete bool `json:"complete"`
	// Items are what differs or was put right, by repository and tag, at most
	// 10,000. Of those beyond only Counts knows.
	Items  []Finding         `json:"items"`
	Counts map[DriftKind]int `json:"counts"` // of all that differs still, by kind
}

// A Finding is a tag that differs, or could not be looked at. Of a repository that
// could not be listed it has no tag.
type Finding struct {
	Drift
	Since      time.Time   `json:"since"`                // when this daemon first found it so
	Error      string      `json:"error,omitempty"`      // of unreachable
	Unreported string      `json:"unreported,omitempty"` // why there is no event of it
	Repair     RepairState `json:"repair,omitempty"`     // if it was to be repaired
	Why        string      `json:"why,omitempty"`        // it was not, and what to do

	before *Finding // of unreachable: how it was found when it was last looked at, if it differed
}

// Differs is how many tags are known to differ.
func (a Audit) Differs() (n int) {
	for kind, count := range a.Counts {
		if kind != DriftUnreachable {
			n += count
		}
	}
	return n
}

// Count is how many of the items are in that state.
func (a Audit) Count(state RepairState) (n int) {
	for _, f := range a.Items {
		if f.Repair == state {
			n++
		}
	}
	return n
}

// Of is what of it is about one image.
func (a Audit) Of(image string) Audit {
	a.Items = slices.DeleteFunc(slices.Clone(a.Items), func(f Finding) bool { return f.Image != image })
	a.Image, a.Counts = image, map[DriftKind]int{}
	for _, f := range a.Items {
		a.Counts[f.Kind]++
	}
	return a
}

// Summary says in one line what was found.
func (a Audit) Summary() string {
	words := []string{fmt.Sprintf("%d tags looked at", a.Tags)}
	for _, kind := range DriftKinds() {
		if n := a.Counts[kind]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, kind))
		}
	}
	if len(words) == 1 {
		words = append(words, "nothing differs")
	}
	if n := a.Count(Repaired); n > 0 {
		words = append(words, fmt.Sprintf("%d repaired", n))
	}
	return strings.Join(words, ", ")
}

// Audit compares every tag that the index holds with each repository of its image,
// and looks for tags in the configured repositories that the index does not know.
// What differs is told as drift, then repaired if ask says so, and kept for Last.
// The error is that of ctx, of Ready, or ErrNotFound of an image that nobody knows;
// then nothing is kept, and what was told was true.
//
// Safe to repeat, to interrupt, and to run in several daemons at a time: the same
// drift is told once, and a repair makes of a tag what the index says when it is
// written. In one process a second audit of the same waits for the first.
func (a *Auditor) Audit(ctx context.Context, ask AuditAsk) (Audit, error) {
	leave, err := a.running.enter(ctx, ask.Image)
	if err != nil {
		return Audit{}, err
	}
	defer leave()
	if err := a.ready(ctx); err != nil {
		return Audit{}, err
	}
	ask.Depth = cmp.Or(ask.Depth, DepthParts)
	r := a.run(ask)
	if err := r.index(ctx); err != nil {
		return Audit{}, err
	}
	if ask.Image != "" && r.done.Tags+r.done.Unread == 0 && len(a.Verifier.Projects.Repositories(ask.Image)) == 0 {
		return Audit{}, fmt.Errorf("nothing is published as %s, and no project makes it: %w", ask.Image, ErrNotFound)
	}
	if err := r.registries(ctx); err != nil {
		return Audit{}, err
	}
	return a.keep(r.done), nil
}

// Last is what differs by the last audit of all that came to its end, and what
// later ones of single images have found; false if there was none.
func (a *Auditor) Last() (Audit, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		return Audit{}, false
	}
	last := *a.last
	last.Items, last.Counts = slices.Clone(last.Items), maps.Clone(last.Counts)
	return last, true
}

func (a *Auditor) ready(ctx context.Context) error {
	if a.Ready == nil {
		return nil
	}
	return a.Ready(ctx)
}

func (a *Auditor) now() time.Time {
	if a.Now == nil {
		return time.Now().UTC()
	}
	return a.Now().UTC()
}

// keep completes what was found by what was found before, and keeps what differs
// still.
func (a *Auditor) keep(done Audit) Audit {
	done.EndedAt = a.now()
	slices.SortFunc(done.Items, func(x, y Finding) int {
		return cmp.Or(cmp.Compare(x.Image, y.Image), cmp.Compare(x.Repository, y.Repository), cmp.Compare(x.Tag, y.Tag))
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range done.Items {
		f := &done.Items[i]
		if before, ok := a.seen(f.Drift); ok {
			f.Since = before
		}
		if before := a.looked(f.Drift); before != nil && f.Kind == DriftUnreachable {
			alone := *before // without the report that it stands in
			f.before = &alone
		}
	}
	kept := done
	kept.Items = slices.DeleteFunc(slices.Clone(done.Items), func(f Finding) bool { return f.Repair == Repaired })
	kept.Counts = maps.Clone(done.Counts)
	switch {
	case done.Image == "":
		a.last = &kept
	case a.last != nil:
		a.replace(kept)
	}
	return done
}

// replace has what was found of one image in place of what was known of it, under
// mu.
func (a *Auditor) replace(of Audit) {
	last := *a.last
	last.Counts = maps.Clone(last.Counts)
	last.Items = slices.DeleteFunc(slices.Clone(last.Items), func(f Finding) bool {
		if f.Image == of.Image {
			last.Counts[f.Kind]--
		}
		return f.Image == of.Image
	})
	for kind, n := range of.Counts {
		last.Counts[kind] += n
	}
	maps.DeleteFunc(last.Counts, func(_ DriftKind, n int) bool { return n <= 0 })
	i, _ := slices.BinarySearchFunc(last.Items, of.Image, func(f Finding, image string) int { return cmp.Compare(f.Image, image) })
	last.Items = slices.Insert(last.Items, i, of.Items[:min(len(of.Items), max(0, maxFindings-len(last.Items)))]...)
	a.last = &last
}

// seen is since when the drift is known, under mu. That a registry gave no answer
// meanwhile has ended nothing.
func (a *Auditor) seen(d Drift) (time.Time, bool) {
	for _, f := range []*Finding{a.kept(d), a.looked(d)} {
		if f != nil && f.same(d) {
			return f.Since, true
		}
	}
	return time.Time{}, false
}

// looked is what was found of the tag of d when it was last looked at, nil if it did
// not differ, under mu.
func (a *Auditor) looked(d Drift) *Finding {
	f := a.kept(d)
	if f != nil && f.Kind == DriftUnreachable {
		return f.before
	}
	return f
}

// kept is what the last report has of the tag of d, nil if nothing, under mu.
func (a *Auditor) kept(d Drift) *Finding {
	if a.last == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(a.last.Items, d, func(f Finding, d Drift) int {
		return cmp.Or(cmp.Compare(f.Image, d.Image), cmp.Compare(f.Repository, d.Repository), cmp.Compare(f.Tag, d.Tag))
	})
	if !ok {
		return nil
	}
	return &a.last.Items[i]
}

// same reports whether d is what was found, whichever part of it lacked first.
func (f Finding) same(d Drift) bool {
	return f.Kind == d.Kind && f.Wanted == d.Wanted && f.Found == d.Found && f.Generation == d.Generation
}

// An audit is one under way.
type audit struct {
	*Auditor
	ask      AuditAsk
	verifier Verifier // looks at no repository for long that is silent

	waiting []stranger // tags that were not known before

	lock  sync.Mutex // guards what follows
	done  Audit
	noted int // findings, listed or not
}

func (a *Auditor) run(ask AuditAsk) *audit {
	r := &audit{Auditor: a, ask: ask, verifier: *a.Verifier,
		done: Audit{Image: ask.Image, Depth: ask.Depth, BeganAt: a.now(), Complete: true, Items: []Finding{}, Counts: map[DriftKind]int{}}}
	r.verifier.Registry = &patient{Inspector: a.Verifier.Registry, failed: map[string]int{}}
	return r
}

// index compares the tags that the index holds. Of their records only a page is
// in memory.
func (r *audit) index(ctx context.Context) error {
	group, looking := errgroup.WithContext(ctx)
	group.SetLimit(auditAtOnce)
	find, last, known := Find{Image: r.ask.Image, Limit: auditPage}, Record{}, new(Known)
	for more := true; more && looking.Err() == nil; {
		var page []Record
		page, more, _ = r.Records.Find(find)
		for _, rec := range page {
			if rec.Image == last.Image && rec.Tag == last.Tag {
				continue // another platform
			}
			if rec.Image != last.Image {
				known = new(Known)
			}
			last = rec
			whole := known // of this image
			group.Go(func() error { return r.tag(looking, rec, whole) })
		}
		if len(page) > 0 {
			find.After = &page[len(page)-1]
		}
	}
	return cmp.Or(group.Wait(), ctx.Err())
}

// tag compares one, and has it repaired if that is wanted. It may have been
// removed meanwhile. What nobody has ever read cannot differ.
func (r *audit) tag(ctx context.Context, rec Record, known *Known) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if rec.MediaType == "" {
		r.count(func() { r.done.Unread++ })
		return nil
	}
	v, err := r.verifier.Verify(ctx, rec.Image, rec.Tag, r.ask.Depth, known)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	found := r.findings(v)
	if r.ask.Repair {
		r.repair(ctx, v, found)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	r.count(func() { r.done.Tags++ })
	r.note(rec.Image+":"+rec.Tag, found...)
	return nil
}

// findings are what a verification has found.
func (r *audit) findings(v Verification) (found []Finding) {
	if v.Unread() {
		return nil // it was recorded anew since
	}
	for _, d := range r.verifier.DriftsOf(v) {
		found = append(found, Finding{Drift: d, Since: r.now(), Unreported: v.Unreported})
	}
	for _, there := range v.Repositories {
		if there.Kind == DriftUnreachable {
			found = append(found, Finding{Drift: Drift{Kind: there.Kind, Image: v.Image, Repository: there.Repository, Tag: v.Tag, Wanted: v.Want,
				Generation: v.Records[0].Generation}, Since: r.now(), Error: there.Error})
		}
	}
	return found
}

func (r *audit) count(f func()) {
	r.lock.Lock()
	defer r.lock.Unlock()
	f()
}

// note adds findings, and tells how far it came.
func (r *audit) note(at string, found ...Finding) {
	r.lock.Lock()
	defer r.lock.Unlock()
	for _, f := range found {
		if f.Kind == DriftUnreachable {
			r.done.Complete = false
		}
		if f.Repair != Repaired {
			r.done.Counts[f.Kind]++
		}
		r.noted++
		if len(r.done.Items) < maxFindings {
			r.done.Items = append(r.done.Items, f)
		}
	}
	if r.ask.Progress != nil {
		r.ask.Progress(AuditProgress{Tags: r.done.Tags, Differs: r.noted, At: at})
	}
}
