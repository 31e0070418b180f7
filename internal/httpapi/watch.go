package httpapi

import (
	"context"
	"net/http"
	"strconv"
)

// watchPage is how many changes are read from the index at a time.
const watchPage = 500

// watch streams what happens to records, each entry of the index as one message
// with its sequence as ID. A reader that comes back says with the header
// Last-Event-ID, as browsers do, how far it was; one that comes first and says
// nothing gets what comes from then on.
func (a *API) watch(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "since", "image", "follow")
	if err != nil {
		return err
	}
	follow, err := q.flag("follow", true)
	if err != nil {
		return err
	}
	now := a.Index.Seq()
	since, err := q.number("since", now)
	if err != nil {
		return err
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		if since, err = strconv.ParseUint(last, 10, 64); err != nil {
			return usage("header Last-Event-ID " + strconv.Quote(last) + " is not one that this stream has sent")
		}
	}
	if err := a.folded(r.Context(), since); err != nil {
		return err
	}
	return a.stream(w, r, func(ctx context.Context, send send) error {
		return a.changes(ctx, since, q.values.Get("image"), follow, send)
	})
}

func (a *API) changes(ctx context.Context, since uint64, image string, follow bool, send send) error {
	for {
		changes, upTo := a.Index.Changes(since, image, watchPage)
		for _, change := range changes {
			m := event("", change)
			m.id = strconv.FormatUint(change.Seq, 10)
			if err := send(m); err != nil {
				return err
			}
		}
		since = upTo
		switch {
		case len(changes) == watchPage:
		case !follow:
			return send(message{event: "end", data: []byte("{}")})
		default:
			if err := a.Index.Wait(ctx, since+1); err != nil {
				return err
			}
		}
	}
}
