package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/prometheus/common/model"
	match "github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd"
)

const deploy = "../deploy"

// Rules are a file of Prometheus's rules, as far as imgd's has them: nothing else may stand there.
type rules struct {
	Groups []struct {
		Name  string
		Rules []rule
	}
}

type rule struct {
	Alert, Expr, For string
	Labels           struct{ Severity string }
	Annotations      struct {
		Summary, Description string
		Runbook              string `yaml:"runbook_url"`
	}
}

func alerts(t *testing.T) []rule {
	t.Helper()
	var file rules
	decoder := yaml.NewDecoder(bytes.NewReader(readFile(t, filepath.Join(deploy, "prometheus/alerts.yml"))))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	if len(file.Groups) != 1 || file.Groups[0].Name != "imgd" || len(file.Groups[0].Rules) < 10 {
		t.Fatalf("got %+v", file)
	}
	return file.Groups[0].Rules
}

// Each alert can be parsed, asks for what is served, and says what to do in a part of the runbook of its own.
func TestAlerts(t *testing.T) {
	served := servedMetrics(t)
	var names []string
	for _, r := range alerts(t) {
		names = append(names, r.Alert)
		for _, wrong := range served.check(r.Expr) {
			t.Errorf("%s: %s", r.Alert, wrong)
		}
		if _, err := time.ParseDuration(r.For); r.For != "" && err != nil {
			t.Errorf("%s: for: %v", r.Alert, err)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels.Severity) {
			t.Errorf("%s: severity %q", r.Alert, r.Labels.Severity)
		}
		if want := "docs/runbook.md#" + strings.ToLower(r.Alert); r.Annotations.Runbook != want {
			t.Errorf("%s: runbook %q, want %q", r.Alert, r.Annotations.Runbook, want)
		}
		for _, text := range []string{r.Annotations.Summary, r.Annotations.Description} {
			if err := expand(text); err != nil || text == "" {
				t.Errorf("%s: %q: %v", r.Alert, text, err)
			}
		}
	}
	var documented []string
	part := between(string(readFile(t, filepath.Join(docs, "runbook.md"))), "\n## Alerts\n", "\n## ")
	for _, m := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(part, -1) {
		documented = append(documented, m[1])
	}
	if !slices.Equal(documented, names) {
		t.Errorf("the runbook has  %q\nthe alerts are %q", documented, names)
	}
}

