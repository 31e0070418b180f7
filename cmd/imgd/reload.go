package main

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
	"github.com/imgd/imgd/internal/webhook"
)

// A live is what a reload changes in the running daemon.
type live struct {
	projects *imgd.Projects
	holds    *imgd.AuditHolds
	level    *slog.LevelVar
	hooks    hookSwitch
	config   atomic.Pointer[Config] // in effect

	// reloading guards what follows: one reload at a time.
	reloading sync.Mutex
	secrets   map[string][]byte // of the webhooks, by project
	counts    reloadCounts
}

// reloadCounts are how reloads have ended.
type reloadCounts struct {
	ok, failed atomic.Uint64
	last       atomic.Bool // the last one failed
}

// A hookSwitch is the webhooks of this moment. A delivery is handled to its end
// by those it came to.
type hookSwitch struct {
	now atomic.Pointer[webhook.Handler]
}

// ServeHTTP implements http.Handler.
func (s *hookSwitch) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.now.Load().ServeHTTP(w, r) }

// newLive is what runs with cfg. Its webhooks follow with the bus.
func newLive(cfg Config, level *slog.LevelVar) *live {
	l := &live{projects: new(imgd.Projects), holds: new(imgd.AuditHolds), level: level}
	l.config.Store(&cfg)
	return l
}

// reload reads the config anew and changes what can be changed in a running
// daemon. Of a config that is bad in any point nothing is taken, and the error
// says all that is wrong. What it changes is in memory alone, so a crash leaves
// the new file to the next start; repeating it changes nothing. What is under
// way goes on: each request reads its project when it decides, and one whose
// project is gone ends as invalid when its turn comes.
func (d *daemon) reload(context.Context) (httpapi.Reloaded, error) {
	d.live.reloading.Lock()
	defer d.live.reloading.Unlock()
	d.warn(d.notify.reloading())
	done, err := d.take()
	d.live.counts.last.Store(err != nil)
	if err != nil {
		d.live.counts.failed.Add(1)
		d.log.Error("config not reloaded, the old one stays", "error", err)
		d.warn(d.notify.ready("the last reload failed, the old config stays"))
		return done, err
	}
	d.live.counts.ok.Add(1)
	d.log.Info("config reloaded", "changed", done.Changed, "needRestart", done.Restart)
	d.warn(d.notify.ready("serving"))
	return done, nil
}

// take reads, checks and swaps.
func (d *daemon) take() (httpapi.Reloaded, error) {
	read, err := checkedConfig(d.flags, d.getenv)
	if err != nil {
		return httpapi.Reloaded{}, err
	}
	old := *d.live.config.Load()
	next, restart := merge(old, read)
	if err := next.fits(d.stack.Registry); err != nil {
		return httpapi.Reloaded{}, err
	}
	projects := next.projects(d.stack.Registry)
	hooks, secrets, err := newHooks(next, projects, d.hooksConfig())
	if err != nil {
		return httpapi.Reloaded{}, err
	}
	changed := append(changes(old, next), changedProjects(old, next)...)
	for name := range projects {
		if !bytes.Equal(secrets[name], d.live.secrets[name]) && !slices.Contains(changed, "projects."+name) {
			changed = append(changed, "projects."+name)
		}
	}
	slices.Sort(changed)
	d.swap(next, projects, hooks, secrets)
	return httpapi.Reloaded{Changed: changed, Restart: restart}, nil
}

// swap has next in effect, the rules of git before the projects that need them.
func (d *daemon) swap(next Config, projects map[string]imgd.Project, hooks *webhook.Handler, secrets map[string][]byte) {
	if err := d.live.level.UnmarshalText([]byte(next.Log.Level)); err != nil {
		panic("unreachable: validate has checked the level: " + err.Error())
	}
	d.live.config.Store(&next)
	d.git.SetRules(next.gitRules())
	d.live.holds.Set(next.holds()) // before projects, whose rules may have their tags go
	d.live.projects.Set(projects)
	d.live.hooks.now.Store(hooks)
	d.live.secrets = secrets
	d.counted(next)
}

// reloads are how often a reload came to which end, for /metrics.
func (l *live) reloads() httpapi.Reloads {
	return httpapi.Reloads{OK: l.counts.ok.Load(), Failed: l.counts.failed.Load(), LastFailed: l.counts.last.Load()}
}

// hangups reloads for each signal until ctx is done.
func (d *daemon) hangups(ctx context.Context) error {
	for {
		select {
		case <-d.hangup:
			_, _ = d.reload(ctx) // it has logged and counted its end
		case <-ctx.Done():
			return nil
		}
	}
}

// merge is old with what a reload may change taken from read, and the keys that
// wait for a restart.
func merge(old, read Config) (next Config, restart []string) {
	next = old
	from := map[string]reflect.Value{}
	each(reflectOf(&read), "", func(key string, _ reflect.StructField, v reflect.Value) { from[key] = v })
	each(reflectOf(&next), "", func(key string, field reflect.StructField, v reflect.Value) {
		switch {
		case field.Tag.Get("reload") != "":
			v.Set(from[key])
		case !same(v, from[key]):
			restart = append(restart, key)
		}
	})
	slices.Sort(restart)
	return next, restart
}

// fits says what is wrong with a config that is part old and part new: each was
// good by itself.
func (c Config) fits(registry string) error {
	c.Registry.Address = registry
	all := &config{Config: c, file: "together with the keys that wait for a restart"}
	all.validateProjects()
	return all.err()
}

// changes are the keys, but projects, that differ.
func changes(old, next Config) []string {
	var keys []string
	from := map[string]reflect.Value{}
	each(reflectOf(&old), "", func(key string, _ reflect.StructField, v reflect.Value) { from[key] = v })
	each(reflectOf(&next), "", func(key string, _ reflect.StructField, v reflect.Value) {
		if key != "projects" && !same(v, from[key]) {
			keys = append(keys, key)
		}
	})
	return keys
}

// changedProjects are those that came, went or are not what they were.
func changedProjects(old, next Config) []string {
	byName := func(c Config) map[string]ProjectConfig {
		all := map[string]ProjectConfig{}
		for _, p := range c.Projects {
			all[p.Name] = p
		}
		return all
	}
	was, is := byName(old), byName(next)
	var keys []string
	for name := range maps.Keys(is) {
		if before, ok := was[name]; !ok || !same(reflect.ValueOf(before), reflect.ValueOf(is[name])) {
			keys = append(keys, "projects."+name)
		}
	}
	for name := range was {
		if _, ok := is[name]; !ok {
			keys = append(keys, "projects."+name)
		}
	}
	return keys
}

// same reports whether two values say the same; an empty list is none.
func same(a, b reflect.Value) bool {
	if a.Kind() == reflect.Slice && a.Len() == 0 {
		return b.Len() == 0
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// warn logs what could not be told to systemd, which only it will miss.
func (d *daemon) warn(err error) {
	if err != nil {
		d.log.Warn("systemd was not told", "error", err)
	}
}
