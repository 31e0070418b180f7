package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/integration/check"
)

// An asker asks imgd for builds in one of the ways there are.
type asker interface {
	// ask asks for the ref's commit, and answers what was acknowledged. After an error nobody knows: it may be built.
	ask(ctx context.Context, project, ref, commit string) (check.Asked, error)
}

// askTime bounds one ask.
const askTime = 5 * time.Second

// An httpAsker asks over HTTP. Bare, it leaves it to imgd to find the commit.
type httpAsker struct {
	url  string // of imgd
	bare bool
}

func (h httpAsker) ask(ctx context.Context, project, ref, commit string) (check.Asked, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if h.bare {
		commit = ""
	}
	body, err := json.Marshal(map[string]string{"ref": ref, "commit": commit})
	if err != nil {
		return check.Asked{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/v1/projects/"+project+"/builds", bytes.NewReader(body))
	if err != nil {
		return check.Asked{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return check.Asked{}, err
	}
	defer resp.Body.Close()
	var asked struct {
		Request, Detail string
		AskedAt         time.Time
	}
	if err := json.NewDecoder(resp.Body).Decode(&asked); err != nil || resp.StatusCode != http.StatusAccepted || asked.Request == "" {
		return check.Asked{}, errors.Join(fmt.Errorf("ask for %s of %s: %s %s", ref, project, resp.Status, asked.Detail), err)
	}
	return check.Asked{Request: asked.Request, AskedAt: asked.AskedAt}, nil
}

// A natsAsker puts requests into the queue as any NATS client may, imgd running or not. Bare, it names no commit; forced, it
// wants an immutable tag to be replaced.
type natsAsker struct {
	js           jetstream.JetStream
	delivery     func() string // draws the message's ID, or repeats one
	bare, forced bool
}

func (n natsAsker) ask(ctx context.Context, project, ref, commit string) (check.Asked, error) {
	req := imgd.Request{Project: project, Ref: ref, Commit: commit}
	asked := check.Asked{Project: project, Ref: ref, Delivery: n.delivery(), AskedAt: time.Now()}
	body := map[string]any{"schema": 1, "ref": ref}
	if !n.bare {
		body["commit"] = commit
	}
	if n.forced {
		body["force"], body["reason"], req.Nonce = true, "the storm wants it", asked.Delivery
	}
	if !n.bare {
		asked.Request = req.Hash()
	}
	data, err := json.Marshal(body)
	if err != nil {
		return asked, err
	}
	ack, err := n.put(ctx, project, asked.Delivery, data)
	if err == nil && ack.Duplicate { // it was asked for when that one was
		asked.AskedAt = time.Time{}
	}
	return asked, err
}

// junk puts something into the queue that is no request.
func (n natsAsker) junk(ctx context.Context, project string) (check.Asked, error) {
	asked := check.Asked{Delivery: n.delivery(), NoGood: true}
	_, err := n.put(ctx, project, asked.Delivery, []byte(`{"schema":1,"ref":`))
	return asked, err
}

func (n natsAsker) put(ctx context.Context, project, delivery string, data []byte) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return n.js.Publish(ctx, "imgd.requests."+project+".branch", data, jetstream.WithMsgID(delivery))
}
