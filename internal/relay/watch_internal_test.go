package relay

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nex-crm/relay/internal/config"
)

// A file that somebody is still writing is not applied, wherever he is when it is looked at.
func TestLookWaitsUntilTheFileStandsStill(t *testing.T) {
	t.Parallel()
	const before, half, whole = "workspaces: [{name: a, api_key: k}]\n", "workspaces:\n", "workspaces: [{name: a, api_key: k}, {name: b, api_key: l}]\n"
	for name, goesOn := range map[string]struct{ before, after string }{
		"before it is loaded": {before: whole}, "after it was loaded": {after: whole}, "all the time": {before: half + "# a", after: whole},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "relay.yaml")
			write := func(content string) {
				if content == "" {
					return
				}
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Error(err)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				write(before)
				w := &watch{files: []string{file}}
				w.seen = fingerprint(w.files)
				look := func(before, after string) (workspaces int, ok bool) {
					t.Helper()
					began := time.Now()
					cfg, ok, err := w.look(t.Context(), func() (*config.Config, error) {
						if time.Since(began) < settleTime {
							t.Errorf("loaded %v after the first look", time.Since(began))
						}
						write(before)
						defer write(after)
						return config.Load(config.Source{File: file})
					})
					if err != nil {
						t.Fatal(err)
					}
					if cfg != nil {
						workspaces = len(cfg.Workspaces)
					}
					return workspaces, ok
				}
				write(half)
				if _, ok := look(goesOn.before, goesOn.after); ok {
					t.Error("what was being written is applied")
				}
				if n, ok := look("", ""); !ok || n != 2 {
					t.Errorf("what stands still: %d workspaces, %t", n, ok)
				}
				if _, ok := look("", ""); ok {
					t.Error("nothing has changed, and it is applied again")
				}
			})
		})
	}
}
