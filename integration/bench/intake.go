package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/integration/kit"
	"github.com/imgd/imgd/internal/embedded"
)

// The load: what 20 projects' forges may send in a burst, over connections that
// stay open.
const (
	intakeProjects = 20
	intakeCallers  = 32
	intakeRounds   = 7
	roundTime      = 2 * time.Second
	// intakeTotal deliveries must not make imgd grow; the first part of them
	// fills its caches and those of the NATS server in it.
	intakeTotal = 100_000
	intakeWarm  = 20_000
	// intakeGoal is the share of a bare publish's rate that is left when a
	// delivery is verified, parsed, and made a request.
	intakeGoal = 0.45
	memoryGoal = 1.25 // of imgd alone: a NATS server in it keeps some 300 bytes for each request that waits
)

// A site is an imgd that takes deliveries and has its one slot taken: the git
// server of all projects answers nothing, so that only the intake works.
type site struct {
	daemon  *kit.Daemon
	js      jetstream.JetStream
	client  *http.Client
	payload payload
	secret  []byte
}

// intake measures accepted deliveries a second, each answered after the queue's
// durable ack, against bare publishes of the same bytes into a stream of the
// same server; and how imgd's memory grows with them.
func intake(ctx context.Context, progress io.Writer) ([]figure, error) {
	rates, err := withSite(ctx, "", func(s *site) ([]figure, error) { return s.rates(ctx, progress) })
	if err != nil {
		return nil, err
	}
	growth, err := withNATS(ctx, func(url string) ([]figure, error) {
		return withSite(ctx, url, func(s *site) ([]figure, error) { return s.growth(ctx, progress) })
	})
	return append(rates, growth...), err
}

// rates compares the two in turns.
func (s *site) rates(ctx context.Context, progress io.Writer) ([]figure, error) {
	var ratios, deliveries, publishes []float64
	for round := range intakeRounds {
		// Who goes first changes: what the disk still does for the one slows the other.
		sides := []func(context.Context) (float64, error){s.publishRate, s.deliverRate}
		var rate [2]float64
		for i := range sides {
			side := (i + round) % 2
			var err error
			if rate[side], err = sides[side](ctx); err != nil {
				return nil, err
			}
		}
		fmt.Fprintf(progress, "round %d: %.0f publishes/s, %.0f deliveries/s\n", round+1, rate[0], rate[1])
		publishes, deliveries, ratios = append(publishes, rate[0]), append(deliveries, rate[1]), append(ratios, rate[1]/rate[0])
	}
	peer := "bare JetStream publish of the same bytes, sync always, nats-server in imgd"
	return []figure{
		figure{Name: "rate", Value: median(ratios), Unit: "ratio", Peer: peer}.atLeast(intakeGoal),
		{Name: "deliveries", Value: median(deliveries), Unit: "1/s"},
		{Name: "publishes", Value: median(publishes), Unit: "1/s"},
	}, nil
}

// withNATS runs f beside a NATS server in this process.
func withNATS(ctx context.Context, f func(url string) ([]figure, error)) (_ []figure, err error) {
	dir, err := os.MkdirTemp("", "imgd-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := embedded.StartNATS(ctx, embedded.NATSConfig{Dir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer server.Close()
	return f(server.URL())
}

// withSite runs f on a site whose imgd uses that NATS server, or its own.
func withSite(ctx context.Context, natsURL string, f func(*site) ([]figure, error)) (_ []figure, err error) {
	dir, err := os.MkdirTemp("", "imgd-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, stop, err := startSite(ctx, dir, natsURL)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return nil, err
	}
	return f(s)
}

func startSite(ctx context.Context, dir, natsURL string) (s *site, stop func() error, err error) {
	stop = func() error { return nil }
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, stop, err
	}
	s = &site{secret: []byte(rand.Text()), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: intakeCallers}}}
	if s.payload, err = readPayload(ctx); err != nil {
		return nil, silent.Close, err
	}
	secretFile := filepath.Join(dir, "secret")
	if err := os.WriteFile(secretFile, s.secret, 0o600); err != nil {
		return nil, silent.Close, err
	}
	var projects []kit.ProjectConfig
	for i := range intakeProjects {
		name := fmt.Sprintf("p%d", i)
		projects = append(projects, kit.ProjectConfig{Name: name, Git: fmt.Sprintf("http://%s/%s.git", silent.Addr(), name), Image: name,
			Webhook: &kit.WebhookConfig{Forge: "github", SecretFile: secretFile}})
	}
	config := kit.LocalConfig(projects...)
	config.Build.Slots, config.Build.Grace, config.NATS.URL = 1, "1s", natsURL
	if s.daemon, err = kit.StartDaemon(ctx, dir, config); err != nil {
		return nil, silent.Close, err
	}
	stop = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return errors.Join(s.daemon.Terminate(ctx), silent.Close())
	}
	conn, err := nats.Connect(s.daemon.NATS)
	if err != nil {
		return nil, stop, err
	}
	if s.js, err = jetstream.New(conn); err != nil {
		return nil, stop, err
	}
	_, err = s.js.CreateStream(ctx, jetstream.StreamConfig{Name: "BENCH", Subjects: []string{"bench.>"},
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage})
	return s, stop, err
}

