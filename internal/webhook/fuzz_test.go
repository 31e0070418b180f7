package webhook_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"testing"
)

// FuzzSigned holds for every payload that a forge could sign: no panic, an
// answer of 200, 202 or 400, and what is asked for is as world.Submit wants it.
func FuzzSigned(f *testing.F) {
	for _, s := range samples(f) {
		for i, scheme := range schemes {
			if forgeOf(scheme) == s.forge {
				f.Add(uint8(i), s.event, false, []byte(s.body))
			}
		}
	}
	f.Add(uint8(0), "push", true, []byte("payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%7D"))
	for i, scheme := range schemes {
		f.Add(uint8(i), event(scheme), false, []byte(push("refs/heads/main", commit)))
		f.Add(uint8(i), event(scheme), false, []byte(push("refs/tags/v1", strings.Repeat("0", 40))))
		f.Add(uint8(i), event(scheme), false, []byte(`{"REF":"refs/heads/x","ref":null,"aFter":"`+commit+`","sender":{"login":"\ud800"}}`))
	}
	f.Fuzz(func(t *testing.T, i uint8, event string, form bool, body []byte) {
		scheme := schemes[int(i)%len(schemes)]
		w := newWorld(t, hook(scheme, project("hello")), hook(scheme, project("main", "refs/heads/main")))
		r := delivery(scheme, event, string(body))
		if form {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		got := w.send(r)
		if got.Code != http.StatusOK && got.Code != http.StatusAccepted && got.Code != http.StatusBadRequest {
			t.Errorf("got %d %s", got.Code, got.Body)
		}
		if asks := w.asked(); (got.Code == http.StatusAccepted) != (len(asks) > 0) {
			t.Errorf("got %d, asked for %v", got.Code, asks)
		}
	})
}

// FuzzUnsigned holds for every request of who has no secret: it is refused, and
// nothing is asked for.
func FuzzUnsigned(f *testing.F) {
	for _, scheme := range schemes {
		r := delivery(scheme, event(scheme), "signed, and never found by a fuzzer: 6f1ed002ab5595859014ebf0951522d9")
		var head strings.Builder
		if err := r.Header.Write(&head); err != nil {
			f.Fatal(err)
		}
		f.Add(http.MethodPost, r.URL.Path, strings.ReplaceAll(head.String(), secret, "guessed"), []byte(push("refs/heads/main", commit)))
		f.Add(http.MethodPost, r.URL.Path, "", []byte(nil))
	}
	f.Add(http.MethodPost, "/hooks/gitlab/hello", "X-Gitlab-Token: \r\nx-gitlab-token:\r\n", []byte("{}"))
	f.Add(http.MethodGet, "/hooks/github/hello", "", []byte("{}"))
	f.Add(http.MethodPost, "/hooks/github/../hello", "X-Hub-Signature-256: sha256=\r\n", []byte("{}"))
	f.Fuzz(func(t *testing.T, method, path, head string, body []byte) {
		header, err := textproto.NewReader(bufio.NewReader(strings.NewReader(head + "\r\n\r\n"))).ReadMIMEHeader()
		if err != nil {
			return
		}
		for _, scheme := range schemes {
			w := newWorld(t, hook(scheme, project("hello")))
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(body)))
			r.Method, r.URL.Path, r.Header = method, path, http.Header(header)
			if r.Header.Get("X-Gitlab-Token") == secret {
				return // who knows it may
			}
			got := httptest.NewRecorder()
			w.ServeHTTP(got, r)
			if got.Code != http.StatusUnauthorized && got.Code != http.StatusNotFound && got.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s: got %d %s", scheme, got.Code, got.Body)
			}
			if asks := w.asked(); asks != nil {
				t.Errorf("%s: asked for %v", scheme, asks)
			}
		}
	})
}
