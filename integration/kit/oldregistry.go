package kit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// OldRegistry is Debian's docker-registry, a distribution 2.8, as a process of its own.
type OldRegistry struct {
	// Addr is host:port, without TLS.
	Addr string

	child *child
}

// StartOldRegistry starts one that keeps its images in dir and deletes manifests.
func StartOldRegistry(ctx context.Context, dir string) (*OldRegistry, error) {
	binary, err := Bin("docker-registry")
	if err != nil {
		return nil, err
	}
	r := &OldRegistry{}
	if r.Addr, err = OwnPort(); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\nhttp: {addr: %q}\n",
		filepath.Join(dir, "images"), r.Addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if r.child, err = startChild(exec.Command(binary, "serve", config)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("docker-registry does not answer in time"))
	defer cancel()
	err = poll(ctx, r.child.done, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Addr+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if err != nil {
		return nil, fmt.Errorf("start docker-registry: %w", errors.Join(err, r.Close()))
	}
	return r, nil
}

// Close ends the process. What it says when it is told to end is nobody's business.
func (r *OldRegistry) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	err := r.child.stop(ctx, syscall.SIGTERM)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}
