package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// A ciStep is the step of one file of docs/ci, as that CI would run it.
type ciStep struct {
	shell  []string          // the CI's own way to run a script, which is the last argument
	script string            // with the expressions of the CI's language filled in
	env    map[string]string // what the step and the CI itself set
}

// A pushedTag is what the CI's job knows.
type pushedTag struct {
	image, tag, digest string
	dir                string // of the job
}

const ciRepository = "https://ci.example.com/tools/lint"

// ciFiles read the steps, for what was pushed and the server, and say where each leaves its results.
var ciFiles = []struct {
	file string
	step func(t *testing.T, text []byte, p pushedTag, server string) ciStep
	out  string // the file in the job's directory that has the results
	want string // the line in it, of the reference
}{
	{"github-actions.yml", githubStep, "output", "IMGD_REFERENCE=%s"},
	{"gitlab-ci.yml", gitlabStep, "imgd.env", "IMGD_REFERENCE=%s"},
	{"jenkins.md", jenkinsStep, "imgd.env", "IMGD_REFERENCE=%s"},
	{"tekton.yml", tektonStep, "reference", "%s"},
}

// The script of each ready-made step records what was pushed, hands on what later steps need, and fails as publish does.
func TestCISteps(t *testing.T) {
	t.Parallel()
	r := newRig(t, sharedBuildkitd(t))
	ci := otherCI{r}
	for i, file := range ciFiles {
		t.Run(file.file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "docs", "ci", file.file))
			if err != nil {
				t.Fatal(err)
			}
			tag := fmt.Sprintf("v1.%d.0", i)
			run := func(digest string) (told, string) {
				p := pushedTag{image: r.calls.Addr + "/" + lint, tag: tag, digest: digest, dir: t.TempDir()}
				step := file.step(t, text, p, r.daemon.HTTP)
				cmd := exec.CommandContext(t.Context(), step.shell[0], append(step.shell[1:], step.script)...)
				cmd.Dir = p.dir
				var env []string
				for name, value := range step.env {
					env = append(env, name+"="+value)
				}
				got := ci.run(cmd, env...)
				out, _ := os.ReadFile(filepath.Join(p.dir, file.out))
				return got, string(out)
			}
			digest := ci.push(lint, tag)
			got, out := run(digest)
			if want := fmt.Sprintf(file.want, r.calls.Addr+"/"+lint+"@"+digest); got.code != 0 || !strings.Contains("\n"+out+"\n", "\n"+want+"\n") {
				t.Fatalf("it exits with %d, and %s has %q, want the line %s\n%s", got.code, file.out, out, want, got.stderr)
			}
			if event := r.published(i + 1)[i]; event.Purl.Version != digest || event.Custom.Records[0].SourceRef != ciRepository+"@"+sourceCommit {
				t.Errorf("event %+v", event)
			}
			if got := r.tags()[tag]; got != digest {
				t.Errorf("the index has %s, want %s", got, digest)
			}
			other := ci.push(lint, tag)
			if got, out := run(other); got.code != 5 || strings.Contains(out, other) {
				t.Errorf("of another image it exits with %d, and leaves %q; want 5\n%s", got.code, out, got.stderr)
			}
		})
	}
	r.mustEnd()
}

// fillIn puts values for the CI's expressions, which must all be known.
func fillIn(t *testing.T, expression *regexp.Regexp, text string, values map[string]string) string {
	t.Helper()
	return expression.ReplaceAllStringFunc(text, func(s string) string {
		value, ok := values[expression.FindStringSubmatch(s)[1]]
		if !ok {
			t.Errorf("%s is not what this CI has", s)
		}
		return value
	})
}

func parseYAML(t *testing.T, text []byte, v any) {
	t.Helper()
	if err := yaml.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}

var githubExpression = regexp.MustCompile(`\$\{\{\s*([\w.]+)\s*\}\}`)

