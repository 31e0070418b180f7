package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// Of each key the reference says whether a reload changes it; so it is.
func TestMerge(t *testing.T) {
	old := defaultConfig()
	old.Projects = []ProjectConfig{{Name: "a"}}
	each(reflectOf(&old), "", func(key string, field reflect.StructField, _ reflect.Value) {
		read := old
		v := reflect.ValueOf(&read).Elem().FieldByIndex(indexOf(t, reflect.TypeFor[Config](), key))
		switch v.Interface().(type) {
		case string:
			v.SetString("another")
		case int, time.Duration:
			v.SetInt(12345)
		case bool:
			v.SetBool(!v.Bool())
		case []string:
			v.Set(reflect.ValueOf([]string{"another"}))
		case []HoldConfig:
			v.Set(reflect.ValueOf([]HoldConfig{{Reason: "another"}}))
		default:
			v.Set(reflect.ValueOf([]ProjectConfig{{Name: "b"}}))
		}
		next, restart := merge(old, read)
		if field.Tag.Get("reload") != "" {
			if !reflect.DeepEqual(next, read) || len(restart) > 0 {
				t.Errorf("%s is not changed: %q", key, restart)
			}
			if got := changes(old, next); key != "projects" && !slices.Equal(got, []string{key}) {
				t.Errorf("%s: changed are %q", key, got)
			}
			return
		}
		if !reflect.DeepEqual(next, old) || !slices.Equal(restart, []string{key}) || len(changes(old, next)) > 0 {
			t.Errorf("%s does not wait for a restart: %q", key, restart)
		}
	})
	if next, restart := merge(old, old); !reflect.DeepEqual(next, old) || len(restart) > 0 {
		t.Errorf("nothing new: got %q", restart)
	}
}

// indexOf finds the field of a key.
func indexOf(t *testing.T, in reflect.Type, key string) []int {
	t.Helper()
	first, rest, more := strings.Cut(key, ".")
	for i := range in.NumField() {
		if nameOf(in.Field(i)) == first && more {
			return append([]int{i}, indexOf(t, in.Field(i).Type, rest)...)
		} else if nameOf(in.Field(i)) == first {
			return []int{i}
		}
	}
	t.Fatalf("no field is %s", key)
	return nil
}

func TestChangedProjects(t *testing.T) {
	old := Config{Projects: []ProjectConfig{{Name: "same", Refs: []string{}}, {Name: "gone"}, {Name: "other", Target: "a"}}}
	next := Config{Projects: []ProjectConfig{{Name: "other", Target: "b"}, {Name: "new"}, {Name: "same", Refs: []string{}}}}
	got := changedProjects(old, next)
	slices.Sort(got)
	if want := []string{"projects.gone", "projects.new", "projects.other"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A config that is good by itself may not be so with what cannot change yet.
func TestFits(t *testing.T) {
	c := defaultConfig()
	c.Projects = []ProjectConfig{{Name: "a", Git: "https://g.test/a.git", Image: "demo/a"},
		{Name: "b", Git: "https://g.test/b.git", Image: "demo/b", Repositories: []string{"old.test/demo/a"}}}
	for i := range c.Projects {
		c.Projects[i].setDefaults(c)
	}
	if err := c.fits("new.test"); err != nil {
		t.Error(err)
	}
	if err := c.fits("old.test"); err == nil || !strings.Contains(err.Error(), "old.test/demo/a is used twice") {
		t.Errorf("got %v", err)
	}
}
