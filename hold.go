package imgd

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// AuditHolds are digests that an operator has frozen, each with the reason: for an
// incident, or a court. No tag of theirs is removed, and the registry keeps what
// they consist of. A reload replaces them all at once. Safe for concurrent use;
// nil has none.
type AuditHolds struct {
	now atomic.Pointer[map[digest.Digest]string]
}

// Set replaces all of them in one step. The map is not kept.
func (h *AuditHolds) Set(reasons map[digest.Digest]string) {
	all := maps.Clone(reasons)
	h.now.Store(&all)
}

// Digests are those that are held, sorted.
func (h *AuditHolds) Digests() []digest.Digest { return slices.Sorted(maps.Keys(h.all())) }

// Why is the reason for which the release's root, or one of its platforms, is
// held, "" if none is.
func (h *AuditHolds) Why(rel Release) string {
	_, why := h.find(rel)
	return why
}

// find is the first of the release's digests that is held.
func (h *AuditHolds) find(rel Release) (digest.Digest, string) {
	held := h.all()
	if why, ok := held[rel.Root.Digest]; ok {
		return rel.Root.Digest, why
	}
	for _, platform := range rel.Platforms {
		if why, ok := held[platform.Digest]; ok {
			return platform.Digest, why
		}
	}
	return "", ""
}

// refuse is why the tag must not be taken from the release, which names a digest
// that is held, nil if it may.
func (h *AuditHolds) refuse(image, tag string, rel Release) error {
	d, why := h.find(rel)
	if d == "" {
		return nil
	}
	return fmt.Errorf("%s:%s names %s, which is held: %s; an operator has to take that out of holds in the config first: %w", image, tag, d, why, ErrConflict)
}

func (h *AuditHolds) all() map[digest.Digest]string {
	if h == nil {
		return nil
	}
	if all := h.now.Load(); all != nil {
		return *all
	}
	return nil
}
