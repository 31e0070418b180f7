package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The streams, their subjects and the queue's consumer, as FORMATS.md has them.
const (
	requestsStream = "IMGD_REQUESTS"
	statusStream   = "IMGD_STATUS"
	eventsStream   = "IMGD_EVENTS"
	deadStream     = "IMGD_DEAD"

	requestsPrefix = "imgd.requests."
	statusPrefix   = "imgd.status."
	eventsPrefix   = "imgd.events."
	deadPrefix     = "imgd.dead."
	cancelPrefix   = "imgd.cancel." // not in a stream: it is for whoever runs the request now

	consumerName = "imgd"
)

// statusAge is how long the state of a request is kept.
const statusAge = 30 * 24 * time.Hour

// maxRequest bounds a message of the queue, headers included. It is more than
// the body Decode takes, so that a somewhat larger one is seen and buried, and
// far below the server's limit, so that its burial fits.
const maxRequest = 256 << 10

// clusterReplicas is how many servers of a cluster have a message before it is
// acknowledged: any two of three have all of them, so one may be lost.
const clusterReplicas = 3

// streams are the configs of a bus whose index has that ID, empty if it has none.
func streams(replicas int, index string) []jetstream.StreamConfig {
	configs := []jetstream.StreamConfig{
		{Name: requestsStream, Subjects: []string{requestsPrefix + ">"}, Retention: jetstream.WorkQueuePolicy, MaxMsgSize: maxRequest,
			Description: "requests to build, until they have ended"},
		{Name: statusStream, Subjects: []string{statusPrefix + ">"}, MaxMsgsPerSubject: 1, MaxAge: statusAge,
			Description: "where each request stands"},
		{Name: eventsStream, Subjects: []string{eventsPrefix + ">"},
			Description: "what imgd tells the world"},
		{Name: deadStream, Subjects: []string{deadPrefix + ">"},
			Description: "requests nobody could handle"},
	}
	for i := range configs {
		configs[i].Storage = jetstream.FileStorage
		configs[i].AllowDirect = true
		configs[i].Replicas = replicas
	}
	if index != "" {
		configs[0].Metadata = map[string]string{indexKey: index}
	}
	return configs
}

func (b *Bus) declare(ctx context.Context) error {
	replicas := 1
	if b.nc.ConnectedClusterName() != "" {
		replicas = clusterReplicas
	}
	index := ""
	if b.cfg.Index != nil {
		index = b.cfg.Index.ID()
	}
	for _, cfg := range streams(replicas, index) {
		stream, err := b.declareStream(ctx, cfg)
		if err != nil {
			return fmt.Errorf("declare stream %s: %w", cfg.Name, err)
		}
		switch cfg.Name {
		case requestsStream:
			b.requests = stream
		case statusStream:
			b.status = stream
		case eventsStream:
			b.events = stream
		case deadStream:
			b.dead = stream
		}
	}
	return nil
}

// declareStream creates the stream, or adds to the one there is what imgd
// cannot do without. Replicas, placement, limits and whatever else an operator
// chose stay as they are.
func (b *Bus) declareStream(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = b.js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another daemon was faster
			stream, err = b.js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return nil, err
	}
	have := stream.CachedInfo().Config
	if have.Retention != want.Retention || have.Storage != want.Storage {
		return nil, fmt.Errorf("it has retention %s on %s, imgd needs %s on %s: move it away",
			have.Retention, have.Storage, want.Retention, want.Storage)
	}
	merged, changed := merge(have, want)
	if !changed {
		return stream, nil
	}
	return b.js.UpdateStream(ctx, merged)
}

func merge(have, want jetstream.StreamConfig) (merged jetstream.StreamConfig, changed bool) {
	merged = have
	merged.Subjects = slices.Clone(have.Subjects)
	for _, subject := range want.Subjects {
		if !slices.Contains(have.Subjects, subject) {
			merged.Subjects, changed = append(merged.Subjects, subject), true
		}
	}
	if want.MaxMsgsPerSubject > 0 && have.MaxMsgsPerSubject != want.MaxMsgsPerSubject {
		merged.MaxMsgsPerSubject, changed = want.MaxMsgsPerSubject, true
	}
	if of := want.Metadata[indexKey]; of != "" && have.Metadata[indexKey] == "" {
		merged.Metadata, changed = withIndex(have.Metadata, of), true
	}
	if !have.AllowDirect {
		merged.AllowDirect, changed = true, true
	}
	return merged, changed
}

// consumer declares the queue's one consumer, which all daemons share. MaxDeliver
// is unlimited because the server would keep an exhausted message for ever
// without telling anybody. MaxAckPending is, because requests that wait for
// their next try count in it and must not stop new ones. There is no BackOff: it
// would replace the lease.
func (b *Bus) consumer(ctx context.Context) (jetstream.Consumer, error) {
	want := jetstream.ConsumerConfig{
		Durable: consumerName, AckPolicy: jetstream.AckExplicitPolicy, AckWait: b.cfg.Lease,
		MaxDeliver: -1, MaxAckPending: -1, Description: "handles requests",
	}
	cons, err := b.js.Consumer(ctx, requestsStream, consumerName)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		cons, err = b.js.CreateOrUpdateConsumer(ctx, requestsStream, want)
	}
	if err != nil {
		return nil, fmt.Errorf("declare consumer %s: %w", consumerName, err)
	}
	have := cons.CachedInfo().Config
	if have.AckWait == want.AckWait && have.MaxDeliver == want.MaxDeliver && have.MaxAckPending == want.MaxAckPending && len(have.BackOff) == 0 {
		return cons, nil
	}
	have.AckWait, have.MaxDeliver, have.MaxAckPending, have.BackOff = want.AckWait, want.MaxDeliver, want.MaxAckPending, nil
	if cons, err = b.js.UpdateConsumer(ctx, requestsStream, have); err != nil {
		return nil, fmt.Errorf("update consumer %s: %w", consumerName, err)
	}
	return cons, nil
}
