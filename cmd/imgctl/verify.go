package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	shared "github.com/imgd/imgd/internal/client"
	"github.com/imgd/imgd/internal/httpapi"
)

// A verify is what its flags say.
type verify struct {
	*app
	output
	reference
	digest             string
	deep               bool
	depth              string
	all                bool
	labels             []string
	parallel           int
	index, registry    string
	plainHTTP, several bool // several: there may be many, or none
}

func (a *app) verifyCommand() *cobra.Command {
	v := &verify{app: a}
	cmd := &cobra.Command{
		Use:   "verify [IMAGE[:TAG]]",
		Short: "Compare tags in the registry with the index",
		Long: `Compare a tag, the tags of an image, or all (--all, --label) in every repository of the image with the index,
and exit 3 if one differs, else 1 if a registry could not be read. Of many tags only those that differ are
shown; -o json has all. With --digest the tag must also name that digest, its root or a platform's manifest.

It looks at what the tag names; with --depth parts also whether every manifest, config and layer is there in
its size; with --deep, which is --depth bytes, all are read, and must have the bytes of their digests. What
images share is read once.

Without a daemon: --index DIR reads an images.json, also beside an imgd that runs, and asks the registries
with docker's credentials. Without an index too: --registry HOST and --digest say what must be where.`,
		Example: `  imgctl verify demo/hello:v1.2.3
  imgctl verify demo/hello:v1.2.3 --deep --digest sha256:a59e059c449a82b7f692b5119e348e9408ec976aa34682a03714cdcc6142cca5
  imgctl verify demo/hello --depth parts
  imgctl verify --all --deep
  imgctl verify --all --parallel 16 --jq '.[].repositories[] | select(.same | not) | .kind'`,
		Args:              between(0, 1, "one IMAGE or IMAGE:TAG, or --all"),
		ValidArgsFunction: first(a.imagesOrTags),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := v.parse(args); err != nil {
				return err
			}
			return v.run(cmd)
		},
	}
	v.flags(cmd)
	a.outputFlags(cmd, &v.output, "table", "json", "yaml", "template")
	return cmd
}

func (v *verify) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&v.digest, "digest", "", "digest that the tag must name")
	flags.BoolVar(&v.deep, "deep", false, "read all bytes of the images: --depth bytes")
	flags.StringVar(&v.depth, "depth", "", "how far to look: tag, parts or bytes (default tag)")
	flags.BoolVar(&v.all, "all", false, "all tags of all images")
	flags.StringArrayVar(&v.labels, "label", nil, "tags with this label, as env=prod; given again, with all of them")
	flags.IntVar(&v.parallel, "parallel", imgd.VerifyParallel, fmt.Sprintf("how many tags at once, %d at most", imgd.MaxVerifyParallel))
	flags.StringVar(&v.index, "index", "", "directory of images.json, which is only read: no daemon is asked")
	flags.StringVar(&v.registry, "registry", "", "host of the registry that has the images, with --index or --digest; it may stand before IMAGE")
	flags.BoolVar(&v.plainHTTP, "plain-http", false, "with --index or --registry: the registry has no TLS (on loopback it needs none)")
	completeFlag(cmd, "depth", anyOf("tag", "parts", "bytes"))
	completeFlag(cmd, "index", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	})
	for _, flag := range []string{"digest", "label", "parallel", "registry"} {
		completeFlag(cmd, flag, cobra.NoFileCompletions)
	}
}

// parse refuses what could not have been meant, and completes v.
func (v *verify) parse(args []string) error {
	if len(args) == 1 {
		host, name := shared.SplitHost(args[0])
		if host != "" && v.registry != "" && host != v.registry {
			return usage("%s names the registry %s, and --registry %s: say one", args[0], host, v.registry)
		}
		if host != "" {
			v.registry = host
		}
		var err error
		if v.reference, err = parseReference(name); err != nil {
			return err
		}
	}
	v.several = v.tag == ""
	if err := v.checkTags(args); err != nil {
		return err
	}
	return v.checkWay(args)
}

// checkTags looks at which tags, and how far.
func (v *verify) checkTags(args []string) error {
	switch d := digest.Digest(v.digest); {
	case len(args) == 0 && !v.all && len(v.labels) == 0:
		return usage("verify wants IMAGE:TAG, IMAGE, --label NAME=VALUE or --all")
	case len(args) == 1 && v.all:
		return usage("%s and --all exclude each other", args[0])
	case !v.several && len(v.labels) > 0:
		return usage("%s is one tag: --label chooses among those of an image, or of all", args[0])
	case v.several && v.digest != "":
		return usage("--digest wants a tag, as in: imgctl verify %s:latest --digest %s", cmp.Or(v.image, "IMAGE"), v.digest)
	case v.digest != "" && d.Validate() != nil:
		return usage("--digest %s: %v; want sha256: and 64 hex digits", v.digest, d.Validate())
	case v.parallel < 1 || v.parallel > imgd.MaxVerifyParallel:
		return usage("--parallel %d is not from 1 to %d", v.parallel, imgd.MaxVerifyParallel)
	case v.deep && v.depth != "" && v.depth != string(imgd.DepthBytes):
		return usage("--deep and --depth %s: say one", v.depth)
	case v.deep:
		v.depth = string(imgd.DepthBytes)
	case v.depth == "":
		v.depth = string(imgd.DepthTag)
	}
	for _, depth := range imgd.VerifyDepths() {
		if v.depth == string(depth) {
			return nil
		}
	}
	return usage("--depth %q is none of tag, parts, bytes", v.depth)
}

