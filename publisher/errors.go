package publisher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

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

// Error says what happened and what to do about it.
func (e *statusError) Error() string {
	text := fmt.Sprintf("%s %s: %d %s%.*s", e.method, e.url, e.code, http.StatusText(e.code), maxErrorText, e.message)
	switch e.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return text + " (the registry does not allow this to imgd: check credentials and rights)"
	case http.StatusRequestEntityTooLarge:
		return text + " (the registry, or a proxy before it, limits the size of requests)"
	case http.StatusTooManyRequests:
		text += " (the registry limits the rate of requests"
		if e.retryAfter != "" {
			text += fmt.Sprintf("; it asks to wait %.40s", e.retryAfter)
		}
		return text + ")"
	}
	return text
}

// Is makes what a registry does not have imgd.ErrNotFound. Some answer by the
// code and another status.
func (e *statusError) Is(target error) bool {
	unknown := func(code string) bool {
		return slices.Contains([]string{"MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"}, code)
	}
	return target == imgd.ErrNotFound && (e.code == http.StatusNotFound || slices.ContainsFunc(e.codes, unknown))
}

// refuses reports whether err may be a registry's last word on a write: a 4xx
// that neither another try nor other credentials nor a new push of what is
// missing may change, by its status and by the code in its body. It is the last
// word only if the repository takes other writes at the same time. A read has no
// last word: what cannot be read now may be later.
func refuses(err error) bool {
	var e *statusError
	if !errors.As(err, &e) || e.code/100 != 4 || errors.Is(err, imgd.ErrNotFound) {
		return false
	}
	mendable := []int{
		http.StatusUnauthorized, http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusConflict,
		http.StatusMisdirectedRequest, http.StatusLocked, http.StatusTooEarly, http.StatusTooManyRequests,
	}
	passes := func(code string) bool { return code == "TOOMANYREQUESTS" || code == "UNAUTHORIZED" }
	return (e.method == http.MethodPut || e.method == http.MethodDelete) && !slices.Contains(mendable, e.code) && !slices.ContainsFunc(e.codes, passes)
}

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
