package k8s_test

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	uid        = 65532
	configDir  = "/etc/relay"
	secretsDir = configDir + "/secrets"
	// minGrace leaves 5 s to the 30 s in which the relay stops.
	minGrace = 35
)

// podProblems lists what breaks a promise of the pod, in every installation.
func podProblems(s *appsv1.StatefulSet) []string {
	pod := &s.Spec.Template.Spec
	var bad []string
	must := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	must(isFalse(pod.AutomountServiceAccountToken), "automountServiceAccountToken must be false")
	must(isFalse(pod.EnableServiceLinks), "enableServiceLinks must be false")
	must(pod.ServiceAccountName == "relay", "serviceAccountName is %q", pod.ServiceAccountName)
	must(!pod.HostNetwork && !pod.HostPID && !pod.HostIPC, "the host's namespaces must not be shared")
	must(pod.TerminationGracePeriodSeconds != nil && *pod.TerminationGracePeriodSeconds >= minGrace,
		"terminationGracePeriodSeconds must be at least %d", minGrace)
	must(len(s.Spec.Template.Labels) > 0 && matches(s.Spec.Selector.MatchLabels, s.Spec.Template.Labels),
		"the selector does not match the pod")
	must(len(pod.Containers) == 1 && len(pod.InitContainers) == 0, "one container expected")
	bad = append(bad, podSecurityProblems(pod)...)
	for i := range pod.Containers {
		bad = append(bad, containerProblems(&pod.Containers[i])...)
	}
	return append(bad, volumeProblems(pod)...)
}

func podSecurityProblems(pod *corev1.PodSpec) []string {
	sc := pod.SecurityContext
	if sc == nil {
		return []string{"no securityContext of the pod"}
	}
	var bad []string
	if !isTrue(sc.RunAsNonRoot) {
		bad = append(bad, "runAsNonRoot must be true")
	}
	for name, id := range map[string]*int64{"runAsUser": sc.RunAsUser, "runAsGroup": sc.RunAsGroup, "fsGroup": sc.FSGroup} {
		if id == nil || *id != uid {
			bad = append(bad, fmt.Sprintf("%s must be %d", name, uid))
		}
	}
	if sc.FSGroupChangePolicy == nil || *sc.FSGroupChangePolicy != corev1.FSGroupChangeOnRootMismatch {
		bad = append(bad, "fsGroupChangePolicy must be OnRootMismatch")
	}
	if sc.SeccompProfile == nil || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		bad = append(bad, "seccompProfile must be RuntimeDefault")
	}
	return bad
}

func containerProblems(c *corev1.Container) []string {
	var bad []string
	sc := c.SecurityContext
	if sc == nil {
		return []string{"no securityContext of the container"}
	}
	if !isTrue(sc.ReadOnlyRootFilesystem) {
		bad = append(bad, "readOnlyRootFilesystem must be true")
	}
	if !isFalse(sc.AllowPrivilegeEscalation) || isTrue(sc.Privileged) {
		bad = append(bad, "privileges must not grow")
	}
	if sc.Capabilities == nil || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
		len(sc.Capabilities.Add) > 0 {
		bad = append(bad, "all capabilities must be dropped")
	}
	if sc.RunAsUser != nil || sc.RunAsGroup != nil || sc.RunAsNonRoot != nil || sc.SeccompProfile != nil {
		bad = append(bad, "the container must not override the pod's securityContext")
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			bad = append(bad, fmt.Sprintf("%s: secrets come as files, which can change", e.Name))
		}
	}
	if len(c.EnvFrom) > 0 {
		bad = append(bad, "envFrom: secrets come as files, settings in relay.yaml")
	}
	bad = append(bad, probeProblems(c)...)
	return append(bad, resourceProblems(c)...)
}

func probeProblems(c *corev1.Container) []string {
	var bad []string
	for _, probe := range []struct {
		name, path string
		probe      *corev1.Probe
	}{
		{"startupProbe", "/healthz", c.StartupProbe},
		{"livenessProbe", "/healthz", c.LivenessProbe},
		{"readinessProbe", "/readyz", c.ReadinessProbe},
	} {
		p := probe.probe
		switch {
		case p == nil || p.HTTPGet == nil:
			bad = append(bad, fmt.Sprintf("no %s over HTTP", probe.name))
		case p.HTTPGet.Path != probe.path:
			bad = append(bad, fmt.Sprintf("%s asks %s, want %s", probe.name, p.HTTPGet.Path, probe.path))
		case portOf(c, p.HTTPGet.Port.StrVal) == 0:
			bad = append(bad, fmt.Sprintf("%s: no container port %q", probe.name, p.HTTPGet.Port.StrVal))
		}
	}
	if p := c.StartupProbe; p != nil && p.PeriodSeconds*p.FailureThreshold < 120 {
		bad = append(bad, "startupProbe gives up in less than 2 minutes: a large log is read through after a crash")
	}
	return bad
}

