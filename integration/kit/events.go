package kit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	cdevents "github.com/cdevents/sdk-go/pkg/api"
	cdevents05 "github.com/cdevents/sdk-go/pkg/api/v05"
	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/package-url/packageurl-go"
)

// Message is one message of a JetStream stream.
type Message struct {
	Seq     uint64
	Subject string
	Header  map[string][]string
	Data    []byte
}

// ReadStream reads the messages of a stream whose subject matches (`imgd.events.>`), from the first, as soon as there
// are at least n of them; with n = 0, those that are there now.
func ReadStream(ctx context.Context, natsURL, stream, subject string, n int) ([]Message, error) {
	conn, err := nats.Connect(natsURL)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	var got []Message
	err = poll(ctx, nil, func(ctx context.Context) error {
		if got, err = readAll(ctx, js, stream, subject); err != nil {
			return err
		}
		if len(got) < n {
			return fmt.Errorf("%s has %d messages on %s, not %d", stream, len(got), subject, n)
		}
		return nil
	})
	return got, err
}

const (
	// readLimit is how long a stream that is read may be silent. A server that is killed takes the answer to what it was
	// asked along, and the client waits for it on the next connection too.
	readLimit = 5 * time.Second
	// readBatch is how many messages are asked for at a time.
	readBatch = 500
)

func readAll(ctx context.Context, js jetstream.JetStream, stream, subject string) (got []Message, err error) {
	asking, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	consumer, err := js.CreateConsumer(asking, stream, jetstream.ConsumerConfig{
		FilterSubject: subject, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: readLimit})
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	defer func() {
		asking, cancel := context.WithTimeout(ctx, readLimit)
		defer cancel()
		err = errors.Join(err, js.DeleteConsumer(asking, stream, consumer.CachedInfo().Name))
	}()
	for left := consumer.CachedInfo().NumPending; left > 0; {
		batch, err := consumer.Fetch(int(min(left, readBatch)), jetstream.FetchMaxWait(readLimit))
		if err != nil {
			return nil, fmt.Errorf("read stream %s: %w", stream, err)
		}
		before := left
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return nil, fmt.Errorf("read stream %s: %w", stream, err)
			}
			left = meta.NumPending
			got = append(got, Message{Seq: meta.Sequence.Stream, Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data()})
		}
		if err := batch.Error(); err != nil || left == before {
			return nil, fmt.Errorf("read stream %s: %d messages do not come: %w", stream, left, err)
		}
	}
	return got, nil
}

// ReadQueue reads the messages that are in a work queue now. It is a look at them, nobody is kept from taking them.
func ReadQueue(ctx context.Context, natsURL, stream string) ([]Message, error) {
	conn, err := nats.Connect(natsURL)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	queue, err := js.Stream(asking, stream)
	if err != nil {
		return nil, fmt.Errorf("read queue %s: %w", stream, err)
	}
	var got []Message
	for next := uint64(1); ; {
		msg, err := message(ctx, queue, next)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return got, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read queue %s: %w", stream, err)
		}
		next = msg.Sequence + 1
		got = append(got, Message{Seq: msg.Sequence, Subject: msg.Subject, Header: msg.Header, Data: msg.Data})
	}
}

// message is the first one from sequence next on.
func message(ctx context.Context, queue jetstream.Stream, next uint64) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	return queue.GetMsg(ctx, next, jetstream.WithGetMsgSubject(">"))
}

// ParseEventSubject reads imgd.events.<what>.<image as unpadded base64url>.<event ID>.
func ParseEventSubject(subject string) (what, image, id string, err error) {
	fields := strings.Split(subject, ".")
	if len(fields) != 5 || fields[0] != "imgd" || fields[1] != "events" {
		return "", "", "", fmt.Errorf("event on %s: not imgd.events.<what>.<image>.<ID>", subject)
	}
	name, err := base64.RawURLEncoding.DecodeString(fields[3])
	if err != nil {
		return "", "", "", fmt.Errorf("event on %s: image: %w", subject, err)
	}
	return fields[2], string(name), fields[4], nil
}

