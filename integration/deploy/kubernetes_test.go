package deploy_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const kubernetesDir = "../../deploy/kubernetes"

// A cluster is what the kustomization makes, each strictly decoded.
type cluster struct {
	sets     map[string]appsv1.StatefulSet
	services map[string]corev1.Service
	budgets  map[string]policyv1.PodDisruptionBudget
	policies map[string]networkingv1.NetworkPolicy
	configs  map[string]corev1.ConfigMap
	others   []string // kinds
}

func readCluster(t *testing.T) *cluster {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), kubernetesDir)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{sets: map[string]appsv1.StatefulSet{}, services: map[string]corev1.Service{}, budgets: map[string]policyv1.PodDisruptionBudget{},
		policies: map[string]networkingv1.NetworkPolicy{}, configs: map[string]corev1.ConfigMap{}}
	for _, resource := range made.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		name := resource.GetName()
		if resource.GetNamespace() != "imgd" && resource.GetKind() != "Namespace" {
			t.Errorf("%s %s is in namespace %q", resource.GetKind(), name, resource.GetNamespace())
		}
		c.take(t, resource.GetKind(), name, text)
	}
	return c
}

func (c *cluster) take(t *testing.T, kind, name string, text []byte) {
	t.Helper()
	var err error
	switch kind {
	case "StatefulSet":
		c.sets[name], err = strictly[appsv1.StatefulSet](text)
	case "Service":
		c.services[name], err = strictly[corev1.Service](text)
	case "PodDisruptionBudget":
		c.budgets[name], err = strictly[policyv1.PodDisruptionBudget](text)
	case "NetworkPolicy":
		c.policies[name], err = strictly[networkingv1.NetworkPolicy](text)
	case "ConfigMap":
		c.configs[name], err = strictly[corev1.ConfigMap](text)
	case "Namespace":
		_, err = strictly[corev1.Namespace](text)
	case "ServiceAccount":
		_, err = strictly[corev1.ServiceAccount](text)
	default:
		err = fmt.Errorf("the test does not know the kind %s", kind)
	}
	if err != nil {
		t.Errorf("%s %s: %v\n%s", kind, name, err, text)
	}
	c.others = append(c.others, kind)
}

func strictly[T any](text []byte) (T, error) {
	var v T
	err := yaml.UnmarshalStrict(text, &v)
	return v, err
}

// The kustomization builds, all of it is what Kubernetes takes, and what refers to something refers to what is there.
func TestKubernetes(t *testing.T) {
	c := readCluster(t)
	if got := slices.Sorted(maps.Keys(c.sets)); !slices.Equal(got, []string{"buildkitd", "imgd", "nats"}) {
		t.Fatalf("StatefulSets %q", got)
	}
	secret := readExampleSecret(t)
	for name, set := range c.sets {
		pod := set.Spec.Template
		if !selects(set.Spec.Selector, pod.Labels) || !selects(&metav1.LabelSelector{MatchLabels: c.services[set.Spec.ServiceName].Spec.Selector}, pod.Labels) {
			t.Errorf("%s: its selector or its service's does not select its pods: %v", name, pod.Labels)
		}
		if policy, ok := c.policies[name]; !ok || !selects(&policy.Spec.PodSelector, pod.Labels) {
			t.Errorf("%s: no network policy of that name selects its pods", name)
		}
		for _, wrong := range append(c.unsafe(pod.Spec), c.dangling(set, secret)...) {
			t.Errorf("%s: %s", name, wrong)
		}
	}
	for name, budget := range c.budgets {
		if !selects(budget.Spec.Selector, c.sets[name].Spec.Template.Labels) {
			t.Errorf("budget %s selects nothing", name)
		}
	}
	if *c.sets["imgd"].Spec.Replicas != 1 || *c.sets["nats"].Spec.Replicas != 3 || len(c.budgets) != 2 {
		t.Errorf("%d imgd, %d NATS, %d budgets: want 1, 3 and 2", *c.sets["imgd"].Spec.Replicas, *c.sets["nats"].Spec.Replicas, len(c.budgets))
	}
	for name, policy := range c.policies {
		for _, wrong := range c.closed(policy) {
			t.Errorf("network policy %s: %s", name, wrong)
		}
	}
	everything := c.policies["default"].Spec
	if !selects(&everything.PodSelector, nil) || len(everything.Ingress) > 0 || !slices.Equal(everything.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}) {
		t.Errorf("the default policy does not close everything: %+v", everything)
	}
}

