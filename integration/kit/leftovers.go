package kit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Leftovers names the processes whose command line or working directory has the path in it, and the mounts at or below
// it: what a daemon that kept everything below that path has left running. A process inside a container is found by its
// root, which is such a mount.
func Leftovers(path string) []string {
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	for _, dir := range dirs {
		if filepath.Base(dir) == fmt.Sprint(os.Getpid()) {
			continue
		}
		// A process may end while it is looked at; then it is not left over.
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		root, _ := os.Readlink(filepath.Join(dir, "root"))
		command := strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		if strings.Contains(command, path) || isBelow(cwd, path) || isBelow(root, path) {
			found = append(found, fmt.Sprintf("process %s: %s", filepath.Base(dir), command))
		}
	}
	for _, point := range mountsBelow(path) {
		found = append(found, "mount "+point)
	}
	return found
}

// mountsBelow are the mount points at or below a path, the innermost first.
func mountsBelow(path string) []string {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var points []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		// The kernel writes blanks in a path as octal numbers.
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		if isBelow(point, path) {
			points = append([]string{point}, points...)
		}
	}
	return points
}

func isBelow(path, top string) bool {
	return path == top || strings.HasPrefix(path, strings.TrimSuffix(top, "/")+"/")
}

// runDirs makes two directories for a daemon: a short one for sockets, whose paths end at 107 bytes (the temporary
// directories of tests are too deep), and one with room. Their names have this process's ID.
func runDirs() (run, root string, err error) {
	pattern := fmt.Sprintf("imgd-kit-%d-", os.Getpid())
	if run, err = os.MkdirTemp("/run", pattern); err != nil {
		return "", "", err
	}
	root, err = os.MkdirTemp("", pattern)
	return run, root, err
}

// removeDirs takes directories away, and what is mounted in them.
func removeDirs(dirs ...string) error {
	var err error
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		for _, point := range mountsBelow(dir) {
			err = errors.Join(err, syscall.Unmount(point, syscall.MNT_DETACH))
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}