// expand runs a text of an alert as Prometheus does.
func expand(text string) error {
	shown := func(v any) string { return fmt.Sprint(v) }
	t, err := template.New("").Funcs(template.FuncMap{"humanizeDuration": shown, "humanize": shown}).Option("missingkey=error").
		Parse("{{$labels := .Labels}}{{$value := .Value}}" + text)
	if err != nil {
		return err
	}
	return t.Execute(new(bytes.Buffer), map[string]any{"Value": 1.0,
		"Labels": map[string]string{"part": "nats", "project": "hello", "reason": "unsent", "forge": "github", "kind": "moved"}})
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

// A board is what is looked at of a dashboard.
type board struct {
	UID, Title string
	Templating struct{ List []struct{ Name string } }
	Panels     []panel
}

type panel struct {
	ID                int
	Type, Title       string
	GridPos           struct{ X, Y, W, H int }
	Targets           []struct{ RefID, Expr string }
	Datasource        struct{ UID string }
	FieldConfig       struct{ Defaults struct{ Unit string } }
	Description, What string
}

// Each panel asks for what is served, and lies beside the others.
func TestDashboard(t *testing.T) {
	var b board
	if err := json.Unmarshal(readFile(t, filepath.Join(deploy, "grafana/imgd.json")), &b); err != nil {
		t.Fatal(err)
	}
	served, ids, titles := servedMetrics(t), map[int]bool{}, map[string]bool{}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$project", ".*")
	for i, p := range b.Panels {
		if ids[p.ID] || titles[p.Title] {
			t.Errorf("panel %d %q is there twice", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		for _, q := range b.Panels[:i] {
			if g, h := p.GridPos, q.GridPos; g.X < h.X+h.W && h.X < g.X+g.W && g.Y < h.Y+h.H && h.Y < g.Y+g.H || g.X+g.W > 24 {
				t.Errorf("%q lies on %q", p.Title, q.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" || p.FieldConfig.Defaults.Unit == "" {
			t.Errorf("%q shows nothing: %+v", p.Title, p)
		}
		for _, target := range p.Targets {
			expr := variables.Replace(target.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("%q: a variable in %s is none of the dashboard's", p.Title, expr)
			}
			for _, wrong := range served.check(expr) {
				t.Errorf("%q: %s", p.Title, wrong)
			}
		}
	}
	if b.UID != "imgd" || len(b.Templating.List) != 2 || len(b.Panels) < 20 {
		t.Errorf("got %s with %d variables and %d panels", b.UID, len(b.Templating.List), len(b.Panels))
	}
}

// Served are the metrics that docs/metrics.md lists, which internal/httpapi holds to be those that are served: by the name
// that an expression has, the labels.
type served map[string][]string

var metricRow = regexp.MustCompile("(?m)^\\| `(imgd_\\w+)` \\| (\\w+) \\| ([\\w, ]*) \\|")

func servedMetrics(t *testing.T) served {
	t.Helper()
	all := served{"up": nil, "process_resident_memory_bytes": nil, "go_memstats_heap_inuse_bytes": nil} // of Prometheus and of its client
	for _, m := range metricRow.FindAllStringSubmatch(string(readFile(t, filepath.Join(docs, "metrics.md"))), -1) {
		names := strings.FieldsFunc(m[3], func(r rune) bool { return r == ',' || r == ' ' })
		if m[2] != "histogram" {
			all[m[1]] = names
			continue
		}
		all[m[1]+"_sum"], all[m[1]+"_count"], all[m[1]+"_bucket"] = names, names, append(slices.Clone(names), "le")
	}
	if len(all) < 20 {
		t.Fatalf("docs/metrics.md lists %v", all)
	}
	return all
}

// check says what is wrong with an expression: it is none, or asks for what there is not.
func (s served) check(expr string) (wrong []string) {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return []string{err.Error()}
	}
	parser.Inspect(parsed, func(node parser.Node, path []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		have, ok := s[selector.Name]
		if !ok {
			wrong = append(wrong, "there is no metric "+selector.Name)
		}
		have = append(slices.Clone(have), "job", "instance")
		for _, m := range selector.LabelMatchers {
			if m.Name != model.MetricNameLabel && !slices.Contains(have, m.Name) {
				wrong = append(wrong, selector.Name+" has no label "+m.Name)
			}
			wrong = append(wrong, unknownValue(m)...)
		}
		for _, above := range path {
			if sum, ok := above.(*parser.AggregateExpr); ok {
				for _, by := range sum.Grouping {
					if !slices.Contains(have, by) {
						wrong = append(wrong, selector.Name+" has no label "+by)
					}
				}
			}
		}
		return nil
	})
	return wrong
}

// values are those of labels that have no others.
var values = map[string][]string{
	"stage": {"resolve", "build", "capture", "admit", "tag", "publish"},
	"state": {string(imgd.Published), string(imgd.Unchanged), string(imgd.Superseded), string(imgd.Cancelled), string(imgd.Conflicted), string(imgd.Failed), string(imgd.Dead),
		string(imgd.ExpireGone), string(imgd.ExpireRefused), string(imgd.ExpireLeft)},
	"result": {"ok", "unchanged", "superseded", "conflict", "invalid", "not-found", "refused", "build-failed", "interrupted", "timeout", "error", "complete", "incomplete", "failed"},
	"reason": {"interrupted", "outage", "error", "unsent", "expired"},
	"route":  {"/readyz"},
}

// unknownValue is what the matcher chooses that no label has.
func unknownValue(m *match.Matcher) (wrong []string) {
	known, closed := values[m.Name]
	if !closed {
		return nil
	}
	for value := range strings.SplitSeq(m.Value, "|") {
		if !slices.Contains(known, value) {
			wrong = append(wrong, fmt.Sprintf("label %s is never %q", m.Name, value))
		}
	}
	return wrong
}

// The checks above say nothing if all is well, so this one shows that they can.
func TestServedCheck(t *testing.T) {
	s := servedMetrics(t)
	for expr, want := range map[string]string{
		"imgd_paused == 1": "", `sum by (le) (rate(imgd_publish_latency_seconds_bucket[5m]))`: "", "imgd_paused ==": "unexpected",
		"imgd_pausd == 1": "no metric imgd_pausd", "imgd_publish_latency_seconds > 1": "no metric", `imgd_up{parts="x"}`: "no label parts",
		`imgd_requests_ended_total{state="conflicted"}`: "never \"conflicted\"", `sum by (image) (imgd_up)`: "no label image",
		`imgd_stage_duration_seconds_count{result=~"error|broken"}`: "never \"broken\"",
	} {
		got := strings.Join(s.check(expr), "; ")
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", expr, got, want)
		}
	}
}

// The runbook has every exit code that docs/formats.md names.
func TestRunbookCodes(t *testing.T) {
	line := between(strings.ReplaceAll(string(readFile(t, filepath.Join(docs, "formats.md"))), "\n", " "), "Exit codes: 0 done, ", ".")
	var want []string
	for pair := range strings.SplitSeq(line, ", ") {
		code, name, _ := strings.Cut(pair, " ")
		want = append(want, code+" `"+name+"`")
	}
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| ([1-9]) \\| (`[a-z-]+`) \\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(string(readFile(t, filepath.Join(docs, "runbook.md"))), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	if !slices.Equal(got, want) || len(want) != 9 {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
