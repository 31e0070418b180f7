package main

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// overlay sets the fields of cfg that the environment names: IMGD_ and the
// path in capitals, with _ between keys and none inside one, as in
// IMGD_NATS_URL. Lists of words are separated by commas; projects stand only
// in the file.
func overlay(cfg *Config, getenv func(string) string) error {
	return overlayStruct(reflect.ValueOf(cfg).Elem(), "IMGD", getenv)
}

func overlayStruct(v reflect.Value, path string, getenv func(string) string) error {
	for i := range v.NumField() {
		name := path + "_" + strings.ToUpper(v.Type().Field(i).Tag.Get("yaml"))
		if v.Field(i).Kind() == reflect.Struct {
			if err := overlayStruct(v.Field(i), name, getenv); err != nil {
				return err
			}
			continue
		}
		if text := getenv(name); text != "" {
			if err := setField(v.Field(i), text); err != nil {
				return fmt.Errorf("environment %s=%q: %w", name, text, err)
			}
		}
	}
	return nil
}

func setField(field reflect.Value, text string) error {
	switch field.Interface().(type) {
	case string:
		field.SetString(text)
	case []string:
		field.Set(reflect.ValueOf(strings.Split(text, ",")))
	case bool:
		b, err := strconv.ParseBool(text)
		field.SetBool(b)
		return err
	case int:
		n, err := strconv.Atoi(text)
		field.SetInt(int64(n))
		return err
	case time.Duration:
		d, err := time.ParseDuration(text)
		field.SetInt(int64(d))
		return err
	default:
		return fmt.Errorf("stands only in the config file")
	}
	return nil
}
