package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

// indexFiles are all that a publish writes, from the directory of an index: that itself, and the one above it, too.
var indexFiles = []string{"images.json", "images.json.tmp", "images.json.prev", "journal", "journal.older", "lock", ".", ".."}

// indexCalls are all that a publish asks the kernel to do with them.
var indexCalls = []string{"mkdirat", "newfstatat", "openat", "flock", "read", "write", "pwrite64", "fsync", "fdatasync", "ftruncate",
	"renameat", "linkat", "unlinkat", "close"}

// vital are those of them without which nothing is durable.
var vital = []string{"pwrite64", "fsync", "fdatasync"}

// disastersAtOnce is for two cores.
const disastersAtOnce = 2

// faultTries is how often a call is aimed at. strace counts the calls of each thread for itself, and a publish goes from one
// thread to another as it likes.
const faultTries = 20

// An aim is a call of a publish: the nth of the name that is about the file.
type aim struct {
	file, name string
	nth        int
}

func (a aim) String() string { return fmt.Sprintf("%s %d of %s", a.name, a.nth, a.file) }

// A disaster is one way in which each call of a publish may go wrong, in one state of the index before.
type disaster struct{ before, answer string }

func (d disaster) String() string {
	return d.before + ", " + strings.NewReplacer("error=", "", "signal=", "SIG").Replace(d.answer)
}

// Each call that a publish makes on the files of an index fails, or is its last: the index is sound, has all that was
// acknowledged, the tag of the publish as a whole or not at all, and the next publish works.
func TestIndexFaults(t *testing.T) {
	t.Parallel()
	var rows []disaster
	for _, before := range []string{"the first", "a later one", "after a kill"} {
		for _, answer := range []string{"signal=KILL", "error=EIO", "error=ENOSPC"} {
			rows = append(rows, disaster{before, answer})
		}
	}
	runRows(t, disastersAtOnce, rows, disaster.String, func(t *testing.T, d disaster) { d.test(t) })
}

// test makes each call that a publish makes go wrong.
func (d disaster) test(t *testing.T) {
	p := &straight{T: t, acked: map[string]string{}}
	var err error
	for name, bin := range map[string]*string{"publish": &p.publishBin, "imgd": &p.imgdBin} {
		if *bin, err = kit.Bin(name); err != nil {
			t.Fatal(err)
		}
	}
	p.fresh()
	var missed []aim
	for _, file := range indexFiles {
		p.prepare(d)
		calls, err := p.traced(p.next(), strings.Join(indexCalls, ","), "", file)
		if err != nil {
			t.Fatalf("undisturbed: %v", err)
		}
		missed = append(missed, calls...)
	}
	aims := len(missed)
	for tries := 0; tries < faultTries && len(missed) > 0; tries++ {
		for _, a := range missed {
			if slices.Contains(missed, a) { // else it was hit instead of another
				hits := d.strike(p, a)
				missed = slices.DeleteFunc(slices.Clone(missed), func(a aim) bool { return slices.Contains(hits, a) })
			}
		}
	}
	t.Logf("%d calls; %d times struck: %d publishes failed, %d of them left their record; %d succeeded all the same: %v",
		aims, p.struck, p.failed, p.failedButDone, len(p.survived), p.survived)
	if len(missed) > 0 {
		t.Errorf("never struck: %v", missed)
	}
}

// strike aims at a call, looks what came of it, publishes again, and answers what was hit.
func (d disaster) strike(p *straight, a aim) []aim {
	p.Helper()
	p.prepare(d)
	tag := p.next()
	calls, err := p.traced(tag, a.name, fmt.Sprintf("inject=%s:%s:when=%d", a.name, d.answer, a.nth), a.file)
	where := fmt.Sprintf("struck at %v", p.hits)
	switch {
	case len(p.hits) == 0 && err != nil:
		p.Fatalf("%v was missed, and yet: %v", a, err)
	case err != nil:
		p.struck++
		p.failed++
	case len(p.hits) > 0:
		p.struck++
		p.survived = append(p.survived, p.hits...)
		if slices.Contains(vital, a.name) {
			p.Errorf("%s, and it succeeded: %v", where, calls)
		}
	}
	if done := p.look(tag, where); done && err != nil {
		p.failedButDone++
	}
	if err := p.run(p.publishBin, p.args(tag)...); err != nil {
		p.Fatalf("%s: the next publish: %v", where, err)
	}
	p.acked[tag] = digestOf(tag)
	return p.hits
}

// A straight publishes into the directory of an index, without a daemon.
type straight struct {
	*testing.T
	publishBin, imgdBin string
	dir                 string            // of the index
	acked               map[string]string // tag -> digest that a publish has acknowledged, or an export has shown
	tags                int

	struck, failed, failedButDone int
	hits, survived                []aim // of the last publish; of those that succeeded
}

// fresh begins with an index that is not there.
func (p *straight) fresh() {
	p.dir = filepath.Join(p.TempDir(), "made", "index")
	clear(p.acked)
}

func (p *straight) next() string {
	p.tags++
	return fmt.Sprintf("v1.0.%d", p.tags)
}

