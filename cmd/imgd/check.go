package main

import (
	"context"
	"fmt"

	"github.com/imgd/imgd/internal/httpapi"
)

// probes are what imgctl check looks at, in the order of the data's path: the
// parts first, then what each project needs of them.
func (d *daemon) probes() []httpapi.Probe {
	probes := []httpapi.Probe{
		{Name: "nats", Run: d.probeNATS, Todo: "see that NATS runs with JetStream, and that nats.url and its credentials are right"},
		{Name: "index", Run: d.probeIndex, Todo: "stop imgd, run imgd index recover, and start it; or put the right index in the data directory"},
		{Name: "disk", Run: d.probeDisk, Todo: "free some space in the data directory, or set disk.minFreeMB"},
		{Name: "buildkit", Run: d.probeBuildKit, Todo: "see that buildkitd runs and that buildkit.address is right; of imgd's own, the log is buildkit/buildkitd.log in the data directory"},
		{Name: "registry", Run: d.probeRegistry, Todo: "see that the registry runs, and that registry.address, registry.plainHTTP and registry.caFile are right"},
	}
	seen := map[string]bool{}
	for _, project := range d.live.projects.All() {
		probes = append(probes, d.probeGit(project.Name))
		for _, repository := range project.Repositories {
			if !seen[repository] {
				probes = append(probes, d.probePush(repository))
			}
			seen[repository] = true
		}
	}
	return probes
}

func (d *daemon) probeNATS(ctx context.Context) (string, error) {
	return "JetStream at " + d.stack.NATS, d.bus.Ping(ctx)
}

func (d *daemon) probeIndex(ctx context.Context) (string, error) {
	return d.index.ID(), d.bus.Fits(ctx)
}

func (d *daemon) probeDisk(ctx context.Context) (string, error) {
	return fmt.Sprintf("at least %d MiB free in %s", d.live.config.Load().Disk.MinFreeMB, d.cfg.Data), d.headRoom(ctx)
}

func (d *daemon) probeBuildKit(ctx context.Context) (string, error) {
	version, err := d.builder.Version(ctx)
	return version + " at " + d.stack.BuildKit, err
}

func (d *daemon) probeRegistry(ctx context.Context) (string, error) {
	return "at " + d.stack.Registry, d.publisher.Ping(ctx, d.stack.Registry)
}

func (d *daemon) probeGit(project string) httpapi.Probe {
	return httpapi.Probe{
		Name: "git " + project,
		Run:  func(ctx context.Context) (string, error) { return d.git.Probe(ctx, project) },
		Todo: "see that the git URL of project " + project + " is right, that this machine reaches it, and that its credentials may read",
	}
}

func (d *daemon) probePush(repository string) httpapi.Probe {
	return httpapi.Probe{
		Name: "push " + repository,
		Run:  func(ctx context.Context) (string, error) { return "", d.publisher.CanPush(ctx, repository) },
		Todo: "see that the repository exists or may be made, and that the account imgd uses there may push; docker login as the user that imgd runs as, or registry.dockerConfig, gives it one",
	}
}
