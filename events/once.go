package events

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// writeOnce writes an event if none stands on its subject, and returns nil only
// when one does, durably. Safe to repeat after any error, by anybody and however
// late: the subject is the event's own and the stream takes only the first
// message on it, so after a lost answer the next try finds it there.
func (b *Bus) writeOnce(ctx context.Context, subject, id string, body []byte) error {
	msg := &nats.Msg{Subject: subject, Data: body, Header: nats.Header{}}
	msg.Header.Set("Content-Type", contentType)
	ack, err := b.publish(ctx, msg, jetstream.WithMsgID(id), jetstream.WithExpectStream(eventsStream), jetstream.WithExpectLastSequencePerSubject(0))
	switch {
	case err == nil && !ack.Duplicate:
		return nil
	case err != nil && !outrun(err):
		return err // 10158, "duplicate message id is in process", is one: it may fail yet
	case b.written(ctx, subject):
		return nil
	case err == nil: // soon the stream forgets the ID, and takes the event
		return fmt.Errorf("the message ID %s is another message's", id)
	default:
		return err
	}
}

// written looks whether the event is there. Neither "wrong last sequence" nor
// "duplicate" proves it: the server says the first when it cannot read its store
// too, and the second of any message with that ID, whatever its subject.
func (b *Bus) written(ctx context.Context, subject string) bool {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	_, err := b.events.GetLastMsgForSubject(ctx, subject)
	return err == nil
}
