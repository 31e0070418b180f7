package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func (r registry) Tags(_ context.Context, repository string) iter.Seq2[string, error] {
	r.mu.Lock()
	keys := slices.Sorted(maps.Keys(r.served))
	r.mu.Unlock()
	return func(yield func(string, error) bool) {
		for _, key := range keys {
			if tag, ok := strings.CutPrefix(key, repository+":"); ok && !yield(tag, nil) {
				return
			}
		}
	}
}

// audit is the last message of the stream that the command is answered by.
func (w *world) audit(body string) (name, data string) {
	w.t.Helper()
	got := w.do(http.MethodPost, "/v1/drift", body)
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "text/event-stream" {
		w.t.Fatalf("got %d %s", got.status, got.body)
	}
	messages := strings.Split(strings.TrimSpace(got.body), "\n\n")
	name, data, _ = strings.Cut(messages[len(messages)-1], "\ndata: ")
	return strings.TrimPrefix(name, "event: "), data
}

func (w *world) audited(body string) imgd.Audit {
	w.t.Helper()
	name, data := w.audit(body)
	return w.decoded(name, data)
}

func (w *world) decoded(name, data string) (found imgd.Audit) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(data), &found); err != nil || name != "end" {
		w.t.Fatalf("got %s %s", name, data)
	}
	return found
}

func TestDrift(t *testing.T) {
	w, _, second := twice(t)
	checkProblem(t, w.get("/v1/drift"), 404, "not-found", "imgctl drift --now")
	delete(w.served, repo+":first")
	delete(w.served, repo+":second")
	w.served[repo+":latest"] = digest.FromString("strange")
	found := w.audited("")
	if found.Differs() != 1 || len(found.Items) != 1 || found.Items[0].Tag != "latest" || found.Items[0].Kind != imgd.DriftMoved || found.Items[0].Repair != "" || !found.Complete {
		t.Errorf("got %+v", found)
	}
	last := w.get("/v1/drift")
	if again := w.decoded("end", last.body); last.status != http.StatusOK || len(again.Items) != 1 {
		t.Errorf("got %s", last.body)
	}
	if other := w.decoded("end", w.get("/v1/drift?image=demo/other").body); len(other.Items) != 0 || other.Image != "demo/other" {
		t.Errorf("of another image: %+v", other)
	}
	checkProblem(t, w.get("/v1/drift?image=demo/helo"), 404, "not-found", "nothing is published as demo/helo, and no project makes it")
	w.drifts = nil
	repaired := w.audited(`{"image":"demo/hello","depth":"tag","repair":true}`)
	if repaired.Differs() != 0 || repaired.Count(imgd.Repaired) != 1 || repaired.Depth != imgd.DepthTag || len(w.drifts) != 1 {
		t.Errorf("got %+v, told %v", repaired, w.drifts)
	}
	if w.served[repo+":latest"] != second.Root.Digest {
		t.Errorf("latest names %s", w.served[repo+":latest"])
	}
	if after := w.decoded("end", w.get("/v1/drift").body); after.Differs() != 0 || len(after.Items) != 0 {
		t.Errorf("kept %+v", after)
	}
}

func TestDriftAnswers(t *testing.T) {
	w, _, _ := twice(t)
	if name, data := w.audit(`{"image":"demo/none"}`); name != "error" || !strings.Contains(data, `"code":"not-found"`) || !strings.Contains(data, "demo/none") {
		t.Errorf("got %s %s", name, data)
	}
	checkProblem(t, w.do(http.MethodPost, "/v1/drift", `{"depth":"deep"}`), 400, "usage", `"deep" is none of`)
	checkProblem(t, w.do(http.MethodPost, "/v1/drift", `{"force":true}`), 400, "usage", "force")
	checkProblem(t, w.do(http.MethodPost, "/v1/drift?repair=1", ""), 400, "usage", "repair")
	checkProblem(t, w.get("/v1/drift?tag=x"), 400, "usage", "tag")
	checkProblem(t, w.do(http.MethodDelete, "/v1/drift", ""), 405, "usage", "GET, POST")
	w.broken = errDown
	if found := w.audited(""); found.Complete || found.Differs() != 0 || found.Counts[imgd.DriftUnreachable] == 0 || len(w.drifts) != 0 {
		t.Errorf("the registry is away: %+v", found)
	}
}

