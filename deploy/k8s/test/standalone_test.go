package k8s_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

func TestStandaloneIsOnePodWithADisk(t *testing.T) {
	t.Parallel()
	in := renderedStandalone(t)
	s := in.statefulSets[0]
	if s.Spec.Replicas == nil || *s.Spec.Replicas != 1 {
		t.Error("replicas must be 1: each pod would be a log of its own")
	}
	if len(in.budgets) > 0 {
		t.Error("a PodDisruptionBudget for one pod blocks every drain")
	}
	keep := s.Spec.PersistentVolumeClaimRetentionPolicy
	if keep == nil || keep.WhenDeleted != "Retain" || keep.WhenScaled != "Retain" {
		t.Errorf("retention %v: the log must outlive the StatefulSet", keep)
	}
	if image := s.Spec.Template.Spec.Containers[0].Image; !strings.Contains(path.Base(image), ":") ||
		strings.HasSuffix(image, ":latest") {
		t.Errorf("image %s: a version must be named", image)
	}

	if len(s.Spec.VolumeClaimTemplates) != 1 {
		t.Fatalf("%d volume claims, want 1", len(s.Spec.VolumeClaimTemplates))
	}
	claim := s.Spec.VolumeClaimTemplates[0]
	cfg := parseConfig(t, configText(t, in))
	if dir, disk := cfg.str("nats.embedded.store_dir"), mountPath(t, in, claim.Name); !within(dir, disk) || dir == disk {
		t.Errorf("store_dir %q must be a directory below the disk's %q: the disk's root may hold lost+found", dir, disk)
	}
	size := claim.Spec.Resources.Requests.Storage().Value()
	if limit, err := quantity(cfg.str("stream.max_bytes")); err != nil || limit <= 0 || 2*limit > size {
		t.Errorf("stream.max_bytes is %d (%v), want at most half of the claim's %d", limit, err, size)
	}
}

func TestServicesReachThePod(t *testing.T) {
	t.Parallel()
	in := renderedStandalone(t)
	s := in.statefulSets[0]
	container := &s.Spec.Template.Spec.Containers[0]
	headless := false
	for _, service := range in.services {
		if !matches(service.Spec.Selector, s.Spec.Template.Labels) {
			t.Errorf("Service %s does not select the pod", service.Name)
		}
		for _, p := range service.Spec.Ports {
			if got := portOf(container, p.TargetPort.StrVal); got != p.Port {
				t.Errorf("Service %s: port %s is %d, the container's is %d", service.Name, p.Name, p.Port, got)
			}
		}
		headless = headless || service.Name == s.Spec.ServiceName && service.Spec.ClusterIP == "None"
	}
	if !headless {
		t.Errorf("no headless Service %q for the StatefulSet", s.Spec.ServiceName)
	}
	ports := map[string]int32{}
	for _, service := range in.services {
		if service.Name == "relay" {
			for _, p := range service.Spec.Ports {
				ports[p.Name] = p.Port
			}
		}
	}
	if ports["http"] != 8080 || ports["nats"] != 4222 {
		t.Errorf("ports of the Service relay: %v", ports)
	}
}

func TestNetworkPolicies(t *testing.T) {
	t.Parallel()
	// Port 4222 out is the way to an external NATS; standalone has none.
	for name, tt := range map[string]struct {
		load   func(*testing.T) *installation
		egress []int
	}{
		"base as written": {writtenBase, []int{53, 443, 4222}},
		"base":            {renderedBase, []int{53, 443, 4222}},
		"standalone":      {renderedStandalone, []int{53, 443}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := tt.load(t)
			var ingress, egress []int
			closed := map[networkingv1.PolicyType]bool{}
			for _, policy := range in.policies {
				if !matches(policy.Spec.PodSelector.MatchLabels, in.statefulSets[0].Spec.Template.Labels) {
					t.Errorf("%s does not select the pod", policy.Name)
				}
				for _, kind := range policy.Spec.PolicyTypes {
					closed[kind] = true
				}
				for _, rule := range policy.Spec.Ingress {
					if len(rule.From) == 0 {
						t.Errorf("%s lets everyone in", policy.Name)
					}
					ingress = append(ingress, portNumbers(t, rule.Ports)...)
				}
				for _, rule := range policy.Spec.Egress {
					egress = append(egress, portNumbers(t, rule.Ports)...)
					httpsStaysOutside(t, rule)
				}
			}
			if !closed[networkingv1.PolicyTypeIngress] || !closed[networkingv1.PolicyTypeEgress] {
				t.Errorf("policy types %v: both directions must be closed", closed)
			}
			if got := sortedSet(ingress); !slices.Equal(got, []int{4222, 8080}) {
				t.Errorf("ports in: %v", got)
			}
			if got := sortedSet(egress); !slices.Equal(got, tt.egress) {
				t.Errorf("ports out: %v, want %v", got, tt.egress)
			}
		})
	}
}

// httpsStaysOutside checks that a rule for https leaves out the clouds' metadata address and the private networks.
func httpsStaysOutside(t *testing.T, rule networkingv1.NetworkPolicyEgressRule) {
	t.Helper()
	if !slices.Contains(portNumbers(t, rule.Ports), 443) {
		return
	}
	var except []string
	for _, to := range rule.To {
		if to.IPBlock != nil {
			except = append(except, to.IPBlock.Except...)
		}
	}
	for _, cidr := range []string{"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"} {
		if !slices.Contains(except, cidr) {
			t.Errorf("https may go to %s", cidr)
		}
	}
}

func portNumbers(t *testing.T, ports []networkingv1.NetworkPolicyPort) []int {
	t.Helper()
	if len(ports) == 0 {
		t.Error("a rule without ports means all of them")
	}
	var numbers []int
	for _, p := range ports {
		if p.Port == nil {
			t.Error("a port without a number means all of them")
			continue
		}
		numbers = append(numbers, p.Port.IntValue())
	}
	return numbers
}

func sortedSet(numbers []int) []int {
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

func mountPath(t *testing.T, in *installation, volume string) string {
	t.Helper()
	for _, m := range in.statefulSets[0].Spec.Template.Spec.Containers[0].VolumeMounts {
		if m.Name == volume {
			return m.MountPath
		}
	}
	t.Errorf("volume %s is not mounted", volume)
	return ""
}

func within(file, dir string) bool {
	return strings.HasPrefix(path.Clean(file)+"/", path.Clean(dir)+"/")
}
