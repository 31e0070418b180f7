package version

import (
	"errors"
	"fmt"
	"slices"
)

// A flavor is what all rules have in common: when there is a latest, and what stands before and after each tag.
type flavor struct {
	auto           string // auto, true or false; "" auto
	prefix, suffix affix
}

// An affix stands before or after a tag.
type affix struct {
	expression
	latest bool // also of latest
}

func (f flavor) when() string {
	if f.auto == "" {
		return "auto"
	}
	return f.auto
}

func (f flavor) onLatest(a affix) expression {
	if a.latest {
		return a.expression
	}
	return nil
}

// read adds one line: latest=…, prefix=…[,onlatest=…], suffix=…[,onlatest=…].
func (f *flavor) read(line string) error {
	fields, err := attributes(line)
	if err != nil {
		return err
	}
	var last *affix
	for _, field := range fields {
		switch field.name {
		case "latest":
			if f.auto = field.value; !slices.Contains([]string{"auto", "true", "false"}, f.auto) {
				return fmt.Errorf("latest=%.*s: want auto, true or false", shown, f.auto)
			}
		case "prefix", "suffix":
			if last = &f.prefix; field.name == "suffix" {
				last = &f.suffix
			}
			if last.expression, err = parseExpression(field.value, globals); err != nil {
				return fmt.Errorf("%s: %w", field.name, err)
			}
		case "onlatest":
			if field.value != "true" && field.value != "false" {
				return fmt.Errorf("onlatest=%.*s: want true or false", shown, field.value)
			}
			if last == nil {
				return errors.New("onlatest stands after the prefix or suffix that it is about")
			}
			last.latest = field.value == "true"
		default:
			return fmt.Errorf("%.*q is no flavor: want latest=, prefix=, suffix= or onlatest=", shown, field.String())
		}
	}
	return nil
}
