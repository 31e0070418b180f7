package events_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/imgd/imgd"
)

// A stage is for whoever looks: the work goes on while its state is on its way,
// and also if that is lost.
func TestWorkGoesOnWhileItsStageIsWritten(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	g := newGate(t, s)
	cfg := ends(g.url)
	cfg.Timeout = 6 * time.Second // so long a write waits for its answer
	b, other := connect(t, cfg), connect(t, ends(s.url()))
	built := make(chan time.Time, 1)
	h := openHandler(t, func(context.Context, *imgd.Request) error {
		built <- time.Now()
		return nil
	})
	lost := g.lose(`"state":"building"`, false)
	running(t, consume(b, h))
	req := ask(t, other, "refs/heads/main")
	receive(t, lost, "state building, which is lost")
	at := time.Now()
	if took := receive(t, built, "build, meanwhile").Sub(at); took > cfg.Timeout/2 {
		t.Errorf("the build began %s after the state was lost", took)
	}
	if st := final(t, other, req); st.State != imgd.Published {
		t.Errorf("got %+v", st)
	}
}

// The states stand in the order of the stages all the same, and the last one is
// the end.
func TestStagesInOrder(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := s.raw()
	b := connect(t, ends(s.url()))
	seen := make(chan imgd.State, 100)
	_, err := nc.Subscribe("imgd.status.>", stateTo(t, seen))
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	running(t, consume(b, openHandler(t, nil)))
	ask(t, b, "refs/heads/main")
	was := imgd.State("")
	for _, want := range []imgd.State{imgd.Queued, imgd.Resolving, imgd.Building, imgd.Publishing, imgd.Published} {
		got := was
		for got == was { // a write that met another is seen too
			got = receive(t, seen, string(want))
		}
		if was = got; got != want {
			t.Fatalf("got state %s, want %s", got, want)
		}
	}
}

// stateTo passes the states of what is written on.
func stateTo(t *testing.T, seen chan<- imgd.State) nats.MsgHandler {
	return func(m *nats.Msg) {
		var st imgd.Status
		if err := json.Unmarshal(m.Data, &st); err != nil {
			t.Errorf("read state %s: %v", m.Data, err)
		}
		seen <- st.State
	}
}
