package version_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/version"
)

// A linker is a small program that is built with the real one: it prints what
// -X has set.
type linker struct {
	t   *testing.T
	dir string
	n   int
}

// What the program prints of each variable; "unset" is what they are without -X.
const linked = `package main

import "example.com/m/internal/build.info"

var v, w, admin = "unset", "unset", "unset"

func main() { print("v=", v, "\nw=", w, "\nadmin=", admin, "\ninfo=", info.Version, "\n") }
`

func newLinker(t *testing.T) *linker {
	t.Helper()
	l := &linker{t: t, dir: t.TempDir()}
	for name, text := range map[string]string{
		"go.mod": "module example.com/m\n\ngo 1.24\n", "main.go": linked,
		"internal/build.info/info.go": "package info\n\nvar Version = \"unset\"\n",
	} {
		path := filepath.Join(l.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// link builds with the line as a Dockerfile would, and answers what was set. It
// holds that nothing else has come of it: no other file, no program run.
func (l *linker) link(line string) map[string]string {
	l.t.Helper()
	l.n++
	binary := filepath.Join(l.t.TempDir(), "m")
	ctx, stop := context.WithTimeout(l.t.Context(), 2*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, "sh", "-ec", `go build -o "$OUT" -ldflags "$LDFLAGS" .`)
	cmd.Dir = l.dir
	cmd.Env = append(os.Environ(), "LDFLAGS="+line, "OUT="+binary, "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Errorf("%s: %v\n%s", line, err, out)
		return nil
	}
	out, err := exec.CommandContext(ctx, binary).CombinedOutput()
	if err != nil {
		l.t.Errorf("%s: run: %v", line, err)
	}
	set := map[string]string{}
	for text := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(text, "\n"), "=")
		set[name] = value
	}
	var files []string
	err = filepath.WalkDir(l.dir, func(path string, d os.DirEntry, err error) error {
		if !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, l.dir+"/"))
		}
		return err
	})
	if err != nil || len(files) != 3 {
		l.t.Errorf("%s: the directory has %q, %v", line, files, err)
	}
	return set
}

// ldflagsValues are those of main, as ValuesOf has them.
func ldflagsValues(t *testing.T) version.Values {
	t.Helper()
	v, err := version.ValuesOf(version.Info{Ref: "refs/heads/main", Commit: strings.Repeat("0123456789", 4), CommitTime: time.Unix(1795255200, 0), Describe: "v1.2.3-4-gabcdef0"})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What passes gives a binary with exactly that value.
func TestLDFlagsLink(t *testing.T) {
	l := newLinker(t)
	for _, tt := range []struct {
		line string
		set  map[string]string // beside "unset"
	}{
		{"", nil},
		{"-s -w", nil},
		{"-s -w -X main.v={{.Version}}", map[string]string{"v": "v1.2.3-4-gabcdef0"}},
		{"-X=main.v={{.Commit}} -X main.w={{.Date}}", map[string]string{"v": strings.Repeat("0123456789", 4), "w": "2026-11-21T10:00:00Z"}},
		{"-X main.v={{.Branch}}{{.Tag}} -X main.w={{.ShortCommit}}", map[string]string{"v": "main", "w": "012345678901"}},
		{"-X main.v={{.Tag}}", map[string]string{"v": ""}},
		{"-X main.v= -w", map[string]string{"v": ""}},
		{"-X main.v=a=b=c", map[string]string{"v": "a=b=c"}},
		{"-X main.v=-extld=/bin/false", map[string]string{"v": "-extld=/bin/false"}},
		{"-X main.v=-linkmode", map[string]string{"v": "-linkmode"}},
		{"-X main.v=@/etc/passwd", map[string]string{"v": "@/etc/passwd"}},
		{"-X main.v=all=-X=main.admin=yes", map[string]string{"v": "all=-X=main.admin=yes"}},
		{"-X main.v=https://example.com/a+b,c@d_e", map[string]string{"v": "https://example.com/a+b,c@d_e"}},
		{"-X main.v=--", map[string]string{"v": "--"}},
		{"-X main.v=" + strings.Repeat("x", 255), map[string]string{"v": strings.Repeat("x", 255)}},
		{"-X example.com/m/internal/build.info.Version={{.Version}}", map[string]string{"info": "v1.2.3-4-gabcdef0"}},
		{"-X nowhere.net/x.Y=1 -X main.w=2", map[string]string{"w": "2"}},
		{"-buildid= -B=none -compressdwarf=false -checklinkname=0", nil},
		{"-B=gobuildid -compressdwarf=true -checklinkname=1", nil},
		{"-buildid={{.Commit}} -B=0x0123 -X main.v=1", map[string]string{"v": "1"}},
		{"-B=none   -s", nil},
	} {
		line, err := version.ExpandLDFlags(tt.line, ldflagsValues(t))
		if err != nil {
			t.Errorf("%s: %v", tt.line, err)
			continue
		}
		got := l.link(line)
		for _, name := range []string{"v", "w", "admin", "info"} {
			want, ok := tt.set[name]
			if !ok {
				want = "unset"
			}
			if got[name] != want {
				t.Errorf("%s: %s is %q, want %q", line, name, got[name], want)
			}
		}
		harmless(t, line)
	}
}

// harmless holds that a shell reads of the line nothing but its words, even
// where the quotes were forgotten.
func harmless(t *testing.T, line string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `eval "printf '<%s>' $LDFLAGS"`)
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "LDFLAGS="+line)
	out, err := cmd.CombinedOutput()
	want := "<>"
	if words := strings.Fields(line); len(words) > 0 {
		want = "<" + strings.Join(words, "><") + ">"
	}
	if err != nil || string(out) != want {
		t.Errorf("%s: the shell makes %q of it, %v", line, out, err)
	}
}

