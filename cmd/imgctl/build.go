package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd/internal/httpapi"
)

// A build is what the flags of build say.
type build struct {
	waiting
	project string
	ask     httpapi.Build
	wait    bool
	output  output
	results results

	compare string    // --compare
	with    reference // that it names
}

func (a *app) buildCommand() *cobra.Command {
	b := build{waiting: waiting{app: a, display: a.stderr}}
	cmd := &cobra.Command{
		Use:   "build PROJECT --ref REF",
		Short: "Ask for a build of what a branch or tag names",
		Long: `Ask for a build of what a branch or tag names. The request is in the queue when the command
ends; with --wait it shows the build on stderr, and the published records on stdout.

For the next step of a CI job, --metadata-file writes the digest in the form of docker buildx,
--github-output and --dotenv write image, tag, digest, reference and version. The tag is the
version's, else the first; the reference is registry/image@digest. They are written when there is
a digest, and left as they are if the build fails.

With --rebuild every step runs again, without BuildKit's cache, and what it makes takes the moving tags.
With --compare IMAGE:TAG too it builds the commit of that tag from nothing (cache mounts begin empty),
releases nothing and takes no tag, and compares what was made with what the tag named before. It says
that the same image was made again, or shows the first difference and exits 3.

Interrupted, it stops waiting; the build goes on.`,
		Example: `  imgctl build hello --ref v1.2.3 --wait
  imgctl build hello --ref main --wait -o digest
  imgctl build hello --ref v1.2.3 --force --reason "the base image was wrong" --wait
  imgctl build hello --ref v1.2.3 --rebuild --compare demo/hello:v1.2.3
  imgctl build hello --ref v1.2.3 --wait --metadata-file build.json --dotenv imgd.env
  imgctl build hello --ref v1.2.3 --wait --jq '.[] | .tag + " " + .digest'`,
		Args:              between(1, 1, "one PROJECT"),
		ValidArgsFunction: first(a.projects),
		RunE: func(cmd *cobra.Command, args []string) error {
			b.project = args[0]
			if err := b.check(); err != nil {
				return err
			}
			ctx, cancel := a.within(cmd, buildTime)
			defer cancel()
			return b.run(ctx)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&b.ask.Ref, "ref", "", "branch or tag, short or full (required)")
	flags.StringVar(&b.ask.Commit, "commit", "", "full commit that the ref contains (default: what it names now)")
	flags.BoolVar(&b.wait, "wait", false, "wait until the request has ended")
	flags.BoolVar(&b.ask.Rebuild, "rebuild", false, "build again what is published, without the cache")
	flags.StringVar(&b.compare, "compare", "", "with --rebuild: release nothing, but compare with what this IMAGE:TAG names; waits")
	flags.BoolVar(&b.ask.Force, "force", false, "replace what an immutable tag names; needs --reason")
	flags.StringVar(&b.ask.Reason, "reason", "", "why; kept in the history")
	flags.StringVar(&b.ask.Event, "event", "", "schedule, if a clock asks: rules of type=schedule give their tags then")
	b.progressFlag(cmd)
	b.results.flags(cmd)
	a.outputFlags(cmd, &b.output, "table", "json", "yaml", "digest", "template")
	completeFlag(cmd, "compare", a.tags)
	for _, name := range []string{"ref", "commit", "reason", "event"} {
		completeFlag(cmd, name, cobra.NoFileCompletions)
	}
	return cmd
}

// check says what the daemon would refuse, or could not have meant.
func (b *build) check() error {
	switch {
	case b.ask.Ref == "":
		return usage("--ref is missing: which branch or tag? As in: imgctl build %s --ref main", b.project)
	case b.ask.Force && strings.TrimSpace(b.ask.Reason) == "":
		return usage("--force needs a --reason, which the history keeps")
	case b.output.format == "digest" && !b.wait:
		return usage("-o digest needs --wait: there is no digest before the build has ended")
	}
	if err := checkProject(b.project); err != nil {
		return err
	}
	if err := b.checkProgress(); err != nil {
		return err
	}
	if err := b.checkCompare(); err != nil {
		return err
	}
	return b.results.check(b.wait, b.find.Getenv)
}

// checkProject refuses what cannot be a project's name.
func checkProject(name string) error {
	if strings.ContainsAny(name, "/?#%") {
		return usage("%q is not a project; config names them, and an image is not one", name)
	}
	return nil
}

// post asks for the build.
func (b *build) post(ctx context.Context, asked *httpapi.Asked) error {
	err := b.client().Post(ctx, "/v1/projects/"+b.project+"/builds", b.ask, asked)
	if end := stopped(ctx, "; the request may be in the queue or not"); err != nil && end != nil {
		return end
	}
	if err != nil {
		return err
	}
	b.say("asked for %s at %.12s, request %s", asked.Ref, asked.Commit, asked.Request)
	return nil
}

func (b *build) run(ctx context.Context) error {
	if b.compare != "" {
		return b.runCompare(ctx)
	}
	var asked httpapi.Asked
	if err := b.post(ctx, &asked); err != nil {
		return err
	}
	if !b.wait {
		b.say("follow it with: imgctl logs -f %s", asked.Request)
		return b.output.print(ctx, b.stdout, askedResult(asked))
	}
	// What stood before is the log of an earlier build.
	answer, err := b.finish(ctx, asked, asked.Before.Final())
	if err != nil {
		return err
	}
	// What the next step reads stands before what a person reads, who may be gone.
	wrote := b.results.write(answer)
	return errors.Join(wrote, b.output.print(ctx, b.stdout, recordsResult(answer.Records, answer.Repositories)))
}

func askedResult(asked httpapi.Asked) result {
	return result{items: []httpapi.Asked{asked}, table: func(row func(...string)) {
		row("REQUEST", "PROJECT", "REF", "COMMIT")
		row(orDash(asked.Request), asked.Project, orDash(asked.Ref), orDash(asked.Commit))
	}}
}
