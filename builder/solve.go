package builder

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// compatibility pins what BuildKit calls CompatibilityVersion: all builds on one
// daemon must use the same, and the digest depends on it.
const compatibility = 30

// solveOpt is the build of req as BuildKit takes it, and the secret that its
// log must not show.
func (b *Builder) solveOpt(p imgd.Project, req imgd.Request) (_ client.SolveOpt, secret string, _ error) {
	attrs, err := frontendAttrs(p, req)
	if err != nil {
		return client.SolveOpt{}, "", fmt.Errorf("%w: %w", err, imgd.ErrInvalid)
	}
	remote, login := splitLogin(p.Git)
	attrs["context"] = gitContext(remote, p.Context, req)
	opt := client.SolveOpt{
		Ref:                  attempt(req.ID),
		Frontend:             "dockerfile.v0",
		FrontendAttrs:        attrs,
		CompatibilityVersion: compatibility,
		Exports:              []client.ExportEntry{{Type: client.ExporterImage, Attrs: b.exportAttrs(p)}},
	}
	if login != nil {
		secret, _ = login.Password()
		opt.Session = []session.Attachable{gitSecret(remote, login)}
	}
	return opt, secret, nil
}

// exportAttrs push by digest, without a tag and without attestations, so that
// the answer names the platform's manifest.
func (b *Builder) exportAttrs(p imgd.Project) map[string]string {
	names := make([]string, len(p.Repositories))
	for i, name := range p.Repositories {
		if rest, ok := strings.CutPrefix(name, b.config.Registry+"/"); ok && b.config.RegistryAddress != "" {
			name = b.config.RegistryAddress + "/" + rest
		}
		names[i] = name
	}
	attrs := map[string]string{"name": strings.Join(names, ","), "push": "true", "push-by-digest": "true", "oci-mediatypes": "true"}
	if b.config.PlainHTTP {
		attrs["registry.insecure"] = "true"
	}
	return attrs
}

func frontendAttrs(p imgd.Project, req imgd.Request) (map[string]string, error) {
	args, err := buildArgs(p, req)
	if err != nil {
		return nil, err
	}
	platforms := req.Platforms
	if len(platforms) == 0 {
		platforms = p.Platforms
	}
	attrs := map[string]string{
		"filename": p.Dockerfile,
		"platform": strings.Join(platforms, ","),
		"cmdline":  "dockerfile.v0", // buildkitd's own frontend answers "# syntax=" lines
	}
	if target := cmp.Or(req.Target, p.Target); target != "" {
		attrs["target"] = target
	}
	for name, value := range args {
		attrs["build-arg:"+name] = value
	}
	for name, value := range labels(p, req) {
		attrs["label:"+name] = value
	}
	return attrs, nil
}

// buildArgs are the project's, the asker's over them, and those that every
// build gets.
func buildArgs(p imgd.Project, req imgd.Request) (map[string]string, error) {
	values, err := version.ValuesOf(req.Info())
	if err != nil {
		return nil, err
	}
	args := map[string]string{}
	for name, template := range p.BuildArgs {
		if args[name], err = version.Expand(template, values); err != nil {
			return nil, fmt.Errorf("build arg %s: %w", name, err)
		}
	}
	for name, value := range req.Args {
		if version.Reserved(name) || name == "" {
			return nil, fmt.Errorf("build arg %q cannot be set by a request", name)
		}
		if strings.ContainsRune(value, 0) {
			return nil, fmt.Errorf("build arg %s holds a zero byte", name)
		}
		args[name] = value
	}
	ldflags, err := version.Expand(p.LDFlags, values)
	if err != nil {
		return nil, fmt.Errorf("ldflags: %w", err)
	}
	maps.Copy(args, map[string]string{
		"VERSION": values.Version, "COMMIT": values.Commit, "DATE": values.Date, "LDFLAGS": ldflags,
		// https://reproducible-builds.org/docs/source-date-epoch/
		"SOURCE_DATE_EPOCH": strconv.FormatInt(req.CommitTime.Unix(), 10),
	})
	return args, nil
}

// labels are the project's and those of
// https://github.com/opencontainers/image-spec/blob/main/annotations.md that
// say where the image comes from.
func labels(p imgd.Project, req imgd.Request) map[string]string {
	all := maps.Clone(p.Labels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, map[string]string{
		ocispec.AnnotationSource:   p.Source(),
		ocispec.AnnotationRevision: req.Commit,
		ocispec.AnnotationVersion:  req.Version,
		ocispec.AnnotationCreated:  req.CommitTime.UTC().Format("2006-01-02T15:04:05Z"),
	})
	return all
}

// gitContext is the commit, fetched alone and by its ID, as
// https://docs.docker.com/build/concepts/context/#url-queries writes it. Files
// get the commit's time, so that the same commit gives the same layers.
func gitContext(remote, dir string, req imgd.Request) string {
	query := url.Values{
		"ref": {req.Ref}, "commit": {req.Commit}, "fetch-by-commit": {"true"}, "submodules": {"false"}, "mtime": {"commit"},
	}
	if dir = path.Clean(dir); dir != "." {
		query.Set("subdir", dir)
	}
	return remote + "?" + query.Encode()
}

// splitLogin takes the credentials out of a git URL.
func splitLogin(git string) (remote string, login *url.Userinfo) {
	u, err := url.Parse(git)
	if err != nil || u.User == nil || u.Scheme == "ssh" {
		return git, nil
	}
	login, u.User = u.User, nil
	return u.String(), login
}

// gitSecret gives buildkitd the login for that host, and no other.
func gitSecret(remote string, login *url.Userinfo) session.Attachable {
	password, _ := login.Password()
	u, err := url.Parse(remote)
	if err != nil {
		panic("unreachable: splitLogin has parsed the URL: " + err.Error())
	}
	header := "basic " + base64.StdEncoding.EncodeToString([]byte(login.Username()+":"+password))
	return secretsprovider.FromMap(map[string][]byte{"GIT_AUTH_HEADER." + u.Host: []byte(header)})
}