// hostileLines are templates that config must not have.
var hostileLines = []string{
	"-linkmode=external", "-linkmode external", "-extld=/x/evil.sh", "-extld /x/evil.sh", "-extldflags=-static", `-extldflags "-Wl,--x"`, "-extar=x", "-o /tmp/x", "-o=/tmp/x",
	"-toolexec=/x", "-importcfg=x", "-L /tmp", "-I x", "-r /tmp", "-tmpdir=/tmp", "-cpuprofile=/tmp/x", "-memprofile /tmp/x", "-k x", "-pluginpath=x", "-buildmode=c-shared",
	"-installsuffix=x", "-T 0", "-d", "-h", "-v", "-V=full", "-dumpdep", "-H=windowsgui", "-race", "-msan", "-capturehostobjs=/tmp", "-benchmarkprofile=/x", "-aslr=false",
	"--X main.v=1", "--s", "-s=true", "-S", "-w=false", "-buildid", "-buildid x", "-buildid=@x y", "-B 0x12", "-B=0x123", "-B=/x", "-B=0x" + strings.Repeat("00", 33), "-checklinkname=2",
	"main.v=1", "all=-X main.v=1", "@/etc/passwd", "-", "--", "-X", "-s -X", "-X main.v", "-X v=1", "-X main.=1", "-X .v=1", "-X=", "-X =", "-X main.v.=1", "-X main.v-w=1",
	"-X main.1=1", "-X main._=1", "-X main.func=1", "-X ../x.v=1", "-X /x.v=1", "-X a//b.v=1", "-X a/../b.v=1", "-X a/.b.v=1", "-X -o.v=1", "-X main.v=1 -X main.v=2", "-X main.v=1 -X=main.v=2",
	`-X 'main.v=1'`, `-X "main.v=1 2"`, `-X main.v='1'`, `-X main.v="1"`, `'-X' main.v=1`, "-X main.v=`id`", "-X main.v=$(id)", "-X main.v=$HOME", "-X main.v=${HOME}", `-X main.v=a\ b`,
	"-X main.v=1;id", "-X main.v=1|id", "-X main.v=1&id", "-X main.v=1>x", "-X main.v=<x", "-X main.v=(x)", "-X main.v=*", "-X main.v=?", "-X main.v=[a]", "-X main.v={a,b}", "-X main.v=~",
	"-X main.v=!x", "-X main.v=#x", "-X main.v=%x", "-X main.v=a^b", "-X main.v=1\n-o\n/x", "-s\n-w", "-s\t-w", "-s\r-w", "-X main.v=\x00", "-X main.v=\xff", "-X main.v=ä", "-X mäin.v=1",
	"-X main.v=\u00a01", "-s\u2028-w", "-X main.v=" + strings.Repeat("x", 256), "-s -w x", "-ldflags=-s", "-gcflags=x", "-compressdwarf=1",
	"{{.Branch}}", "-X {{.Branch}}", "-X {{.Branch}}=1", "-X {{.Branch}}.v=1", "-X main.{{.Branch}}=1", "-X={{.Branch}}.v=1", "-X={{.Branch}}", "{{.Branch}} -X main.v=1", "-{{.Branch}}=x",
	"-X main.v=1{{.Branch}} {{.Tag}}", "-B={{.Commit}}", "-X\ufffd main.v=1", "-X main.v=\ufffd", "{{printf `-o`}}", "{{if true}}-o x{{end}}",
}

