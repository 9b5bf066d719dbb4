package k8s_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// writtenBase decodes the files of base as they are, without kubectl; the ConfigMap exists only when rendered.
func writtenBase(t *testing.T) *installation {
	t.Helper()
	var in installation
	files, err := filepath.Glob("../base/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("files of base: %v, error %v", files, err)
	}
	for _, file := range files {
		switch filepath.Base(file) {
		case "kustomization.yaml", "relay.yaml":
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := in.add(text); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	return &in
}

// renderedBase is base as a cluster would get it.
func renderedBase(t *testing.T) *installation {
	t.Helper()
	return render(t, filepath.Join(copyManifests(t), "base"))
}

// renderedStandalone does what the README asks of a user, makes the secrets, and renders.
func renderedStandalone(t *testing.T) *installation {
	t.Helper()
	dir := filepath.Join(copyManifests(t), "overlays", "standalone")
	for _, file := range secretFiles(t, dir) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte("not a secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return render(t, dir)
}

func render(t *testing.T, dir string) *installation {
	t.Helper()
	text, err := kustomize(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	var in installation
	if err := in.add(text); err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	return &in
}

func kustomize(t *testing.T, dir string) ([]byte, error) {
	t.Helper()
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("kubectl is not installed: nothing is rendered, only the files of base are checked")
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), kubectl, "kustomize", dir)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("kubectl kustomize: %w: %s", err, stderr.String())
	}
	return out, nil
}

// copyManifests copies base and overlays to a directory of the test, without the secrets a user may have made.
func copyManifests(t *testing.T) string {
	t.Helper()
	from, to := os.DirFS(".."), t.TempDir()
	err := fs.WalkDir(from, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if path == "test" {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, path), 0o700)
		}
		if strings.Contains(path, "/secrets/") {
			return nil
		}
		text, err := fs.ReadFile(from, path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, path), text, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// secretFiles are the files that the kustomization in dir expects the user to make.
func secretFiles(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var kustomization struct {
		SecretGenerator []struct {
			Files []string `json:"files"`
		} `json:"secretGenerator"`
	}
	if err := yaml.Unmarshal(text, &kustomization); err != nil {
		t.Fatal(err)
	}
	if len(kustomization.SecretGenerator) != 1 || len(kustomization.SecretGenerator[0].Files) == 0 {
		t.Fatalf("%s: one secretGenerator with files expected", dir)
	}
	return kustomization.SecretGenerator[0].Files
}

func TestMissingSecretStopsTheRendering(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(copyManifests(t), "overlays", "standalone")
	missing := secretFiles(t, dir)[0]
	_, err := kustomize(t, dir)
	if err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("without secrets: error %v, want one that names %s", err, missing)
	}
}

func TestNamesHaveNoSuffix(t *testing.T) {
	t.Parallel()
	in := renderedStandalone(t)
	for _, m := range in.configMaps {
		if m.Name != "relay" {
			t.Errorf("ConfigMap %s: a suffix rolls the pods instead of reloading", m.Name)
		}
	}
	for _, s := range in.secrets {
		if s.Name != "relay-secrets" {
			t.Errorf("Secret %s: a suffix rolls the pods instead of reloading", s.Name)
		}
	}
}
