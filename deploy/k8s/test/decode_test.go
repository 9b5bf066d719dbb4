// Package k8s_test checks what the manifests promise: every document is decoded strictly into the Kubernetes API types,
// as rendered and, for base, as written. It is a module of its own so that those types stay out of the relay's.
package k8s_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// installation is what one kustomization amounts to. A kind that is not here is an error: nobody has looked at it.
type installation struct {
	accounts     []*corev1.ServiceAccount
	configMaps   []*corev1.ConfigMap
	secrets      []*corev1.Secret
	services     []*corev1.Service
	policies     []*networkingv1.NetworkPolicy
	budgets      []*policyv1.PodDisruptionBudget
	statefulSets []*appsv1.StatefulSet
}

// add decodes a stream of YAML documents.
func (in *installation) add(stream []byte) error {
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for n := 1; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
		if err := in.addOne(doc); err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
	}
}

func (in *installation) addOne(doc []byte) error {
	asJSON, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return err
	}
	var meta metav1.TypeMeta
	if err := json.Unmarshal(asJSON, &meta); err != nil {
		return err
	}
	switch meta.APIVersion + " " + meta.Kind {
	case "v1 ServiceAccount":
		return appendStrict(&in.accounts, asJSON)
	case "v1 ConfigMap":
		return appendStrict(&in.configMaps, asJSON)
	case "v1 Secret":
		return appendStrict(&in.secrets, asJSON)
	case "v1 Service":
		return appendStrict(&in.services, asJSON)
	case "networking.k8s.io/v1 NetworkPolicy":
		return appendStrict(&in.policies, asJSON)
	case "policy/v1 PodDisruptionBudget":
		return appendStrict(&in.budgets, asJSON)
	case "apps/v1 StatefulSet":
		return appendStrict(&in.statefulSets, asJSON)
	}
	return fmt.Errorf("unexpected %q, kind %q", meta.APIVersion, meta.Kind)
}

// appendStrict decodes as the API server does with strict field validation: names are case-sensitive, what is unknown
// or given twice is an error.
func appendStrict[T any](list *[]*T, asJSON []byte) error {
	obj := new(T)
	strict, err := strictjson.UnmarshalStrict(asJSON, obj)
	if err := errors.Join(append(strict, err)...); err != nil {
		return err
	}
	*list = append(*list, obj)
	return nil
}

func TestDecodeIsStrict(t *testing.T) {
	t.Parallel()
	const good = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"
	tests := []struct{ name, yaml, wantErr string }{
		{"good", good, ""},
		{"two documents", good + "---\n" + good, ""},
		{"unknown field", good + "spec: {clusterIp4: None}\n", `unknown field "spec.clusterIp4"`},
		{"wrong case", good + "spec: {clusterip: None}\n", `unknown field "spec.clusterip"`},
		{"wrong kind of value", good + "spec: {ports: 8080}\n", "cannot unmarshal"},
		{"given twice", good + "kind: Service\n", `"kind" already set`},
		{"fault in the second document", good + "---\n" + good + "status: {x: 1}\n", "document 2"},
		{"unknown kind", "apiVersion: v1\nkind: Servise\n", `kind "Servise"`},
		{"old version", "apiVersion: apps/v1beta1\nkind: StatefulSet\n", `unexpected "apps/v1beta1"`},
		{"not a document", "relay", "cannot unmarshal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := new(installation).add([]byte(tt.yaml))
			switch {
			case tt.wantErr == "" && err != nil:
				t.Errorf("add: %v", err)
			case tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)):
				t.Errorf("add: error %v, want one with %q", err, tt.wantErr)
			}
		})
	}
}
