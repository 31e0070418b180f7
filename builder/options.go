package builder

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

const (
	frontend = "dockerfile.v0"
	// compatibility pins how BuildKit writes images, so that an upgrade of
	// buildkitd does not change digests. All builds of a buildkitd must use the
	// same one.
	compatibility = 30
)

// solveOpt is the build of req's commit, and what must not be shown of it.
func (b *Builder) solveOpt(p imgd.Project, req imgd.Request) (client.SolveOpt, []string, error) {
	attrs, err := attrsOf(p, req)
	if err != nil {
		return client.SolveOpt{}, nil, err
	}
	git, err := gitContext(p, req)
	if err != nil {
		return client.SolveOpt{}, nil, err
	}
	exports, err := b.exports(p)
	if err != nil {
		return client.SolveOpt{}, nil, err
	}
	if err := annotate(exports, p, req); err != nil {
		return client.SolveOpt{}, nil, err
	}
	opt := client.SolveOpt{
		Ref:                  "imgd-" + identity.NewID(), // never used twice: a known one replays an old log
		Frontend:             frontend,
		FrontendAttrs:        attrs,
		Exports:              exports,
		CompatibilityVersion: compatibility,
	}
	if b.cfg.Credentials != nil {
		opt.Session = []session.Attachable{&login{ask: b.cfg.Credentials, own: b.cfg.Registry, seen: b.cfg.RegistryAddress}}
	}
	git.hand(&opt, b.secret)
	return opt, append(git.hide, b.secret), nil
}

// attrsOf are the frontend's attributes but for the context.
func attrsOf(p imgd.Project, req imgd.Request) (map[string]string, error) {
	values, err := version.ValuesOf(req.Info())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", imgd.ErrInvalid, err)
	}
	args, err := buildArgs(p, req, values)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", imgd.ErrInvalid, err)
	}
	platform, err := platformsOf(p, req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", imgd.ErrInvalid, err)
	}
	dir, dockerfile, err := pathsOf(p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", imgd.ErrInvalid, err)
	}
	attrs := map[string]string{
		"cmdline":  frontend, // `# syntax=` lines are answered by the frontend that is built in
		"platform": platform,
		"filename": dockerfile,
	}
	set := func(name, value string) {
		if value != "" {
			attrs[name] = value
		}
	}
	set("contextsubdir", dir)
	if set("target", p.Target); req.Target != "" {
		set("target", req.Target)
	}
	for name, value := range args {
		attrs["build-arg:"+name] = value
	}
	for name, value := range describe(p, req, values, req.Named.Labels) {
		attrs["label:"+name] = value
	}
	anew(attrs, req)
	return attrs, nil
}

// anew makes a rebuild run every step again, and one that is to be compared
// begin with empty cache mounts too: what either found there would prove nothing.
func anew(attrs map[string]string, req imgd.Request) {
	if req.Rebuild {
		attrs["no-cache"] = "" // of all stages
	}
	if req.Compare {
		attrs["build-arg:BUILDKIT_CACHE_MOUNT_NS"] = req.ID
	}
}

// pathsOf are the directory of the build context in the repository, empty for
// its root, and the Dockerfile as seen from that root. The directory is not part
// of the git URL: BuildKit v0.33.1 removes it there before it asks git for the
// commit's time in it, and fails.
func pathsOf(p imgd.Project) (dir, dockerfile string, err error) {
	dir, dockerfile = cmp.Or(p.Context, "."), cmp.Or(p.Dockerfile, "Dockerfile")
	if !filepath.IsLocal(dir) {
		return "", "", fmt.Errorf("context %q is not inside the repository", dir)
	}
	if !filepath.IsLocal(dockerfile) {
		return "", "", fmt.Errorf("dockerfile %q is not inside the context", dockerfile)
	}
	dockerfile = path.Join(dir, dockerfile)
	if dir = path.Clean(dir); dir == "." {
		dir = ""
	}
	return dir, dockerfile, nil
}

var argName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// buildArgs are those of imgd, the project and the request; of the same name
// the request's count.
func buildArgs(p imgd.Project, req imgd.Request, values version.Values) (map[string]string, error) {
	args := map[string]string{}
	for name, tmpl := range p.BuildArgs {
		value, err := version.Expand(tmpl, values)
		if err != nil {
			return nil, fmt.Errorf("build arg %s: %w", name, err)
		}
		args[name] = value
	}
	for name, value := range req.Args {
		if err := version.ValidValue(value); err != nil {
			return nil, fmt.Errorf("build arg %q: %w", name, err)
		}
		args[name] = value
	}
	for name := range args {
		if !argName.MatchString(name) {
			return nil, fmt.Errorf("build arg %q: want a name of letters, digits and '_'", name)
		}
		if version.Reserved(name) {
			return nil, fmt.Errorf("build arg %s is reserved", name)
		}
	}
	ldflags, err := version.ExpandLDFlags(p.LDFlags, values)
	if err != nil {
		return nil, fmt.Errorf("ldflags: %w", err)
	}
	maps.Copy(args, map[string]string{
		"VERSION": values.Version, "COMMIT": values.Commit, "DATE": values.Date, "LDFLAGS": ldflags,
		"SOURCE_DATE_EPOCH": strconv.FormatInt(req.CommitTime.Unix(), 10),
		// What docker/metadata-action's bake file gives.
		"DOCKER_META_VERSION": mainTag(req, values), "DOCKER_META_IMAGES": strings.Join(p.Repositories, ","),
	})
	return args, nil
}

