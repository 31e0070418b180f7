package index_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/index"
)

const (
	// powerDir makes this test binary a process whose calls TestPowerLoss traces; powerPlan says what it is to do.
	powerDir  = "IMGD_INDEX_TEST_POWER"
	powerPlan = "IMGD_INDEX_TEST_POWER_PLAN"
	// sector is the least that a disk writes or loses as a whole, in bytes.
	sector = 512
	// rotateAt is the length of a journal, in bytes, from which on the traced process begins a new one.
	rotateAt = 2 * page
	// pace is how long the traced process waits after each publish: a snapshot is to meet some of them, not hundreds.
	pace = 10 * time.Millisecond
	// goingOn is of how many states one is opened and published into.
	goingOn = 8
	// chances is how many losses by chance are tried at each call.
	chances = 4
)

// writeTraced publishes release after release, and says the entry up to which all is acknowledged after each step. The plan is
// how many snapshots are to meet a publish, how many publishes are enough, and whether to close at the end.
func writeTraced(dir, plan string) error {
	var busy, enough int
	var end string
	if _, err := fmt.Sscan(plan, &busy, &enough, &end); err != nil {
		return err
	}
	w := newWorld()
	x, err := index.OpenRotating(index.Config{Dir: dir, History: w, Registry: w}, rotateAt)
	if err != nil {
		return err
	}
	snapshot, _ := os.Stat(filepath.Join(dir, "images.json"))
	for n := len(x.Published(0)) + len(x.Open()); busy > 0 && enough > 0; n, enough = n+1, enough-1 {
		rel := w.candidate(fmt.Sprintf("refs/tags/v1.0.%d", n), "a", fmt.Sprint("root ", n), n)
		if n%5 == 0 {
			rel.Labels = map[string]string{"long": strings.Repeat("x", 2*page)}
		}
		admitted, err := x.Admit(context.Background(), rel, "")
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, x.Seq())
		if _, err := x.Publish(context.Background(), admitted.ID); err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, x.Seq())
		<-time.After(pace)
		now, err := os.Stat(filepath.Join(dir, "images.json"))
		if err == nil && !os.SameFile(snapshot, now) {
			snapshot, busy = now, busy-1
		}
	}
	switch end {
	case "close":
		return x.Close()
	case "quiet": // killed when images.json has all
		for info, err := os.Stat(filepath.Join(dir, "journal")); err == nil && info.Size() > 0; info, err = os.Stat(filepath.Join(dir, "journal")) {
			<-time.After(pace)
		}
	}
	return nil
}

