package main

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// overlay sets the fields that the environment names: IMGD_ and the path in
// capitals, with _ between keys and none inside one, as in IMGD_NATS_URL. Lists
// of words are separated by commas; projects stand only in the file.
func (c *config) overlay(getenv func(string) string) {
	each(reflectOf(&c.Config), "", func(key string, _ reflect.StructField, v reflect.Value) {
		name := "IMGD_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		text := getenv(name)
		if text == "" {
			return
		}
		c.places[key] = place{source: "environment " + name}
		if err := setScalar(v, text); err != nil {
			c.complain(key, "%v", err)
		}
	})
}

// each calls f with every key of the struct that holds a value, in the order of
// the fields.
func each(v reflect.Value, path string, f func(key string, field reflect.StructField, v reflect.Value)) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		key := join(path, nameOf(field))
		if field.Type.Kind() == reflect.Struct {
			each(v.Field(i), key, f)
			continue
		}
		f(key, field, v.Field(i))
	}
}

// setScalar sets the field to what the text says; on error it stays.
func setScalar(field reflect.Value, text string) error {
	var value any
	var err error
	switch field.Interface().(type) {
	case string:
		value = text
	case []string:
		value = strings.Split(text, ",")
	case bool:
		value, err = strconv.ParseBool(text)
	case int:
		value, err = strconv.Atoi(text)
	case time.Duration:
		value, err = time.ParseDuration(text)
	default:
		return fmt.Errorf("it stands only in the config file")
	}
	if err != nil {
		return fmt.Errorf("want %s, not %q", wanted(field.Type()), text)
	}
	field.Set(reflect.ValueOf(value))
	return nil
}
