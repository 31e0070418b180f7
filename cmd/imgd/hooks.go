package main

import (
	"context"
	"fmt"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/internal/webhook"
)

// newHooks makes the webhooks of the projects that have one, and answers their
// secrets too, by project. It refuses a secret that is empty or cannot be read.
// config is what they work with.
func newHooks(cfg Config, projects map[string]imgd.Project, config webhook.Config) (*webhook.Handler, map[string][]byte, error) {
	secrets := map[string][]byte{}
	for _, p := range cfg.Projects {
		if p.Webhook.Forge == "" {
			continue
		}
		secret, err := readSecret(p.Webhook.SecretFile)
		if err != nil {
			return nil, nil, fmt.Errorf("read the webhook secret of project %s: %w", p.Name, err)
		}
		secrets[p.Name] = secret
		config.Hooks = append(config.Hooks, webhook.Hook{Project: projects[p.Name], Forge: p.Webhook.Forge, Secret: secret})
	}
	h, err := webhook.New(config)
	if err != nil {
		return nil, nil, fmt.Errorf("set up webhooks: %w", err)
	}
	return h, secrets, nil
}

// intake answers a forge as soon as the request is durable.
type intake struct{ bus *events.Bus }

func (i intake) Submit(ctx context.Context, req imgd.Request, delivery string) (imgd.Request, error) {
	return i.bus.Enqueue(ctx, req, delivery)
}
