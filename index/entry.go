package index

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// format is the version of entries and images.json that this code writes.
// Whoever meets a newer one stops deciding. There is no older one: what has to
// read one converts it in decode and in decodeEntry, which know the number, and
// keeps the file as images.json.v<number> before the first snapshot.
const format = 1

// An entry is one line of the log: a decision, with all that it rests on. The
// hash of the one before chains them. Exactly one of the pointers is set.
type entry struct {
	Format int       `json:"format"`
	Seq    uint64    `json:"seq"`
	Prev   string    `json:"prev,omitempty"` // hash of the entry before
	Writer string    `json:"writer"`         // host and process that decided
	At     time.Time `json:"at"`

	Admitted  *admitted  `json:"admitted,omitempty"`
	Published *published `json:"published,omitempty"`
	Forgone   *forgone   `json:"forgone,omitempty"`
	Abandoned *abandoned `json:"abandoned,omitempty"`
	Told      *uint64    `json:"told,omitempty"` // releases up to this entry have been announced
}

// admitted: the release claims its tags.
type admitted struct {
	Release imgd.Release `json:"release"`
	Facts   []fact       `json:"facts,omitempty"`
}

// published: the release holds its tags.
type published struct {
	Release string         `json:"release"`
	Tags    []publishedTag `json:"tags"`
}

type publishedTag struct {
	Tag        string        `json:"tag"`
	Generation uint64        `json:"generation"`
	Previous   digest.Digest `json:"previous,omitempty"`
	Mark       mark          `json:"mark,omitzero"`
}

// forgone: the release gave one of its claims back.
type forgone struct {
	Release string `json:"release"`
	Tag     string `json:"tag"`
	Reason  string `json:"reason"`
}

// abandoned: the release gave its claims back.
type abandoned struct {
	Release string `json:"release"`
	Why     string `json:"why"`
}

// A fact is what git or the registry answered while a decision was made.
type fact struct {
	Asked  string `json:"asked"`
	Answer string `json:"answer"`
}

// line is the entry as the log has it.
func (e entry) line() []byte {
	b, err := json.Marshal(e)
	if err != nil {
		panic("unreachable: entries always marshal: " + err.Error())
	}
	return b
}

// hashOf is the hex sha256 of an entry's line, in which the hash before it stands.
func hashOf(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// number is the n of a release's ID <request>-<n>, 0 if it has none.
func number(release string) int {
	_, n, _ := strings.Cut(release, "-")
	i, err := strconv.Atoi(n)
	if err != nil {
		return 0
	}
	return i
}
