package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/imgd/imgd"
)

const tagsConfig = `projects:
  - name: hello
    git: https://git.example.com/demo/hello.git
    image: demo/hello
  - name: meta
    git: https://git.example.com/demo/meta.git
    image: demo/meta
    refs: [refs/heads/*, refs/tags/*, refs/pull/*]
    tags: |
      # versions
      type=semver,pattern={{version}}

      type=ref,event=pr
      type=raw,value=latest,enable={{is_default_branch}}
    flavor: latest=auto
`

// A good config shows what its rules make of a few refs; those that every imgd
// has are shown if all is.
func TestConfigShowsTags(t *testing.T) {
	cfg, err := load(t, tagsConfig, nil, flagValues{})
	if err != nil {
		t.Fatal(err)
	}
	var projects imgd.Projects
	projects.Set(cfg.projects("registry.test"))
	var out, long bytes.Buffer
	if err := showTags(&out, projects.All(), false); err != nil {
		t.Fatal(err)
	}
	want := `PROJECT  REF                    TAGS
meta     refs/heads/main        latest (other)
meta     refs/heads/feature/x   none, so it is not built
meta     refs/tags/v1.2.3       1.2.3 (version), latest (series)
meta     refs/tags/v0.3.1       0.3.1 (version), latest (series)
meta     refs/tags/v1.2.3-rc.1  1.2.3-rc.1 (version)
meta     refs/pull/7/head       pr-7 (branch), for 7 days
note: project meta: latest is of kind other at refs/heads/main and of kind series at refs/tags/v1.2.3`
	if got := out.String(); !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := showTags(&long, projects.All(), true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hello    refs/tags/v1.2.3 ", " 1 (series), latest (series)\n", "v1.2.3-rc.1 is a prerelease\n", "hello    refs/pull/7/head ", "not built: see refs\n"} {
		if !strings.Contains(long.String(), want) {
			t.Errorf("there is no %q in\n%s", want, long.String())
		}
	}
}

// A wrong rule is told of with its line, in a text as in a list.
func TestConfigTagsComplaints(t *testing.T) {
	text := strings.Replace(tagsConfig, "type=ref,event=pr", "type=ref", 1) + `    immutable: [v*, "["]
    annotations: {a.b: "{{", c: "{{sha}}"}
  - name: list
    git: https://git.example.com/demo/list.git
    image: demo/list
    tags: [type=sha, "type=match,pattern=(?=x)"]
`
	want := `FILE:13:1: projects[1].tags[3]: project meta: type ref needs event=
FILE:16:21: projects[1].immutable[1]: project meta: glob "["
FILE:17:24: projects[1].annotations.a.b: project meta: {{ is not closed by }}
FILE:21:22: projects[2].tags[1]: project list: pattern: regular expressions are RE2's`
	_, err := load(t, text, nil, flagValues{})
	if err == nil {
		t.Fatal("all is well")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, begin := range strings.Split(want, "\n") {
		_, line, _ := strings.Cut(lines[min(i, len(lines)-1)], ".yaml:")
		if !strings.HasPrefix("FILE:"+line, begin) {
			t.Errorf("got %q, want %q", lines[min(i, len(lines)-1)], begin)
		}
	}
	if len(lines) != 4 {
		t.Errorf("%d complaints: %v", len(lines), err)
	}
}
