package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
)

const (
	indexRounds  = 5   // of all stores, in turns
	singlePuts   = 200 // a round
	writers      = 64
	writerPuts   = 50 // each, a round
	scalePuts    = 40 // a round, at each size
	lookupTime   = 2 * time.Second
	batchGoal    = 5   // times bbolt's Batch
	scaleGoal    = 1.3 // at a million records, of what it is at a thousand
	lookupGoal   = 5e6 // a second
	startGoal    = 4   // seconds, of a million records
	overheadGoal = 500 // bytes of heap for a record, beside those of its own
)

// sizes of made indexes, in records.
var sizesOfIndex = []int{1_000, 100_000, 1_000_000}

// indexBench measures the file index beside bbolt, SQLite and what rewrites the whole file each time: one durable publish, by
// one writer and by many; and how it is when it is large.
func indexBench(ctx context.Context, progress io.Writer) (figures []figure, err error) {
	dir, err := os.MkdirTemp("", "imgd-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = firstOf(err, os.RemoveAll(dir)) }()
	for _, part := range []func(context.Context, string, io.Writer) ([]figure, error){durablePuts, largeIndexes} {
		found, err := part(ctx, dir, progress)
		if err != nil {
			return nil, err
		}
		figures = append(figures, found...)
	}
	return figures, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// A rival is one store, and the times of its puts.
type rival struct {
	name string
	store
	next   int // of what is put
	single []float64
	rates  []float64 // a second, of all writers
}

// durablePuts has each store take single puts, then those of all writers, in turns.
func durablePuts(ctx context.Context, dir string, progress io.Writer) (figures []figure, err error) {
	rivals, err := openRivals(ctx, dir)
	defer func() {
		for _, r := range rivals {
			err = firstOf(err, r.close())
		}
	}()
	if err != nil {
		return nil, err
	}
	for range indexRounds {
		for _, r := range rivals {
			if err := r.round(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	rates := map[string]float64{}
	for _, r := range rivals {
		slices.Sort(r.single)
		rates[r.name] = median(r.rates)
		figures = append(figures,
			figure{Name: "single/" + r.name + "/p50", Value: r.single[len(r.single)/2], Unit: "ms"},
			figure{Name: "single/" + r.name + "/p99", Value: r.single[len(r.single)*99/100], Unit: "ms"},
			figure{Name: "writers/" + r.name, Value: rates[r.name], Unit: "a second"})
		fmt.Fprintf(progress, "%s: %.3f ms, %d writers: %.0f a second\n", r.name, median(r.single), writers, rates[r.name])
	}
	return append(figures,
		figure{Name: "writers", Value: rates["imgd"] / rates["bbolt-batch"], Unit: "ratio", Peer: "bbolt v1.5.0, Batch"}.atLeast(batchGoal),
		figure{Name: "writers-group", Value: rates["imgd"] / rates["bbolt-group"], Unit: "ratio", Peer: "bbolt v1.5.0, a group commit of its own"}), nil
}

func openRivals(ctx context.Context, dir string) (rivals []*rival, err error) {
	add := func(name string, open func(dir string) (store, error)) {
		if err != nil {
			return
		}
		at := filepath.Join(dir, name)
		if err = os.Mkdir(at, 0o755); err != nil {
			return
		}
		var s store
		if s, err = open(at); err == nil {
			rivals = append(rivals, &rival{name: name, store: s})
		}
	}
	add("imgd", func(dir string) (store, error) {
		x, err := index.Open(index.Config{Dir: dir})
		return indexStore{x}, err
	})
	add("bbolt", func(dir string) (store, error) { return openBolt(dir, false) })
	add("bbolt-batch", func(dir string) (store, error) { return openBolt(dir, true) })
	add("bbolt-group", func(dir string) (store, error) {
		s, err := openBolt(dir, false)
		return &groupStore{boltStore: s}, err
	})
	add("sqlite", func(dir string) (store, error) { return openSQLite(ctx, dir) })
	add("whole-file", func(dir string) (store, error) { return openWhole(dir) })
	return rivals, err
}

// round is one of r's, of which only the puts count.
func (r *rival) round(ctx context.Context) error {
	puts, err := r.prepare(ctx, singlePuts)
	if err != nil {
		return err
	}
	for _, p := range puts {
		began := time.Now()
		if err := r.put(ctx, p.key, p.value); err != nil {
			return err
		}
		r.single = append(r.single, milliseconds(time.Since(began)))
	}
	if puts, err = r.prepare(ctx, writers*writerPuts); err != nil {
		return err
	}
	all, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for own := range slices.Chunk(puts, writerPuts) {
		all.Go(func() error {
			for _, p := range own {
				if err := r.put(ctx, p.key, p.value); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = all.Wait()
	r.rates = append(r.rates, float64(len(puts))/time.Since(began).Seconds())
	return err
}

// A put is a record, and for the index the release that is to be published with it.
type put struct {
	key   string
	value []byte
}

func (r *rival) prepare(ctx context.Context, n int) ([]put, error) {
	puts := make([]put, n)
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(writers)
	for i := range puts {
		rel := newRelease(r.next)
		r.next++
		all.Go(func() (err error) {
			puts[i], err = r.admit(ctx, rel)
			return err
		})
	}
	return puts, all.Wait()
}

func (r *rival) admit(ctx context.Context, rel imgd.Release) (put, error) {
	if x, ok := r.store.(indexStore); ok {
		var err error
		if rel, err = x.Admit(ctx, rel, ""); err != nil {
			return put{}, err
		}
		return put{key: rel.ID}, nil
	}
	rel.ID = rel.Request.ID + "-1"
	return put{rel.ID, recordLine(rel)}, nil
}

// largeIndexes measures made indexes of each size: the start, the memory, lookups, and publishing while images.json follows.
func largeIndexes(ctx context.Context, dir string, progress io.Writer) (figures []figure, err error) {
	var all []*large
	defer func() {
		for _, l := range all {
			err = firstOf(err, l.Close())
		}
	}()
	for _, n := range sizesOfIndex {
		l, err := openLarge(filepath.Join(dir, fmt.Sprint("large-", n)), n)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
		start := figure{Name: fmt.Sprintf("start/%d", n), Value: l.start.Seconds(), Unit: "s"}
		if n == sizesOfIndex[len(sizesOfIndex)-1] {
			start = start.atMost(startGoal)
			figures = append(figures, figure{Name: "heap", Value: l.heap, Unit: "bytes a record beside its own"}.atMost(overheadGoal))
		}
		figures = append(figures, start)
		fmt.Fprintf(progress, "%d records: start %.2f s, %.0f bytes of heap a record beside its own\n", n, l.start.Seconds(), l.heap)
	}
	biggest := all[len(all)-1]
	figures = append(figures, figure{Name: "lookup/tag", Value: biggest.lookups(), Unit: "a second"}.atLeast(lookupGoal))
	pages, err := biggest.firstPages()
	if err != nil {
		return nil, err
	}
	overHTTP, err := biggest.httpLookups(ctx)
	if err != nil {
		return nil, err
	}
	figures = append(append(figures, pages...), overHTTP...)
	for range indexRounds {
		for _, l := range all {
			if err := l.round(ctx); err != nil {
				return nil, err
			}
		}
	}
	for _, l := range all {
		figures = append(figures, figure{Name: fmt.Sprintf("commit/%d", l.n), Value: median(l.single), Unit: "ms"})
	}
	return append(figures, figure{Name: "commit", Value: median(biggest.single) / median(all[0].single), Unit: "ratio", Peer: "the same at 1,000 records"}.atMost(scaleGoal)), nil
}

// A large is a made index.
type large struct {
	rival
	indexStore
	n     int
	start time.Duration
	heap  float64
}

func openLarge(dir string, n int) (*large, error) {
	size, err := makeIndex(dir, n)
	if err != nil {
		return nil, err
	}
	start, err := startAlone(dir)
	if err != nil {
		return nil, err
	}
	before := heap()
	x, err := index.Open(index.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	l := &large{indexStore: indexStore{x}, n: n, start: start}
	l.heap = (heap() - before - float64(size)) / float64(n)
	l.rival = rival{store: l.indexStore, next: n}
	return l, nil
}

// startAlone is how long a process of its own takes to open the index, as a daemon does.
func startAlone(dir string) (time.Duration, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	out, err := exec.Command(self, "-start", dir).Output()
	if err != nil {
		return 0, fmt.Errorf("start over %s: %w", dir, err)
	}
	seconds, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	return time.Duration(seconds * float64(time.Second)), err
}

func printStart(dir string) error {
	began := time.Now()
	x, err := index.Open(index.Config{Dir: dir})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, time.Since(began).Seconds())
	return x.Close()
}

// heap is what is in use.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

func (l *large) Close() error { return l.Index.Close() }

func (l *large) round(ctx context.Context) error {
	puts, err := l.prepare(ctx, scalePuts)
	if err != nil {
		return err
	}
	for _, p := range puts {
		began := time.Now()
		if err := l.rival.put(ctx, p.key, p.value); err != nil {
			return err
		}
		l.single = append(l.single, milliseconds(time.Since(began)))
	}
	return nil
}

// pageSize is what a list has when it is not asked for more or fewer.
const pageSize = 100

// firstPages are the times of the first page of all records, and of those that have a digest.
func (l *large) firstPages() ([]figure, error) {
	var pages, digests []float64
	for range indexRounds {
		began := time.Now()
		found, _, _ := l.Find(imgd.Find{Limit: pageSize})
		pages = append(pages, milliseconds(time.Since(began)))
		want := madeRelease(rand.IntN(l.n)).Root.Digest
		began = time.Now()
		named, _, _ := l.Find(imgd.Find{Limit: pageSize, Digest: want})
		digests = append(digests, milliseconds(time.Since(began)))
		if len(found) != pageSize || len(named) != 1 || named[0].Digest != want {
			return nil, fmt.Errorf("found %d records on a page, and %d of a digest", len(found), len(named))
		}
	}
	return []figure{
		{Name: "lookup/page", Value: median(pages), Unit: "ms for the first page"},
		{Name: "lookup/digest", Value: median(digests), Unit: "ms"}}, nil
}

// lookups is how many tags a second are found, by as many goroutines as there are processors.
func (l *large) lookups() float64 {
	images, tags := make([]string, l.n/tagsPerImage), make([]string, tagsPerImage) // near, as what a caller has just read is
	for i := range images {
		images[i] = madeImage(i * tagsPerImage)
	}
	for i := range tags {
		tags[i] = madeTag(i)
	}
	var mu sync.Mutex
	var total float64
	var all sync.WaitGroup
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			found := 0.0
			for time.Since(began) < lookupTime {
				for range 1000 {
					i := rand.IntN(l.n)
					found += float64(len(l.Lines(images[i/tagsPerImage], tags[i%tagsPerImage])))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total += found
		})
	}
	all.Wait()
	return total / time.Since(began).Seconds()
}
