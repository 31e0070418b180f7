package main

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/internal/httpapi"
)

// The API and the events name the same kinds, though neither knows the other.
func TestKindsAgree(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1/v1/events?what=nonsense", nil)
	httpapi.New(httpapi.Config{Local: true}).ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	for _, kind := range slices.Sorted(maps.Keys(events.Types())) {
		if !strings.Contains(w.Body.String(), kind) {
			t.Errorf("the API does not know the kind %s: %s", kind, w.Body)
		}
	}
}
