package index

import (
	"context"
	"fmt"

	"github.com/imgd/imgd"
)

// A View is an index as it was at one moment. Its methods are safe for concurrent
// use.
type View struct{ index *Index }

// Read answers the index in dir as of some moment during the call, with what only
// the journal has so far. It takes no lock and changes nothing; a daemon may go on
// writing. Damage is refused as Open does.
func Read(dir string) (*View, error) {
	s, _, err := readBeside(dir)
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	return &View{&Index{state: s}}, nil
}

// Tag is Index.Tag.
func (v *View) Tag(image, name string) []imgd.Record { return v.index.Tag(image, name) }

// Find is Index.Find.
func (v *View) Find(f imgd.Find) (found []imgd.Record, more bool, seq uint64) { return v.index.Find(f) }

// Wanted is imgd.Lookup.Wanted.
func (v *View) Wanted(image, tag string) (imgd.Release, bool) { return v.index.Wanted(image, tag) }

// Release is imgd.Lookup.Release.
func (v *View) Release(id string) (imgd.Release, bool) { return v.index.Release(id) }

// Seq is the sequence of the last entry.
func (v *View) Seq() uint64 { return v.index.Seq() }

// Wait answers an error at once if entry seq is not in the view: nothing comes.
func (v *View) Wait(_ context.Context, seq uint64) error {
	if at := v.Seq(); at < seq {
		return fmt.Errorf("the index was read at entry %d: %d is not in it", at, seq)
	}
	return nil
}
