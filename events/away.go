package events

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrAway says that no NATS server answers, or none with a JetStream that is up:
// waiting may help.
var ErrAway = errors.New("nats does not answer")

// marked is err, as ErrAway too if it is that.
func marked(err error) error {
	var network *net.OpError
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled): // for good; 503 also
		return err
	case errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF),
		errors.As(err, &network) && (network.Op == "dial" || network.Op == "read"), errors.As(err, &api) && api.Code == http.StatusServiceUnavailable: // a cluster without a leader
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return err
}
