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

// Dropper gives releases up; imgd.Pipeline is one.
type Dropper interface {
	// Drop abandons the admitted release of the request and answers it, durably
	// and with all that follows. Safe to repeat, also after an error.
	// imgd.ErrNotFound if it has admitted none, or has lost it otherwise;
	// imgd.ErrConflict if it was published.
	Drop(ctx context.Context, request, why string) (imgd.Release, error)
}

// Retry puts a request that has ended without a release into the queue again,
// as by's, and deletes its dead letters; or it puts the message of a dead letter
// that is no request there as it was. It answers the request as it is asked now,
// with only the project if it is none. imgd.ErrNotFound if there is no such
// request or letter; imgd.ErrConflict if the request is under way, or there is
// nothing to try again. Safe to repeat: of one end it is the same message for
// two minutes.
func (b *Bus) Retry(ctx context.Context, id, by string) (imgd.Request, error) {
	if seq, ok := letterSeq(id); ok {
		return b.retryLetter(ctx, seq, by)
	}
	st, err := b.known(ctx, id)
	if err != nil {
		return imgd.Request{}, err
	}
	switch {
	case !st.State.Final():
		// A retry that was interrupted may have left the letter of the ask before.
		if err := b.throwAway(ctx, st.Status, st.AskedAt.Add(-time.Millisecond)); err != nil {
			return imgd.Request{}, err
		}
		return imgd.Request{}, conflict("request %s is %s, and will be tried until it ends", id, st.State)
	case st.State == imgd.Published, st.State == imgd.Unchanged:
		return imgd.Request{}, conflict("request %s has ended %s: there is nothing to try again", id, st.State)
	}
	return b.askAgain(ctx, st.Status, by)
}

// askAgain is asking, then deleting: a crash between leaves a letter of an ask
// that was answered by a later one.
func (b *Bus) askAgain(ctx context.Context, st imgd.Status, by string) (imgd.Request, error) {
	req := st.Again()
	req.By = by
	delivery := fmt.Sprintf("retry/%s/%d", st.Request, st.AskedAt.UnixMilli())
	if st.Commit == "" {
		delivery = "" // its end stays as it is: the ask goes on under another ID
	}
	req, err := b.Submit(ctx, req, delivery)
	if err != nil {
		return req, err
	}
	if err := b.throwAway(ctx, st, st.AskedAt); err != nil {
		b.cfg.Log.Warn("request is asked for again, but its dead letter is still there", "request", st.Request, "error", err)
	}
	return req, nil
}

// retryLetter is Retry by the ID of a letter. What is known of its request goes
// before it; a letter that outlived that goes back as it was.
func (b *Bus) retryLetter(ctx context.Context, seq uint64, by string) (imgd.Request, error) {
	raw, err := b.knownLetter(ctx, seq)
	if err != nil {
		return imgd.Request{}, err
	}
	request := raw.Header.Get(requestHeader)
	if _, found, err := b.Status(ctx, request); err != nil {
		return imgd.Request{}, err
	} else if found {
		return b.Retry(ctx, request, by)
	}
	subject := raw.Header.Get(subjectHeader)
	if !strings.HasPrefix(subject, requestsPrefix) {
		return imgd.Request{}, fmt.Errorf("%s has no subject of the queue, %q: %w", letterID(seq), subject, imgd.ErrInvalid)
	}
	msg := &nats.Msg{Subject: subject, Data: raw.Data, Header: nats.Header{}}
	if nonce := raw.Header.Get(nonceHeader); nonce != "" {
		msg.Header[nonceHeader] = []string{nonce}
	}
	sending, sent := b.tracer.send(ctx, msg)
	_, err = b.publish(sending, msg, jetstream.WithMsgID("retry/"+letterID(seq)), jetstream.WithExpectStream(requestsStream))
	sent(imgd.Request{}, err)
	if err != nil {
		return imgd.Request{}, fmt.Errorf("enqueue %s: %w", letterID(seq), err)
	}
	if err := b.remove(ctx, b.dead, seq); err != nil {
		b.cfg.Log.Warn("message is in the queue again, but its dead letter is still there", "letter", letterID(seq), "error", err)
	}
	return imgd.Request{Project: strings.TrimPrefix(raw.Subject, deadPrefix)}, nil
}

func (b *Bus) knownLetter(ctx context.Context, seq uint64) (*jetstream.RawStreamMsg, error) {
	raw, found, err := b.letter(ctx, seq)
	if err == nil && !found {
		err = fmt.Errorf("dead letter %q: %w", letterID(seq), imgd.ErrNotFound)
	}
	return raw, err
}