// Whatever a power loss leaves of what was not synced, at any moment of a process that publishes while snapshots are written and
// journals begun: the index has all that was acknowledged, and nothing that was not asked for.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	above := t.TempDir()
	p := &power{T: t, dir: filepath.Join(above, "made", "index"), left: filepath.Join(t.TempDir(), "left"), random: rand.New(rand.NewPCG(seed, 0)),
		exports: map[uint64][sha256.Size]byte{}, seen: map[uint64]uint64{}, hash: maphash.MakeSeed()}
	if err := os.Mkdir(filepath.Dir(p.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	p.life("2 1000 kill")
	p.append("journal", `{"entries":1,"bytes":300,"crc32c":"01234567","header`) // as a kill may leave it
	p.life("1 1000 quiet")
	p.life("1 1000 close")
	t.Logf("%d calls, %d snapshots, %d new journals: %d states, of which %d differ; recovered all of them, %d to more than was acknowledged; %d went on",
		p.calls, p.snapshots, p.rotations, p.states, len(p.seen), p.more, p.wentOn)
	if p.rotations < 2 || p.snapshots < 4 {
		t.Error("there was too little to lose")
	}
}

// A power is cut, again and again, under an index in dir.
type power struct {
	*testing.T
	dir, left string
	random    *rand.Rand
	hash      maphash.Seed
	lives     int
	acked     uint64 // the last entry that was acknowledged
	asked     uint64 // the last entry that was written

	exports map[uint64][sha256.Size]byte // what the index is at an entry
	seen    map[uint64]uint64            // by hash: what was left has been tried, and came to this entry

	calls, snapshots, rotations, states, more, wentOn int
}

func (p *power) append(name, text string) {
	p.Helper()
	file, err := os.OpenFile(filepath.Join(p.dir, name), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString(text)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		p.Fatal(err)
	}
}

// life traces a process, and cuts the power after each of its calls.
func (p *power) life(plan string) {
	p.Helper()
	d, err := diskOf(p.dir)
	if err != nil {
		p.Fatal(err)
	}
	p.lives++
	out := filepath.Join(p.TempDir(), "strace.out")
	cmd := exec.Command("strace", "-f", "-xx", "-s", fmt.Sprint(1<<24), "-o", out, "-e", "trace="+changing, "-e", "signal=none", os.Args[0])
	cmd.Env = append(os.Environ(), powerDir+"="+p.dir, powerPlan+"="+plan)
	if said, err := cmd.CombinedOutput(); err != nil {
		p.Fatalf("%v: %s", err, said)
	}
	calls, err := readTrace(out)
	if err != nil {
		p.Fatal(err)
	}
	r := newReplay(d, p.dir)
	for i, call := range calls {
		said := r.said
		r.do(call)
		p.calls++
		if acked, _, ok := cutLast(r.said); ok {
			p.acked, _ = strconv.ParseUint(acked, 10, 64) // the process writes nothing else
		}
		if paths := call.texts(); strings.HasPrefix(call.name, "rename") && call.ended {
			switch filepath.Base(paths[1]) {
			case "journal.older":
				p.rotations++
			case "images.json":
				p.snapshots++
			}
		}
		if !call.ended && said == r.said || call.name == "close" {
			continue // it has changed nothing
		}
		p.cut(r, fmt.Sprintf("life %d, call %d, %s", p.lives, i, call.name))
	}
}

// cutLast is the last whole line of the text.
func cutLast(text string) (line, rest string, ok bool) {
	lines := strings.Split(text, "\n")
	if len(lines) < 2 {
		return "", "", false
	}
	return lines[len(lines)-2], lines[len(lines)-1], true
}

// cut tries what a power loss may leave now.
func (p *power) cut(r *replay, when string) {
	p.Helper()
	if !r.made && p.acked > 0 {
		p.Fatalf("%s: entry %d was acknowledged, and the directory itself may be lost", when, p.acked)
	}
	for _, l := range r.losses(p.random, chances) {
		p.states++
		left := r.after(l)
		key := p.keyOf(left)
		seq, ok := p.seen[key]
		if !ok {
			seq = p.recover(left, when+", "+l.name)
			p.seen[key] = seq
		}
		if l.name == "nothing is lost" {
			p.asked = max(p.asked, seq)
		}
		if seq < p.acked || seq > p.asked {
			p.keep(left)
			p.Fatalf("%s, %s: recovered to entry %d, where %d was acknowledged and %d written", when, l.name, seq, p.acked, p.asked)
		}
		if seq > p.acked {
			p.more++
		}
	}
}

func (p *power) keyOf(files map[string][]byte) uint64 {
	var h maphash.Hash
	h.SetSeed(p.hash)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !slices.Contains(unread, name) {
			fmt.Fprintln(&h, name, len(files[name]))
			h.Write(files[name])
		}
	}
	return h.Sum64()
}

// recover is the entry that what is left comes to. Whatever way leads there, the index is the same.
func (p *power) recover(files map[string][]byte, what string) uint64 {
	p.Helper()
	p.lay(files)
	export, err := index.Export(p.left)
	if errors.Is(err, fs.ErrNotExist) && p.acked == 0 {
		return 0 // it is not there yet
	}
	if err != nil {
		p.keep(files)
		p.Fatalf("%s: refused: %v", what, err)
	}
	var head struct{ Seq uint64 }
	if err := json.Unmarshal(export, &head); err != nil {
		p.Fatalf("%s: %v", what, err)
	}
	sum := sha256.Sum256(export)
	if was, ok := p.exports[head.Seq]; ok && was != sum {
		p.keep(files)
		p.Fatalf("%s: at entry %d the index is another than it was", what, head.Seq)
	}
	p.exports[head.Seq] = sum
	if p.random.IntN(goingOn) == 0 {
		p.goOn(head.Seq, what)
	}
	return head.Seq
}

// goOn opens what is left, publishes one more, and wants both.
func (p *power) goOn(seq uint64, what string) {
	p.Helper()
	w := newWorld()
	x := still(p.T, p.left, w)
	opened := x.Seq()
	rel, err := x.Admit(p.Context(), w.candidate("refs/tags/v9.9.9", "b", "root", 1), "")
	if err == nil {
		_, err = x.Publish(p.Context(), rel.ID)
	}
	if err = errors.Join(err, x.Kill()); err != nil {
		p.Fatalf("%s: %v", what, err)
	}
	found, err := index.Check(p.left)
	if err != nil || opened != seq || found.Seq != seq+2 {
		p.Fatalf("%s: opened at entry %d, then two more: %d, %v; want %d", what, opened, found.Seq, err, seq+2)
	}
	p.wentOn++
}

func (p *power) lay(files map[string][]byte) {
	p.Helper()
	err := os.RemoveAll(p.left)
	if err == nil {
		err = os.Mkdir(p.left, 0o755)
	}
	for name, b := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join(p.left, name), b, 0o644)
		}
	}
	if err != nil {
		p.Fatal(err)
	}
}

// keep leaves the files for who looks.
func (p *power) keep(files map[string][]byte) {
	dir, err := os.MkdirTemp("", "imgd-power-")
	for name, b := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), bytes.Clone(b), 0o644))
	}
	p.Logf("what was left is in %s (%v)", dir, err)
}
