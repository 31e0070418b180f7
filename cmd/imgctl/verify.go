package main

import (
	"errors"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) verifyCommand() *cobra.Command {
	var o output
	var want string
	cmd := &cobra.Command{
		Use:   "verify IMAGE:TAG",
		Short: "Compare a tag in the registry with the index",
		Long: `Compare a tag in every repository of the image with the index, and exit 3 if they differ.
With --digest the tag must also name that digest, its root or that of a platform's manifest.`,
		Example: `  imgctl verify demo/hello:v1.2.3
  imgctl verify demo/hello:v1.2.3 --digest sha256:a59e059c449a82b7f692b5119e348e9408ec976aa34682a03714cdcc6142cca5
  imgctl verify demo/hello:v1.2.3 --jq '.[].repositories[] | select(.same | not) | .repository'`,
		Args:              between(1, 1, "one IMAGE:TAG"),
		ValidArgsFunction: first(a.tags),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseReference(args[0])
			if err == nil && r.tag == "" {
				err = usage("verify wants a tag, as in: imgctl verify %s:latest", args[0])
			}
			if err != nil {
				return err
			}
			return a.verify(cmd, r, digest.Digest(want), &o)
		},
	}
	cmd.Flags().StringVar(&want, "digest", "", "digest that the tag must name")
	completeFlag(cmd, "digest", cobra.NoFileCompletions)
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

// verify prints the comparison also where it differs, which is then the error.
func (a *app) verify(cmd *cobra.Command, r reference, want digest.Digest, o *output) error {
	if err := want.Validate(); want != "" && err != nil {
		return usage("--digest %s: %v; want sha256: and 64 hex digits", want, err)
	}
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	var v imgd.Verification
	err := a.client().Post(ctx, r.path()+"/verify", httpapi.Verify{Digest: want}, &v)
	var differs *httpapi.Problem
	if errors.As(err, &differs) && differs.Verification != nil {
		v = *differs.Verification
	} else if err != nil {
		return err
	}
	return errors.Join(o.print(ctx, a.stdout, result{items: []imgd.Verification{v}, table: func(row func(...string)) {
		row("REPOSITORY", "TAG", "SAME", "FOUND", "INDEX")
		for _, at := range v.Repositories {
			row(at.Repository, v.Tag, yesNo(at.Same), orDash(at.Found.String()), v.Want.String())
		}
	}}), err)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