// Drop gives a request up, for by and the reason, and answers its state: one
// that is being published ends failed, its release abandoned by d; of a dead one
// the letters are deleted, and it ends cancelled. The error of the state has the
// kind dropped. By the ID of a letter it deletes that one, which may be no
// request: then the state names the project only. imgd.ErrNotFound if there is
// no such request or letter; imgd.ErrConflict, with the state, if there is
// nothing to give up. After any other error it is safe to repeat.
func (b *Bus) Drop(ctx context.Context, id, by, reason string, d Dropper) (imgd.Status, error) {
	why := droppedBy(by, reason)
	if seq, ok := letterSeq(id); ok {
		return b.dropLetter(ctx, seq, why)
	}
	cur, err := b.known(ctx, id)
	if err != nil {
		return imgd.Status{}, err
	}
	switch {
	case cur.State == imgd.Dead:
		return b.dropDead(ctx, cur, why)
	case cur.State.Final():
		return cur.Status, conflict("request %s has ended %s", id, cur.State)
	default: // the state may be behind what was admitted
		return b.dropRelease(ctx, cur, why, d)
	}
}

func droppedBy(by, reason string) string {
	why := "dropped"
	if by != "" {
		why += " by " + by
	}
	if reason != "" {
		why += ": " + reason
	}
	return oneLine(why)
}

// dropRelease abandons, and then ends the request. A crash between them leaves
// a request whose handler finds its release abandoned, which is an end too. Its
// message is acknowledged by whoever has it or gets it next.
func (b *Bus) dropRelease(ctx context.Context, cur standing, why string, d Dropper) (imgd.Status, error) {
	rel, err := d.Drop(ctx, cur.Request, why)
	if errors.Is(err, imgd.ErrNotFound) { // the request is
		return cur.Status, conflict("request %s is %s and has nothing to drop, cancel it: %v", cur.Request, cur.State, err)
	}
	if err != nil {
		return cur.Status, fmt.Errorf("drop the release of %s: %w", cur.Request, err)
	}
	st := b.dropped(cur.Status, imgd.Failed, why)
	st.Release = rel.ID
	if st, err = b.conclude(ctx, st, cur.seq); err != nil {
		return st, err
	}
	return st, b.announceEnd(ctx, st)
}

// dropDead deletes the letters first: a crash leaves a dead request, to be
// dropped again.
func (b *Bus) dropDead(ctx context.Context, cur standing, why string) (imgd.Status, error) {
	if err := b.throwAway(ctx, cur.Status, cur.AskedAt); err != nil {
		return cur.Status, err
	}
	st := b.dropped(cur.Status, imgd.Cancelled, why)
	if _, err := b.write(ctx, st, cur.seq); outrun(err) {
		return cur.Status, conflict("request %s was asked for again meanwhile", cur.Request)
	} else if err != nil {
		return cur.Status, fmt.Errorf("write state %s: %w", st.State, err)
	}
	return st, nil
}

// dropLetter ends the request of the letter too, if it is dead of it.
func (b *Bus) dropLetter(ctx context.Context, seq uint64, why string) (imgd.Status, error) {
	raw, err := b.knownLetter(ctx, seq)
	if err != nil {
		return imgd.Status{}, err
	}
	var cur standing
	if request := raw.Header.Get(requestHeader); validRequest(request) {
		if cur, _, err = b.last(ctx, request); err != nil {
			return imgd.Status{}, err
		}
	}
	if cur.State == imgd.Dead && cur.AskedAt.Equal(askedAtOf(raw.Header)) {
		return b.dropDead(ctx, cur, why)
	}
	if err := b.remove(ctx, b.dead, seq); err != nil {
		return cur.Status, fmt.Errorf("delete %s: %w", letterID(seq), err)
	}
	if cur.State != "" {
		return cur.Status, nil
	}
	tries, _ := strconv.Atoi(raw.Header.Get(triesHeader))
	return b.dropped(imgd.Status{Request: raw.Header.Get(requestHeader), Project: strings.TrimPrefix(raw.Subject, deadPrefix), Tries: tries}, imgd.Cancelled, why), nil
}

func (b *Bus) dropped(st imgd.Status, state imgd.State, why string) imgd.Status {
	st.State, st.Error, st.EndedAt = state, &imgd.StatusError{Kind: "dropped", Message: why}, stamp(b.cfg.Now())
	return st
}

// Depth measures the queue.
func (b *Bus) Depth(ctx context.Context) (imgd.Depth, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	requests, err := b.requests.Info(ctx)
	if err != nil {
		return imgd.Depth{}, fmt.Errorf("ask for %s: %w", requestsStream, err)
	}
	letters, err := b.dead.Info(ctx)
	if err != nil {
		return imgd.Depth{}, fmt.Errorf("ask for %s: %w", deadStream, err)
	}
	d := imgd.Depth{Queued: requests.State.Msgs, Dead: letters.State.Msgs}
	if d.Queued > 0 {
		d.Oldest = requests.State.FirstTime
	}
	return d, nil
}
