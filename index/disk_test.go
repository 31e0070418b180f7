package index_test

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// A disk is the directory of an index as a kernel has it, and what of it a power loss leaves for sure. It keeps what fsync
// promises and nothing else: pages of a file that was not synced are there or not, each for itself, as they were after any of
// the writes since; its length likewise; what was truncated is so as a whole or not at all; and a name is in the directory as of the last fsync of that, or as of any of the
// changes since. Changes of one name come in their order.
type disk struct {
	made    bool // the directory is in the one above it, for sure
	names   map[string]*node
	durable map[string]*node
	changes []change // of names, since the directory was synced
}

// A node is a file, whatever its name.
type node struct {
	versions []content // what is durable, then what each call since has made of it
}

type content struct {
	text  []byte
	epoch int // how often it was truncated
}

// A change makes the name a node's, or nobody's if that is nil; from, if there is one, was the node's name before.
type change struct {
	name, from string
	node       *node
}

func newNode(text []byte) *node { return &node{versions: []content{{text: text}}} }

func (n *node) now() content { return n.versions[len(n.versions)-1] }

func (n *node) write(b []byte, at int) {
	was := n.now()
	next := slices.Concat(was.text, make([]byte, max(0, at+len(b)-len(was.text))))
	copy(next[at:], b)
	n.versions = append(n.versions, content{next, was.epoch})
}

func (n *node) truncate(size int) {
	was := n.now()
	next := slices.Concat(was.text[:min(size, len(was.text))], make([]byte, max(0, size-len(was.text))))
	n.versions = append(n.versions, content{next, was.epoch + 1})
}

// diskOf is what is in dir, all of it durable.
func diskOf(dir string) (*disk, error) {
	d := &disk{names: map[string]*node{}, durable: map[string]*node{}}
	found, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return d, nil
	}
	d.made = err == nil
	for _, file := range found {
		b, readErr := os.ReadFile(filepath.Join(dir, file.Name()))
		if err = readErr; err != nil {
			break
		}
		d.names[file.Name()] = newNode(b)
	}
	d.durable = maps.Clone(d.names)
	return d, err
}

func (d *disk) change(c change) {
	d.changes = append(d.changes, c)
	apply(d.names, c)
}

func apply(names map[string]*node, c change) {
	if c.from != "" {
		delete(names, c.from)
	}
	if names[c.name] = c.node; c.node == nil {
		delete(names, c.name)
	}
}

// A loss says what becomes of what is not durable: whether this change of a name is done, which of a file's versions says its
// length, and which says what is in the page.
type loss struct {
	name   string
	done   func(change int) bool
	length func(file string, versions int) int
	page   func(file string, page, versions int) int
	unit   int // what the disk writes or loses as a whole, bytes
}

// unread are the files that do not say what the index is.
var unread = []string{"lock", "images.json.tmp", "images.json.prev"}

// after is what the loss leaves, by name.
func (d *disk) after(l loss) map[string][]byte {
	names := maps.Clone(d.durable)
	undone := map[string]bool{} // what comes after on such a name is not done either
	for i, c := range d.changes {
		if undone[c.name] || undone[c.from] || !l.done(i) {
			undone[c.name] = true
			if c.from != "" {
				undone[c.from] = true
			}
			continue
		}
		apply(names, c)
	}
	left := map[string][]byte{}
	for name, n := range names {
		left[name] = n.after(name, l)
	}
	return left
}

func (n *node) after(name string, l loss) []byte {
	if len(n.versions) == 1 {
		return n.now().text
	}
	length := n.versions[l.length(name, len(n.versions))]
	left := make([]byte, len(length.text))
	for page := 0; page*l.unit < len(left); page++ {
		had := n.versions[l.page(name, page, len(n.versions))]
		if had.epoch < length.epoch {
			had = n.versions[slices.IndexFunc(n.versions, func(c content) bool { return c.epoch == length.epoch })]
		} else if had.epoch > length.epoch {
			had = length
		}
		if from := page * l.unit; from < len(had.text) {
			copy(left[from:min(from+l.unit, len(left))], had.text[from:])
		}
	}
	return left
}

func last(_ string, versions int) int        { return versions - 1 }
func first(string, int) int                  { return 0 }
func lastPage(_ string, _, versions int) int { return versions - 1 }
func firstPage(string, int, int) int         { return 0 }
func all(int) bool                           { return true }
func none(int) bool                          { return false }

// losses are the ways in which the power may go now: nothing is lost; all is that can be; names only; data only; any single
// change of a name, version of a file or page; and some by chance.
func (d *disk) losses(random *rand.Rand, byChance int) []loss {
	ways := []loss{
		{"nothing is lost", all, last, lastPage, page},
		{"all is lost", none, first, firstPage, page},
		{"no change of a name is done", none, last, lastPage, page},
		{"no data is written", all, first, firstPage, page},
		{"lengths without data", all, last, firstPage, page},
	}
	for i := range d.changes {
		ways = append(ways, loss{"one change of a name is not done", func(n int) bool { return n != i }, last, lastPage, page},
			loss{"a change of a name is the only one done", func(n int) bool { return n == i }, last, lastPage, page})
	}
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		n := d.names[name]
		if len(n.versions) == 1 || slices.Contains(unread, name) {
			continue
		}
		for lost := range (len(n.now().text) + page - 1) / page {
			ways = append(ways, loss{"a page is lost of " + name, all, last, func(file string, page, versions int) int {
				if file == name && page == lost {
					return 0
				}
				return versions - 1
			}, page})
		}
	}
	if len(ways) == 5 && !d.dirty() {
		return ways[:1] // there is nothing to lose
	}
	for i := range byChance {
		unit := []int{page, sector}[i%2]
		seed := random.Uint64()
		ways = append(ways, loss{"by chance", func(n int) bool { return draw(seed, "", n, 2) == 0 },
			func(file string, versions int) int { return draw(seed, file, -1, versions) },
			func(file string, page, versions int) int { return draw(seed, file, page, versions) }, unit})
	}
	return ways
}

func (d *disk) dirty() bool {
	for _, n := range d.names {
		if len(n.versions) > 1 {
			return true
		}
	}
	return len(d.changes) > 0
}

// draw is one of n, the same for the same question.
func draw(seed uint64, file string, which, n int) int {
	for _, c := range []byte(file) {
		seed = seed*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(seed, uint64(which))).IntN(n)
}