func selects(selector *metav1.LabelSelector, have map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && selector != nil && s.Matches(labels.Set(have))
}

// unsafe is what the pod has that it should not.
func (c *cluster) unsafe(pod corev1.PodSpec) []string {
	var wrong []string
	if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 {
		wrong = append(wrong, "it may run as root")
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		wrong = append(wrong, "it gets a token for Kubernetes")
	}
	for _, container := range pod.Containers {
		name, tag, _ := strings.Cut(container.Image[strings.LastIndexByte(container.Image, '/')+1:], ":")
		if name == "" || tag == "" || tag == "latest" {
			wrong = append(wrong, "image "+container.Image+" is not pinned")
		}
		if s := container.SecurityContext; name != "buildkit" && (s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL")) {
			wrong = append(wrong, "container "+container.Name+" has more rights than it needs")
		}
		if container.LivenessProbe == nil || container.ReadinessProbe == nil || container.StartupProbe == nil {
			wrong = append(wrong, "container "+container.Name+" lacks a probe")
		}
		if container.Resources.Requests == nil || container.Resources.Limits.Memory().IsZero() {
			wrong = append(wrong, "container "+container.Name+" has no bounds")
		}
	}
	return wrong
}

// dangling are the names in the set that lead nowhere.
func (c *cluster) dangling(set appsv1.StatefulSet, secret corev1.Secret) []string {
	var wrong []string
	pod := set.Spec.Template.Spec
	volumes := map[string]bool{}
	for _, claim := range set.Spec.VolumeClaimTemplates {
		volumes[claim.Name] = true
	}
	for _, volume := range pod.Volumes {
		volumes[volume.Name] = true
		if v := volume.ConfigMap; v != nil && len(c.configs[v.Name].Data) == 0 {
			wrong = append(wrong, "there is no ConfigMap "+v.Name)
		}
		if v := volume.Secret; v != nil && v.SecretName != secret.Name {
			wrong = append(wrong, "there is no example of Secret "+v.SecretName)
		}
	}
	for _, container := range pod.Containers {
		for _, mount := range container.VolumeMounts {
			if !volumes[mount.Name] {
				wrong = append(wrong, "there is no volume "+mount.Name)
			}
		}
		for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe, container.StartupProbe} {
			if probe != nil && probe.HTTPGet != nil && !hasPort(container, probe.HTTPGet.Port.StrVal) {
				wrong = append(wrong, "a probe asks port "+probe.HTTPGet.Port.String())
			}
		}
		for _, port := range c.services[set.Spec.ServiceName].Spec.Ports {
			if !hasPort(container, port.TargetPort.StrVal) {
				wrong = append(wrong, "the service leads to port "+port.TargetPort.String())
			}
		}
	}
	return wrong
}

