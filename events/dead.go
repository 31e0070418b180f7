package events

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of a dead letter. The last two say what the queue knew of it besides
// its bytes, for whoever puts it there again.
const (
	reasonHeader  = "Imgd-Reason"
	triesHeader   = "Imgd-Tries"
	subjectHeader = "Imgd-Subject"
	msgIDHeader   = "Imgd-Msg-Id"
)

// maxHeader bounds what a header repeats, in bytes.
const maxHeader = 1 << 10

// bury writes the message to IMGD_DEAD, its bytes as they were. Safe to repeat:
// within the stream's duplicate window it is the same letter, later a second one.
func (b *Bus) bury(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata, reason string) error {
	project, _, _ := strings.Cut(strings.TrimPrefix(msg.Subject(), requestsPrefix), ".")
	letter := &nats.Msg{Subject: deadPrefix + project, Data: msg.Data(), Header: nats.Header{}}
	letter.Header.Set(reasonHeader, oneLine(reason))
	letter.Header.Set(triesHeader, strconv.FormatUint(meta.NumDelivered, 10))
	letter.Header.Set(subjectHeader, msg.Subject())
	if id := msg.Headers().Get(jetstream.MsgIDHeader); id != "" {
		letter.Header.Set(msgIDHeader, id)
	}
	id := requestsStream + "/" + strconv.FormatUint(meta.Sequence.Stream, 10)
	if _, err := b.publish(ctx, letter, jetstream.WithMsgID(id), jetstream.WithExpectStream(deadStream)); err != nil {
		return fmt.Errorf("write dead letter: %w", err)
	}
	return nil
}

// oneLine makes s fit into a header.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxHeader)], "?")
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
}

// buryUnreadable ends a message that is no request, so that it has no state and
// no ID: the dead letter is all there is of it, and is durable before the
// message goes.
func (w *worker) buryUnreadable(hard context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata, cause error) {
	ctx := context.WithoutCancel(hard)
	log := w.cfg.Log.With("subject", msg.Subject(), "sequence", meta.Sequence.Stream, "reason", cause)
	err := w.bury(ctx, msg, meta, cause.Error())
	if err == nil {
		err = w.acknowledge(ctx, msg)
	}
	if err != nil {
		log.Error("unreadable request is not settled, trying again", "error", err)
		w.nak("", msg.NakWithDelay(w.cfg.Retry(int(meta.NumDelivered))))
		return
	}
	log.Error("unreadable request put into "+deadStream, "tries", meta.NumDelivered)
}