// mainTag is what the rules call the version, or imgd where there are no rules.
func mainTag(req imgd.Request, values version.Values) string {
	return cmp.Or(req.Named.Version, values.Version)
}

// describe is what imgd knows of the image, as docker/metadata-action words it,
// and what the project says. The project's own count, but of where the image
// comes from, which others rely on.
func describe(p imgd.Project, req imgd.Request, values version.Values, own map[string]string) map[string]string {
	source := p.Source()
	all := map[string]string{
		ocispec.AnnotationTitle:   path.Base(source),
		ocispec.AnnotationVersion: mainTag(req, values),
		ocispec.AnnotationCreated: values.Date,
	}
	if strings.HasPrefix(source, "https://") || strings.HasPrefix(source, "http://") {
		all[ocispec.AnnotationURL] = source
	}
	maps.Copy(all, own)
	all[ocispec.AnnotationSource], all[ocispec.AnnotationRevision] = source, values.Commit
	return all
}

func platformsOf(p imgd.Project, req imgd.Request) (string, error) {
	wanted := req.Platforms
	if len(wanted) == 0 {
		wanted = p.Platforms
	}
	var names []string
	for _, name := range wanted {
		parsed, err := platforms.Parse(name)
		if err != nil || !strings.Contains(name, "/") {
			return "", fmt.Errorf("platform %q: want os/arch or os/arch/variant", name)
		}
		names = append(names, platforms.Format(parsed))
	}
	if len(names) == 0 {
		return "", fmt.Errorf("project %s: no platform", p.Name)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ","), nil
}

// exports push by digest to the project's repositories. If imgd's own registry
// has no TLS, it is an export of its own, so that no other is pushed to
// unencrypted.
func (b *Builder) exports(p imgd.Project) ([]client.ExportEntry, error) {
	var own, others []string
	for _, repository := range p.Repositories {
		named, err := reference.ParseNormalizedNamed(repository)
		if err != nil || !reference.IsNameOnly(named) {
			return nil, fmt.Errorf("%w: repository %q: want registry/name", imgd.ErrInvalid, repository)
		}
		host := reference.Domain(named)
		if host != b.cfg.Registry {
			others = append(others, named.Name())
			continue
		}
		own = append(own, cmp.Or(b.cfg.RegistryAddress, host)+"/"+reference.Path(named))
	}
	if !b.cfg.PlainHTTP {
		own, others = nil, append(own, others...)
	}
	var entries []client.ExportEntry
	if len(own) > 0 {
		entries = append(entries, export(own, p.KeepTimes))
		entries[0].Attrs["registry.insecure"] = "true"
	}
	if len(others) > 0 {
		entries = append(entries, export(others, p.KeepTimes))
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w: no repository to push to", imgd.ErrInvalid)
	}
	return entries, nil
}

// export gives files that are newer than the commit its time, without which no
// rebuild would make the same layers. Those of the base image stay as they are.
func export(names []string, keepTimes bool) client.ExportEntry {
	return client.ExportEntry{Type: client.ExporterImage, Attrs: map[string]string{
		"name": strings.Join(names, ","), "push": "true", "push-by-digest": "true", "oci-mediatypes": "true",
		"rewrite-timestamp": strconv.FormatBool(!keepTimes),
	}}
}

// annotations are those of the manifests, none if the project asks for none.
func annotations(p imgd.Project, req imgd.Request) (map[string]string, error) {
	if len(req.Named.Annotations) == 0 {
		return nil, nil
	}
	values, err := version.ValuesOf(req.Info())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", imgd.ErrInvalid, err)
	}
	return describe(p, req, values, req.Named.Annotations), nil
}

// annotate has the exports annotate the manifests.
func annotate(exports []client.ExportEntry, p imgd.Project, req imgd.Request) error {
	all, err := annotations(p, req)
	for name, value := range all {
		for _, export := range exports {
			export.Attrs[exptypes.AnnotationManifestKey(nil, name)] = value
		}
	}
	return err
}

// pushed reads the root from what the exporter answered.
func pushed(answer map[string]string) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	raw, err := base64.StdEncoding.DecodeString(answer[exptypes.ExporterImageDescriptorKey])
	if err != nil {
		return desc, fmt.Errorf("read what was pushed: %w", err)
	}
	if err := json.Unmarshal(raw, &desc); err != nil {
		return desc, fmt.Errorf("read what was pushed: %w", err)
	}
	if said := digest.Digest(answer[exptypes.ExporterImageDigestKey]); desc.Digest.Validate() != nil || said != desc.Digest {
		return desc, fmt.Errorf("read what was pushed: descriptor %q, digest %q", desc.Digest, said)
	}
	return desc, nil
}