// checkWay looks at who is asked.
func (v *verify) checkWay(args []string) error {
	local := v.index != "" || v.registry != ""
	switch {
	case local && v.find.Server != "":
		return usage("--server goes through a daemon, and --index and --registry go without: say one")
	case v.plainHTTP && !local:
		return usage("--plain-http is for --index and --registry: how the daemon asks a registry, its config says")
	case v.registry != "" && !imgd.IsHost(v.registry):
		return usage("--registry %q is no host, as registry.example.com:5000", v.registry)
	case v.registry != "" && v.index == "" && v.several:
		return usage("--registry says where the images are, and nothing what is right: add --index DIR, whose images.json says it")
	case v.registry != "" && v.index == "" && v.digest == "":
		return usage("--registry says where %s is, and nothing what it should be: add --digest sha256:…, or --index DIR, whose images.json says it", args[0])
	}
	return nil
}

// run verifies, prints what was found, also if it is not all, and says how it was.
func (v *verify) run(cmd *cobra.Command) error {
	limit := callTime
	if v.several || v.depth != string(imgd.DepthTag) {
		limit = 0 // it takes as long as there is to look at
	}
	ctx, cancel := v.within(cmd, limit)
	defer cancel()
	found := verified{keep: !v.several || v.format != "table", line: statusLine{to: v.stderr, on: isTerminal(v.stderr) && limit == 0}}
	var err error
	if v.index != "" || v.registry != "" {
		err = v.straight(ctx, &found)
	} else {
		err = v.ask(ctx, &found)
	}
	found.line.clear()
	if found.total == 0 && err != nil && ctx.Err() == nil {
		return err // it has not begun
	}
	if err := v.print(context.WithoutCancel(ctx), v.stdout, found.result(v.several)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return stopped(ctx, fmt.Sprintf(": %d of %d tags were verified, %s", found.done, found.total, found.summary()))
	}
	if err != nil {
		return fmt.Errorf("%d of %d tags were verified, %s: %w", found.done, found.total, found.summary(), err)
	}
	return v.end(found)
}

// end is how the command ends for what was found.
func (v *verify) end(found verified) error {
	text := fmt.Sprintf("of %d tags %s", found.done, found.summary())
	if !v.several && found.done == 1 {
		text = found.items[0].Complaint()
	}
	switch {
	case !v.several && found.done == 0:
		return &exitError{Code: httpapi.CodeNotFound, Message: v.image + ":" + v.tag + " was removed meanwhile"}
	case found.differ > 0:
		return &exitError{Code: httpapi.CodeDiffers, Message: text}
	case found.unknown > 0:
		return &exitError{Code: httpapi.CodeFailed, Message: text}
	case v.several:
		v.say("%d tags are as they should be", found.done)
	}
	return nil
}

// ask has the daemon verify.
func (v *verify) ask(ctx context.Context, found *verified) error {
	query := url.Values{}
	for name, value := range map[string]string{"image": v.image, "tag": v.tag} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if len(v.labels) > 0 {
		query["label"] = v.labels
	}
	body, err := json.Marshal(httpapi.VerifyAll{Depth: imgd.VerifyDepth(v.depth), Parallel: v.parallel})
	if err != nil {
		return err
	}
	c := v.client()
	return c.read(ctx, func(ctx context.Context) (*http.Response, error) {
		return c.Send(ctx, http.MethodPost, "/v1/verify"+shared.Encode(query), body)
	}, func(e event) error {
		if e.name == "progress" || e.name == "end" {
			var p imgd.VerifyProgress
			err := json.Unmarshal(e.data, &p)
			found.progress(p)
			return err
		}
		var one imgd.Verification
		if err := json.Unmarshal(e.data, &one); err != nil {
			return err
		}
		one.Expect(digest.Digest(v.digest))
		found.add(one)
		return nil
	})
}

// straight verifies without a daemon.
func (v *verify) straight(ctx context.Context, found *verified) error {
	labels, err := imgd.ParseLabels(v.labels)
	if err != nil {
		return usage("--label: %v", err)
	}
	return shared.Verify{
		Index: v.index, Registry: v.registry, PlainHTTP: v.plainHTTP, Digest: digest.Digest(v.digest), Tag: v.tag,
		Find:  imgd.Find{Image: v.image, Labels: labels},
		Depth: imgd.VerifyDepth(v.depth), Parallel: v.parallel,
		Each: func(one imgd.Verification) error {
			if v.index != "" {
				one.Expect(digest.Digest(v.digest))
			}
			found.add(one)
			return nil
		},
		Progress: func(p imgd.VerifyProgress) error { found.progress(p); return nil },
	}.Run(ctx)
}
