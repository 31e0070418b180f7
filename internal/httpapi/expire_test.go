package httpapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func (w *world) expires(body string) imgd.Expiry {
	w.t.Helper()
	got := w.do(http.MethodPost, "/v1/expire", body)
	var done imgd.Expiry
	if err := json.Unmarshal([]byte(got.body), &done); err != nil || got.status != http.StatusOK {
		w.t.Fatalf("got %d %s", got.status, got.body)
	}
	return done
}

func TestExpire(t *testing.T) {
	w, _, second := twice(t)
	w.order(latest+"/tag", `{"tags":["old-1"]}`, http.StatusCreated)
	seq := w.index.Seq()
	dry := w.expires(`{"dryRun":true,"image":"demo/hello"}`)
	if len(dry.Items) != 1 || dry.Items[0].Tag != "old-1" || dry.Items[0].State != imgd.ExpireGoes || !dry.DryRun || w.index.Seq() != seq {
		t.Errorf("dry run: got %+v", dry)
	}
	if all := w.expires(`{"dryRun":true,"stays":true}`); len(all.Items) <= 1 || all.Count(imgd.ExpireGoes) != 1 {
		t.Errorf("with what stays: got %+v", all)
	}
	done := w.expires("")
	if len(done.Items) != 1 || done.Items[0].State != imgd.ExpireGone || done.Items[0].Removed == "" || done.Items[0].Root != second.Root.Digest {
		t.Errorf("got %+v", done)
	}
	if got := w.get("/metrics").body; !strings.Contains(got, `imgd_expired_tags_total{state="gone"} 1`) {
		t.Errorf("metrics: %s", got)
	}
	if again := w.do(http.MethodPost, "/v1/expire", "{}"); again.body != `{"dryRun":false,"items":[],"held":[],"bytes":0}`+"\n" {
		t.Errorf("again: got %s", again.body)
	}
	checkProblem(t, w.do(http.MethodPost, "/v1/expire", `{"image":"demo/none"}`), 404, "not-found", "demo/none")
	checkProblem(t, w.do(http.MethodPost, "/v1/expire", `{"dry":true}`), 400, "usage", "dry")
	checkProblem(t, w.do(http.MethodPost, "/v1/expire?dryRun=1", ""), 400, "usage", "dryRun")
	checkProblem(t, w.do(http.MethodGet, "/v1/expire", ""), 405, "usage", "POST")
}

// outOfTime answers what it has done when its time is over.
type outOfTime struct{ err error }

func (o outOfTime) Expire(context.Context, imgd.Expire) (imgd.Expiry, error) {
	return imgd.Expiry{Items: []imgd.Expiring{{Tag: "old-1", State: imgd.ExpireGone}}, Held: []string{}, More: true}, o.err
}

func TestExpireOutOfTime(t *testing.T) {
	w := newWorld(t, func(c *httpapi.Config) { c.Expirer = outOfTime{context.DeadlineExceeded} })
	if done := w.expires(""); !done.More || len(done.Items) != 1 {
		t.Errorf("got %+v", done)
	}
	w = newWorld(t, func(c *httpapi.Config) { c.Expirer = outOfTime{context.Canceled} })
	if got := w.do(http.MethodPost, "/v1/expire", ""); got.status == http.StatusOK {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func TestHeldBackMetric(t *testing.T) {
	m := httpapi.NewMetrics(nil)
	w := newWorld(t, func(c *httpapi.Config) { c.Metrics = m })
	m.HeldBack(2)
	body := w.get("/metrics").body
	if got := body; !strings.Contains(got, "imgd_expire_held_images 2") {
		t.Errorf("got %s", got)
	}
	lint(t, body)
}
