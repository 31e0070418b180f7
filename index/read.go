package index

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"github.com/imgd/imgd"
)

// What one processor does at a time of images.json, in bytes: so much that to
// begin costs nothing, and of a large file many times over.
const (
	readSize  = 16 << 20 // to read
	blockSize = 1 << 20  // of lines, to take apart
)

// readFile is os.ReadFile by all processors, of a file that does not change: new
// memory for a large one takes longer than what is copied into it.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, info.Size())
	adviseHuge(b)
	var readers errgroup.Group
	readers.SetLimit(runtime.GOMAXPROCS(0))
	for at := 0; at < len(b); at += readSize {
		readers.Go(func() error {
			_, err := file.ReadAt(b[at:min(at+readSize, len(b))], int64(at))
			return err
		})
	}
	return b, readers.Wait()
}

// A section is a part of all that stands behind the head of images.json: one of
// its lists, from behind its [ to before its end, or some lines of one.
type section struct {
	all      string
	from, to int
}

func (s section) text() string { return s.all[s.from:s.to] }

// len is how many elements of a list there are at most.
func (s section) len() int { return strings.Count(s.text(), "\n") }

// bad is damage on the line of images.json in which the element stands that begins
// at.
func (s section) bad(at int, what string) *damage {
	return &damage{line: 1 + strings.Count(s.all[:at], "\n"), what: what}
}

// sections are the lists of records, tags and releases. Only a release has lists
// in it, and so may have in it what ends one.
func sections(all string) (records, tags, releases section, err *damage) {
	at := 0
	next := func(end int, mark string) section {
		s := section{all, at, at + max(end, 0)}
		at = min(s.to+len(mark), len(all))
		return s
	}
	records = next(strings.Index(all, beginTags), beginTags)
	tags = next(strings.Index(all[at:], beginReleases), beginReleases)
	end := strings.LastIndex(all[at:], endReleases+"\n")
	if end < 0 {
		return records, tags, releases, &damage{what: "it lacks a list"}
	}
	return records, tags, next(end, endReleases), nil
}

// each hands the elements of the list, which stand a line each, to do.
func (s section) each(do func(element string) error) *damage {
	if strings.HasPrefix(s.text(), "\n") {
		s.from++
	}
	for s.from < s.to {
		line, _, more := strings.Cut(s.text(), "\n")
		element, ok := strings.CutSuffix(line, ",")
		if ok != more {
			return s.bad(s.from, "it does not end as it should")
		}
		if err := do(element); err != nil {
			return s.bad(s.from, err.Error())
		}
		s.from = min(s.from+len(line)+1, s.to)
	}
	return nil
}

// blocks cuts the list between lines.
func (s section) blocks() (all []section) {
	for s.from < s.to {
		block := s
		block.to = min(s.from+blockSize, s.to)
		if end := strings.IndexByte(s.all[block.to:s.to], '\n'); end >= 0 {
			block.to += end + 1
		} else {
			block.to = s.to
		}
		all = append(all, block)
		s.from = block.to
	}
	return all
}

// inBlocks has all processors read s, and answers what read made of each block, in
// their order, or the first damage.
func inBlocks[T any](s section, read func(block section) (T, *damage)) ([]T, *damage) {
	blocks := s.blocks()
	made, bad := make([]T, len(blocks)), make([]*damage, len(blocks))
	next := make(chan int, len(blocks))
	for i := range blocks {
		next <- i
	}
	close(next)
	var readers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(blocks)) {
		readers.Go(func() {
			for i := range next {
				made[i], bad[i] = read(blocks[i])
			}
		})
	}
	readers.Wait()
	return made, cmp.Or(bad...)
}

// read fills s. All processors read lines; then what is not the same memory is
// entered side by side.
func (s *state) read(text string) *damage {
	records, tags, releases, bad := sections(text)
	if bad != nil {
		return bad
	}
	tagBlocks, bad := inBlocks(tags, readTags)
	releaseBlocks, badRelease := inBlocks(releases, readReleases)
	if bad != nil || badRelease != nil {
		return cmp.Or(bad, badRelease)
	}
	all := make([]*tag, 0, tags.len())
	for _, block := range tagBlocks {
		for i := range block {
			all = append(all, &block[i].tag)
		}
	}
	var entering sync.WaitGroup
	entering.Go(func() { s.enterReleases(releaseBlocks) })
	entering.Go(func() { s.tags = tableOf(all) })
	bad = s.enterTags(all, records)
	entering.Wait()
	return bad
}

// tableOf is a table of these tags.
func tableOf(tags []*tag) *table {
	t := newTable(len(tags))
	for _, tag := range tags {
		t.set(tag)
	}
	return t
}

// enterTags enters the tags, in their order, with their records, which stand in
// the same.
func (s *state) enterTags(tags []*tag, records section) *damage {
	lines := make([]string, 0, records.len())
	first := 0 // of those of the first tag
	enter := func() {
		t := tags[0]
		t.read = lines[first:len(lines):len(lines)]
		t.records.Store(&t.read)
		s.sorted.Load(t)
		tags, first = tags[1:], len(lines)
	}
	bad := records.each(func(line string) error {
		key := readKey(line)
		for len(tags) > 0 && (tags[0].name != key.tag || tags[0].image != key.image) {
			enter()
		}
		if len(tags) == 0 {
			return fmt.Errorf("there is no tag %s:%s for this record, or it is not in its place", key.image, key.tag)
		}
		lines = append(lines, line)
		return nil
	})
	for len(tags) > 0 {
		enter()
	}
	return bad
}

