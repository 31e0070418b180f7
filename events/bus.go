// Package events is imgd's side of NATS JetStream. It takes requests into a
// durable queue and hands each to a Handler for as long as it takes, keeps the
// state of every request, and tells the world how they end: it relays what the
// index has published, and writes the other ends itself. Operators cancel, retry
// and drop requests through it. It does not know what handling a request does: a
// Handler answers with a release or an error, and one table says which end that
// is.
//
// Everything here is delivered at least once. What a message causes must be
// safe to repeat, and a message is acknowledged only after what it caused is
// durable.
package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/imgd/imgd"
)

// Defaults of Config.
const (
	defaultSlots   = 2
	defaultPoll    = time.Second
	defaultLease   = 30 * time.Second
	defaultGrace   = 2 * time.Minute
	defaultTimeout = 5 * time.Second

	defaultRetryFor = 6 * time.Hour
	defaultTries    = 5
	defaultWatch    = 3 * time.Second
)

// How the connection notices that the server is gone, and how often it tries
// to be back: a build does not need it, but its lease does.
const (
	reconnectWait = 500 * time.Millisecond
	pingInterval  = 10 * time.Second
)

// Config says how to reach NATS and how to work. The zero value of every field
// but URL works.
type Config struct {
	URL     string                        // of the NATS servers, separated by commas
	Creds   string                        // file with the user's JWT and seed (.creds), read at each connect; default: none
	Name    string                        // of this client in the server's lists; default imgd
	Slots   int                           // requests built at a time; default 2
	Poll    time.Duration                 // how long one ask for a request waits, and an idle shutdown at most; default 1s
	Lease   time.Duration                 // how long a request stays taken without a sign of life; default 30s
	Grace   time.Duration                 // how long Consume lets handlers finish; default 2m, negative: not at all
	Timeout time.Duration                 // of one call to NATS, well below Lease; default 5s
	Retry   func(tries int) time.Duration // delay before the next try; default imgd.RetryDelay
	Now     func() time.Time              // default time.Now
	Log     *slog.Logger                  // default: none

	// A request that keeps failing is given up when it has been in the queue for
	// RetryFor (default 6h) and was delivered Tries times (default 5), both.
	RetryFor time.Duration
	Tries    int

	// Ready says what is wrong with the parts that every request needs: nothing
	// is taken from the queue, and nothing given up, until it answers nil. It is
	// asked at any moment, never twice at a time; one that takes more than 5s
	// counts as an error. Default: always ready.
	Ready func(ctx context.Context) error
	Watch time.Duration // how often Ready is asked while it is an error, else a tenth as often; default 3s

	// Observe is told what happens here, for metrics.
	Observe Observer
	// Traces takes the spans of what becomes of a request: of its way into the
	// queue, and of each try. Default: none are made, and those of others in the
	// queue are not looked at.
	Traces trace.TracerProvider

	// Events of ends name the project's image, empty if it is not configured,
	// and the index.
	Image   func(project string) string
	IndexID string // default: that of Index

	// Index is held against the streams before anything is taken from the queue or
	// announced: see Fits. Default: it is not asked.
	Index Index
}

