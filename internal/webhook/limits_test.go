package webhook_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imgd/imgd"
)

const maxBody = 5 << 20

// padded is a push of exactly size bytes.
func padded(size int) string {
	body := push("refs/heads/main", commit)
	return body + strings.Repeat(" ", size-len(body))
}

// serve serves w by a real server and answers its address.
func serve(t *testing.T, w *world) string {
	t.Helper()
	s := httptest.NewServer(w)
	t.Cleanup(s.Close)
	return s.URL
}

// post sends a signed body over the network.
func post(t *testing.T, address, body string, chunked bool) *httptest.ResponseRecorder {
	t.Helper()
	signed := delivery("github", "push", body)
	var from io.Reader = strings.NewReader(body)
	if chunked {
		from = io.MultiReader(from)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+signed.URL.Path, from)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = signed.Header
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return record(t, resp)
}

func TestBodySize(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")))
	address := serve(t, w)
	for _, chunked := range []bool{false, true} {
		for _, size := range []int{1 << 10, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20, maxBody - 1, maxBody} {
			if got := post(t, address, padded(size), chunked); got.Code != http.StatusAccepted {
				t.Errorf("%d bytes: got %d %s", size, got.Code, got.Body)
			}
		}
		w.asked()
		for _, size := range []int{maxBody + 1, maxBody + 64<<10, 2 * maxBody} {
			wantProblem(t, post(t, address, padded(size), chunked), http.StatusRequestEntityTooLarge, "usage", "more than 5 MiB")
		}
		if asks := w.asked(); asks != nil {
			t.Errorf("asked for %v", asks)
		}
	}
}

// A body that ends before its announced length is nobody's payload, even if
// what came is signed.
func TestBodyIsCut(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")))
	conn, err := net.Dial("tcp", strings.TrimPrefix(serve(t, w), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := push("refs/heads/main", commit)
	fmt.Fprintf(conn, "%s%s", head(body, len(body)+1), body)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, conn, http.StatusBadRequest, "usage", "cut")
	if asks := w.asked(); asks != nil {
		t.Errorf("asked for %v", asks)
	}
	if line := w.logged()[0]; line["error"] != "unexpected EOF" {
		t.Errorf("logged %v", line)
	}
}

// head is the head of a signed request that announces length bytes.
func head(body string, length int) string {
	r := delivery("github", "push", body)
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: imgd\r\nContent-Length: %d\r\n", r.URL.Path, length)
	if err := r.Header.Write(&b); err != nil {
		panic(err)
	}
	return b.String() + "\r\n"
}

func wantAnswer(t *testing.T, conn net.Conn, status int, code, detail string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	wantProblem(t, record(t, resp), status, code, detail)
}

// record is a response in the form that wantProblem takes.
func record(t *testing.T, resp *http.Response) *httptest.ResponseRecorder {
	t.Helper()
	got := httptest.NewRecorder()
	maps.Copy(got.Header(), resp.Header)
	got.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(got, resp.Body); err != nil {
		t.Fatal(err)
	}
	return got
}

// A pipeListener hands out one end of a pipe, so that a real server lives in
// the bubble of synctest, with its clock.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	conn, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// inBubble serves h as long as f talks to it.
func inBubble(t *testing.T, h http.Handler, f func(conn net.Conn)) {
	t.Helper()
	l := make(pipeListener)
	s := &http.Server{Handler: h}
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	client, server := net.Pipe()
	l <- server
	f(client)
	if err := errors.Join(client.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// Who sends slowly does not hold a connection: not before the answer, and not
// after it, when the server reads what is left of a body. That goes for the
// paths that nobody has, too.
func TestBodyIsSlow(t *testing.T) {
	for name, tt := range map[string]struct {
		path         string
		status       int
		code, detail string
	}{
		"a webhook": {"/hooks/github/hello", http.StatusRequestTimeout, "timeout", "within 5s"},
		"none":      {"/hooks/github/nobody", http.StatusNotFound, "not-found", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, hook("github", project("hello")))
				inBubble(t, w, func(conn net.Conn) {
					body, start := push("refs/heads/main", commit), time.Now()
					stop := make(chan struct{})
					go func() { // a byte a second, for as long as the server takes them
						defer close(stop)
						fmt.Fprint(conn, strings.Replace(head(body, len(body)), "/hooks/github/hello", tt.path, 1))
						for _, b := range []byte(body) {
							<-time.After(time.Second)
							if _, err := conn.Write([]byte{b}); err != nil {
								return
							}
						}
					}()
					wantAnswer(t, conn, tt.status, tt.code, tt.detail)
					if _, err := io.Copy(io.Discard, conn); err != nil {
						t.Error(err)
					}
					if took := time.Since(start); took > 6*time.Second {
						t.Errorf("the connection was held for %s", took)
					}
					<-stop
				})
				if asks := w.asked(); asks != nil {
					t.Errorf("asked for %v", asks)
				}
			})
		})
	}
}

