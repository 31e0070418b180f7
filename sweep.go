package imgd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// driveAtOnce bounds the images whose releases DriveOpen drives at a time, so
// that one registry that does not answer holds up few others.
const driveAtOnce = 8

// driveTime bounds what DriveOpen does for one image. A release takes seconds;
// a registry that takes requests and does not answer them would otherwise keep
// the next sweep, and with it all other images, waiting. What is cut off is
// found done, or done again, by the next.
const driveTime = 2 * time.Minute

// failures are how often a release could not be driven, whether its turn came
// the last time, and until when it is left alone.
type failures struct {
	times  int
	served bool
	until  time.Time
}

// compare puts first what failed less often, and then whose turn did not come:
// so one release that hangs keeps those behind it waiting only once.
func (f failures) compare(g failures) int {
	if f.times == g.times && f.served != g.served {
		if g.served {
			return -1
		}
		return 1
	}
	return cmp.Compare(f.times, g.times)
}

// DriveOpen drives the releases that were admitted more than stood before now
// and are still open, for those whose request is not being handled any more. A
// release that it cannot drive is left alone for the growing delay of
// RetryDelay from now. Beside them it settles the tags that an error has left as
// they were, of whatever request. It goes on after an error and returns them all.
func (p *Pipeline) DriveOpen(ctx context.Context, now time.Time, stood time.Duration) error {
	var group errgroup.Group
	group.SetLimit(driveAtOnce)
	due, left := p.due(now, stood), p.left(now)
	errs := make([]error, len(due)+len(left))
	for i, rels := range due {
		group.Go(func() error {
			errs[i] = p.driveEach(ctx, now, rels)
			return nil
		})
	}
	for i, tags := range left {
		group.Go(func() error {
			errs[len(due)+i] = p.settleEach(ctx, now, tags)
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	return errors.Join(errs...)
}

// left are the tags to be settled now of those that an error has left as they were,
// grouped by image. Those of an open release are settled when that is driven.
func (p *Pipeline) left(now time.Time) [][]tagIn {
	driven := map[TagName]bool{}
	for _, rel := range p.Lookup.Open() {
		for _, t := range rel.Tags {
			driven[TagName{rel.Image, t.Name}] = true
		}
	}
	p.sweeping.Lock()
	defer p.sweeping.Unlock()
	byImage := map[string][]tagIn{}
	for at, f := range p.unsettled {
		if !driven[at.TagName] && !now.Before(f.until) {
			byImage[at.Image] = append(byImage[at.Image], at)
		}
	}
	return slices.Collect(maps.Values(byImage))
}

// settleEach settles the tags of one image, in driveTime. What it does not come to
// by then is the next sweep's.
func (p *Pipeline) settleEach(ctx context.Context, now time.Time, tags []tagIn) error {
	ctx, cancel := context.WithTimeout(ctx, driveTime)
	defer cancel()
	var errs []error
	for _, at := range tags {
		if ctx.Err() != nil {
			break
		}
		var only []string
		if at.repository != "" {
			only = []string{at.repository}
		}
		err := p.settleBack(ctx, at.Image, at.Tag, only...)
		if err != nil {
			p.leaveAlone(at, now)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// leaveAlone notes that the tag could not be settled once more.
func (p *Pipeline) leaveAlone(at tagIn, now time.Time) {
	p.sweeping.Lock()
	defer p.sweeping.Unlock()
	if f, ok := p.unsettled[at]; ok {
		p.unsettled[at] = failures{times: f.times + 1, until: now.Add(RetryDelay(f.times + 1))}
	}
}

// due are the open releases to be driven now, grouped by image, of which settle
// serves one release at a time.
func (p *Pipeline) due(now time.Time, stood time.Duration) (groups [][]Release) {
	p.sweeping.Lock()
	defer p.sweeping.Unlock()
	open := p.Lookup.Open()
	kept := map[string]failures{} // what is not open any more is forgotten
	for _, rel := range open {
		if f, ok := p.failed[rel.ID]; ok {
			kept[rel.ID] = f
		}
	}
	p.failed = kept
	slices.SortStableFunc(open, func(a, b Release) int { return kept[a.ID].compare(kept[b.ID]) })
	group := map[string]int{}
	for _, rel := range open {
		if !rel.AdmittedAt.Before(now.Add(-stood)) || now.Before(kept[rel.ID].until) {
			continue
		}
		i, ok := group[rel.Image]
		if !ok {
			i = len(groups)
			group[rel.Image], groups = i, append(groups, nil)
		}
		groups[i] = append(groups[i], rel)
	}
	return groups
}

// driveEach drives the releases of one image, in driveTime. What it does not
// come to by then counts as failed, as it would wait for the same registry.
func (p *Pipeline) driveEach(ctx context.Context, now time.Time, rels []Release) error {
	bound, cancel := context.WithTimeout(ctx, driveTime)
	defer cancel()
	var errs []error
	for _, rel := range rels {
		served := bound.Err() == nil
		_, err := p.Drive(bound, rel)
		if ctx.Err() != nil {
			break // interrupted, not failed
		}
		if err == nil || isOver(err) {
			continue
		}
		p.failAgain(rel.ID, served, now)
		errs = append(errs, fmt.Errorf("drive %s: %w", rel.ID, err))
	}
	return errors.Join(errs...)
}

// failAgain notes that the release could not be driven.
func (p *Pipeline) failAgain(id string, served bool, now time.Time) {
	p.sweeping.Lock()
	defer p.sweeping.Unlock()
	times := p.failed[id].times + 1
	p.failed[id] = failures{times: times, served: served, until: now.Add(RetryDelay(times))}
}