// endless is an audit that tells how far it is, and waits for its end unless it is
// of an image.
type endless struct{ ended chan error }

func (e endless) Audit(ctx context.Context, ask imgd.AuditAsk) (imgd.Audit, error) {
	for n := range 3 {
		ask.Progress(imgd.AuditProgress{Tags: n + 1, At: "demo/hello:latest"})
	}
	if ask.Image != "" {
		return imgd.Audit{Image: ask.Image}, nil
	}
	<-ctx.Done()
	e.ended <- ctx.Err()
	return imgd.Audit{}, ctx.Err()
}

func (endless) Last() (imgd.Audit, bool) { return imgd.Audit{}, false }

// The caller is told how far it is, not with each tag, and the audit ends when he
// leaves.
func TestDriftProgress(t *testing.T) {
	e := endless{make(chan error, 1)}
	w := newWorld(t, func(c *httpapi.Config) { c.Auditor = e })
	if body := w.do(http.MethodPost, "/v1/drift", `{"image":"demo/hello"}`).body; strings.Count(body, "event: progress") != 1 || strings.Count(body, "event: end") != 1 {
		t.Errorf("got %s", body)
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/v1/drift", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	want := ": imgd\n\nevent: progress\ndata: {\"tags\":1,\"differs\":0,\"at\":\"demo/hello:latest\"}\n\n"
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		m, err := resp.Body.Read(got[n:])
		if n += m; err != nil {
			t.Fatal(err)
		}
	}
	if string(got) != want {
		t.Errorf("got %q", got)
	}
	cancel()
	if err := <-e.ended; err == nil {
		t.Error("the audit went on")
	}
}

func TestAuditMetrics(t *testing.T) {
	m := httpapi.NewMetrics(nil)
	w := newWorld(t, func(c *httpapi.Config) { c.Metrics = m })
	has := func(lines ...string) {
		t.Helper()
		body := w.get("/metrics").body
		for _, line := range lines {
			if !strings.Contains(body, "\n"+line+"\n") {
				t.Errorf("there is no %s", line)
			}
		}
		lint(t, body)
	}
	has(`imgd_drift_tags{kind="unknown-tag"} 0`, `imgd_audits_total{result="complete"} 0`, "imgd_audit_complete_timestamp_seconds 0", `imgd_repairs_total{state="left"} 0`)
	done := imgd.Audit{BeganAt: epoch, EndedAt: epoch.Add(90 * time.Second), Complete: true, Counts: map[imgd.DriftKind]int{imgd.DriftMoved: 2},
		Items: []imgd.Finding{{Drift: imgd.Drift{Wanted: digest.FromString("a")}, Repair: imgd.Repaired}, {Repair: imgd.RepairLeft}, {Repair: imgd.RepairLeft}}}
	m.Audited(&done, done)
	stamp := fmt.Sprintf("imgd_audit_complete_timestamp_seconds %v", float64(epoch.Add(90*time.Second).Unix()))
	has(`imgd_drift_tags{kind="moved"} 2`, `imgd_drift_tags{kind="missing"} 0`, "imgd_audit_seconds 90", `imgd_audits_total{result="complete"} 1`, stamp,
		`imgd_repairs_total{state="repaired"} 1`, `imgd_repairs_total{state="left"} 2`)
	incomplete := imgd.Audit{BeganAt: epoch, EndedAt: epoch.Add(3 * time.Minute), Counts: map[imgd.DriftKind]int{imgd.DriftUnreachable: 7}}
	m.Audited(&incomplete, incomplete)
	has(`imgd_drift_tags{kind="moved"} 0`, `imgd_drift_tags{kind="unreachable"} 7`, `imgd_audits_total{result="incomplete"} 1`, "imgd_audit_seconds 180", stamp)
	m.Audited(&imgd.Audit{Image: "demo/hello", Complete: true}, incomplete) // of one image
	m.Audited(nil, imgd.Audit{})
	has(`imgd_audits_total{result="complete"} 1`, `imgd_audits_total{result="failed"} 1`, `imgd_drift_tags{kind="unreachable"} 7`)
}