// githubStep is run as GitHub's runner does with shell: bash.
func githubStep(t *testing.T, text []byte, p pushedTag, server string) ciStep {
	var workflow struct {
		Jobs map[string]struct {
			Steps []struct {
				ID, Run, Shell string
				Env            map[string]string
			}
		}
	}
	parseYAML(t, text, &workflow)
	values := map[string]string{"vars.IMGD_SERVER": server, "github.ref_name": p.tag, "steps.push.outputs.digest": p.digest,
		"github.server_url": "https://ci.example.com", "github.repository": "tools/lint", "github.sha": sourceCommit, "github.run_id": "42"}
	for _, s := range workflow.Jobs["image"].Steps {
		if s.ID != "imgd" {
			continue
		}
		step := ciStep{shell: []string{"bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"}, script: s.Run, env: map[string]string{"GITHUB_OUTPUT": filepath.Join(p.dir, "output")}}
		for name, value := range s.Env {
			step.env[name] = fillIn(t, githubExpression, value, values)
		}
		if s.Shell != "bash" || githubExpression.MatchString(s.Run) {
			t.Errorf("the script %q is for the shell %q, or has an expression in it", s.Run, s.Shell)
		}
		step.env["IMAGE"] = p.image
		return step
	}
	t.Fatal("there is no step with the ID imgd")
	return ciStep{}
}

// gitlabStep is run as GitLab's runner does: all lines in one bash.
func gitlabStep(t *testing.T, text []byte, p pushedTag, server string) ciStep {
	var file struct {
		Record struct {
			Script    []string
			Variables map[string]string
			Artifacts struct{ Reports struct{ Dotenv string } }
		}
	}
	parseYAML(t, text, &file)
	if file.Record.Artifacts.Reports.Dotenv != "imgd.env" || len(file.Record.Script) == 0 {
		t.Errorf("got %+v", file.Record)
	}
	step := ciStep{shell: []string{"bash", "-eo", "pipefail", "-c"}, script: strings.Join(file.Record.Script, "\n"), env: file.Record.Variables}
	for name, value := range map[string]string{"IMGD_SERVER": server, "IMAGE": p.image, "CI_COMMIT_TAG": p.tag, "DIGEST": p.digest,
		"CI_PROJECT_URL": ciRepository, "CI_COMMIT_SHA": sourceCommit, "CI_PIPELINE_ID": "42"} {
		step.env[name] = value
	}
	return step
}

var jenkinsScript = regexp.MustCompile(`(?s)sh '''\n(.*?)'''`)

// jenkinsStep is run as the step sh does.
func jenkinsStep(t *testing.T, text []byte, p pushedTag, server string) ciStep {
	script := jenkinsScript.FindSubmatch(text)
	if script == nil {
		t.Fatal("there is no step sh")
	}
	return ciStep{shell: []string{"sh", "-xec"}, script: string(script[1]), env: map[string]string{"IMGD_SERVER": server, "IMAGE": p.image, "TAG": p.tag,
		"DIGEST": p.digest, "GIT_URL": ciRepository + ".git", "GIT_COMMIT": sourceCommit, "BUILD_TAG": "jenkins-lint-42"}}
}

var tektonExpression = regexp.MustCompile(`\$\(((?:params|results)\.[\w.]+)\)`)

// tektonStep is run as Tekton does: the script is a file of its own, whose first line says by what.
func tektonStep(t *testing.T, text []byte, p pushedTag, server string) ciStep {
	var task struct {
		Spec struct {
			Steps []struct {
				Script string
				Env    []struct{ Name, Value string }
			}
		}
	}
	parseYAML(t, text, &task)
	values := map[string]string{"params.server": server, "params.image": p.image, "params.tag": p.tag, "params.digest": p.digest,
		"params.source": ciRepository + ".git@" + sourceCommit, "results.digest.path": filepath.Join(p.dir, "digest"), "results.reference.path": filepath.Join(p.dir, "reference")}
	step := ciStep{shell: []string{"sh", "-c"}, script: filepath.Join(p.dir, "script"), env: map[string]string{"HOME": p.dir}}
	for _, e := range task.Spec.Steps[0].Env {
		step.env[e.Name] = fillIn(t, tektonExpression, e.Value, values)
	}
	if strings.Contains(task.Spec.Steps[0].Script, "$(params.") {
		t.Error("a parameter stands in the script, where it is code")
	}
	script := fillIn(t, tektonExpression, task.Spec.Steps[0].Script, values)
	if err := os.WriteFile(step.script, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return step
}
