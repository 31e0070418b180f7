package version_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/version"
)

// ldflags is the default of FORMATS.md.
const ldflags = "-s -w -X main.version={{.Version}} -X main.commit={{.Commit}} -X main.date={{.Date}}"

func ExampleExpand() {
	v, err := version.ValuesOf(version.Info{
		Ref:        "refs/tags/v1.2.3",
		Commit:     "0123456789abcdef0123456789abcdef01234567",
		CommitTime: time.Unix(1795255200, 0),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(version.Expand("-s -w -X main.version={{.Version}} -X main.date={{.Date}}", v))
	fmt.Println(version.Expand(`{{printf "%999999999d" 1}}`, v))
	// Output:
	// -s -w -X main.version=v1.2.3 -X main.date=2026-11-21T10:00:00Z <nil>
	//  template "{{printf \"%999999999d\" 1}}": "{{printf \"%999999999d\" 1}}" is not allowed: only text and {{.Field}} are
}

func TestValuesOf(t *testing.T) {
	want := version.Values{
		Version: "v1.2.3-4-gabcdef0", Commit: sha1, ShortCommit: "0123456789ab", Date: "2026-11-21T10:00:00Z",
		Describe: "v1.2.3-4-gabcdef0", Branch: "feature/x",
	}
	got, err := version.ValuesOf(info("refs/heads/feature/x", "v1.2.3-4-gabcdef0"))
	if err != nil || got != want {
		t.Errorf("branch: got %+v, %v, want %+v", got, err, want)
	}
	want.Version, want.Describe, want.Branch, want.Tag = "app/v2.0.0", "", "", "app/v2.0.0"
	got, err = version.ValuesOf(info("refs/tags/app/v2.0.0", ""))
	if err != nil || got != want {
		t.Errorf("tag: got %+v, %v, want %+v", got, err, want)
	}
}

func TestValuesOfRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		info version.Info
		want string
	}{
		"tag":       {info("refs/tags/v1'", "v1.2.3"), `"v1'"`},
		"no commit": {version.Info{Ref: "refs/tags/v1", CommitTime: commitTime}, "commit"},
		"no time":   {version.Info{Ref: "refs/tags/v1", Commit: sha1}, "commit time"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := version.ValuesOf(tt.info)
			if got != (version.Values{}) || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %+v, %v, want an error that says %q", got, err, tt.want)
			}
		})
	}
}

// A name that cannot be injected stops only the templates that use it.
func TestExpandRefusesValues(t *testing.T) {
	for tmpl, tt := range map[string]struct {
		info version.Info
		want string
	}{
		"{{.Branch}}":   {info("refs/heads/feat$x", "v1.2.3"), `Branch: "feat$x"`},
		"x{{.Branch}}":  {info("refs/heads/"+strings.Repeat("x", 256), "v1.2.3"), "longer than 255"},
		"{{.Describe}}": {info("refs/tags/v1.2.3", "v1 2"), `Describe: "v1 2"`},
	} {
		v, err := version.ValuesOf(tt.info)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := version.Expand(tmpl, v); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Expand(%q): got %q, %v, want an error that says %q", tmpl, got, err, tt.want)
		}
		if _, err := version.Expand(ldflags, v); err != nil {
			t.Errorf("a template that does not use the name is refused: %v", err)
		}
	}
}

func TestExpand(t *testing.T) {
	v, err := version.ValuesOf(info("refs/heads/main", ""))
	if err != nil {
		t.Fatal(err)
	}
	for tmpl, want := range map[string]string{
		ldflags: "-s -w -X main.version=v0.0.0-20261121100000-0123456789ab -X main.commit=" + sha1 + " -X main.date=2026-11-21T10:00:00Z",
		"":      "",
		"plain": "plain",
		`-X 'main.who=the crew' -X "main.v={{ .ShortCommit }}"`: `-X 'main.who=the crew' -X "main.v=0123456789ab"`,
		"{{.Branch}}/{{.Tag}}/{{.Describe}}":                    "main//",
		"a {{- .Branch -}} b{{/* comment */}}":                  "amainb",
		"{ {.Branch} } $HOME `x` %d":                            "{ {.Branch} } $HOME `x` %d",
		strings.Repeat("x", 32<<10):                             strings.Repeat("x", 32<<10),
	} {
		if got, err := version.Expand(tmpl, v); err != nil || got != want {
			t.Errorf("Expand(%.99q): got %.99q, %v, want %.99q", tmpl, got, err, want)
		}
		if err := version.CheckTemplate(tmpl); err != nil {
			t.Error(err)
		}
	}
}

func TestTemplateRefuses(t *testing.T) {
	for tmpl, want := range map[string]string{
		"{{.Versio}}":                 "want one of Version",
		"{{.version}}":                "no field version",
		"{{.Version.String}}":         "is not allowed",
		"{{.Version .Commit}}":        "is not allowed",
		"{{.}}":                       "is not allowed",
		"{{$}}":                       "is not allowed",
		"{{$.Version}}":               "is not allowed",
		"{{(.Version)}}":              "is not allowed",
		`{{"text"}}`:                  "is not allowed",
		"{{1}}":                       "is not allowed",
		`{{printf "%999999999d" 1}}`:  "is not allowed",
		"{{.Version | printf}}":       "is not allowed",
		"{{env}}":                     "is not allowed",
		"{{$x := .Version}}":          "is not allowed",
		"{{if .Tag}}x{{end}}":         "is not allowed",
		"{{range .Tag}}x{{end}}":      "is not allowed",
		"{{with .Tag}}x{{end}}":       "is not allowed",
		`{{template "x"}}`:            "is not allowed",
		`{{block "x" .}}{{end}}`:      "is not allowed",
		`a{{define "x"}}b{{end}}`:     "is not allowed",
		`{{define "line"}}b{{end}}`:   "is not allowed",
		"{{.Version":                  "line:1",
		"x\n{{end}}":                  "line:2",
		"{{}}":                        "missing value",
		strings.Repeat("x", 32<<10+1): "longer than 32768",
		"{{/*" + strings.Repeat("x", 32<<10) + "*/}}": "longer than 32768", // the template, not its result
	} {
		err := version.CheckTemplate(tmpl)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "template \"") {
			t.Errorf("CheckTemplate(%.99q): got %v, want %q", tmpl, err, want)
		}
		if got, err := version.Expand(tmpl, version.Values{}); err == nil || got != "" {
			t.Errorf("Expand(%.99q): got %.99q, %v, want an error", tmpl, got, err)
		}
	}
}

