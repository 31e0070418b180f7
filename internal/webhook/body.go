package webhook

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
)

// Bounds of memory, in bytes. Room is taken by the chunk and not by the body, so
// that who sends slowly, or announces much and sends little, takes little of it.
// Parsing takes more, a few times the size of what forges send, but only for
// authentic bodies: who has the secret may ask for builds, which takes more yet.
//
// A commit has about 1 KiB in a payload, of which GitHub lists 2,048 at most:
// https://docs.github.com/en/webhooks/webhook-events-and-payloads#push
const (
	maxBody     = 5 << 20  // of one body
	maxRoom     = 64 << 20 // of all bodies that are being read and handled
	maxHookRoom = 16 << 20 // of those that are sent to one webhook: who fills that, by its address alone, leaves the others theirs
	chunk       = 64 << 10 // most bodies have less
)

// errNoRoom says that other bodies fill the memory.
var errNoRoom = errors.New("no room for the body")

// A body is what a request sent, in memory that is counted.
type body struct {
	data  []byte
	rooms [2]chan struct{} // of its webhook, and of all: each holds one for each chunk
	taken [2]int           // chunks of each
}

// receive reads the body, for bodyTime at most, part of which may go by in
// waiting for room. The caller has set the connection's deadline.
func (b *body) receive(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), bodyTime)
	defer cancel()
	from := http.MaxBytesReader(w, r.Body, maxBody)
	for {
		if len(b.data) == cap(b.data) {
			if err := b.grow(ctx, r.ContentLength); err != nil {
				return err
			}
		}
		n, err := from.Read(b.data[len(b.data):cap(b.data)])
		b.data = b.data[:len(b.data)+n]
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// grow doubles the memory, or begins with what is announced, up to a chunk. No
// body waits for ever for what another holds: each gives up when its time is
// over.
func (b *body) grow(ctx context.Context, announced int64) error {
	size := min(max(2*cap(b.data), chunk), maxBody+chunk)
	if b.data == nil && 0 <= announced && announced < chunk {
		size = int(announced) + 1 // one more, to see the end
	}
	for i, room := range b.rooms {
		for b.taken[i]*chunk < size {
			select {
			case room <- struct{}{}:
				b.taken[i]++
			case <-ctx.Done():
				return errNoRoom
			}
		}
	}
	b.data = append(make([]byte, 0, size), b.data...)
	return nil
}

// release gives the room back; the data is not used any more.
func (b *body) release() {
	for i, room := range b.rooms {
		for ; b.taken[i] > 0; b.taken[i]-- {
			<-room
		}
	}
	b.data = nil
}

// asProblem maps what went wrong with a body to an answer.
func asProblem(err error) *problem {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return newProblem(http.StatusRequestEntityTooLarge, codeUsage, "the body has more than 5 MiB")
	case errors.Is(err, errNoRoom):
		return again("too many webhooks at once: deliver this again later", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return newProblem(http.StatusRequestTimeout, codeTimeout, "the body did not come within "+bodyTime.String())
	}
	p := newProblem(http.StatusBadRequest, codeUsage, "the body was cut")
	p.cause = err
	return p
}
