package kit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsEnv has "<listen>,<directory>" in a process that is to be a NATS server.
const natsEnv = "IMGD_KIT_NATS"

// NATS is a NATS server with JetStream in a process of its own, as an operator would run it beside imgd: it syncs what it
// acknowledges, and can be killed.
type NATS struct {
	// URL is nats://host:port, the same after each start.
	URL string

	dir, listen string
	child       *child
}

// ServeNATS is the server, if this process was started by StartNATS: it does not return then. Whoever calls StartNATS calls
// it first of all in main or TestMain, as the server is this very binary.
func ServeNATS() {
	listen, dir, asked := strings.Cut(os.Getenv(natsEnv), ",")
	if !asked {
		return
	}
	if err := serveNATS(listen, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveNATS prints the URL when the server is ready, and runs until the process is killed.
func serveNATS(listen, dir string) error {
	host, portText, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return err
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{ServerName: "kit", Host: host, Port: port, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true})
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	go s.Start()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	err = poll(ctx, nil, func(context.Context) error {
		if status := s.Healthz(nil); status.Status != "ok" {
			return errors.New(status.Error)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(os.Stdout, "nats://%s\n", s.Addr()); err != nil {
		return err
	}
	s.WaitForShutdown()
	return errors.New("nats-server has shut down")
}

// StartNATS starts a server on a port of its own, over what is in dir.
func StartNATS(ctx context.Context, dir string) (*NATS, error) {
	n := &NATS{dir: dir, listen: ownHost() + ":0"}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// Start starts it again after Kill9, on the same port and over the same directory.
func (n *NATS) Start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), natsEnv+"="+n.listen+","+n.dir)
	cmd.Stdout = in
	log, err := os.OpenFile(n.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	defer log.Close() // the child has its own
	cmd.Stderr = log
	n.child, err = startChild(cmd)
	if err = errors.Join(err, in.Close()); err != nil {
		return err
	}
	deadline := time.Now().Add(startTimeout)
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		deadline = earlier
	}
	if err := out.SetReadDeadline(deadline); err != nil {
		return err
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		n.Kill9()
		text, _ := os.ReadFile(n.dir + ".log")
		return fmt.Errorf("start NATS: %w\n%s", err, text)
	}
	n.URL = strings.TrimSpace(url)
	n.listen = strings.TrimPrefix(n.URL, "nats://")
	return nil
}

// Kill9 kills the process, as the kernel does when memory runs out, and waits until it is gone.
func (n *NATS) Kill9() {
	_ = n.child.process.Kill() // an error says that it has ended
	<-n.child.done
}
