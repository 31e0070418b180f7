package git

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// askTime bounds one ask over HTTP, after which git itself is run.
	askTime = 10 * time.Second
	// dialTime is how long one address may take: those after it get their turn.
	dialTime = 3 * time.Second
	// idleTime is how long a connection to a git server is kept: as a rule the
	// next push of a team comes later.
	idleTime = 30 * time.Second
	// maxRefsAnswer bounds the answer, in bytes: those refs whose names begin
	// with the one that is asked for.
	maxRefsAnswer = 1 << 20

	// Of a pkt-line: its length in four hexadecimal digits, these included, comes
	// first; two lengths are none (https://git-scm.com/docs/gitprotocol-common).
	lengthDigits = 4
	flushPkt     = "0000"
	delimPkt     = "0001"
)

// An asker asks a server for refs in one call: ls-refs of git's protocol v2,
// stateless over HTTP (https://git-scm.com/docs/gitprotocol-v2). git ls-remote
// is two processes and two calls for the same words, which one build in its
// cache is too short for. It goes where git may go, and no further.
type asker struct {
	client    *http.Client
	url       string // of the service
	authorize string // header, or empty
}

// newAsker is nil where there is none: git is run then. The URL has no
// credentials.
func newAsker(u *url.URL, authorize, proxy, caFile string, g *guard) *asker {
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil
	}
	transport := &http.Transport{DialContext: g.dial, MaxIdleConns: 1, IdleConnTimeout: idleTime, DisableCompression: true}
	if proxy != "" {
		at, err := url.Parse(proxy)
		if err != nil {
			return nil
		}
		transport.Proxy = http.ProxyURL(at)
	}
	if caFile != "" {
		roots := x509.NewCertPool()
		if pem, err := os.ReadFile(caFile); err != nil || !roots.AppendCertsFromPEM(pem) {
			return nil
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return &asker{
		client: &http.Client{Transport: transport, Timeout: askTime,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		url:       strings.TrimSuffix(u.String(), "/") + "/git-upload-pack",
		authorize: authorize,
	}
}

// close lets go of the connection that is kept.
func (a *asker) close() {
	if a != nil {
		a.client.CloseIdleConnections()
	}
}

// A pointer is what a ref names. It is empty where there is no such ref.
type pointer struct {
	object string // peeled, if it is an annotated tag
	target string // the ref that it names, if it is a symbolic one
}

// names answers what the full ref, or HEAD, names. Any answer but one to the
// letter is an error: a server of the old protocol gives none.
func (a *asker) names(ctx context.Context, ref string) (pointer, error) {
	if a == nil {
		return pointer{}, errors.ErrUnsupported
	}
	body := pkt("command=ls-refs\n") + delimPkt + pkt("peel\n") + pkt("symrefs\n") + pkt("ref-prefix "+ref+"\n") + flushPkt
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, strings.NewReader(body))
	if err != nil {
		return pointer{}, err
	}
	req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	req.Header.Set("Accept", "application/x-git-upload-pack-result")
	req.Header.Set("Git-Protocol", "version=2")
	req.Header.Set("User-Agent", "git/2 (imgd)") // some servers look for "git/"
	if a.authorize != "" {
		req.Header.Set("Authorization", a.authorize)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return pointer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-git-upload-pack-result" {
		return pointer{}, fmt.Errorf("answered %s, %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	return find(io.LimitReader(resp.Body, maxRefsAnswer), ref)
}

// find reads the answer to its end, a flush and nothing after it. Each line is
// an object, a ref and perhaps attributes.
func find(answer io.Reader, ref string) (found pointer, err error) {
	r := bufio.NewReader(answer)
	for {
		line, err := readPkt(r)
		if err != nil {
			return pointer{}, err
		}
		if line == nil {
			break
		}
		fields := strings.Split(strings.TrimSuffix(string(line), "\n"), " ")
		if len(fields) < 2 || checkCommit(fields[0]) != nil {
			return pointer{}, fmt.Errorf("answered the line %.*q", shown, line)
		}
		if fields[1] != ref {
			continue
		}
		found.object = fields[0]
		for _, attribute := range fields[2:] {
			if peeled, ok := strings.CutPrefix(attribute, "peeled:"); ok {
				found.object = peeled
			}
			if target, ok := strings.CutPrefix(attribute, "symref-target:"); ok {
				found.target = target
			}
		}
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		return pointer{}, errors.New("answered more than it was asked for")
	}
	return found, nil
}

func pkt(line string) string { return fmt.Sprintf("%04x%s", lengthDigits+len(line), line) }

// readPkt reads one pkt-line; nil is a flush.
func readPkt(r io.Reader) ([]byte, error) {
	digits := make([]byte, lengthDigits)
	if _, err := io.ReadFull(r, digits); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if bytes.Equal(digits, []byte(flushPkt)) {
		return nil, nil
	}
	length, err := strconv.ParseUint(string(digits), 16, 16)
	if err != nil || length <= lengthDigits {
		return nil, fmt.Errorf("read answer: %q is no length", digits)
	}
	line := make([]byte, length-lengthDigits)
	if _, err := io.ReadFull(r, line); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return line, nil
}

// dial connects to the host at one of the addresses that it has and that are
// allowed.
func (g *guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTime}
	addrs, err := g.look(ctx)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return dialer.DialContext(ctx, network, address)
	}
	var failed error
	for _, a := range addrs {
		conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(a.String(), g.port))
		if err == nil {
			return conn, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}