func TestExpandBoundsResult(t *testing.T) {
	tmpl := strings.Repeat("{{.Branch}}", 1000)
	if got, err := version.Expand(tmpl, version.Values{Branch: strings.Repeat("x", 32)}); err != nil || len(got) != 32000 {
		t.Errorf("got %d bytes, %v, want 32000", len(got), err)
	}
	if _, err := version.Expand(tmpl, version.Values{Branch: strings.Repeat("x", 33)}); err == nil || !strings.Contains(err.Error(), "longer than 32768") {
		t.Errorf("got %v, want an error that names the limit", err)
	}
}

// TestExpandChecksValues: Expand does not trust its caller, each field has its rule.
func TestExpandChecksValues(t *testing.T) {
	for field, set := range map[string]func(string) version.Values{
		"Version":     func(s string) version.Values { return version.Values{Version: s} },
		"Commit":      func(s string) version.Values { return version.Values{Commit: s} },
		"ShortCommit": func(s string) version.Values { return version.Values{ShortCommit: s} },
		"Date":        func(s string) version.Values { return version.Values{Date: s} },
		"Describe":    func(s string) version.Values { return version.Values{Describe: s} },
		"Branch":      func(s string) version.Values { return version.Values{Branch: s} },
		"Tag":         func(s string) version.Values { return version.Values{Tag: s} },
	} {
		for _, s := range injections {
			if got, err := version.Expand("{{."+field+"}}", set(s)); err == nil {
				t.Errorf("%s: got %q, want an error", field, got)
			}
		}
	}
}

func TestExpandTakesOneSpellingOfDate(t *testing.T) {
	for date, want := range map[string]bool{
		"2026-11-21T10:00:00Z": true, "2026-11-21T10:00:00+00:00": false, "2026-11-21T10:00:00,5Z": false,
		"2026-11-21t10:00:00z": false, "2026-11-21T10:00:00+01:00": false, "2026-02-30T10:00:00Z": false, "2026-11-21": false,
	} {
		if _, err := version.Expand("{{.Date}}", version.Values{Date: date}); (err == nil) != want {
			t.Errorf("%q: got %v, want passes %t", date, err, want)
		}
	}
}

// FuzzExpand holds for any template and values: what Expand accepts, CheckTemplate accepts; the result is bounded; and the
// values cannot change how many words the command line has, which is how an injection works.
func FuzzExpand(f *testing.F) {
	f.Add(ldflags, "v1.2.3", sha1, int64(1), "v1.2.3", "main", "")
	f.Add("{{.Branch}} {{.Tag}} {{- .Describe -}} {{.ShortCommit}}", "v1", sha256, int64(1<<40), "a/b", "feature/x", "v1")
	f.Add("{{.Versio}} {{printf 1}}", "", "", int64(-1), "", "", "")
	for _, s := range injections {
		f.Add(ldflags+" {{.Branch}}", s, sha1, int64(0), s, s, s)
	}
	f.Fuzz(func(t *testing.T, tmpl, ver, commit string, seconds int64, describe, branch, tag string) {
		v := version.Values{
			Version: ver, Commit: commit, ShortCommit: commit[:min(len(commit), 12)],
			Date: time.Unix(seconds, 0).UTC().Format(time.RFC3339), Describe: describe, Branch: branch, Tag: tag,
		}
		got, err := version.Expand(tmpl, v)
		if err != nil {
			return
		}
		if err := version.CheckTemplate(tmpl); err != nil {
			t.Errorf("Expand accepts what CheckTemplate refuses: %v", err)
		}
		if len(got) > 32<<10 {
			t.Errorf("got %d bytes", len(got))
		}
		checkWords(t, tmpl, got, v)
	})
}

// checkWords compares with the result for harmless values, empty where v's are.
func checkWords(t *testing.T, tmpl, got string, v version.Values) {
	t.Helper()
	plain := func(s, harmless string) string {
		if s == "" {
			return ""
		}
		return harmless
	}
	ref, err := version.Expand(tmpl, version.Values{
		Version: plain(v.Version, "1"), Commit: plain(v.Commit, sha1), ShortCommit: plain(v.ShortCommit, sha1[:12]),
		Date: "2026-11-21T10:00:00Z", Describe: plain(v.Describe, "1"), Branch: plain(v.Branch, "1"), Tag: plain(v.Tag, "1"),
	})
	if err != nil {
		return // longer than the limit only with the harmless values: rare, and nothing to compare
	}
	if g, w := len(strings.Fields(got)), len(strings.Fields(ref)); g != w {
		t.Errorf("template %q, values %+v: got %d words, want %d", tmpl, v, g, w)
	}
	const breaks = "'\"\\$`"
	for _, c := range breaks {
		if g, w := strings.Count(got, string(c)), strings.Count(ref, string(c)); g != w {
			t.Errorf("template %q, values %+v: got %d of %q, want %d", tmpl, v, g, c, w)
		}
	}
}
