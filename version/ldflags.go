package version

import (
	"errors"
	"fmt"
	gotoken "go/token" // the package has tokens of its own
	"regexp"
	"slices"
	"strings"
)

// maxLDValue bounds the value that an -X sets, in bytes: that of a branch, which is the longest a field has.
const maxLDValue = maxName

var (
	// importPath is a Go import path as the linker takes it: https://go.dev/ref/mod#go-mod-file-ident, in ASCII.
	importPath = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z._~+-]*(/[0-9A-Za-z_~][0-9A-Za-z._~+-]*)*$`)
	// ldValue is what a value may have: nothing that a shell, a Dockerfile or Go's own splitting of the line reads as
	// anything else, even where somebody has forgotten the quotes. A value never stands at the beginning of a word.
	ldValue = regexp.MustCompile(`^[0-9A-Za-z._+:/@,=-]*$`)
	// ldPlain are the words that pass as they are. -s and -w leave out symbols and debug information; -buildid and -B
	// make the binary the same, or tell it apart; the rest is about what is in it. None names a file or a program.
	ldPlain = regexp.MustCompile(`^-(s|w|buildid=[0-9A-Za-z._/-]{0,128}|B=(gobuildid|none|0x([0-9a-f]{2}){1,32})|compressdwarf=(true|false)|checklinkname=[01])$`)
)

// ldWords are the options for an error.
const ldWords = "-s, -w, -X importpath.name=value, -buildid=…, -B=gobuildid|none|0x…, -compressdwarf=… and -checklinkname=…"

// ExpandLDFlags is Expand for the flags of Go's linker, of which it lets a list through that can only set strings and leave
// things out: a Dockerfile hands the line to `go build -ldflags "$LDFLAGS"`, and other flags run programs (-extld,
// -linkmode) or write files (-o). Fields may stand in the values of -X and -buildid only. There are no quotes: what the
// words are rests on spaces alone, and no value has one, nor anything else that a shell, Go or its linker would read as
// more than itself. So each -X sets what it names, to what stands after its =, or the line is refused.
func ExpandLDFlags(tmpl string, v Values) (string, error) {
	if err := checkLDFlags(tmpl); err != nil {
		return "", fmt.Errorf("template %.*q: %w", shown, tmpl, err)
	}
	line, err := Expand(tmpl, v)
	if err != nil {
		return "", err
	}
	if err := checkLine(line); err != nil {
		return "", fmt.Errorf("template %.*q: %w", shown, tmpl, err)
	}
	return line, nil
}

// CheckLDFlags reports what is wrong with a template for ExpandLDFlags, whatever the values.
func CheckLDFlags(tmpl string) error {
	_, err := ExpandLDFlags(tmpl, Values{})
	return err
}

// checkLDFlags looks where fields stand: it puts a word in the place of each that no target and no option may have.
func checkLDFlags(tmpl string) error {
	all, err := parts(tmpl)
	if err != nil {
		return err
	}
	const field = "\uFFFD"
	var line strings.Builder
	for _, p := range all {
		if p.field == "" && strings.Contains(p.text, field) {
			return errors.New("it is not UTF-8")
		}
		if p.field != "" {
			p.text = field
		}
		line.WriteString(p.text)
	}
	for _, word := range strings.Fields(line.String()) {
		option, _, _ := strings.Cut(strings.TrimPrefix(word, "-X="), "=")
		if strings.Contains(option, field) {
			return errors.New("a field may stand only after the = of an -X or of -buildid")
		}
	}
	return nil
}

// checkLine checks a line as the linker will get it.
func checkLine(line string) error {
	if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
		return errors.New("only spaces separate the flags, and all else is printable ASCII")
	}
	if strings.ContainsAny(line, `'"`) {
		return errors.New("it has quotes, which are not needed: no value has a space")
	}
	set, words := []string{}, strings.Fields(line)
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		setting, isX := strings.CutPrefix(word, "-X=")
		if word == "-X" {
			if len(words) == 0 {
				return errors.New("-X is the last word: want importpath.name=value after it")
			}
			setting, words, isX = words[0], words[1:], true
		}
		if !isX && !ldPlain.MatchString(word) {
			return fmt.Errorf("%.*q is not allowed: the flags are %s", shown, word, ldWords)
		}
		if !isX {
			continue
		}
		target, err := ldTarget(setting)
		if err != nil {
			return fmt.Errorf("-X %.*q: %w", shown, setting, err)
		}
		if slices.Contains(set, target) {
			return fmt.Errorf("-X sets %.*q twice", shown, target)
		}
		set = append(set, target)
	}
	return nil
}

// ldTarget is the variable that an -X sets. The linker cuts at the first = and then at the last dot before it.
func ldTarget(setting string) (string, error) {
	target, value, ok := strings.Cut(setting, "=")
	dot := strings.LastIndexByte(target, '.')
	if !ok || dot < 0 {
		return "", errors.New("want importpath.name=value")
	}
	if !importPath.MatchString(target[:dot]) {
		return "", fmt.Errorf("%.*q is no import path", shown, target[:dot])
	}
	if name := target[dot+1:]; !gotoken.IsIdentifier(name) || name == "_" {
		return "", fmt.Errorf("%.*q is no name of a variable", shown, name)
	}
	if len(value) > maxLDValue || !ldValue.MatchString(value) {
		return "", fmt.Errorf("value %.*q: want at most %d letters, digits and . _ + : / @ , = -", shown, value, maxLDValue)
	}
	return target, nil
}
