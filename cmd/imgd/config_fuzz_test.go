package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Whatever the file holds, there is a config, or complaints that name their
// place; and what is shown of a good one is good again.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{"", "a: b", "projects:\n  - {name: a, git: 'https://g.test/a.git', image: i}\n", "build: {slots: 2, timeout: 1h}\n",
		"projects: &a\n  - *a\n", "log: &a\n  <<: *a\n", "log: &a {<<: [*a, *b], level: &b info}\n", "git: {allowHosts: [a, &x b, *x]}\n",
		"? [a]\n: b\n", "---\n---\n", "<<: 1\n", "<<: [1, {log: {}}]\n", "projects: [{labels: {<<: {a: b}}}]\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "imgd.yaml")
		load := func(text []byte) (Config, error) {
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			return loadConfig(flagValues{config: file}, func(string) string { return "" })
		}
		cfg, err := load([]byte(text))
		if err != nil {
			var wrong complaints
			if !errors.As(err, &wrong) || len(wrong) == 0 {
				t.Fatalf("got %v, want complaints", err)
			}
			for _, c := range wrong {
				if c.source != file || c.text == "" {
					t.Errorf("got %+v", c)
				}
			}
			return
		}
		shown, err := cfg.show()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := load(shown); err != nil {
			t.Errorf("%v in\n%s", err, shown)
		}
	})
}
