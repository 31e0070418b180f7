package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/internal/httpapi"
	"github.com/imgd/imgd/publisher"
)

// local is who asks where no daemon knows.
const local = "local"

// An openIndex is an index that this process has open, and the registry as that
// asks it.
type openIndex struct {
	*index.Index
	dir      string
	registry *laterRegistry
}

func (x *openIndex) close() error { return x.Index.Close() }

// opened is the index in dir, opened if it is not yet.
func (p *publish) opened(dir string) (*openIndex, error) {
	if p.route.index != nil {
		return p.route.index, nil
	}
	registry := &laterRegistry{}
	x, err := index.Open(index.Config{Dir: dir, History: nobody{}, Registry: registry})
	if errors.Is(err, index.ErrInUse) {
		return nil, fmt.Errorf("%w; to go through the imgd that has it open, say --server URL", err)
	}
	if err != nil {
		return nil, err
	}
	p.route.index = &openIndex{Index: x, dir: dir, registry: registry}
	return p.route.index, nil
}

// straight records in the index in dir, which no other process may have open. It
// knows no config, and tells of no event: the daemon that serves the index next
// does.
func (p *publish) straight(ctx context.Context, dir string) (httpapi.Recorded, error) {
	in, err := p.body.Pushed(p.image, p.tag, local)
	if err == nil {
		err = in.Check() // before an index is made
	}
	if err != nil {
		return httpapi.Recorded{}, httpapi.AsProblem(err)
	}
	x, err := p.opened(dir)
	if err != nil {
		return httpapi.Recorded{}, err
	}
	log := slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	config := publisher.Config{Credentials: publisher.DockerCredentials(""), Log: log} // who can docker push can record
	if p.plainHTTP {
		config.PlainHTTP = []string{in.Registry}
		for _, repository := range x.Repositories(in.Image) {
			config.PlainHTTP = append(config.PlainHTTP, imgd.Host(repository))
		}
	}
	x.registry.Publisher = publisher.New(config)
	pipeline := &imgd.Pipeline{Git: nobody{}, Builder: nobody{}, Capturer: x.registry, Tagger: x.registry, Index: x, Lookup: x, Asker: nobody{}, Log: log}
	rel, created, err := pipeline.Record(ctx, in)
	switch {
	case ctx.Err() != nil && err != nil:
		return httpapi.Recorded{}, err
	case err != nil:
		return httpapi.Recorded{}, httpapi.AsProblem(err)
	}
	if created {
		fmt.Fprintf(p.Stderr, "recorded in %s; the imgd that serves it next tells the world\n", x.dir)
	}
	return httpapi.RecordedOf(in, rel, created), nil
}

// laterRegistry is the index's before it is known which registries have no TLS:
// that stands in the index. It is asked for nothing before.
type laterRegistry struct{ *publisher.Publisher }

// errNobody says that something was asked for that only a daemon does.
var errNobody = errors.New("only an imgd that serves can do this; start it over this index")

// nobody is git, the builder and the queue where there is no daemon: what is
// pushed by another CI needs none of them.
type nobody struct{}

func (nobody) Head(context.Context, string, string) (string, error) { return "", errNobody }

func (nobody) Contains(context.Context, string, string, string) (bool, error) {
	return false, errNobody
}

func (nobody) Resolve(context.Context, string, string, string) (imgd.Commit, error) {
	return imgd.Commit{}, errNobody
}

func (nobody) Touched(context.Context, string, string, string) (bool, error) {
	return false, errNobody
}

func (nobody) Build(context.Context, imgd.Project, imgd.Request) (d ocispec.Descriptor, err error) {
	return d, errNobody
}

func (nobody) Ask(context.Context, imgd.Request) error { return errNobody }
