package events

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// Headers of a dead letter. All but the first two say what the queue knew of it
// besides its bytes, for whoever puts it there again. Request and time are
// missing if it could not be read.
const (
	reasonHeader  = "Imgd-Reason"
	triesHeader   = "Imgd-Tries"
	subjectHeader = "Imgd-Subject"
	msgIDHeader   = "Imgd-Msg-Id"
	requestHeader = "Imgd-Request"
	askedAtHeader = "Imgd-Asked-At" // as in the state
	// and nonceHeader
)

// maxHeader bounds what a header repeats, in bytes.
const maxHeader = 1 << 10

// letterPrefix and a sequence in IMGD_DEAD make the ID of a dead letter.
const letterPrefix = "dead-"

// bury writes the message to IMGD_DEAD, its bytes as they were. Safe to repeat:
// within the stream's duplicate window it is the same letter, later a second one.
func (w *worker) bury(ctx context.Context, d *delivery, reason string) error {
	subject, h := d.msg.Subject(), d.msg.Headers()
	project, _, _ := strings.Cut(strings.TrimPrefix(subject, requestsPrefix), ".")
	letter := &nats.Msg{Subject: deadPrefix + project, Data: d.msg.Data(), Header: nats.Header{}}
	set := func(header, value string) {
		if value != "" {
			letter.Header.Set(header, oneLine(value))
		}
	}
	set(reasonHeader, reason)
	set(triesHeader, strconv.Itoa(d.tries))
	set(subjectHeader, subject)
	set(msgIDHeader, h.Get(jetstream.MsgIDHeader))
	set(nonceHeader, h.Get(nonceHeader))
	if d.req.ID != "" {
		set(requestHeader, d.req.ID)
		set(askedAtHeader, d.req.AskedAt.Format(time.RFC3339Nano))
		set(nonceHeader, d.req.Nonce)
	}
	id := requestsStream + "/" + strconv.FormatUint(d.meta.Sequence.Stream, 10)
	if _, err := w.publish(ctx, letter, jetstream.WithMsgID(id), jetstream.WithExpectStream(deadStream)); err != nil {
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
func (w *worker) buryUnreadable(hard context.Context, d *delivery, cause error) {
	ctx := context.WithoutCancel(hard)
	log := w.cfg.Log.With("subject", d.msg.Subject(), "sequence", d.meta.Sequence.Stream, "reason", cause)
	err := w.bury(ctx, d, cause.Error())
	if err == nil {
		err = w.acknowledge(ctx, d.msg)
	}
	if err != nil {
		log.Error("unreadable request is not settled, trying again", "error", err)
		w.nak(d, d.msg.NakWithDelay(w.cfg.Retry(1)))
		return
	}
	log.Error("unreadable request put into "+deadStream, "tries", d.tries)
}

// Letter is the dead letter with that ID, and whether there is one.
func (b *Bus) Letter(ctx context.Context, id string) (imgd.Letter, bool, error) {
	seq, ok := letterSeq(id)
	if !ok {
		return imgd.Letter{}, false, nil
	}
	raw, found, err := b.letter(ctx, seq)
	if err != nil || !found {
		return imgd.Letter{}, false, err
	}
	return letterOf(raw), true, nil
}

func (b *Bus) letter(ctx context.Context, seq uint64) (*jetstream.RawStreamMsg, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	raw, err := b.dead.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read dead letter %d: %w", seq, err)
	}
	return raw, true, nil
}

// letterSeq is the place of the letter with that ID.
func letterSeq(id string) (seq uint64, ok bool) {
	digits, ok := strings.CutPrefix(id, letterPrefix)
	seq, err := strconv.ParseUint(digits, 10, 64)
	return seq, ok && err == nil && seq > 0 && letterID(seq) == id
}

func letterID(seq uint64) string { return letterPrefix + strconv.FormatUint(seq, 10) }

// letterOf reads a letter as far as it goes: others may write there.
func letterOf(raw *jetstream.RawStreamMsg) imgd.Letter {
	h := raw.Header
	tries, _ := strconv.Atoi(h.Get(triesHeader))
	return imgd.Letter{ID: letterID(raw.Sequence), Request: h.Get(requestHeader), Project: strings.TrimPrefix(raw.Subject, deadPrefix),
		Reason: h.Get(reasonHeader), Tries: tries, At: raw.Time.UTC(), Subject: h.Get(subjectHeader), Body: strings.ToValidUTF8(string(raw.Data), "\uFFFD")}
}

// askedAtOf is when the letter's request was asked, zero if it is not known.
func askedAtOf(h nats.Header) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, h.Get(askedAtHeader))
	return t
}

// throwAway deletes the letters of the request that are of asks until then.
func (b *Bus) throwAway(ctx context.Context, st imgd.Status, until time.Time) error {
	var found []uint64
	o := readOptions{stream: deadStream, subject: deadPrefix + st.Project}
	err := b.read(ctx, o, func(msg jetstream.Msg, seq uint64) error {
		if h := msg.Headers(); h.Get(requestHeader) == st.Request && !askedAtOf(h).After(until) {
			found = append(found, seq)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for dead letters of %s: %w", st.Request, err)
	}
	for _, seq := range found {
		if err := b.remove(ctx, b.dead, seq); err != nil {
			return fmt.Errorf("delete %s: %w", letterID(seq), err)
		}
	}
	return nil
}

// remove deletes a message. A stream that recovers from a kill may have it
// again, so it is for what may be met twice. Safe to repeat: it is no error if
// the message is gone.
func (b *Bus) remove(ctx context.Context, stream jetstream.Stream, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	err := stream.DeleteMsg(ctx, seq)
	if err == nil {
		return nil
	}
	if _, getErr := stream.GetMsg(ctx, seq); errors.Is(getErr, jetstream.ErrMsgNotFound) {
		return nil
	}
	return err
}
