package publisher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"github.com/imgd/imgd"
)

const (
	// maxErrorBody bounds what is read of an answer that is an error, in bytes.
	maxErrorBody = 64 << 10
	// maxErrorText bounds what is shown of it.
	maxErrorText = 500
)

// errNotImage says that what the registry has is there and is no image: to look
// again would not help.
var errNotImage = fmt.Errorf("it is no image: %w", imgd.ErrInvalid)

// statusError is an answer of a registry other than 2xx. Its text has the
// method, the URL without query, which may hold a signature, the status, what
// the registry says, and what to do where that is known.
type statusError struct {
	method, url string
	code        int
	retryAfter  string
	codes       []string // of the registry's error: MANIFEST_UNKNOWN, …
	message     string
}

// newStatusError reads and closes the response.
func newStatusError(resp *http.Response) *statusError {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // the status says enough
	e := &statusError{code: resp.StatusCode, retryAfter: resp.Header.Get("Retry-After")}
	if resp.Request != nil {
		e.method, e.url = resp.Request.Method, bare(resp.Request.URL)
	}
	e.read(body)
	return e
}

func bare(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// read takes codes and message from the registry's error body.
func (e *statusError) read(body []byte) {
	var said struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &said) != nil {
		return
	}
	for _, s := range said.Errors {
		e.codes = append(e.codes, s.Code)
		if s.Message != "" {
			e.message += ": " + s.Message
		}
	}
}

// row is what the table says of the answer.
func (e *statusError) row() answer { return answerOf(e.method, e.code, e.codes) }

// Error says what happened and what to do about it.
func (e *statusError) Error() string {
	text := fmt.Sprintf("%s %s: %d %s%.*s", e.method, e.url, e.code, http.StatusText(e.code), maxErrorText, e.message)
	row := e.row()
	todo := row.todo
	if row.again && e.retryAfter != "" {
		todo = strings.TrimPrefix(fmt.Sprintf("%s; it asks to wait %.40s", todo, e.retryAfter), "; ")
	}
	if todo == "" {
		return text
	}
	return text + " (" + todo + ")"
}

// Is makes what a registry does not have imgd.ErrNotFound.
func (e *statusError) Is(target error) bool {
	return target == imgd.ErrNotFound && e.row().means == absent
}

// means is what the registry's answer in err means; what is no answer passes.
func means(err error) meaning {
	var e *statusError
	if !errors.As(err, &e) {
		return passes
	}
	return e.row().means
}

// refuses reports whether err may be a registry's last word on a write. It is
// the last word only if the repository takes other writes at the same time.
func refuses(err error) bool { return means(err) == refused || means(err) == undeletable }

// refusal is the refused write of a tag, with what the tag names now and what
// to do. It wraps imgd.ErrRefused.
func refusal(err error, now, todo string) error {
	return fmt.Errorf("%w by the registry: %w; the tag names %s now; %s", imgd.ErrRefused, err, now, todo)
}

// explain turns what containerd and net/http say into this package's errors.
func explain(err error) error {
	var status *statusError
	if errors.As(err, &status) {
		return status
	}
	var unexpected remoteserrors.ErrUnexpectedStatus
	if errors.As(err, &unexpected) {
		status = &statusError{method: unexpected.RequestMethod, code: unexpected.StatusCode}
		if u, err := url.Parse(unexpected.RequestURL); err == nil {
			status.url = bare(u)
		}
		status.read(unexpected.Body)
		return status
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		if u, parseErr := url.Parse(wrapped.URL); parseErr == nil {
			return fmt.Errorf("%s %s: %w", wrapped.Op, bare(u), wrapped.Err)
		}
	}
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w: %w", imgd.ErrNotFound, err)
	}
	return err
}
