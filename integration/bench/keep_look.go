package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/imgd/imgd"
)

// verify compares a thousand tags with the registry: on the same machine, beside as
// many bare questions over eight connections; and over a line, where what counts is
// how often the way is gone, beside what eight connections need at least.
func (k *keeping) verify(ctx context.Context, progress io.Writer) ([]figure, error) {
	heads := func(int) error {
		return k.heads(ctx, "http://"+k.daemon.Registry+"/v2/"+nearImage, keepTags, keepConns)
	}
	near, peer, ratio, err := duel(keepRounds, nothing, [2]func(int) error{func(int) error { return k.compare(ctx, nearImage) }, heads})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "verify: %.0f ms, HEADs %.0f ms\n", near, peer)
	var one, all []float64
	for range keepRounds {
		began := time.Now()
		if err := k.heads(ctx, "http://"+k.line.Addr+"/v2/"+farImage, farHeads, 1); err != nil {
			return nil, err
		}
		one = append(one, milliseconds(time.Since(began))/farHeads)
		began = time.Now()
		if err := k.compare(ctx, farImage); err != nil {
			return nil, err
		}
		all = append(all, milliseconds(time.Since(began)))
	}
	least := keepTags * median(one) / keepConns
	fmt.Fprintf(progress, "verify over the line: %.0f ms, one HEAD %.1f ms\n", median(all), median(one))
	return []figure{
		{Name: "verify/near", Value: ratio, Unit: "ratio", Peer: "1,000 HEADs over 8 connections"},
		{Name: "verify/near-time", Value: near, Unit: "ms"},
		figure{Name: "verify/far", Value: median(all) / least, Unit: "ratio", Peer: "1,000 x one HEAD / 8"}.atMost(verifyGoal),
		{Name: "verify/far-time", Value: median(all), Unit: "ms"},
	}, nil
}

func nothing() error { return nil }

// farHeads are asked one after the other to know how long one takes.
const farHeads = 50

// heads asks what each of so many tags of the repository names, and holds that it
// names something.
func (k *keeping) heads(ctx context.Context, repository string, tags, connections int) error {
	var next atomic.Int64
	all, ctx := errgroup.WithContext(ctx)
	for range connections {
		all.Go(func() error {
			for i := next.Add(1) - 1; i < int64(tags); i = next.Add(1) - 1 {
				req, err := http.NewRequestWithContext(ctx, http.MethodHead, repository+"/manifests/"+keptTag(int(i)), nil)
				if err != nil {
					return err
				}
				req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json")
				if err := k.do(req, http.StatusOK); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all.Wait()
}

// compare has imgd verify all tags of the image, and holds that each is as it
// should be.
func (k *keeping) compare(ctx context.Context, image string) error {
	right := 0
	err := k.post(ctx, "/v1/verify?image="+image, "{}", func(message []byte) error {
		var v imgd.Verification
		if err := json.Unmarshal(message, &v); err != nil {
			return err
		}
		if v.OK {
			right++
		}
		return nil
	})
	if err == nil && right != keepTags {
		err = fmt.Errorf("%d of %d tags of %s are as they should be", right, keepTags, image)
	}
	return err
}

// post reads the stream that answers a question, to its end.
func (k *keeping) post(ctx context.Context, path, body string, each func(message []byte) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.daemon.HTTP+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("POST %s: %s", path, resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if message, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			if err := each([]byte(message)); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}

// audit has imgd look through the tags of one image, and of all, and compares the
// most memory that it took.
func (k *keeping) audit(ctx context.Context, progress io.Writer) ([]figure, error) {
	var peaks [2]float64
	var took time.Duration
	for i, ask := range []string{fmt.Sprintf(`{"image":%q}`, keptImage(2)), "{}"} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", k.daemon.PID()), []byte("5"), 0); err != nil { // the peak begins anew: proc(5)
			return nil, err
		}
		began := time.Now()
		var last imgd.Audit
		if err := k.post(ctx, "/v1/drift", ask, func(message []byte) error {
			last = imgd.Audit{}
			return json.Unmarshal(message, &last)
		}); err != nil {
			return nil, err
		}
		took = time.Since(began)
		if want := []int{keepTags, keepTags * keepImages}[i]; last.Tags != want || !last.Complete {
			return nil, fmt.Errorf("an audit of %d tags, complete %t, want all %d", last.Tags, last.Complete, want)
		}
		var err error
		if peaks[i], err = peakMiB(k.daemon.PID()); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(progress, "audit: %.0f MiB at most for %d tags, %.0f for %d, which took %.1f s\n", peaks[0], keepTags, peaks[1], keepTags*keepImages, took.Seconds())
	return []figure{
		figure{Name: "audit/memory", Value: peaks[1] / peaks[0], Unit: "ratio", Peer: "an audit of 1,000 tags"}.atMost(auditGoal),
		{Name: "audit/peak", Value: peaks[1], Unit: "MiB"},
		{Name: "audit/time", Value: took.Seconds(), Unit: "s"},
	}, nil
}