func hasPort(container corev1.Container, name string) bool {
	return slices.ContainsFunc(container.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
}

// closed is what is wrong with what the policy lets in: all of it names a port that the pods have, and says from where.
func (c *cluster) closed(policy networkingv1.NetworkPolicy) []string {
	var wrong []string
	for _, rule := range policy.Spec.Ingress {
		if len(rule.From) == 0 || len(rule.Ports) == 0 {
			wrong = append(wrong, "a rule lets everybody in, or everywhere")
		}
		for _, port := range rule.Ports {
			if !hasPort(c.sets[policy.Name].Spec.Template.Spec.Containers[0], port.Port.StrVal) {
				wrong = append(wrong, "it opens port "+port.Port.String()+", which the pods do not have")
			}
		}
		for _, peer := range rule.From {
			if peer.PodSelector != nil && !slices.ContainsFunc(slices.Collect(maps.Values(c.sets)), func(s appsv1.StatefulSet) bool {
				return selects(peer.PodSelector, s.Spec.Template.Labels)
			}) {
				wrong = append(wrong, fmt.Sprintf("it lets in pods that do not exist: %v", peer.PodSelector))
			}
		}
	}
	return wrong
}

func readExampleSecret(t *testing.T) corev1.Secret {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(kubernetesDir, "secret.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := strictly[corev1.Secret](text)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// The names in imgd's config and those of what it leads to are the same, and each file that it wants is in the Secret.
func TestKubernetesConfig(t *testing.T) {
	c := readCluster(t)
	secret := readExampleSecret(t)
	var imgd struct {
		NATS     struct{ URL string }
		Registry struct{ DockerConfig string }
		BuildKit struct{ Address string }
		Projects []struct{ Webhook struct{ SecretFile string } }
	}
	if err := yaml.Unmarshal([]byte(c.file(t, "imgd.yaml")), &imgd); err != nil {
		t.Fatal(err)
	}
	var servers, routes []string
	for i := range *c.sets["nats"].Spec.Replicas {
		servers = append(servers, fmt.Sprintf("nats://nats-%d.nats:4222", i))
		routes = append(routes, fmt.Sprintf("nats://nats-%d.nats:6222", i))
	}
	if imgd.NATS.URL != strings.Join(servers, ",") {
		t.Errorf("nats.url is %s, want %s", imgd.NATS.URL, servers)
	}
	for _, route := range routes {
		if conf := c.file(t, "nats.conf"); strings.Count(conf, route) != 1 || strings.Count(conf, ":6222") != len(routes)+1 {
			t.Errorf("nats.conf does not name the routes %s alone", routes)
		}
	}
	if want := fmt.Sprintf("tcp://buildkitd:%d", c.services["buildkitd"].Spec.Ports[0].Port); imgd.BuildKit.Address != want {
		t.Errorf("buildkit.address is %s, want %s", imgd.BuildKit.Address, want)
	}
	mounts := c.sets["imgd"].Spec.Template.Spec.Containers[0].VolumeMounts
	at := mounts[slices.IndexFunc(mounts, func(m corev1.VolumeMount) bool { return m.Name == "secrets" })].MountPath
	if _, is := secret.StringData["config.json"]; !is || imgd.Registry.DockerConfig != at {
		t.Errorf("registry.dockerConfig is %s, want %s with a config.json", imgd.Registry.DockerConfig, at)
	}
	for _, p := range imgd.Projects {
		name, found := strings.CutPrefix(p.Webhook.SecretFile, at+"/")
		if _, is := secret.StringData[name]; !found || !is {
			t.Errorf("secretFile %s is not in the Secret", p.Webhook.SecretFile)
		}
	}
}

// file is the content of the file in the ConfigMaps.
func (c *cluster) file(t *testing.T, name string) string {
	t.Helper()
	for _, config := range c.configs {
		if text, ok := config.Data[name]; ok {
			return text
		}
	}
	t.Fatalf("no ConfigMap has %s", name)
	return ""
}

// Every file of the directory is used, or one of those that the operator takes himself.
func TestKubernetesFiles(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(kubernetesDir, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(kubernetesDir, func(path string, entry os.DirEntry, err error) error {
		rel, _ := filepath.Rel(kubernetesDir, path)
		if err != nil || entry.IsDir() || rel == "kustomization.yaml" || rel == "secret.example.yaml" {
			return err
		}
		if !bytes.Contains(text, []byte(rel)) {
			t.Errorf("%s is not in the kustomization", rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