func (c Config) withDefaults() Config {
	c.Name = cmp.Or(c.Name, "imgd")
	c.Slots = cmp.Or(max(c.Slots, 0), defaultSlots)
	c.Poll = cmp.Or(c.Poll, defaultPoll)
	c.Lease = cmp.Or(c.Lease, defaultLease)
	c.Grace = cmp.Or(c.Grace, defaultGrace)
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	c.RetryFor = cmp.Or(c.RetryFor, defaultRetryFor)
	c.Tries = cmp.Or(c.Tries, defaultTries)
	c.Watch = cmp.Or(max(c.Watch, 0), defaultWatch)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	if c.Retry == nil {
		c.Retry = imgd.RetryDelay
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Image == nil {
		c.Image = func(string) string { return "" }
	}
	if c.Index != nil {
		c.IndexID = cmp.Or(c.IndexID, c.Index.ID())
	}
	c.Observe = c.Observe.withDefaults()
	return c
}

// A Bus is a connection to imgd's streams. It is safe for concurrent use.
type Bus struct {
	cfg Config
	nc  *nats.Conn
	js  jetstream.JetStream

	requests, status, events, dead jetstream.Stream

	handshake handshake
	outage    *outage
	first     firstStates
	tracer    tracer
}

// Connect connects to NATS and declares the streams, which is safe to repeat
// and leaves an operator's settings of existing ones alone. It fails if no
// server answers; a connection that is lost later is tried again for ever.
// Close ends what it starts.
func Connect(ctx context.Context, cfg Config) (*Bus, error) {
	b, err := open(cfg)
	if err != nil {
		return nil, err
	}
	if err := b.declare(ctx); err != nil {
		b.nc.Close()
		return nil, marked(err)
	}
	b.first.start(b)
	return b, nil
}

// Look is Connect for those who only read what the index has told: it changes
// nothing. imgd.ErrNotFound if there is no IMGD_EVENTS.
func Look(ctx context.Context, cfg Config) (*Bus, error) {
	b, err := open(cfg)
	if err != nil {
		return nil, err
	}
	if b.events, err = b.js.Stream(ctx, eventsStream); err != nil {
		b.nc.Close()
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			err = imgd.ErrNotFound
		}
		return nil, fmt.Errorf("look for stream %s at %s: %w", eventsStream, b.cfg.URL, marked(err))
	}
	b.first.stop = func() {}
	return b, nil
}

func open(cfg Config) (*Bus, error) {
	b := &Bus{cfg: cfg.withDefaults(), tracer: newTracer(cfg.Traces)}
	b.outage = newOutage(b.cfg)
	if b.cfg.Index != nil {
		b.outage.ready = b.ready
	}
	nc, err := nats.Connect(b.cfg.URL, b.options()...)
	if err != nil {
		return nil, fmt.Errorf("connect to nats: %w", marked(err))
	}
	b.nc = nc
	if b.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(b.cfg.Timeout)); err != nil {
		nc.Close()
		return nil, fmt.Errorf("use jetstream: %w", err)
	}
	return b, nil
}

func (b *Bus) options() []nats.Option {
	log := b.cfg.Log
	options := []nats.Option{
		nats.Name(b.cfg.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.PingInterval(pingInterval),
		nats.IgnoreAuthErrorAbort(), // credentials are rotated while imgd runs
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: closed by Close
				log.Warn("nats connection lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("nats connected again", "server", nc.ConnectedUrlRedacted())
			b.handshake.forget()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("nats reports", "error", err) }),
	}
	if b.cfg.Creds != "" {
		options = append(options, nats.UserCredentials(b.cfg.Creds))
	}
	return options
}

// Ping asks JetStream for the queue, so it fails if the server, JetStream or
// the stream's leader does not answer in time.
func (b *Bus) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	if _, err := b.js.Stream(ctx, requestsStream); err != nil {
		return fmt.Errorf("ask jetstream for %s: %w", requestsStream, err)
	}
	return nil
}

// Close sends what is still buffered and closes the connection. First states
// that Enqueue left to be written are dropped.
func (b *Bus) Close() {
	b.first.stop()
	_ = b.flush() // nothing that must not be lost waits in the buffer
	b.nc.Close()
}

func (b *Bus) flush() error {
	if err := b.nc.FlushTimeout(b.cfg.Timeout); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("flush nats connection: %w", err)
	}
	return nil
}

// publish returns when the stream has stored msg durably. After an error
// nobody knows: it may have been, or may be yet.
func (b *Bus) publish(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	return b.js.PublishMsg(ctx, msg, opts...)
}

// The server's answers to a publish that expected another last message. On
// replicated streams the second says that another publish is under way.
const (
	wrongLastSequence         jetstream.ErrorCode = 10071
	wrongLastSequenceInFlight jetstream.ErrorCode = 10164
)

// outrun reports whether err says that somebody else has written the subject.
// The server says so too when it cannot read its store (stream.go), so whoever
// relies on it looks.
func outrun(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == wrongLastSequence || api.ErrorCode == wrongLastSequenceInFlight)
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
