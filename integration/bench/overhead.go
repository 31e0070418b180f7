package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/imgd/imgd/integration/kit"
)

const (
	// overheadProjects is also how many runs a median is of: each project is built once per mode.
	overheadProjects = 20
	// warmTag is built by both sides before anything is measured. It brings the commit into imgd's clones, and the
	// layers into each repository and buildkitd's cache.
	warmTag = "v0.1.0-rc.1"
	// ownGoal is the goal of imgd's own time, in milliseconds.
	ownGoal = 10
	// overheadTime bounds one run of either side.
	overheadTime = time.Minute
)

// A mode is one kind of release: a git tag, which is made after the warm-up, so that imgd's clones do not have it.
type mode struct {
	name  string
	tag   string // of git
	named bool   // the ask names the commit; else the tag is resolved, by imgd as by buildkitd
	bound float64
}

// contestRules give a prerelease its own tag alone, a release of 0.x those of two series too, and any other two more.
const contestRules = `type=semver,pattern={{raw}}
type=match,pattern=^v(\d+\.\d+)\.\d+$,group=1
type=match,pattern=^v([1-9]\d*)\.\d+\.\d+$,group=1
type=match,pattern=^v([1-9]\d*\.\d+)\.\d+$,group=1,prefix=series-
`

// modes are measured one after the other.
var modes = []mode{
	{name: "1tag", tag: "v0.1.1-rc.1", named: true, bound: 1.0},
	{name: "3tags", tag: "v0.1.0", named: true, bound: 0.9},
	{name: "5tags", tag: "v1.0.0", named: true, bound: 0.85},
	{name: "1tag-resolved", tag: "v0.2.0-rc.1"},
	{name: "3tags-resolved", tag: "v0.2.0"},
}

// imageTags are those of an image that the mode's release takes.
func (m mode) imageTags() []string { return imageTags(m.tag) }

func imageTags(gitTag string) []string {
	if strings.Contains(gitTag, "-") {
		return []string{gitTag}
	}
	minor := strings.TrimPrefix(gitTag[:strings.LastIndexByte(gitTag, '.')], "v")
	major, _, _ := strings.Cut(minor, ".")
	if major == "0" {
		return []string{gitTag, minor, "latest"}
	}
	return []string{gitTag, minor, major, "series-" + minor, "latest"}
}

// overhead measures a fully cached build of a tag, from the ask to the published event, against `buildctl build` with a push
// of the same tags: same git context, build args and labels, same buildkitd, same registry. Every run is a new release in
// a repository of its own, and has called Solve.
func overhead(ctx context.Context, progress io.Writer) (figures []figure, err error) {
	dir, err := os.MkdirTemp("", "imgd-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := startContest(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.warm(ctx); err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	for _, m := range modes {
		found, err := c.compare(ctx, m, progress)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		figures = append(figures, found...)
	}
	for _, more := range []func(context.Context, io.Writer) ([]figure, error){c.parts, sizes} {
		found, err := more(ctx, progress)
		if err != nil {
			return nil, err
		}
		figures = append(figures, found...)
	}
	return figures, nil
}

// compare runs both sides in turns over all projects. Who goes first changes.
func (c *contest) compare(ctx context.Context, m mode, progress io.Writer) ([]figure, error) {
	if err := c.repo.Tag(ctx, m.tag, "main"); err != nil {
		return nil, err
	}
	var took [2][]float64 // imgd's, buildctl's
	sides := [2]func(context.Context, int, mode) (time.Duration, error){c.imgd, c.buildctl}
	for i := range overheadProjects {
		for turn := range sides {
			side := (i + turn) % 2
			d, err := sides[side](ctx, i, m)
			if err != nil {
				return nil, err
			}
			took[side] = append(took[side], milliseconds(d))
		}
	}
	imgd, buildctl := median(took[0]), median(took[1])
	fmt.Fprintf(progress, "%s: imgd %.1f ms (%.1f to %.1f), buildctl %.1f ms (%.1f to %.1f)\n", m.name,
		imgd, slices.Min(took[0]), slices.Max(took[0]), buildctl, slices.Min(took[1]), slices.Max(took[1]))
	ratio := figure{Name: m.name, Value: imgd / buildctl, Unit: "ratio", Peer: "buildctl " + c.version + " build, push=true, the same tags"}
	if m.bound > 0 {
		ratio = ratio.atMost(m.bound)
	}
	return []figure{ratio,
		{Name: m.name + "/imgd", Value: imgd, Unit: "ms"},
		{Name: m.name + "/buildctl", Value: buildctl, Unit: "ms"}}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// sizes are those of the binaries, as they are in bin/.
func sizes(context.Context, io.Writer) ([]figure, error) {
	var figures []figure
	for _, name := range []string{"imgd", "imgctl", "publish"} {
		path, err := kit.Bin(name)
		if err != nil {
			continue // not every checkout has it
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		figures = append(figures, figure{Name: "size/" + name, Value: float64(info.Size()) / (1 << 20), Unit: "MiB"})
	}
	return figures, nil
}
