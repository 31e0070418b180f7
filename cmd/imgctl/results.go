package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// Results are the files through which a build tells later steps of a CI job what
// came of it.
type results struct {
	metadata   string // --metadata-file
	dotenv     string // --dotenv
	github     bool   // --github-output
	githubFile string // that GITHUB_OUTPUT names
}

func (r *results) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.metadata, "metadata-file", "", "write the digest there as JSON, in the form of docker buildx; needs --wait")
	cmd.Flags().StringVar(&r.dotenv, "dotenv", "", "write IMGD_IMAGE, IMGD_TAG, IMGD_DIGEST, IMGD_REFERENCE and IMGD_VERSION there, as GitLab's\nreport dotenv takes them; needs --wait")
	cmd.Flags().BoolVar(&r.github, "github-output", false, "append image, tag, digest, reference and version to the file that GITHUB_OUTPUT names;\nneeds --wait")
}

// check refuses what could not be written when the build has ended.
func (r *results) check(wait bool, getenv func(string) string) error {
	if r.metadata == "" && r.dotenv == "" && !r.github {
		return nil
	}
	if !wait {
		return usage("--metadata-file, --dotenv and --github-output need --wait: there is no digest before the build has ended")
	}
	for flag, file := range map[string]string{"--metadata-file": r.metadata, "--dotenv": r.dotenv} {
		if err := replaceable(file); err != nil {
			return usage("%s %s: %v", flag, file, err)
		}
	}
	if !r.github {
		return nil
	}
	if r.githubFile = getenv("GITHUB_OUTPUT"); r.githubFile == "" {
		return usage("--github-output: GITHUB_OUTPUT is not set, as it is in a step of GitHub Actions; --dotenv FILE writes the same elsewhere")
	}
	if err := appendTo(r.githubFile, nil); err != nil {
		return usage("--github-output: %v", err)
	}
	return nil
}

// replaceable says why replace would fail for the file; "" is none.
func replaceable(file string) error {
	if file == "" {
		return nil
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return errors.New("it is no file")
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".imgctl-*")
	if err != nil {
		return err
	}
	return errors.Join(tmp.Close(), os.Remove(tmp.Name()))
}

// write writes what was asked for, all that can be.
func (r *results) write(answer httpapi.RequestAnswer) error {
	if r.metadata == "" && r.dotenv == "" && !r.github {
		return nil
	}
	if len(answer.Records) == 0 {
		return &exitError{Code: httpapi.CodeFailed, Message: "nothing is written for later steps: no tag of this request names an image"}
	}
	values := valuesOf(answer)
	var errs []error
	if r.metadata != "" {
		errs = append(errs, replace(r.metadata, metadataOf(answer)))
	}
	if r.dotenv != "" {
		errs = append(errs, replace(r.dotenv, values.lines(func(name string) string { return "IMGD_" + strings.ToUpper(name) })))
	}
	if r.github {
		errs = append(errs, appendTo(r.githubFile, values.lines(func(name string) string { return name })))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the build has ended as %s, but later steps cannot read of it: %w", answer.State, err)
	}
	return nil
}

// A value is one of what a step passes on.
type value struct{ name, text string }

type values []value

// valuesOf are those of the first record: of the version's tag, else the first
// tag that was asked for.
func valuesOf(answer httpapi.RequestAnswer) values {
	first := answer.Records[0]
	return values{
		{"image", first.Image}, {"tag", first.Tag}, {"digest", first.Root().String()},
		{"reference", referenceOf(first, answer.Repositories)}, {"version", first.Version},
	}
}

// lines are name=text. They are safe for a shell that reads the file: what may
// be an image, a tag, a digest or a version has neither spaces nor quotes nor $.
func (v values) lines(named func(string) string) []byte {
	var out strings.Builder
	for _, v := range v {
		fmt.Fprintf(&out, "%s=%s\n", named(v.name), v.text)
	}
	return []byte(out.String())
}

// metadataOf is what docker buildx build --metadata-file writes of a push, and
// beside it what only imgd knows.
func metadataOf(answer httpapi.RequestAnswer) []byte {
	first := answer.Records[0]
	metadata := map[string]any{
		"containerimage.digest": first.Root(),
		"image.name":            strings.Join(namesOf(answer, first), ","),
		"imgd.request":          answer.Request,
		"imgd.records":          answer.Records,
	}
	if answer.Root != nil {
		metadata["containerimage.descriptor"] = answer.Root
	}
	b, err := json.MarshalIndent(metadata, "", "  ")
	if err != nil {
		panic("unreachable: what came as JSON always marshals: " + err.Error())
	}
	return append(b, '\n')
}

// namesOf are all registry/image:tag that name the same as first.
func namesOf(answer httpapi.RequestAnswer, first imgd.Record) []string {
	var all []string
	for _, repository := range answer.Repositories {
		for _, r := range answer.Records {
			if name := repository + ":" + r.Tag; r.Root() == first.Root() && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all
}

// replace makes the file have the text in one step: a reader sees all of it, or
// what was there before. Safe to repeat.
func replace(file string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".imgctl-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", file, err), os.Remove(tmp.Name()))
	}
	return nil
}

// appendTo adds lines, all in one write. Repeated they stand there twice, of
// which the last ones count.
func appendTo(name string, lines []byte) error {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if len(lines) > 0 {
		_, err = file.Write(lines)
	}
	return errors.Join(err, file.Close())
}
