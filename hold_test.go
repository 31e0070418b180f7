package imgd_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// held are holds on these digests.
func held(digests ...digest.Digest) *imgd.AuditHolds {
	reasons := map[digest.Digest]string{}
	for _, d := range digests {
		reasons[d] = "incident 7"
	}
	h := new(imgd.AuditHolds)
	h.Set(reasons)
	return h
}

// newHolding is a keeper whose pr-7 names, with a tag of its commit, an image of two
// platforms.
func newHolding(t *testing.T) (k *keeper, root, arm digest.Digest) {
	k = newKeeper(t)
	root, arm = digest.FromString("build 5"), digest.FromString("arm64 alone")
	platforms := []ocispec.Descriptor{{Digest: digest.FromString("amd64 alone"), Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}},
		{Digest: arm, Platform: &ocispec.Platform{OS: "linux", Architecture: "arm64"}}}
	k.lists = map[digest.Digest][]ocispec.Descriptor{root: platforms}
	k.refs[closedRef] = commit("e")
	req := request(closedRef, 5)
	rel, err := k.expirer().Pipeline.Handle(t.Context(), &req, func(imgd.State) {})
	if err != nil || rel.Root.Digest != root || len(rel.Platforms) != 2 {
		t.Fatalf("got %+v, %v", rel, err)
	}
	return k, root, arm
}

// No tag of an image that is held goes: not when its time is over, not when its
// pull request is closed, not by an operator with whatever force. Others do, and so
// does it once the hold is taken back.
func TestHolds(t *testing.T) {
	eee := "pr-7-eeeeeee"
	for _, hold := range []string{"root", "platform"} {
		t.Run(hold, func(t *testing.T) {
			k, root, arm := newHolding(t)
			k.holds = held(map[string]digest.Digest{"root": root, "platform": arm}[hold])
			k.since = 8 * day
			done, err := k.expirer().Expire(t.Context(), imgd.Expire{DryRun: true, Stays: true})
			for _, item := range done.Items {
				if got, want := item.Why == "held: incident 7", item.Root == root; got != want || want != (item.State == imgd.ExpireStays && strings.HasPrefix(item.Tag, "pr-")) {
					t.Errorf("%s %s: %s", item.Tag, item.State, item.Why)
				}
			}
			if err != nil || len(done.Items) < 8 {
				t.Errorf("got %s, %v", states(done), err)
			}
			closed, err := k.expirer().Close(t.Context(), "hello", closedRef, "github:ada")
			if want := fmt.Sprintf("%s gone, %s gone", pullOld, pullNew); err != nil || states(closed) != want {
				t.Errorf("closed: got %s, %v, want %s", states(closed), err, want)
			}
			seq := k.index.Seq()
			untag := order(imgd.CommandUntag, 1, eee)
			untag.Force = true
			if _, err := k.order(untag); !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), "which is held: incident 7; an operator has to take that out of holds") || k.index.Seq() != seq {
				t.Errorf("untag: %v", err)
			}
			k.shows(eee, root)
			k.shows("pr-7", root)
			k.holds = nil
			k.obeyed(untag)
			if got := k.expire(imgd.Expire{}); got != "pr-7 gone" {
				t.Errorf("without the hold: got %s", got)
			}
			k.check()
		})
	}
}

// What is held is kept beside the last n, and not as one of them.
func TestHoldBesideKeepLast(t *testing.T) {
	k, root, _ := newHolding(t)
	k.holds, k.since = held(root), 8*day
	k.retention.Rules = []imgd.RetentionRule{{Tags: []string{"pr-7-*"}, KeepLast: 1}}
	if got, want := k.expire(imgd.Expire{}), pullOld+" gone"; got != want {
		t.Errorf("got %s, want %s: %s is the last beside what is held", got, want, pullNew)
	}
	k.check()
}

// heldLate holds an image when it was decided already which tags go.
type heldLate struct {
	imgd.Holdings
	hold func()
}

func (o heldLate) Missed(image string) map[string]string {
	o.hold()
	return o.Holdings.Missed(image)
}

// A hold that comes while a clean-up is under way is heeded.
func TestHoldWhileExpiring(t *testing.T) {
	k, root, _ := newHolding(t)
	k.holds, k.since = new(imgd.AuditHolds), 8*day
	e := k.expirer()
	e.Index = heldLate{k.index, func() { k.holds.Set(map[digest.Digest]string{root: "incident 7"}) }}
	done, err := e.Expire(t.Context(), imgd.Expire{})
	if want := fmt.Sprintf("pr-7 stays, %s gone, %s gone, pr-7-eeeeeee stays", pullOld, pullNew); err != nil || states(done) != want || !strings.Contains(done.Items[0].Why, "incident 7") {
		t.Errorf("got %s, %v; want %s", states(done), err, want)
	}
	k.shows("pr-7", root)
	k.check()
}
