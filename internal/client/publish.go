package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// A Program is the one that publish is a command of.
type Program struct {
	Name           string // as it is called: imgctl publish
	Agent          string // as it calls itself: program/version
	Stdout, Stderr io.Writer
	Find           *Finder
	// Within bounds the command's context in time: by default by so many times
	// what one call may take.
	Within func(cmd *cobra.Command, calls int) (context.Context, context.CancelFunc)
}

// A publish is what its flags say.
type publish struct {
	Program
	image, tag string
	body       httpapi.Publish
	digest     string
	labels     []string
	index      string // directory
	plainHTTP  bool
	format     string
	batch      string // file

	route *route
}

// PublishCommand is the command that records what another CI has pushed.
func PublishCommand(program Program) *cobra.Command {
	p := &publish{Program: program, route: &route{}}
	cmd := &cobra.Command{
		Use:   "publish --image IMAGE --tag TAG --digest DIGEST --source URL@COMMIT",
		Short: "Record an image that another CI has pushed",
		Long: `Record an image that another CI has pushed under a tag: imgd reads the tag in the registry, and if it
names the digest, the index has it from then on and the published event is told. imgd never writes such
a tag. What is recorded already is answered as it is; a tag that names another image is a conflict.

It goes through the daemon, or by --index straight into the directory of an images.json. Without both,
and where no daemon runs, that is index/ in the data directory. One line of JSON comes on stdout.

With --batch each line of a file is one image, JSON with the names image, tag, digest, source, platform,
labels, ttl, registry, moving, noVerify, force and reason. For each comes one line of JSON with its number,
in the same order: the record, or error with the code. One that fails keeps none of the others back; the
exit code is the highest of all lines.

` + ExitHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return Usage("%s takes flags only, not %q; see %s --help", p.Name, args[0], p.Name)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.batch != "" {
				return p.runBatch(cmd)
			}
			if err := p.check(); err != nil {
				return err
			}
			ctx, cancel := p.Within(cmd, 1)
			defer cancel()
			return p.run(ctx)
		},
	}
	const zeros = "0000000000000000000000000000000000000000"
	d := "sha256:" + zeros + zeros[:24]
	for i, more := range []string{"", " --label env=prod --ttl 7d", " --index ./images --no-verify"} {
		if i > 0 {
			cmd.Example += "\n"
		}
		cmd.Example += "  " + p.Name + " --image demo/hello --tag v1.5.0 --digest " + d + " --source https://git.example.com/demo/hello@" + zeros + more
	}
	p.flags(cmd)
	return cmd
}

func (p *publish) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&p.image, "image", "", "name in the index; a registry's host before it is taken for --registry (required)")
	flags.StringVar(&p.tag, "tag", "", "tag that it was pushed under (required)")
	flags.StringVar(&p.digest, "digest", "", "what the tag names: sha256:… of the image, or of one of its platforms (required)")
	flags.StringVar(&p.body.Source, "source", "", "git URL, @ and the commit's 40 hex digits (required)")
	flags.StringVar(&p.body.Platform, "platform", "", "platform that must be there, as linux/amd64")
	flags.StringArrayVar(&p.labels, "label", nil, "label of the records, as env=prod; may be given again")
	flags.StringVar(&p.body.TTL, "ttl", "", "time after which the records expire, as 12h or 7d")
	flags.StringVar(&p.body.Registry, "registry", "", "host of the registry that has it (default: where the image is known to be, else the daemon's)")
	flags.BoolVar(&p.body.NoVerify, "no-verify", false, "do not ask the registry")
	flags.BoolVar(&p.body.Moving, "moving", false, "the tag may move, as latest does")
	flags.BoolVar(&p.body.Force, "force", false, "replace what the tag names; needs --reason")
	flags.StringVar(&p.body.Reason, "reason", "", "why; kept in the history")
	flags.StringVar(&p.index, "index", "", "directory of images.json, to be written without a daemon")
	flags.BoolVar(&p.plainHTTP, "plain-http", false, "with --index: the registry has no TLS (on loopback it needs none)")
	flags.StringVar(&p.batch, "batch", "", "file of JSON lines, each an image as these flags say it")
	flags.StringVarP(&p.format, "output", "o", "json", "output: json, one line, or env, lines of NAME=value")
}

