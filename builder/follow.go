package builder

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

const (
	// tailBytes and tailLines bound the output that is kept of each running
	// step, and shown of the one that failed: what fits on a screen.
	tailBytes = 4 << 10
	tailLines = 20
	// minSecret is the length from which a part of the credentials is hidden,
	// in bytes. Shorter ones are words such as "git", which stand for themselves.
	minSecret = 6
)

// follower takes what buildkitd tells while it builds: it writes the log, and
// keeps the end of each step's output. Only one goroutine may use it at a time.
type follower struct {
	log    *buildLog
	hidden *strings.Replacer
	tails  map[digest.Digest][]byte
	names  map[digest.Digest]string // of the steps that failed, first line
	failed digest.Digest            // the step that failed first
}

func newFollower(log *buildLog, hide []string) *follower {
	var pairs []string
	for _, s := range hide {
		if len(s) >= minSecret {
			pairs = append(pairs, s, "***")
		}
	}
	return &follower{log: log, hidden: strings.NewReplacer(pairs...), tails: map[digest.Digest][]byte{}, names: map[digest.Digest]string{}}
}

func (f *follower) take(s *client.SolveStatus) {
	f.hide(s)
	for _, l := range s.Logs {
		tail := append(f.tails[l.Vertex], l.Data...)
		f.tails[l.Vertex] = tail[max(0, len(tail)-tailBytes):]
	}
	for _, v := range s.Vertexes {
		if v.Error != "" && f.failed == "" {
			f.failed = v.Digest
		}
		if v.Error != "" {
			f.names[v.Digest] = clip(v.Name)
		}
		if v.Error == "" && v.Completed != nil {
			delete(f.tails, v.Digest)
		}
	}
	line, err := json.Marshal(s)
	if err != nil {
		panic("unreachable: a status marshals: " + err.Error())
	}
	f.log.write(append(line, '\n'))
}

// hide blots the credentials out, wherever a text comes from elsewhere.
func (f *follower) hide(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		v.Name, v.Error = f.hidden.Replace(v.Name), f.hidden.Replace(v.Error)
	}
	for _, v := range s.Statuses {
		v.ID, v.Name = f.hidden.Replace(v.ID), f.hidden.Replace(v.Name)
	}
	for _, l := range s.Logs {
		l.Data = []byte(f.hidden.Replace(string(l.Data)))
	}
	for _, w := range s.Warnings {
		w.Short = []byte(f.hidden.Replace(string(w.Short)))
		for i := range w.Detail {
			w.Detail[i] = []byte(f.hidden.Replace(string(w.Detail[i])))
		}
	}
}

// tail is the end of a step's output, whole lines if it has any.
func (f *follower) tail(step digest.Digest) string {
	kept := f.tails[step]
	cut := len(kept) == tailBytes
	lines := bytes.Split(bytes.TrimRight(kept, "\r\n"), []byte("\n"))
	if cut && len(lines) > 1 {
		lines = lines[1:]
	}
	lines = lines[max(0, len(lines)-tailLines):]
	return strings.Map(shown, strings.ToValidUTF8(string(bytes.Join(lines, []byte("\n"))), "�"))
}

// maxName is how much of a step's name an error shows, in bytes.
const maxName = 160

// clip is the first line of a name, shortened.
func clip(name string) string {
	name, rest, _ := strings.Cut(name, "\n")
	if len(name) > maxName {
		name, rest = strings.ToValidUTF8(name[:maxName], ""), "more"
	}
	if rest != "" {
		name += " …"
	}
	return name
}

// shown keeps what would steer a terminal out of an error.
func shown(r rune) rune {
	if unicode.IsControl(r) && r != '\n' && r != '\t' {
		return -1
	}
	return r
}