// hostileNames are what anybody who may push can call a branch, or a tag.
var hostileNames = []string{
	"x -X main.admin=yes", "x -extld=/x/evil.sh -linkmode=external", "x -o /tmp/x", "x' -X 'main.admin=yes", `x" -X "main.admin=yes`, "x\n-X main.admin=yes", "x\t-o\tx", "$(id)", "`id`", "${HOME}",
	"a;id", "a|id", "a&id", "a>b", "a<b", `a\b`, "a'b", `a"b`, "-X", "-X=main.admin=yes", "-extld=/x", "--", "a/-X", "@/etc/passwd", "a=b", "a,b", "a@b", "*", "?", "[a]", "{a,b}", "~", "!a", "#a", "%s",
	"\u00a0-o", "a\u2028b", "ä", "a\x00b", "a\xff", ".a", "a..b/../c", "a//b", "/a", "a/", "all=-X=main.admin=yes", strings.Repeat("x", 256), "{{.Commit}}", "a\x1b[2J", "a b",
}

// What is hostile is refused, by the config or when it is filled in.
func TestHostileLDFlags(t *testing.T) {
	for _, line := range hostileLines {
		if err := version.CheckLDFlags(line); err == nil {
			t.Errorf("%q passed", line)
		}
		if got, err := version.ExpandLDFlags(line, ldflagsValues(t)); err == nil {
			t.Errorf("%q became %q", line, got)
		}
	}
	for _, name := range hostileNames {
		for _, field := range []string{"Branch", "Tag", "Describe", "Version", "Commit", "ShortCommit", "Date"} {
			v := ldflagsValues(t)
			*map[string]*string{"Branch": &v.Branch, "Tag": &v.Tag, "Describe": &v.Describe, "Version": &v.Version, "Commit": &v.Commit, "ShortCommit": &v.ShortCommit, "Date": &v.Date}[field] = name
			if got, err := version.ExpandLDFlags("-X main.v={{."+field+"}}", v); err == nil {
				t.Errorf("%s %q became %q", field, name, got)
			}
		}
	}
	if n := len(hostileLines) + len(hostileNames); n < 40 {
		t.Errorf("%d rows are too few", n)
	}
}

// What a branch may be called ends up as the literal value.
func TestStrangeNamesLink(t *testing.T) {
	l := newLinker(t)
	for _, name := range []string{"main", "feature/x", "a+b", "1.x", "o", "X", "main.admin", "v1.2.3-rc.1+b5", strings.Repeat("x", 255)} {
		v := ldflagsValues(t)
		v.Branch = name
		line, err := version.ExpandLDFlags("-X main.v={{.Branch}} -X main.w=w", v)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if got := l.link(line); got["v"] != name || got["w"] != "w" || got["admin"] != "unset" {
			t.Errorf("%q gave %q", name, got)
		}
		harmless(t, line)
	}
}

// FuzzLDFlags holds of whatever passes that its words are those of the template,
// that the shell and Go see no others, and that it is one of the flags.
func FuzzLDFlags(f *testing.F) {
	for _, line := range hostileLines {
		f.Add(line, "main")
	}
	for _, name := range hostileNames {
		f.Add("-s -X main.v={{.Branch}} -X=main.w=a{{.Tag}}b", name)
	}
	f.Fuzz(func(t *testing.T, tmpl, name string) {
		got, err := version.ExpandLDFlags(tmpl, version.Values{Branch: name, Tag: name, Version: name})
		if err != nil {
			return
		}
		if strings.Trim(got, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .-_+:/@,=~") != "" {
			t.Errorf("%q and %q became %q", tmpl, name, got)
		}
		empty, err := version.ExpandLDFlags(tmpl, version.Values{})
		if err != nil || len(strings.Fields(empty)) != len(strings.Fields(got)) {
			t.Errorf("%q has other words with %q: %q and %q, %v", tmpl, name, got, empty, err)
		}
		words := strings.Fields(got)
		for i, word := range words {
			if allowed := word == "-X" || strings.HasPrefix(word, "-X=") || i > 0 && words[i-1] == "-X"; !allowed &&
				strings.Trim(strings.SplitN(word, "=", 2)[0], "-") == "" || strings.HasPrefix(word, "@") || strings.HasPrefix(word, "-o") || strings.HasPrefix(word, "-ext") || strings.HasPrefix(word, "-link") {
				t.Errorf("%q became %q", tmpl, got)
			}
		}
	})
}
