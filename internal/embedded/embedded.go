// Package embedded is the one-machine stack of imgd: a NATS server with
// JetStream and an OCI registry in this process, and buildkitd as a supervised
// child. Each part locks its directory, is started and closed on its own, and
// leaves nothing behind: not after Close, and after a kill -9 of imgd no
// process and no mount, the rest being cleaned by the next start.
//
// It does not know what the parts are used for: it makes no streams, no
// repositories and no builds, and who calls StartBuildkitd says how buildkitd
// is asked whether it is ready. It runs on Linux only, buildkitd needs root.
package embedded

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gofrs/flock"
)

// lockDir makes dir, if it is missing, and locks it for this process. The lock
// ends with the process however that ends; the file stays, for removing it
// would let two processes hold "the" lock. The file names the holder.
func lockDir(dir string) (*flock.Flock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	lock := flock.New(path)
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if !ok {
		return nil, fmt.Errorf("lock %s: in use by %s", dir, holder(path))
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, errors.Join(err, lock.Unlock()))
	}
	return lock, nil
}

// holder tells who wrote the lock file at path. It may be empty for a moment
// while its holder writes it.
func holder(path string) string {
	text, err := os.ReadFile(path)
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		return "process " + pid
	}
	return "another process"
}

// reachable turns the address of a listener into one that a client on this
// machine can dial: a listener on all addresses is reached by loopback.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
}