// enterReleases enters the releases of all blocks.
func (s *state) enterReleases(blocks []releaseBlock) {
	n := 0
	for _, block := range blocks {
		n += len(block.digests)
	}
	s.digests = make(map[digest.Digest]*link, n)
	for _, block := range blocks {
		from := 0
		for i := range block.releases {
			r := &block.releases[i]
			s.releases.Load(&r.release)
			s.link(&r.release, block.digests[from:r.digests])
			s.list(&r.release)
			from = r.digests
		}
	}
	slices.SortFunc(s.untold, func(a, b *release) int { return cmp.Compare(a.seq, b.seq) })
}

// A lineTag is a tag with its line. All of a block are one piece of memory.
type lineTag struct {
	tag
	line string
}

func readTags(block section) ([]lineTag, *damage) {
	tags := make([]lineTag, 0, block.len()+1)
	bad := block.each(func(line string) error {
		tags = append(tags, lineTag{line: line})
		t := &tags[len(tags)-1]
		t.text.line.Store(&t.line)
		t.readFrom(line)
		return nil
	})
	gatherNames(tags)
	return tags, bad
}

// gatherNames copies what tags are looked up by out of their lines, where each of
// them is far from the next: a lookup waits for the memory that it compares.
func gatherNames(tags []lineTag) {
	var all strings.Builder
	image := ""
	for i := range tags {
		if t := &tags[i]; t.image != image {
			image = strings.Clone(t.image)
		}
		tags[i].image = image
		all.WriteString(tags[i].name)
	}
	names := all.String()
	for i := range tags {
		n := len(tags[i].name)
		tags[i].name, names = names[:n], names[n:]
	}
}

// A lineRelease is a release with its line.
type lineRelease struct {
	release
	line    string
	digests int // where those of the block end that are its
}

// A releaseBlock is one piece of memory as well, but for the digests, which
// nobody needs when it is entered.
type releaseBlock struct {
	releases []lineRelease
	digests  []digest.Digest
}

func readReleases(block section) (b releaseBlock, bad *damage) {
	n := block.len() + 1
	b.releases, b.digests = make([]lineRelease, 0, n), make([]digest.Digest, 0, n)
	bad = block.each(func(line string) error {
		b.releases = append(b.releases, lineRelease{line: line})
		r := &b.releases[len(b.releases)-1]
		r.text.line.Store(&r.line)
		b.digests = append(b.digests, r.readFrom(line)...)
		r.digests = len(b.digests)
		return nil
	})
	return b, bad
}

// readKey reads whose record or tag the line is; the strings are parts of the line,
// as those of the others that read are. As a rule no name has anything in it that
// JSON would escape.
func readKey(line string) (key tagKey) {
	if rest, ok := strings.CutPrefix(line, `{"image":"`); ok {
		image, rest, _ := strings.Cut(rest, `","tag":"`)
		tag, _, ok := strings.Cut(rest, `"`)
		if ok && strings.IndexByte(tag, '\\') < 0 && !strings.ContainsAny(image, `"\`) {
			return tagKey{image, tag}
		}
	}
	gjson.Parse(line).ForEach(func(name, value gjson.Result) bool {
		switch name.Str {
		case "image":
			key.image = value.Str
		case "tag":
			key.tag = value.Str
		}
		return key.tag == ""
	})
	return key
}

func (t *tag) readFrom(line string) {
	gjson.Parse(line).ForEach(func(name, value gjson.Result) bool {
		switch name.Str {
		case "image":
			t.image = value.Str
		case "tag":
			t.name = value.Str
		case "holder":
			t.holder = value.Str
		case "claim":
			t.claim = value.Str
		}
		return true
	})
}

func (r *release) readFrom(line string) []digest.Digest {
	var found imgd.Release // of which only the digests are read
	gjson.Parse(line).ForEach(func(name, value gjson.Result) bool {
		switch name.Str {
		case "id":
			r.id = value.Str
		case "image":
			r.image = value.Str
		case "state":
			r.stand(imgd.ReleaseState(value.Str))
		case "root":
			r.root = digestIn(value.Raw)
			found.Root.Digest = r.root
		case "platforms":
			value.ForEach(func(_, platform gjson.Result) bool {
				found.Platforms = append(found.Platforms, ocispec.Descriptor{Digest: digestIn(platform.Raw)})
				return true
			})
		case "pushed":
			r.pushed = value.Bool()
		case "command":
			r.commanded = value.Str != ""
		case "seq":
			r.seq = value.Uint()
		}
		return true
	})
	return digestsOf(found)
}

// digestIn is the digest of a descriptor, which stands behind what has no quotes
// in it.
func digestIn(descriptor string) digest.Digest {
	_, rest, _ := strings.Cut(descriptor, `"digest":"`)
	d, _, _ := strings.Cut(rest, `"`)
	return digest.Digest(d)
}
