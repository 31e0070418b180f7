package main

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// A completer answers what may stand where the cursor is, as cobra wants it. The
// words of this file come from the daemon; without one there are none, and
// nothing is said, for it would stand in the middle of a command line.
type completer = cobra.CompletionFunc

const (
	// completeTime bounds a completion: whoever pressed tab waits for it.
	completeTime = 2 * time.Second
	// Of what has names all are asked for that fit on a page, which the shell
	// then chooses from; of requests, which have none, the last.
	allNames     = "1000"
	lastRequests = "100"
)

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script that completes imgctl's commands in bash, zsh or fish",
		Long: `Print a script that completes imgctl's commands, flags, projects, images, tags and requests in
bash, zsh or fish. To have it in every shell:

  bash  imgctl completion bash > /etc/bash_completion.d/imgctl
        (or ~/.local/share/bash-completion/completions/imgctl)
  zsh   imgctl completion zsh > "${fpath[1]}/_imgctl"
  fish  imgctl completion fish > ~/.config/fish/completions/imgctl.fish`,
		Example: `  source <(imgctl completion bash)
  imgctl completion zsh > _imgctl
  imgctl completion fish > imgctl.fish`,
		Args:              between(1, 1, "one SHELL: bash, zsh or fish"),
		ValidArgsFunction: oneOf("bash", "zsh", "fish"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(a.stdout, true)
			}
			return usage("there is no completion for %q; there is for bash, zsh and fish", args[0])
		},
	}
}

// completeFlag is for flags that are there.
func completeFlag(cmd *cobra.Command, flag string, f completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic("unreachable: a flag is completed before it is made, or twice: " + err.Error())
	}
}

// oneOf completes the first argument.
func oneOf(words ...string) completer {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// anyOf completes a flag.
func anyOf(words ...string) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// first completes the first argument, and leaves the others alone.
func first(f completer) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, word)
	}
}

// ask reads one page of a list for a completion; an error answers nothing.
func ask[T any](a *app, cmd *cobra.Command, path, limit string) []T {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	query := url.Values{"limit": {limit}}
	var page httpapi.List[T]
	if a.client().Get(ctx, path, query, &page) != nil {
		return nil
	}
	return page.Items
}

func (a *app) projects(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	found := mapped(ask[httpapi.Project](a, cmd, "/v1/projects", allNames), func(p httpapi.Project) string {
		return cobra.CompletionWithDesc(p.Name, p.Git)
	})
	return found, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) images(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	found := mapped(ask[httpapi.Image](a, cmd, "/v1/images", allNames), func(i httpapi.Image) string { return i.Image })
	return found, cobra.ShellCompDirectiveNoFileComp
}

// tags completes IMAGE:TAG: the image first, and its tags once there is a colon.
func (a *app) tags(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	r, err := parseReference(strings.TrimSuffix(word, ":"))
	if err != nil || !strings.Contains(word, ":") {
		found, _ := a.images(cmd, args, word)
		return mapped(found, func(name string) string { return name + ":" }), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	var found []string
	for _, rec := range ask[imgd.Record](a, cmd, "/v1/images/"+r.image, allNames) {
		if name := cobra.CompletionWithDesc(r.image+":"+rec.Tag, rec.Version); !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// imagesOrTags completes IMAGE[:TAG].
func (a *app) imagesOrTags(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if strings.Contains(word, ":") {
		return a.tags(cmd, args, word)
	}
	found, directive := a.images(cmd, args, word)
	return found, directive | cobra.ShellCompDirectiveNoSpace
}

// requests completes the IDs of requests in these states, any if there are none,
// the last that changed first.
func (a *app) requests(states ...imgd.State) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		var found []string
		for _, s := range ask[imgd.Status](a, cmd, "/v1/requests", lastRequests) {
			if len(states) == 0 || slices.Contains(states, s.State) {
				found = append(found, cobra.CompletionWithDesc(s.Request, string(s.State)+" "+s.Project+" "+s.Ref))
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// orLetters adds the IDs of dead letters that are no requests.
func (a *app) orLetters(f completer) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		found, directive := f(cmd, args, word)
		for _, l := range ask[imgd.Letter](a, cmd, "/v1/letters", lastRequests) {
			if l.Request == "" {
				found = append(found, cobra.CompletionWithDesc(l.ID, "dead "+l.Project+" "+cell(l.Reason, whyLength)))
			}
		}
		return found, directive
	}
}