func resourceProblems(c *corev1.Container) []string {
	var bad []string
	if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
		bad = append(bad, "cpu and memory must be requested")
	}
	limit := c.Resources.Limits.Memory()
	if limit.IsZero() {
		return append(bad, "no memory limit")
	}
	i := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "GOMEMLIMIT" })
	if i < 0 {
		return append(bad, "no GOMEMLIMIT")
	}
	soft, err := quantity(c.Env[i].Value)
	if err != nil {
		return append(bad, fmt.Sprintf("GOMEMLIMIT: %v", err))
	}
	if share := 100 * soft / limit.Value(); share < 80 || share > 95 {
		bad = append(bad, fmt.Sprintf("GOMEMLIMIT is %d %% of the memory limit, want 80 to 95", share))
	}
	return bad
}

func volumeProblems(pod *corev1.PodSpec) []string {
	var bad []string
	sources := map[string]corev1.VolumeSource{}
	for _, v := range pod.Volumes {
		sources[v.Name] = v.VolumeSource
		if v.HostPath != nil {
			bad = append(bad, v.Name+": hostPath")
		}
	}
	mounted := map[string]corev1.VolumeSource{}
	for _, c := range pod.Containers {
		for _, m := range c.VolumeMounts {
			if m.SubPath != "" || m.SubPathExpr != "" {
				bad = append(bad, m.MountPath+": a subPath mount never changes")
			}
			mounted[path.Clean(m.MountPath)] = sources[m.Name]
		}
	}
	if m := mounted[configDir].ConfigMap; m == nil || m.Name != "relay" || len(m.Items) > 0 {
		bad = append(bad, "the whole ConfigMap relay must be mounted at "+configDir)
	}
	switch s := mounted[secretsDir].Secret; {
	case s == nil || s.SecretName != "relay-secrets" || len(s.Items) > 0:
		bad = append(bad, "the whole Secret relay-secrets must be mounted at "+secretsDir)
	case s.DefaultMode == nil || *s.DefaultMode != 0o440:
		bad = append(bad, "secret files must have mode 0440: for the relay's group alone")
	}
	return bad
}

func TestPod(t *testing.T) {
	t.Parallel()
	for name, load := range map[string]func(*testing.T) *installation{
		"base as written": writtenBase, "base": renderedBase, "standalone": renderedStandalone,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := load(t)
			if len(in.statefulSets) != 1 {
				t.Fatalf("%d StatefulSets, want 1", len(in.statefulSets))
			}
			for _, problem := range podProblems(in.statefulSets[0]) {
				t.Error(problem)
			}
			if len(in.accounts) != 1 || in.accounts[0].Name != "relay" ||
				!isFalse(in.accounts[0].AutomountServiceAccountToken) {
				t.Errorf("ServiceAccounts %v: want relay alone, without a token", in.accounts)
			}
		})
	}
}