// digestOf is the digest that is published under the tag.
func digestOf(tag string) string { return fmt.Sprintf("sha256:%064x", []byte(tag)) }

func (p *straight) args(tag string) []string {
	return []string{"--index", p.dir, "--no-verify", "--image", "demo/tool", "--tag", tag, "--digest", digestOf(tag),
		"--source", "https://git.example.com/demo/tool@" + strings.Repeat("a", 40)}
}

// prepare brings about what the disaster finds.
func (p *straight) prepare(d disaster) {
	p.Helper()
	switch d.before {
	case "the first":
		p.fresh()
	case "a later one":
		if len(p.acked) == 0 {
			p.mustPublish()
		}
	case "after a kill": // images.json lacks what the journal has, which ends with half a frame
		if len(p.acked) == 0 {
			p.mustPublish()
		}
		tag := p.next()
		if _, err := p.traced(tag, "fsync", "inject=fsync:signal=KILL:when=1", "images.json.tmp"); err == nil || len(p.hits) == 0 {
			p.Fatalf("it was not killed: %v", err)
		}
		if !p.look(tag, "killed while it wrote images.json") {
			p.Fatalf("the journal lacks %s", tag)
		}
		file, err := os.OpenFile(filepath.Join(p.dir, "journal"), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = file.WriteString(`{"entries":1,"bytes":300,"crc32c":"01`)
		}
		if err = errors.Join(err, file.Close()); err != nil {
			p.Fatal(err)
		}
	}
}

func (p *straight) mustPublish() {
	p.Helper()
	tag := p.next()
	if err := p.run(p.publishBin, p.args(tag)...); err != nil {
		p.Fatal(err)
	}
	p.acked[tag] = digestOf(tag)
}

func (p *straight) run(bin string, args ...string) error {
	_, err := output(exec.CommandContext(p.Context(), bin, args...))
	return err
}

// output is what a command says on stdout; its error has what it says on stderr.
func output(cmd *exec.Cmd) (string, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(out), err
}

var callBegun = regexp.MustCompile(`^\d+ +(\w+)\(`)

// traced publishes the tag under strace, with that fault if there is one, and notes what is acknowledged. calls are those about the
// file.
func (p *straight) traced(tag, names, inject, file string) (calls []aim, err error) {
	p.Helper()
	out := filepath.Join(filepath.Dir(filepath.Dir(p.dir)), "strace.out")
	args := []string{"-f", "-o", out, "-e", "trace=" + names, "-P", filepath.Join(p.dir, file)}
	if inject != "" {
		args = append(args, "-e", inject)
	}
	said, err := output(exec.CommandContext(p.Context(), "strace", slices.Concat(args, []string{p.publishBin}, p.args(tag))...))
	if said != "" || err == nil { // what it says counts, however it ends
		var recorded struct{ Tag, Digest string }
		if jsonErr := json.Unmarshal([]byte(said), &recorded); jsonErr != nil || recorded.Tag != tag || recorded.Digest != digestOf(tag) {
			p.Fatalf("publish %s ended with %v and said %q", tag, err, said)
		}
		p.acked[tag] = recorded.Digest
	}
	trace, readErr := os.ReadFile(out)
	if readErr != nil {
		p.Fatal(readErr)
	}
	p.hits = nil
	count := map[string]int{}
	for line := range strings.Lines(string(trace)) {
		if m := callBegun.FindStringSubmatch(line); m != nil {
			count[m[1]]++
			calls = append(calls, aim{file, m[1], count[m[1]]})
		}
		if strings.Contains(line, "(INJECTED)") {
			p.hits = append(p.hits, calls[len(calls)-1])
		}
	}
	if len(p.hits) == 0 && strings.Contains(string(trace), "killed by SIGKILL") {
		p.hits = calls[len(calls)-1:]
	}
	return calls, err
}

// look wants a sound index that has all that was acknowledged, and of the tag all or nothing. It reports whether it has the tag.
func (p *straight) look(tag, where string) bool {
	p.Helper()
	err := p.run(p.imgdBin, "index", "check", "--index", p.dir)
	if err != nil && len(p.acked) == 0 && strings.Contains(err.Error(), "images.json: no such file") {
		return false // it was not made
	}
	if err != nil {
		p.Fatalf("%s: %v", where, err)
	}
	text, err := output(exec.CommandContext(p.Context(), p.imgdBin, "index", "export", "--index", p.dir))
	if err != nil {
		p.Fatalf("%s: %v", where, err)
	}
	images, err := kit.ParseImages([]byte(text))
	if err != nil {
		p.Fatalf("%s: %v", where, err)
	}
	has := map[string]string{}
	for _, record := range images.Records {
		has[record.Tag] = record.Digest
	}
	for acked, digest := range p.acked {
		if has[acked] != digest {
			p.Fatalf("%s: %s was acknowledged with %s and has %q", where, acked, digest, has[acked])
		}
	}
	if digest, ok := has[tag]; ok && digest != digestOf(tag) {
		p.Errorf("%s: %s has %s", where, tag, digest)
	}
	if has[tag] != "" {
		p.acked[tag] = has[tag] // who has seen it counts on it
	}
	return has[tag] != ""
}
