package index

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// exportTries is how often Export begins anew when what it reads is replaced
// meanwhile, which a daemon does a few times a second at most.
const exportTries = 20

// Export answers what the index in dir holds, in the form of images.json, and
// complete: that file may lag behind the journal beside it. It takes no lock and
// changes nothing; a daemon may go on writing, and the answer is then as of some
// moment during the call. Damage is refused as Open does.
func Export(dir string) ([]byte, error) {
	for range exportTries {
		before, err := os.Stat(filepath.Join(dir, fileName))
		if err != nil {
			return nil, fmt.Errorf("export index: %w", err)
		}
		s, _, err := read(dir)
		after, statErr := os.Stat(filepath.Join(dir, fileName))
		if statErr == nil && !os.SameFile(before, after) {
			continue
		}
		if err = errors.Join(err, statErr); err != nil {
			return nil, fmt.Errorf("export index: %w", err)
		}
		return encode(s), nil
	}
	return nil, fmt.Errorf("export index: %s was replaced each of %d times that it was read", filepath.Join(dir, fileName), exportTries)
}