// The time to send a body in does not cut off the queue's, nor the next
// delivery on the same connection, and whoever serves the Handler does not take
// the forge for gone when it is over.
func TestConnectionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, hook("github", project("hello")))
		w.submit = func(ctx context.Context, _ imgd.Request) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(7 * time.Second):
				return nil
			}
		}
		outer := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.ServeHTTP(rw, r)
			if err := r.Context().Err(); err != nil {
				t.Error(err)
			}
		})
		inBubble(t, outer, func(conn net.Conn) {
			answers := bufio.NewReader(conn)
			for range 2 {
				body := push("refs/heads/main", commit)
				fmt.Fprintf(conn, "%s%s", head(body, len(body)), body)
				resp, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusAccepted {
					t.Errorf("got %d, %v", resp.StatusCode, err)
				}
				resp.Body.Close()
				<-time.After(time.Minute)
			}
		})
	})
}

// holdRoom sends bodies that fill the memory of the project's webhook and do not
// end, until the returned function is called: it ends one of them.
func holdRoom(t *testing.T, w *world, project string) func() {
	t.Helper()
	const bodies, size = 4, 4 << 20
	var pipes []*io.PipeWriter
	for range bodies {
		reader, writer := io.Pipe()
		r := delivery("github", "push", "")
		r.URL.Path = "/hooks/github/" + project
		r.Body, r.ContentLength = reader, -1
		go w.ServeHTTP(httptest.NewRecorder(), r)
		if _, err := writer.Write(make([]byte, size-1)); err != nil {
			t.Fatal(err)
		}
		pipes = append(pipes, writer)
	}
	t.Cleanup(func() {
		for _, p := range pipes {
			p.Close()
		}
	})
	return func() {
		pipes[0].CloseWithError(io.ErrUnexpectedEOF)
		pipes = pipes[1:]
	}
}

// wantNoRoom fails the test unless a delivery waits for room in vain.
func wantNoRoom(t *testing.T, w *world) {
	t.Helper()
	start := time.Now()
	wantProblem(t, w.deliver("github", "push", push("refs/heads/main", commit)), http.StatusServiceUnavailable, "failed", "deliver this again")
	if took := time.Since(start); took != 5*time.Second {
		t.Errorf("waited %s for room, want 5s", took)
	}
	if asks := w.asked(); asks != nil {
		t.Errorf("asked for %v", asks)
	}
}

func TestManyBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, hook("github", project("hello")), hook("github", project("a")), hook("github", project("b")),
			hook("github", project("c")), hook("github", project("d")))
		endOne := holdRoom(t, w, "a")
		for _, other := range []string{"b", "c", "d"} {
			holdRoom(t, w, other)
		}
		wantNoRoom(t, w)

		got := make(chan int)
		go func() {
			recorder := httptest.NewRecorder()
			w.ServeHTTP(recorder, delivery("github", "push", push("refs/heads/main", commit)))
			got <- recorder.Code
		}()
		synctest.Wait()
		endOne()
		if code := <-got; code != http.StatusAccepted {
			t.Errorf("got %d when there was room again", code)
		}
	})
}

// Who fills the room of one webhook leaves the others theirs.
func TestManyBodiesOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, hook("github", project("hello")), hook("github", project("other")))
		holdRoom(t, w, "other")
		var more sync.WaitGroup
		defer more.Wait()
		for range 9 {
			r := delivery("github", "push", "")
			r.URL.Path = "/hooks/github/other"
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat(" ", maxBody))), -1
			more.Go(func() { w.ServeHTTP(httptest.NewRecorder(), r) })
		}
		synctest.Wait()
		start := time.Now()
		if got := w.deliver("github", "push", push("refs/heads/main", commit)); got.Code != http.StatusAccepted || time.Since(start) > 0 {
			t.Errorf("got %d %s after %s", got.Code, got.Body, time.Since(start))
		}
	})
}

// And its own wait for it.
func TestManyBodiesOfIts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, hook("github", project("hello")))
		holdRoom(t, w, "hello")
		wantNoRoom(t, w)
	})
}

// Room is given back however a delivery ends.
func TestRoomIsGivenBack(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")))
	for i := range 1100 {
		body, r := push("refs/heads/main", commit), (*http.Request)(nil)
		switch i % 5 {
		case 0:
			r = delivery("github", "push", body)
		case 1:
			r = delivery("github", "ping", body)
		case 2:
			r = delivery("github", "push", "{")
		case 3:
			r = delivery("gitea", "push", body) // unsigned
			r.URL.Path = "/hooks/github/hello"
		case 4:
			r = delivery("github", "push", body)
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), brokenReader{}))
		}
		if got := w.send(r); got.Code == http.StatusServiceUnavailable {
			t.Fatalf("delivery %d: got %s", i, got.Body)
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A body does not become many times its size: go-scm would make hundreds of
// bytes of every {}.
func TestMemoryOfOneBody(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")))
	for _, list := range []string{"commits", "Commits", "COMMIT\u017f"} {
		body := strings.TrimSuffix(push("refs/heads/main", commit), "}") + fmt.Sprintf(",%q:[{}", list)
		body += strings.Repeat(",{}", (maxBody-len(body)-2)/3) + "]}"
		r := delivery("github", "push", body)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := httptest.NewRecorder()
		w.ServeHTTP(got, r)
		runtime.ReadMemStats(&after)
		if got.Code != http.StatusAccepted {
			t.Errorf("got %d %s", got.Code, got.Body)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 6*maxBody {
			t.Errorf("%s: %d MiB were allocated for a body of %d", list, took>>20, len(body)>>20)
		}
	}
}
