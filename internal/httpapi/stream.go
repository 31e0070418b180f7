package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"
)

// writeTime bounds one write to a stream: a reader that takes nothing for so
// long is gone, and can come back and go on from where it was.
const writeTime = 30 * time.Second

const (
	// maxBehind is how many messages may wait for the reader.
	maxBehind = 64
	// writeSize is how many bytes of those that wait are written at once, about: a
	// write each costs more than what many of them say.
	writeSize = 64 << 10
)

// A message is one server-sent event.
type message struct {
	id    string // "" if it has none to go on from
	event string // "" for what the stream is about, else state, progress, end or error
	data  []byte
}

// send gives a message to whoever reads the stream. It fails if nobody does.
type send func(message) error

// stream answers with server-sent events until produce is done or the reader
// is gone. An error of produce is the last of them, as a problem.
func (a *API) stream(w http.ResponseWriter, r *http.Request, produce func(context.Context, send) error) error {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would collect a page of it
	if r.Method == http.MethodHead {
		return nil
	}
	ctx, cancel := a.waits.until(r.Context())
	defer cancel()
	messages := make(chan message, maxBehind)
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() {
			if v := recover(); v != nil { // it would end the process, as net/http does not see it
				a.Log.Error("a stream panicked", "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
				err = errors.New("the stream panicked; imgd's log has more of it")
			}
			if ctx.Err() != nil {
				err = nil // the reader is gone, or imgd stops: cut short, the stream is asked for again
			}
			done <- err
		}()
		err = produce(ctx, func(m message) error {
			select {
			case messages <- m:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	out := sse{w: w, control: http.NewResponseController(w)}
	if out.copy(messages, done, a.KeepAlive) {
		return nil
	}
	cancel()
	a.Log.Debug("a stream lost its reader", "path", r.URL.Path, "error", <-done)
	return nil
}

// An sse writes server-sent events.
type sse struct {
	w       io.Writer
	control *http.ResponseController
}

// copy writes messages, and signs of life where there are none, until done
// delivers. It answers false if it has ended before, as the reader is gone.
func (s sse) copy(messages <-chan message, done <-chan error, keepAlive time.Duration) bool {
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for err := s.write([]byte(": imgd\n\n")); err == nil; {
		select {
		case m := <-messages:
			err = s.write(with(m.bytes(), messages))
		case <-alive.C:
			err = s.write([]byte(":\n\n"))
		case end := <-done:
			for err == nil && len(messages) > 0 {
				err = s.write(with(nil, messages))
			}
			if err == nil && end != nil {
				_ = s.write(failure(end).bytes()) // it fails if the reader is gone
			}
			return true
		}
	}
	return false
}

// with adds the messages that wait to those in b, as far as they are few bytes.
func with(b []byte, messages <-chan message) []byte {
	for len(messages) > 0 && len(b) < writeSize {
		b = append(b, (<-messages).bytes()...)
	}
	return b
}

func (s sse) write(b []byte) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTime)) // not every ResponseWriter can, the server's does
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.control.Flush()
}

// bytes is the message as the standard has it.
func (m message) bytes() []byte {
	var b bytes.Buffer
	if m.id != "" {
		b.WriteString("id: " + m.id + "\n")
	}
	if m.event != "" {
		b.WriteString("event: " + m.event + "\n")
	}
	for line := range bytes.SplitSeq(bytes.TrimRight(m.data, "\r\n"), []byte("\n")) {
		b.WriteString("data: ")
		b.Write(bytes.TrimRight(line, "\r"))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return b.Bytes()
}

func failure(err error) message { return event("error", AsProblem(err)) }

// event is a message of its own kind, with v as JSON.
func event(name string, v any) message {
	b, err := json.Marshal(v)
	if err != nil {
		panic("unreachable: answers always marshal: " + err.Error())
	}
	return message{event: name, data: b}
}

// whats are the kinds of events, the names that what= may have.
var whats = []string{"published", "deleted", "failed", "conflict", "superseded", "dead", "drift"}

// getEvents streams IMGD_EVENTS. A reader that comes back says with the header
// Last-Event-ID, as browsers do, how far it was. The messages of events have no
// name of their own: a browser gives a named one to nobody who has not asked for
// that name, so that a kind it does not know would be lost on it.
func (a *API) getEvents(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "since", "what", "image", "follow")
	if err != nil {
		return err
	}
	follow, err := q.flag("follow", true)
	if err != nil {
		return err
	}
	filter, err := q.events(r.Header.Get("Last-Event-ID"))
	if err != nil {
		return err
	}
	return a.stream(w, r, func(ctx context.Context, send send) error {
		err := a.Events.Events(ctx, filter, follow, func(seq uint64, data []byte) error {
			return send(message{id: strconv.FormatUint(seq, 10), data: data})
		})
		if err != nil || follow {
			return err
		}
		return send(message{event: "end", data: []byte("{}")})
	})
}

// events is what a reader wants to see, who has seen all until last if that is
// not empty.
func (q query) events(last string) (filter EventFilter, err error) {
	if filter.Since, err = q.number("since", 0); err != nil {
		return filter, err
	}
	if filter.What, err = q.words("what", whats); err != nil {
		return filter, err
	}
	filter.Image = q.values.Get("image")
	if last != "" {
		if filter.Since, err = strconv.ParseUint(last, 10, 64); err != nil {
			return filter, usage("header Last-Event-ID " + strconv.Quote(last) + " is not one that this stream has sent")
		}
	}
	return filter, nil
}