// check refuses what is missing or could not have been meant, and completes p.
func (p *publish) check() error {
	var missing []string
	for _, flag := range []struct{ name, value string }{{"--image", p.image}, {"--tag", p.tag}, {"--digest", p.digest}, {"--source", p.body.Source}} {
		if flag.value == "" {
			missing = append(missing, flag.name)
		}
	}
	switch {
	case len(missing) > 0:
		return Usage("%s missing; see %s --help", strings.Join(missing, ", "), p.Name)
	case p.format != "json" && p.format != "env":
		return Usage("-o %q is neither json nor env", p.format)
	case p.index != "" && p.Find.Server != "":
		return Usage("--server and --index exclude each other: a daemon has its own index")
	case p.body.Force && strings.TrimSpace(p.body.Reason) == "":
		return Usage("--force needs a --reason, which the history keeps")
	}
	p.body.Digest = digest.Digest(p.digest)
	labels, err := imgd.ParseLabels(p.labels)
	if err != nil {
		return Usage("--label: %v", err)
	}
	if p.body.Labels == nil {
		p.body.Labels = labels
	} else { // of a line of a batch
		maps.Copy(p.body.Labels, labels)
	}
	return p.splitImage()
}

// splitImage takes the registry's host off the image.
func (p *publish) splitImage() error {
	host, name := SplitHost(p.image)
	if host != "" && p.body.Registry != "" && p.body.Registry != host {
		return Usage("--image names the registry %s, and --registry %s: say one", host, p.body.Registry)
	}
	p.image, p.body.Registry = name, cmp.Or(host, p.body.Registry)
	return checkPath(p.image, p.tag)
}

// SplitHost parts the registry's host, "" if there is none, from the image: as in
// docker, what has a dot or a colon in it, or is localhost.
func SplitHost(image string) (host, name string) {
	host, name, ok := strings.Cut(image, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return "", image
	}
	return host, name
}

// checkPath refuses what may not stand in the path of a URL as it is; whether it
// is a good name is not decided here.
func checkPath(image, tag string) error {
	for part := range strings.SplitSeq(image+"/"+tag, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "%?#:@ \\") {
			return Usage("--image %q and --tag %q are no image and tag, as myorg/app and v1.5.0", image, tag)
		}
	}
	return nil
}

func (p *publish) run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, p.route.close()) }()
	recorded, err := p.record(ctx)
	if ctx.Err() != nil && err != nil {
		return fmt.Errorf("%w: %w; it may be recorded or not: the same command again finds out", context.Cause(ctx), err)
	}
	if err != nil {
		return err
	}
	return p.print(recorded)
}

// A route is how records go: by a daemon, or straight into an index that stays
// open meanwhile. Once a daemon has answered, no other way is taken.
type route struct {
	daemon bool
	index  *openIndex
}

func (r *route) close() error {
	if r.index == nil {
		return nil
	}
	return r.index.close()
}

// record goes the way that is given, else the one that is there.
func (p *publish) record(ctx context.Context) (httpapi.Recorded, error) {
	if p.index != "" || p.route.index != nil {
		return p.straight(ctx, p.index)
	}
	recorded, err := p.post(ctx)
	none := errors.Is(err, errNone) || errors.Is(err, syscall.ECONNREFUSED)
	if p.Find.server() != "" || p.route.daemon || !none {
		p.route.daemon = p.route.daemon || !none
		return recorded, err
	}
	// None runs: there is no endpoints.json, or one that a kill has left. If one
	// runs all the same, it has the index.
	return p.straight(ctx, filepath.Join(p.Find.dir(), "index"))
}

func (p *publish) post(ctx context.Context) (recorded httpapi.Recorded, err error) {
	c := Client{Find: p.Find.Find, Agent: p.Agent}
	err = c.Post(ctx, "/v1/images/"+p.image+"/tags/"+p.tag, p.body, &recorded)
	return recorded, err
}

func (p *publish) print(r httpapi.Recorded) error {
	if p.format == "json" {
		e := json.NewEncoder(p.Stdout)
		e.SetEscapeHTML(false)
		return e.Encode(r)
	}
	repository := r.Image
	if len(r.Repositories) > 0 {
		repository = r.Repositories[0]
	}
	for _, line := range []struct{ name, value string }{
		{"IMAGE", r.Image}, {"TAG", r.Tag}, {"DIGEST", r.Root().String()},
		{"REFERENCE", repository + "@" + r.Root().String()}, {"VERSION", r.Version}, {"OUTCOME", r.Outcome}, {"RELEASE", r.Release},
	} {
		if _, err := fmt.Fprintf(p.Stdout, "IMGD_%s=%s\n", line.name, line.value); err != nil {
			return err
		}
	}
	return nil
}