// publishRate is how many deliveries' bodies a second callers can publish.
func (s *site) publishRate(ctx context.Context) (float64, error) {
	return s.rate(ctx, func(ctx context.Context, d delivery) error {
		_, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: "bench." + d.project, Data: d.body}, jetstream.WithMsgID(d.id))
		return err
	})
}

// deliverRate is how many of the same a second imgd accepts.
func (s *site) deliverRate(ctx context.Context) (float64, error) { return s.rate(ctx, s.deliver) }

func (s *site) deliver(ctx context.Context, d delivery) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.daemon.HTTP+"/hooks/github/"+d.project, bytes.NewReader(d.body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", "push")
	req.Header.Set("X-GitHub-Delivery", d.id)
	mac := hmac.New(sha256.New, s.secret)
	mac.Write(d.body)
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("delivery %s: %s\n%s", d.id, resp.Status, answer)
	}
	return err
}

// rate calls send for a round's time from all callers.
func (s *site) rate(ctx context.Context, send func(context.Context, delivery) error) (float64, error) {
	began := time.Now()
	n, err := s.callers(ctx, send, func() bool { return time.Since(began) < roundTime })
	return float64(n) / time.Since(began).Seconds(), err
}

// callers calls send while more says so, and answers how often.
func (s *site) callers(ctx context.Context, send func(context.Context, delivery) error, more func() bool) (int64, error) {
	var n atomic.Int64
	errs := make([]error, intakeCallers)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			for errs[i] == nil && more() && ctx.Err() == nil {
				if errs[i] = send(ctx, s.payload.next()); errs[i] == nil {
					n.Add(1)
				}
			}
		})
	}
	all.Wait()
	return n.Load(), cmp.Or(errors.Join(errs...), ctx.Err())
}

// growth delivers intakeTotal, and compares imgd's memory then with that after
// intakeWarm.
func (s *site) growth(ctx context.Context, progress io.Writer) ([]figure, error) {
	var sizes []float64 // after each part, in KiB
	for have := 0; have < intakeTotal; have += intakeWarm {
		left := atomic.Int64{}
		left.Store(intakeWarm)
		if _, err := s.callers(ctx, s.deliver, func() bool { return left.Add(-1) >= 0 }); err != nil {
			return nil, err
		}
		kib, err := residentKiB(s.daemon.PID())
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(progress, "after %d deliveries: %.0f MiB\n", have+intakeWarm, kib/1024)
		sizes = append(sizes, kib)
	}
	peer := fmt.Sprintf("itself after %d of %d deliveries", intakeWarm, intakeTotal)
	return []figure{figure{Name: "memory", Value: sizes[len(sizes)-1] / sizes[0], Unit: "ratio", Peer: peer}.atMost(memoryGoal)}, nil
}

// residentKiB is the anonymous memory of the process.
func residentKiB(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0, fmt.Errorf("read RssAnon of %d: %w", pid, err)
	}
	return kib, nil
}

// A payload is a push as GitHub sends it, cut where the commit stands.
type payload struct {
	parts [][]byte
	count *atomic.Uint64
}

// A delivery is one of them, with a commit of its own.
type delivery struct {
	id, project string
	body        []byte
}

// readPayload takes the example of a push that go-scm is tested with.
func readPayload(ctx context.Context) (payload, error) {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/drone/go-scm")
	list.Dir = ".." // imgd's module has it, this one has not
	dir, err := list.Output()
	if err != nil {
		return payload{}, fmt.Errorf("find go-scm: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "scm/driver/github/testdata/webhooks/push.json"))
	if err != nil {
		return payload{}, err
	}
	_, after, found := bytes.Cut(text, []byte(`"after": "`))
	if !found || len(after) < 40 {
		return payload{}, errors.New("the example of a push names no commit")
	}
	return payload{parts: bytes.Split(text, after[:40]), count: new(atomic.Uint64)}, nil
}

func (p payload) next() delivery {
	n := p.count.Add(1)
	commit := sha256.Sum256(fmt.Append(nil, n))
	return delivery{id: fmt.Sprintf("bench-%d", n), project: fmt.Sprintf("p%d", n%intakeProjects),
		body: bytes.Join(p.parts, fmt.Append(nil, hex.EncodeToString(commit[:20])))}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func keys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }
