package index

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// A table finds tags by image and name. Whoever changes it has it to himself
// among those who do; any number may look meanwhile, without a lock, and find
// each tag as it was or as it is.
//
// It is made for what Go's map beside a lock costs at a million tags: a lookup is
// as slow as the lines of memory that it has to wait for, and here these are one
// slot and the tag itself. It has many parts, each of which grows alone, so that
// nobody waits while all of it is moved.
type table struct {
	seed  maphash.Seed
	parts []part // a power of two
	gone  *tag   // in the slot of one that was removed, behind which others may stand
}

// A part has the tags whose hashes begin alike. A tag stands in the slot that the
// end of its hash says, or in the first free one behind it.
type part struct {
	slots atomic.Pointer[[]atomic.Pointer[tag]] // a power of two, at most half of them used
	used  int                                   // slots that have or had a tag
}

const (
	minParts = 256
	partSize = 256 // tags of a part in a table that has as many as it was made for
	minSlots = 8
)

// newTable makes a table for about n tags.
func newTable(n int) *table {
	parts := max(minParts, 1<<bits.Len(uint(n/partSize)))
	t := &table{seed: maphash.MakeSeed(), parts: make([]part, parts), gone: new(tag)}
	for i := range t.parts {
		t.parts[i].slots.Store(newSlots(2 * n / parts))
	}
	return t
}

// newSlots makes slots for n tags that leave at least half of them free.
func newSlots(n int) *[]atomic.Pointer[tag] {
	slots := make([]atomic.Pointer[tag], max(minSlots, 1<<bits.Len(uint(max(2*n-1, 0)))))
	return &slots
}

// place is the part that the key belongs to, and its hash.
func (t *table) place(key tagKey) (*part, uint64) {
	hash := maphash.Comparable(t.seed, key)
	return &t.parts[hash>>32&uint64(len(t.parts)-1)], hash
}

// get is the tag, nil if there is none.
func (t *table) get(key tagKey) *tag {
	p, hash := t.place(key)
	slots := *p.slots.Load()
	for i := hash; ; i++ {
		found := slots[i&uint64(len(slots)-1)].Load()
		if found == nil || found.name == key.tag && found.image == key.image && found != t.gone {
			return found
		}
	}
}

// set puts now in the place of the tag of its name.
func (t *table) set(now *tag) {
	p, hash := t.place(tagKey{now.image, now.name})
	slots := *p.slots.Load()
	if 2*(p.used+1) > len(slots) {
		slots = t.grow(p)
	}
	for i := hash; ; i++ {
		slot := &slots[i&uint64(len(slots)-1)]
		was := slot.Load()
		if was == nil {
			p.used++
		}
		if was == nil || was.name == now.name && was.image == now.image {
			slot.Store(now)
			return
		}
	}
}

// delete removes the tag, if it is there.
func (t *table) delete(key tagKey) {
	p, hash := t.place(key)
	slots := *p.slots.Load()
	for i := hash; ; i++ {
		slot := &slots[i&uint64(len(slots)-1)]
		switch found := slot.Load(); {
		case found == nil:
			return
		case found.name == key.tag && found.image == key.image && found != t.gone:
			slot.Store(t.gone)
			return
		}
	}
}

// grow gives the part slots for twice the tags that it has, without those that
// are gone.
func (t *table) grow(p *part) []atomic.Pointer[tag] {
	var tags []*tag
	for i := range *p.slots.Load() {
		if found := (*p.slots.Load())[i].Load(); found != nil && found != t.gone {
			tags = append(tags, found)
		}
	}
	slots := newSlots(2 * len(tags))
	for _, found := range tags {
		_, i := t.place(tagKey{found.image, found.name})
		for (*slots)[i&uint64(len(*slots)-1)].Load() != nil {
			i++
		}
		(*slots)[i&uint64(len(*slots)-1)].Store(found)
	}
	p.used = len(tags)
	p.slots.Store(slots)
	return *slots
}
