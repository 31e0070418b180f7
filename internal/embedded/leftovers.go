package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

const (
	// releaseTime is how long a dying buildkitd may hold its root.
	releaseTime = 10 * time.Second
	// runcTime bounds the deletion of one dead container.
	runcTime = 10 * time.Second
)

// waitReleased waits until no buildkitd holds the root: one whose imgd was
// killed dies too, but not at once.
func (s site) waitReleased(ctx context.Context) error {
	if err := os.MkdirAll(s.root(), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	lock := flock.New(filepath.Join(s.root(), "buildkitd.lock")) // buildkitd's own
	if _, err := lock.TryLockContext(ctx, readyPoll); err != nil {
		return fmt.Errorf("wait for another buildkitd to leave %s: %w", s.root(), err)
	}
	if err := lock.Unlock(); err != nil {
		return fmt.Errorf("unlock %s: %w", s.root(), err)
	}
	return nil
}

// clean removes what a buildkitd that is gone has left: containers' state,
// bundles and cgroups, mounts, the directory under /run, temporary files. It is
// safe to repeat, and finds next to nothing after an orderly end.
func (s site) clean(ctx context.Context, log *slog.Logger) error {
	if err := s.deleteContainers(ctx, log); err != nil {
		return err
	}
	if err := s.unmount(log); err != nil {
		return err
	}
	s.removeCgroups(log)
	bundles, _ := filepath.Glob(filepath.Join(s.root(), "runc-*", "executor")) // errs on bad patterns only
	for _, path := range append(bundles, s.run(), s.temp()) {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove leftovers: %w", err)
		}
	}
	return nil
}

// deleteContainers lets runc forget the containers of a killed buildkitd. Their
// processes are gone; runc compares the start time before it kills by number.
func (s site) deleteContainers(ctx context.Context, log *slog.Logger) error {
	entries, err := os.ReadDir(s.runcRoot())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, entry := range entries {
		log.Info("deleting a container that was left", "id", entry.Name())
		bounded, cancel := context.WithTimeout(ctx, runcTime)
		cmd := exec.CommandContext(bounded, s.runc, "--root", s.runcRoot(), "delete", "-f", entry.Name())
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil { // its state goes with the directory under /run
			log.Warn("runc delete failed", "id", entry.Name(), "error", err, "output", string(out))
		}
	}
	return nil
}

// unmount detaches what is mounted below buildkitd's root and its temporary
// directory, innermost first, so that removing files does not reach through a
// mount. The root may be a mount itself: an operator's, which stays.
func (s site) unmount(log *slog.Logger) error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	defer file.Close()
	mounts, err := mountsBelow(file, s.root(), s.temp())
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, path := range slices.Backward(mounts) {
		log.Info("unmounting what was left", "path", path)
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return nil
}

// mountsBelow reads mountinfo (proc(5)) and lists the mount points strictly
// below one of dirs, in the order in which they were mounted.
func mountsBelow(mountinfo io.Reader, dirs ...string) ([]string, error) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		path := unescape.Replace(fields[4])
		if slices.ContainsFunc(dirs, func(dir string) bool { return strings.HasPrefix(path, dir+"/") }) {
			found = append(found, path)
		}
	}
	return found, lines.Err()
}

// removeCgroups removes the empty cgroups under ours, of version 1 (one tree
// for each controller) or 2. The kernel refuses those in use.
func (s site) removeCgroups(log *slog.Logger) {
	var groups []string
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		tops, _ := filepath.Glob(filepath.Join(pattern, s.name)) // errs on bad patterns only
		for _, top := range tops {
			_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					groups = append(groups, path)
				}
				return nil // what is gone meanwhile needs no removal
			})
		}
	}
	for _, group := range slices.Backward(groups) {
		if err := unix.Rmdir(group); err != nil && !errors.Is(err, unix.ENOENT) {
			log.Debug("cgroup stays", "path", group, "error", err)
		}
	}
}
