package kit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Link is the way to a server on TCP, which can be cut, stalled and slowed. It starts whole.
type Link struct {
	// Addr is its own host:port, the same all the time.
	Addr string

	proxy *toxiproxy.Proxy
}

// StartLink starts a link to the server at target, a host:port.
func StartLink(target string) (*Link, error) {
	quiet := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &Link{proxy: toxiproxy.NewProxy(quiet, "link", ownHost()+":0", target)}
	if err := l.proxy.Start(); err != nil {
		return nil, fmt.Errorf("start link to %s: %w", target, err)
	}
	l.Addr = l.proxy.Listen
	return l, nil
}

// Cut closes all connections and refuses new ones.
func (l *Link) Cut() { l.proxy.Stop() }

// Stall lets nothing through, and closes nothing: a network that has lost its other half.
func (l *Link) Stall() error { return l.poison("timeout", `{"timeout":0}`) }

// Slow delays all that goes through, both ways.
func (l *Link) Slow(by time.Duration) error {
	return l.poison("latency", fmt.Sprintf(`{"latency":%d}`, by.Milliseconds()))
}

func (l *Link) poison(kind, attributes string) error {
	for _, stream := range []string{"upstream", "downstream"} {
		toxic := fmt.Sprintf(`{"name":%q,"type":%q,"stream":%q,"toxicity":1,"attributes":%s}`, kind+"-"+stream, kind, stream, attributes)
		if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

// Mend makes it whole again. What was stalled is cut.
func (l *Link) Mend(ctx context.Context) error {
	l.proxy.Toxics.ResetToxics(ctx)
	if err := l.proxy.Start(); err != nil && !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return fmt.Errorf("mend link: %w", err)
	}
	return nil
}

// Close ends it.
func (l *Link) Close() { l.proxy.Stop() }
