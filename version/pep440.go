package version

import (
	"regexp"
	"strings"
)

// A pep440 is a version as Python has it (https://peps.python.org/pep-0440/#version-scheme), in its normal form.
type pep440 struct {
	raw, epoch     string
	release        []string
	pre, post, dev string // rc1, post1, dev1; "" none
	local          string
}

// pep440Form follows appendix B of the PEP.
var pep440Form = regexp.MustCompile(`(?i)^\s*v?(?:([0-9]+)!)?([0-9]+(?:\.[0-9]+)*)` +
	`(?:[-_.]?(alpha|a|beta|b|preview|pre|c|rc)[-_.]?([0-9]+)?)?` +
	`(?:-([0-9]+)|[-_.]?(post|rev|r)[-_.]?([0-9]+)?)?` +
	`(?:[-_.]?(dev)[-_.]?([0-9]+)?)?` +
	`(?:\+([a-z0-9]+(?:[-_.][a-z0-9]+)*))?\s*$`)

func readPEP440(s string) (pep440, bool) {
	part := pep440Form.FindStringSubmatch(s)
	if part == nil {
		return pep440{}, false
	}
	v := pep440{raw: s, epoch: plain(part[1]), release: strings.Split(part[2], ".")}
	for i, n := range v.release {
		v.release[i] = plain(n)
	}
	if part[3] != "" {
		v.pre = map[byte]string{'a': "a", 'b': "b", 'c': "rc", 'r': "rc", 'p': "rc"}[strings.ToLower(part[3])[0]] + plain(part[4])
	}
	if part[5] != "" || part[6] != "" {
		v.post = "post" + plain(part[5]+part[7])
	}
	if part[8] != "" {
		v.dev = "dev" + plain(part[9])
	}
	for word := range strings.FieldsFuncSeq(strings.ToLower(part[10]), func(r rune) bool { return strings.ContainsRune("-_.", r) }) {
		if strings.Trim(word, "0123456789") == "" {
			word = plain(word)
		}
		v.local += "." + word
	}
	v.local = strings.TrimPrefix(v.local, ".")
	return v, true
}

// plain is a number without leading zeros; an empty one is 0.
func plain(digits string) string {
	if digits = strings.TrimLeft(digits, "0"); digits == "" {
		return "0"
	}
	return digits
}

// final reports whether it is no prerelease, postrelease or dev release.
func (v pep440) final() bool { return v.pre == "" && v.post == "" && v.dev == "" }

func (v pep440) String() string {
	s := strings.Join(v.release, ".") + v.pre
	if v.epoch != "0" {
		s = v.epoch + "!" + s
	}
	if v.post != "" {
		s += "." + v.post
	}
	if v.dev != "" {
		s += "." + v.dev
	}
	if v.local != "" {
		s += "+" + v.local
	}
	return s
}

func (v pep440) part(p piece) string {
	number := func(i int) string {
		if i < len(v.release) {
			return v.release[i]
		}
		return "0"
	}
	switch p.name {
	case "raw":
		return v.raw
	case "version":
		return v.String()
	case "major":
		return number(0)
	case "minor":
		return number(1)
	}
	return number(2)
}
