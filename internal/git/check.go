package git

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/imgd/imgd"
)

const (
	maxRef = 512 // bytes of a full ref; git stores it as a path
	shown  = 160 // bytes of a refused ref that an error repeats
)

// pullGrammar are the refs that forges keep for pull requests: GitHub's, Gitea's
// and Forgejo's, and GitLab's. head is what is proposed, merge what it would
// become; not every forge has that.
var pullGrammar = regexp.MustCompile(`^refs/(pull|merge-requests)/[1-9][0-9]{0,17}/(head|merge)$`)

// CheckRef reports whether ref is the full name of a branch or a tag
// (refs/heads/…, refs/tags/…) by the rules of git check-ref-format, and stricter
// in one point: no part of it starts with '-', so that it never reads as an
// option. Or it is that of a pull request (refs/pull/N/head, …/merge, and
// refs/merge-requests/N/…). Its error wraps imgd.ErrInvalid.
func CheckRef(ref string) error {
	if err := checkRef(ref); err != nil {
		return fmt.Errorf("ref %.*q: %w: %w", shown, ref, err, imgd.ErrInvalid)
	}
	return nil
}

func checkRef(ref string) error {
	if pullGrammar.MatchString(ref) {
		return nil
	}
	name, branch := strings.CutPrefix(ref, headRefs)
	tag := false
	if !branch {
		name, tag = strings.CutPrefix(ref, tagRefs)
	}
	switch {
	case !branch && !tag:
		return errors.New("want refs/heads/…, refs/tags/…, refs/pull/N/head or refs/merge-requests/N/head")
	case len(ref) > maxRef:
		return fmt.Errorf("longer than %d bytes", maxRef)
	case !utf8.ValidString(ref) || strings.ContainsFunc(ref, notInRef):
		return errors.New("spaces, control characters and ~^:?*[\\ cannot be in a ref")
	case strings.Contains(ref, "..") || strings.Contains(ref, "@{") || strings.HasSuffix(ref, "."):
		return errors.New("cannot contain .. or @{, or end in a dot")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '-' || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return errors.New("no part between slashes can be empty, start with - or dot, or end in .lock")
		}
	}
	return nil
}

func notInRef(r rune) bool {
	return unicode.IsControl(r) || unicode.IsSpace(r) || strings.ContainsRune(`~^:?*[\`, r)
}

var (
	hostGrammar = regexp.MustCompile(`^([0-9A-Za-z_]([0-9A-Za-z._-]*[0-9A-Za-z])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
	userGrammar = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z._-]*$`)
)

// CheckURL reports whether imgd would fetch from rawURL: https or ssh, or http
// if the rules have PlainHTTP, on one of AllowHosts (host or host:port; none:
// any). An https URL may carry credentials, an ssh URL a user; the error repeats
// neither. It looks up no name.
func CheckURL(rawURL string, rules Rules) error {
	_, err := parseURL(rawURL, rules)
	return err
}

func parseURL(rawURL string, rules Rules) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" {
		return nil, errors.New("git URL: want https://host/path or ssh://user@host/path")
	}
	switch {
	case u.Scheme == "http" && !rules.PlainHTTP:
		return nil, errors.New("git URL: http is allowed only with git.plainHTTP")
	case u.Scheme != "https" && u.Scheme != "ssh" && u.Scheme != "http":
		return nil, fmt.Errorf("git URL: scheme %.*q: want https or ssh", shown, u.Scheme)
	case !hostGrammar.MatchString(u.Host):
		return nil, errors.New("git URL: the host is not a host name or address")
	case !allowed(u, rules.AllowHosts):
		return nil, fmt.Errorf("git URL: host %s is not in git.allowHosts", u.Host)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(rawURL, "#"):
		return nil, errors.New("git URL: cannot have a query or a fragment")
	}
	return u, errors.Join(checkUser(u), checkPath(u.Path))
}

func allowed(u *url.URL, hosts []string) bool {
	for _, host := range hosts {
		if strings.EqualFold(host, u.Host) || strings.EqualFold(host, u.Hostname()) {
			return true
		}
	}
	return len(hosts) == 0
}

// checkUser guards ssh, which gets the user on its command line; an http user
// ends up in a header.
func checkUser(u *url.URL) error {
	password, has := u.User.Password()
	if strings.ContainsFunc(u.User.Username()+password, unicode.IsControl) {
		return errors.New("git URL: control characters in the credentials")
	}
	if u.Scheme != "ssh" || u.User == nil {
		return nil
	}
	if has {
		return errors.New("git URL: ssh takes a key, not a password")
	}
	if !userGrammar.MatchString(u.User.Username()) {
		return errors.New("git URL: the user has characters other than letters, digits, '.', '_' and '-'")
	}
	return nil
}

func checkPath(path string) error {
	if strings.Trim(path, "/") == "" {
		return errors.New("git URL: the path is missing")
	}
	if !utf8.ValidString(path) || strings.Contains(path, `\`) || strings.ContainsFunc(path, notGraphic) {
		return errors.New("git URL: spaces, backslashes and control characters cannot be in the path")
	}
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(part, "-") || part == ".." || part == "." {
			return errors.New("git URL: a part of the path is . or .., or starts with a dash")
		}
	}
	return nil
}

func notGraphic(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }
