package publisher

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/time/rate"
)

// Paced is p, but asks each registry at most so many times a second: perSecond is
// read at each request, and is more than 0. Requests that wait end with their ctx.
// Who uses p itself is not held up.
func (p *Publisher) Paced(perSecond func() int) *Publisher {
	paced := *p
	paced.pace = &pace{perSecond: perSecond, hosts: map[string]*rate.Limiter{}}
	return &paced
}

// A pace keeps requests to each host apart; nil does not.
type pace struct {
	perSecond func() int

	mu    sync.Mutex               // guards hosts
	hosts map[string]*rate.Limiter // those of the config: few
}

// wait waits until the host may be asked.
func (p *pace) wait(ctx context.Context, host string) error {
	if p == nil {
		return nil
	}
	if err := p.of(host).Wait(ctx); err != nil {
		return fmt.Errorf("wait for the turn to ask %s: %w", host, err)
	}
	return nil
}

func (p *pace) of(host string) *rate.Limiter {
	limit := rate.Limit(p.perSecond())
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.hosts[host]
	if l == nil {
		l = rate.NewLimiter(limit, 1)
		p.hosts[host] = l
	}
	if l.Limit() != limit {
		l.SetLimit(limit)
	}
	return l
}