// Published is what a published event tells.
type Published struct {
	ID     string
	Source string
	Time   time.Time
	Purl   packageurl.PackageURL
	// Custom is the CDEvent's customData.
	Custom struct {
		Release string   `json:"release"`
		Request string   `json:"request"`
		Seq     uint64   `json:"seq"`
		Records []Record `json:"records"`
		Tags    []struct {
			Tag        string    `json:"tag"`
			Kind       string    `json:"kind"`
			Ref        string    `json:"ref"`
			Generation int       `json:"generation"`
			AskedAt    time.Time `json:"askedAt"`
		} `json:"tags"`
	}
}

// ParsePublished reads a published event as a stranger would, and checks what it claims to be: the message's headers, the
// CloudEvent by its SDK's rules, the CDEvent by its schema, the purl by its parser, and that they agree.
func ParsePublished(msg Message) (*Published, error) {
	var envelope cloudevents.Event
	if err := json.Unmarshal(msg.Data, &envelope); err != nil {
		return nil, fmt.Errorf("CloudEvent: %w", err)
	}
	if err := envelope.Validate(); err != nil {
		return nil, fmt.Errorf("CloudEvent: %w", err)
	}
	inner, err := cdevents05.NewFromJsonBytes(envelope.Data())
	if err != nil {
		return nil, fmt.Errorf("CDEvent: %w", err)
	}
	if err := cdevents.Validate(inner); err != nil {
		return nil, fmt.Errorf("CDEvent: %w", err)
	}
	if err := matchSchema(inner, envelope.Data()); err != nil {
		return nil, fmt.Errorf("CDEvent: %w", err)
	}
	purl, err := packageurl.FromString(inner.GetSubjectId())
	if err != nil {
		return nil, fmt.Errorf("purl: %w", err)
	}
	p := &Published{ID: envelope.ID(), Source: envelope.Source(), Time: envelope.Time(), Purl: purl}
	if err := inner.GetCustomDataAs(&p.Custom); err != nil {
		return nil, fmt.Errorf("customData: %w", err)
	}
	return p, errors.Join(
		same("specversion", envelope.SpecVersion(), "1.0"),
		same("type", envelope.Type(), "dev.cdevents.artifact.published.0.3.0"),
		same("header Content-Type", header(msg, "Content-Type"), "application/cloudevents+json"),
		same("header Nats-Msg-Id", header(msg, "Nats-Msg-Id"), p.ID),
		same("last token of the subject", msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:], p.ID),
		same("CDEvent's id", inner.GetId(), p.ID),
		same("CDEvent's source", inner.GetSource(), p.Source),
		same("CDEvent's type", inner.GetType().String(), envelope.Type()),
		same("CDEvent's timestamp", inner.GetTimestamp().UTC().String(), p.Time.UTC().String()),
		same("CloudEvent's subject", envelope.Subject(), inner.GetSubjectId()),
		same("purl's type", purl.Type, "oci"),
		same("purl's namespace", purl.Namespace, ""),
		same("release", p.Custom.Release, p.ID),
	)
}

// matchSchema checks the bytes that were sent. The SDK checks what it understood of them, and so misses fields that the schema
// does not allow.
func matchSchema(event cdevents.CDEventReader, sent []byte) error {
	_, schema, err := event.GetSchema()
	if err != nil {
		return err
	}
	var value any
	if err := json.Unmarshal(sent, &value); err != nil {
		return err
	}
	return schema.Validate(value)
}

func header(msg Message, key string) string { return strings.Join(msg.Header[key], ",") }

func same(what, got, want string) error {
	if got != want {
		return fmt.Errorf("%s is %q, want %q", what, got, want)
	}
	return nil
}
