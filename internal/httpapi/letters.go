package httpapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/imgd/imgd"
)

// A LetterLine is a dead letter in a list, which leaves its bytes out: they may
// be many.
type LetterLine struct {
	imgd.Letter
	Body string `json:"body,omitempty"` // always empty
}

func (a *API) listLetters(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "limit", "cursor", "seq")
	if err != nil {
		return err
	}
	limit, before, err := q.place()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	letters, next, err := a.Letters.Letters(ctx, limit, before)
	if err != nil {
		return fmt.Errorf("read dead letters: %w", err)
	}
	seq, err := a.seq(ctx, q)
	if err != nil {
		return err
	}
	var lines []LetterLine
	for _, l := range letters {
		lines = append(lines, LetterLine{Letter: l})
	}
	return answer(w, http.StatusOK, listOf(lines, next, seq))
}

func (a *API) getLetter(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	letter, err := a.letter(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, letter)
}

func (a *API) letter(ctx context.Context, id string) (imgd.Letter, error) {
	unknown := problem(http.StatusNotFound, CodeNotFound, fmt.Sprintf("there is no dead letter %q; GET /v1/letters has those there are", id))
	if !validLetter(id) {
		return imgd.Letter{}, unknown
	}
	letter, ok, err := a.Letters.Letter(ctx, id)
	if err != nil {
		return letter, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	if !ok {
		return letter, unknown
	}
	return letter, nil
}
