package index_test

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// changing are the calls that change a directory, or make it durable.
const changing = "openat,close,write,pwrite64,ftruncate,fsync,fdatasync,/rename,/unlink,/link,/mkdir"

// A syscall is one that a process made, or a half of one, if another thread's call came between.
type syscall struct {
	name         string
	args         string
	begun, ended bool
	result       int
}

var (
	wholeCall = regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (-?\d+)`)
	begunCall = regexp.MustCompile(`^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$`)
	endedCall = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)`)
)

// readTrace reads what strace -f -xx has written.
func readTrace(name string) ([]syscall, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var calls []syscall
	begun := map[string]syscall{} // by thread
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<28)
	for lines.Scan() {
		text := lines.Text()
		if m := wholeCall.FindStringSubmatch(text); m != nil {
			result, _ := strconv.Atoi(m[4]) // the pattern is of digits
			calls = append(calls, syscall{name: m[2], args: m[3], begun: true, ended: true, result: result})
		} else if m := begunCall.FindStringSubmatch(text); m != nil {
			begun[m[1]] = syscall{name: m[2], args: m[3], begun: true}
			calls = append(calls, begun[m[1]])
		} else if m := endedCall.FindStringSubmatch(text); m != nil {
			call := begun[m[1]]
			if call.name != m[2] {
				return nil, fmt.Errorf("%s: %s is resumed where %s was begun", name, m[2], call.name)
			}
			call.args, call.begun, call.ended = call.args+m[3], false, true
			call.result, _ = strconv.Atoi(m[4])
			calls = append(calls, call)
		} else if !strings.Contains(text, "+++") && !strings.Contains(text, "???(") && !strings.HasSuffix(text, "= ?") { // the process has ended
			return nil, fmt.Errorf("%s: not understood: %.200s", name, text)
		}
	}
	return calls, lines.Err()
}

var quoted = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?`)

// texts are the strings among the arguments.
func (c syscall) texts() []string {
	var texts []string
	for _, m := range quoted.FindAllStringSubmatch(c.args, -1) {
		b, err := hex.DecodeString(strings.ReplaceAll(m[1], `\x`, ""))
		if err != nil || m[2] != "" {
			panic("unreachable: strace was told to write all, in hex")
		}
		texts = append(texts, string(b))
	}
	return texts
}

// number is the argument at i, if it is one of those before or after the strings.
func (c syscall) number(i int) int {
	args := strings.Split(c.args, ", ")
	n, err := strconv.Atoi(args[(i+len(args))%len(args)])
	if err != nil {
		panic("unreachable: " + c.name + " has a number there: " + err.Error())
	}
	return n
}

// A replay does to a disk what a traced process did to dir.
type replay struct {
	*disk
	dir     string
	files   map[int]*node // by descriptor
	folders map[int]string
	syncing map[string]func() // what ends with an fsync that has begun, by its arguments
	said    string            // to stdout
}

func newReplay(d *disk, dir string) *replay {
	return &replay{disk: d, dir: dir, files: map[int]*node{}, folders: map[int]string{}, syncing: map[string]func(){}}
}

// own is the file's name in the directory, if it is there.
func (r *replay) own(path string) (string, bool) {
	return filepath.Base(path), filepath.Dir(path) == r.dir
}

// do does the call, or its half. What makes durable does so at its end, for what was there at its beginning; anything else is
// done at its end, and what is said to stdout is said at the beginning.
func (r *replay) do(c syscall) {
	if c.name == "fsync" || c.name == "fdatasync" {
		if c.begun {
			r.syncing[c.args] = r.sync(c.number(0))
		}
		if c.ended && c.result == 0 {
			r.syncing[c.args]()
		}
		return
	}
	if c.name == "write" && c.begun && c.number(0) == 1 {
		r.said += c.texts()[0]
	}
	if !c.ended || c.result < 0 {
		return
	}
	switch c.name {
	case "openat":
		r.open(c)
	case "close":
		delete(r.files, c.number(0))
		delete(r.folders, c.number(0))
	case "write", "pwrite64":
		r.write(c)
	case "ftruncate":
		if n := r.files[c.number(0)]; n != nil {
			n.truncate(c.number(1))
		}
	default:
		r.rename(c)
	}
}

func (r *replay) open(c syscall) {
	path := c.texts()[0]
	r.folders[c.result] = path
	name, ok := r.own(path)
	if !ok {
		return
	}
	if r.names[name] == nil {
		r.change(change{name: name, node: newNode(nil)})
	}
	if r.files[c.result] = r.names[name]; strings.Contains(c.args, "O_TRUNC") {
		r.names[name].truncate(0)
	}
}

func (r *replay) write(c syscall) {
	n := r.files[c.number(0)]
	if n == nil {
		return
	}
	at := len(n.now().text) // images.json.tmp and lock are written from the beginning on, without a seek
	if c.name == "pwrite64" {
		at = c.number(-1)
	}
	n.write([]byte(c.texts()[0])[:c.result], at)
}

// rename does what changes names.
func (r *replay) rename(c syscall) {
	paths := c.texts()
	name, ok := r.own(paths[len(paths)-1])
	switch {
	case !ok: // the directory itself is made, or another
	case strings.HasPrefix(c.name, "unlink"):
		r.change(change{name: name})
	case strings.HasPrefix(c.name, "link"):
		from, _ := r.own(paths[0])
		r.change(change{name: name, node: r.names[from]})
	case strings.HasPrefix(c.name, "rename"):
		from, _ := r.own(paths[0])
		r.change(change{name: name, from: from, node: r.names[from]})
	}
}

// sync answers what makes durable what is there now.
func (r *replay) sync(fd int) (done func()) {
	if n := r.files[fd]; n != nil {
		had := len(n.versions)
		return func() { n.versions = n.versions[had-1:] }
	}
	switch r.folders[fd] {
	case r.dir:
		had := len(r.changes)
		return func() {
			for _, c := range r.changes[:had] {
				apply(r.durable, c)
			}
			r.changes = r.changes[had:]
		}
	case filepath.Dir(r.dir):
		return func() { r.made = true }
	}
	return func() {}
}