// TestPodProblemsAreFound breaks each promise once.
func TestPodProblemsAreFound(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func(*corev1.PodSpec, *corev1.Container)
		want  string
	}{
		{"token", func(p *corev1.PodSpec, _ *corev1.Container) { p.AutomountServiceAccountToken = nil }, "automount"},
		{"service links", func(p *corev1.PodSpec, _ *corev1.Container) { p.EnableServiceLinks = new(true) }, "enableServiceLinks"},
		{"account", func(p *corev1.PodSpec, _ *corev1.Container) { p.ServiceAccountName = "" }, "serviceAccountName"},
		{"host network", func(p *corev1.PodSpec, _ *corev1.Container) { p.HostNetwork = true }, "host's namespaces"},
		{"grace", func(p *corev1.PodSpec, _ *corev1.Container) { *p.TerminationGracePeriodSeconds = 30 }, "GracePeriod"},
		{"second container", func(p *corev1.PodSpec, _ *corev1.Container) { p.InitContainers = p.Containers }, "one container"},
		{"no pod security", func(p *corev1.PodSpec, _ *corev1.Container) { p.SecurityContext = nil }, "no securityContext of the pod"},
		{"root allowed", func(p *corev1.PodSpec, _ *corev1.Container) { p.SecurityContext.RunAsNonRoot = nil }, "runAsNonRoot"},
		{"root", func(p *corev1.PodSpec, _ *corev1.Container) { *p.SecurityContext.RunAsUser = 0 }, "runAsUser"},
		{"group", func(p *corev1.PodSpec, _ *corev1.Container) { p.SecurityContext.RunAsGroup = nil }, "runAsGroup"},
		{"disk's group", func(p *corev1.PodSpec, _ *corev1.Container) { p.SecurityContext.FSGroup = nil }, "fsGroup must"},
		{"walk the disk", func(p *corev1.PodSpec, _ *corev1.Container) { p.SecurityContext.FSGroupChangePolicy = nil }, "fsGroupChangePolicy"},
		{"seccomp", func(p *corev1.PodSpec, _ *corev1.Container) { p.SecurityContext.SeccompProfile = nil }, "seccompProfile"},
		{"no security", func(_ *corev1.PodSpec, c *corev1.Container) { c.SecurityContext = nil }, "no securityContext of the container"},
		{"writable root", func(_ *corev1.PodSpec, c *corev1.Container) { c.SecurityContext.ReadOnlyRootFilesystem = nil }, "readOnlyRoot"},
		{"escalation", func(_ *corev1.PodSpec, c *corev1.Container) { c.SecurityContext.AllowPrivilegeEscalation = nil }, "privileges"},
		{"privileged", func(_ *corev1.PodSpec, c *corev1.Container) { c.SecurityContext.Privileged = new(true) }, "privileges"},
		{"capability", func(_ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
		}, "capabilities"},
		{"override", func(_ *corev1.PodSpec, c *corev1.Container) { c.SecurityContext.RunAsUser = new(int64(0)) }, "override"},
		{"secret in env", func(_ *corev1.PodSpec, c *corev1.Container) {
			c.Env[0].ValueFrom = &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}
		}, "come as files"},
		{"envFrom", func(_ *corev1.PodSpec, c *corev1.Container) { c.EnvFrom = []corev1.EnvFromSource{{}} }, "envFrom"},
		{"no startup probe", func(_ *corev1.PodSpec, c *corev1.Container) { c.StartupProbe = nil }, "no startupProbe"},
		{"short startup", func(_ *corev1.PodSpec, c *corev1.Container) { c.StartupProbe.FailureThreshold = 3 }, "gives up"},
		{"liveness asks Nex", func(_ *corev1.PodSpec, c *corev1.Container) { c.LivenessProbe.HTTPGet.Path = "/readyz" }, "livenessProbe asks"},
		{"probe's port", func(_ *corev1.PodSpec, c *corev1.Container) { c.ReadinessProbe.HTTPGet.Port.StrVal = "web" }, `no container port "web"`},
		{"no request", func(_ *corev1.PodSpec, c *corev1.Container) { c.Resources.Requests = nil }, "requested"},
		{"no limit", func(_ *corev1.PodSpec, c *corev1.Container) { c.Resources.Limits = nil }, "no memory limit"},
		{"no soft limit", func(_ *corev1.PodSpec, c *corev1.Container) { c.Env = nil }, "no GOMEMLIMIT"},
		{"soft limit too high", func(_ *corev1.PodSpec, c *corev1.Container) { c.Env[0].Value = "1GiB" }, "100 %"},
		{"soft limit no size", func(_ *corev1.PodSpec, c *corev1.Container) { c.Env[0].Value = "much" }, "GOMEMLIMIT: "},
		{"subPath", func(_ *corev1.PodSpec, c *corev1.Container) { c.VolumeMounts[0].SubPath = "relay.yaml" }, "subPath"},
		{"no config", func(p *corev1.PodSpec, _ *corev1.Container) { p.Volumes[0].ConfigMap = nil }, "ConfigMap relay must"},
		{"one secret alone", func(p *corev1.PodSpec, _ *corev1.Container) {
			p.Volumes[1].Secret.Items = []corev1.KeyToPath{{}}
		}, "Secret relay-secrets must"},
		{"secret for all", func(p *corev1.PodSpec, _ *corev1.Container) { *p.Volumes[1].Secret.DefaultMode = 0o444 }, "0440"},
		{"hostPath", func(p *corev1.PodSpec, _ *corev1.Container) {
			p.Volumes[0].HostPath = &corev1.HostPathVolumeSource{Path: "/"}
		}, "hostPath"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := writtenBase(t).statefulSets[0]
			tt.spoil(&s.Spec.Template.Spec, &s.Spec.Template.Spec.Containers[0])
			problems := podProblems(s)
			if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, tt.want) }) {
				t.Errorf("problems %q, want one with %q", problems, tt.want)
			}
		})
	}
}

func isTrue(b *bool) bool  { return b != nil && *b }
func isFalse(b *bool) bool { return b != nil && !*b }

// matches reports whether selector picks what has these labels; an empty one would pick everything and is refused.
func matches(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

// portOf is the number of the container port with that name, or 0.
func portOf(c *corev1.Container, name string) int32 {
	for _, p := range c.Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	return 0
}

// quantity reads a size as Go and the relay write it (10GiB); Kubernetes leaves out the B.
func quantity(size string) (int64, error) {
	q, err := resource.ParseQuantity(strings.TrimSuffix(size, "B"))
	if err != nil {
		return 0, fmt.Errorf("%q: %w", size, err)
	}
	return q.Value(), nil
}
