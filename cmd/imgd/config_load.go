package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// A flagValues is what the command line says of the config; "" says nothing.
type flagValues struct{ config, data, listen string }

// A place is where a value comes from: a line of a file, or a variable of the
// environment, or the command line.
type place struct {
	source       string
	line, column int // 1-based; 0 where there are no lines
}

func (p place) String() string {
	if p.line == 0 {
		return p.source
	}
	return fmt.Sprintf("%s:%d:%d", p.source, p.line, p.column)
}

// A complaint says what is wrong with a key, and what to write instead.
type complaint struct {
	place
	key  string // projects[0].git; "" for the whole
	text string
}

// complaints are all that is wrong with a config, in the order of its lines.
type complaints []complaint

func (c complaints) Error() string {
	var lines []string
	for _, one := range c {
		line := one.place.String() + ": "
		if one.key != "" {
			line += one.key + ": "
		}
		lines = append(lines, line+one.text)
	}
	return strings.Join(lines, "\n")
}

// A config is a Config with where its values come from.
type config struct {
	Config
	file   string           // its name, also if it is not there
	places map[string]place // of the keys that are set
	wrong  complaints
}

// complain notes what is wrong with a key, where it stands, or what it is in;
// once for each key, as the first is what the others come from.
func (c *config) complain(key, format string, args ...any) {
	if slices.ContainsFunc(c.wrong, func(w complaint) bool { return w.key == key }) {
		return
	}
	at, ok := c.places[key]
	for up := key; !ok && up != ""; {
		up = up[:max(strings.LastIndexAny(up, ".["), 0)]
		at, ok = c.places[up]
	}
	if !ok {
		at = place{source: c.file}
	}
	c.wrong = append(c.wrong, complaint{at, key, fmt.Sprintf(format, args...)})
}

// err is all that is wrong, nil if nothing is.
func (c *config) err() error {
	if len(c.wrong) == 0 {
		return nil
	}
	slices.SortStableFunc(c.wrong, func(a, b complaint) int {
		return cmp.Or(cmp.Compare(a.line, b.line), strings.Compare(a.source, b.source), cmp.Compare(a.column, b.column), strings.Compare(a.key, b.key))
	})
	return c.wrong
}

// loadConfig reads flags over environment over file, and says all that is wrong
// with them at once. Without --config the file is imgd.yaml in the data
// directory, if there is one. It reads no other file.
func loadConfig(flags flagValues, getenv func(string) string) (Config, error) {
	c, err := readConfig(flags, getenv)
	if err != nil {
		return Config{}, err
	}
	c.validate()
	return c.Config, c.err()
}

// checkedConfig is loadConfig, and reads the files that the config names.
func checkedConfig(flags flagValues, getenv func(string) string) (Config, error) {
	c, err := readConfig(flags, getenv)
	if err != nil {
		return Config{}, err
	}
	c.validate()
	c.checkFiles()
	return c.Config, c.err()
}

// readConfig reads without judging the values; its error is that there is
// nothing to read.
func readConfig(flags flagValues, getenv func(string) string) (*config, error) {
	c := &config{Config: defaultConfig(), places: map[string]place{}}
	optional := flags.config == ""
	c.file = cmp.Or(flags.config, filepath.Join(cmp.Or(flags.data, getenv("IMGD_DATA"), c.Data), "imgd.yaml"))
	text, err := os.ReadFile(c.file)
	if err != nil && !(optional && errors.Is(err, fs.ErrNotExist)) {
		return nil, complaints{{place{source: c.file}, "", err.Error()}}
	}
	c.decode(text)
	c.overlay(getenv)
	for key, set := range map[string]struct{ to, value *string }{"data": {&c.Data, &flags.data}, "listen": {&c.Listen, &flags.listen}} {
		if *set.value != "" {
			*set.to, c.places[key] = *set.value, place{source: "--" + key}
		}
	}
	for i := range c.Projects {
		c.Projects[i].setDefaults(c.Config)
	}
	if c.Data, err = filepath.Abs(c.Data); err != nil {
		return nil, fmt.Errorf("find data directory: %w", err)
	}
	return c, nil
}

// decode reads the one document of a file, which may be empty.
func (c *config) decode(text []byte) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return
	}
	if err != nil {
		c.wrong = append(c.wrong, syntax(c.file, err))
		return
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		c.wrong = append(c.wrong, complaint{place{c.file, more.Line, more.Column}, "", "a second document: one file holds one config"})
	}
	if len(doc.Content) > 0 {
		(&decoding{config: c}).value(doc.Content[0], reflectOf(&c.Config), "")
	}
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line ([0-9]+)(?:, column ([0-9]+))?: `)

// syntax is what yaml's error says, at the line that it names.
func syntax(file string, err error) complaint {
	c := complaint{place{source: file}, "", "this is no YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if found := yamlLine.FindStringSubmatch(err.Error()); found != nil {
		c.line, _ = strconv.Atoi(found[1]) // digits
		c.column, _ = strconv.Atoi(cmp.Or(found[2], "1"))
		c.text = "this is no YAML: " + err.Error()[len(found[0]):]
	}
	return c
}
