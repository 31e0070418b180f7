package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

const (
	httpCallers = 16
	httpTime    = time.Second // a round
	httpGoal    = 0.7         // of what a handler does that has its answer at hand
)

// httpLookups asks the HTTP API for tags of l, and a bare handler for an answer of the same bytes, in turns.
func (l *large) httpLookups(ctx context.Context) ([]figure, error) {
	api := httptest.NewServer(httpapi.New(httpapi.Config{Index: l.Index, Projects: new(imgd.Projects), Local: true}))
	defer api.Close()
	one, err := ask(ctx, api.Client(), api.URL+l.path(0))
	if err != nil {
		return nil, err
	}
	bare := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(one)
	}))
	defer bare.Close()
	var rates [2][]float64
	for range indexRounds {
		for side, server := range []*httptest.Server{api, bare} {
			rate, err := l.callers(ctx, server)
			if err != nil {
				return nil, err
			}
			rates[side] = append(rates[side], rate)
		}
	}
	return []figure{
		figure{Name: "lookup/http", Value: median(rates[0]) / median(rates[1]), Unit: "ratio", Peer: "a bare handler"}.atLeast(httpGoal),
		{Name: "lookup/http/imgd", Value: median(rates[0]), Unit: "a second"},
		{Name: "lookup/http/bare", Value: median(rates[1]), Unit: "a second"}}, nil
}

func (l *large) path(i int) string { return "/v1/images/" + madeImage(i) + "/tags/" + madeTag(i) }

// callers is how many calls a second the server answers.
func (l *large) callers(ctx context.Context, server *httptest.Server) (float64, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: httpCallers}}
	defer client.CloseIdleConnections()
	var calls atomic.Int64
	all, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range httpCallers {
		all.Go(func() error {
			for time.Since(began) < httpTime {
				if _, err := ask(ctx, client, server.URL+l.path(rand.IntN(l.n))); err != nil {
					return err
				}
				calls.Add(1)
			}
			return nil
		})
	}
	err := all.Wait()
	return float64(calls.Load()) / time.Since(began).Seconds(), err
}

func ask(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(url + ": " + resp.Status + ": " + string(body))
	}
	return body, err
}
