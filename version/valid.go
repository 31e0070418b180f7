package version

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// The longest strings that pass: a tag by the OCI grammar, a version because it becomes a tag, a branch or describe answer
// because git stores a ref as a file, whose name ends at 255 bytes.
const (
	maxTag  = 128
	maxName = 255

	// shown bounds how much of a refused string an error repeats.
	shown = 160
)

var (
	tagGrammar   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	valueGrammar = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+-]{0,127}$`)
	nameGrammar  = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+-]*(/[0-9A-Za-z][0-9A-Za-z._+-]*)*$`)
	commitHex    = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	shortHex     = regexp.MustCompile(`^[0-9a-f]{12}$`)
)

// ValidTag reports whether s is an image tag by the OCI distribution specification:
// [A-Za-z0-9_] followed by at most 127 of [A-Za-z0-9._-].
func ValidTag(s string) error {
	if !tagGrammar.MatchString(s) {
		return fmt.Errorf("tag %.*q: want 1 to 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'", shown, s)
	}
	return nil
}

// ValidCommit reports whether s is a full commit ID: 40 (SHA-1) or 64 (SHA-256) lower-case hex digits.
func ValidCommit(s string) error {
	if !commitHex.MatchString(s) {
		return fmt.Errorf("commit %.*q: want 40 or 64 lower-case hex digits", shown, s)
	}
	return nil
}

// ValidValue reports whether s may be put into an ldflags or build-arg line: a letter or digit, then at most 127 letters,
// digits, '.', '_', '+' and '-'. A line such as `-ldflags "-X main.version=$VERSION"` is written by the owner of the
// Dockerfile, and with a space in the value it sets other variables or runs another linker; hence no whitespace, quote,
// backslash, '$', backtick, control byte or leading '-'. The empty string does not pass.
func ValidValue(s string) error {
	if !valueGrammar.MatchString(s) {
		return fmt.Errorf("value %.*q: want 1 to 128 letters, digits, '.', '_', '+' and '-', starting with a letter or digit", shown, s)
	}
	return nil
}

// ValidVersion reports whether s may be the version of a build: at most 128 bytes, ValidValue in each of its parts between
// slashes. Slashes are for tags of one part of a repository, such as app/v1.2.3.
func ValidVersion(s string) error {
	if len(s) > maxTag {
		return fmt.Errorf("version %.*q: longer than %d bytes", shown, s, maxTag)
	}
	if err := validName(s); err != nil {
		return fmt.Errorf("version %w", err)
	}
	return nil
}

// validName is the rule for values that are a ref's short name or come from one: ValidValue between slashes, in all at
// most 255 bytes.
func validName(s string) error {
	if len(s) > maxName {
		return fmt.Errorf("%.*q: longer than %d bytes", shown, s, maxName)
	}
	if !nameGrammar.MatchString(s) {
		return fmt.Errorf("%.*q: want letters, digits, '.', '_', '+' and '-' between single slashes, each part starting with a letter or digit", shown, s)
	}
	return nil
}

func validShortCommit(s string) error {
	if !shortHex.MatchString(s) {
		return fmt.Errorf("%.*q: want %d lower-case hex digits", shown, s, shortCommitLen)
	}
	return nil
}

// validDate takes the one spelling that Values.Date has, so that none of time.Parse's freedoms passes.
func validDate(s string) error {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.UTC().Format(time.RFC3339) != s {
		return fmt.Errorf("%.*q: want RFC 3339 in UTC with whole seconds, as 2026-11-21T10:00:00Z", shown, s)
	}
	return nil
}

// Reserved reports whether a build arg of this name may not be set by requests and config. Those are the ones imgd sets
// itself (VERSION COMMIT DATE LDFLAGS SOURCE_DATE_EPOCH DOCKER_META_VERSION DOCKER_META_IMAGES), the ones that steer BuildKit instead of the Dockerfile
// (BUILDKIT_…; BUILDKIT_SYNTAX runs another frontend) and the proxies (…_PROXY), which BuildKit takes in any case and
// which would see the build's traffic.
func Reserved(arg string) bool {
	switch arg {
	case "VERSION", "COMMIT", "DATE", "LDFLAGS", "SOURCE_DATE_EPOCH", "DOCKER_META_VERSION", "DOCKER_META_IMAGES":
		return true
	}
	upper := strings.ToUpper(arg)
	return strings.HasPrefix(upper, "BUILDKIT_") || strings.HasSuffix(upper, "_PROXY")
}
