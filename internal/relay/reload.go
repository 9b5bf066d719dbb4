package relay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/config"
)

// watchEvery is how often the configuration's files are read to see whether they changed. Reading beats watching here: a
// Kubernetes volume changes by swapping a symlink, and network file systems do not tell at all.
const watchEvery = 5 * time.Second

// prepareTime bounds what a reload asks of NATS.
const prepareTime = 5 * time.Second

// settleTime is for how long a file that changed must stand still before it is applied: an editor, or a copy from elsewhere, may be at
// work on it.
const settleTime = 300 * time.Millisecond

// watch is the configuration's files as they were looked at last.
type watch struct {
	files []string
	seen  [sha256.Size]byte
}

// look loads the configuration if a file has changed. What is loaded while they go on changing counts for nothing: ok is false, and
// the next look tells.
func (w *watch) look(ctx context.Context, load func() (*config.Config, error)) (cfg *config.Config, ok bool, err error) {
	now := fingerprint(w.files)
	if now == w.seen {
		return nil, false, nil
	}
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
		return nil, false, nil
	}
	cfg, err = load()
	if fingerprint(w.files) != now {
		return nil, false, nil
	}
	w.seen = now
	return cfg, true, err
}

// reloadLoop applies changes of the configuration until ctx ends.
func (r *Relay) reloadLoop(ctx context.Context, p *parts) {
	if r.opts.Reload == nil {
		<-ctx.Done()
		return
	}
	w := &watch{files: r.opts.Config.Files()}
	w.seen = fingerprint(w.files)
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		var cfg *config.Config
		var err error
		select {
		case <-ctx.Done():
			return
		case <-r.opts.HUP:
			cfg, err = r.opts.Reload()
		case <-ticker.C:
			var changed bool
			if cfg, changed, err = w.look(ctx, r.opts.Reload); !changed {
				continue
			}
		}
		// Also after a fault the files of that configuration are watched: Kubernetes renews a ConfigMap and a Secret one
		// after the other, and the second may mend what the first broke.
		if cfg != nil && !slices.Equal(cfg.Files(), w.files) {
			w.files = cfg.Files()
			w.seen = fingerprint(w.files)
		}
		if err := r.apply(ctx, p, cfg, err); errors.Is(err, errLater) {
			w.seen = [sha256.Size]byte{}
		}
	}
}

var (
	// errEmpty refuses a file that would take away everything.
	errEmpty = errors.New("the file is empty: to take away all workspaces and endpoints write workspaces: []")
	// errLater says that a configuration is to be applied again.
	errLater = errors.New("the configuration could not be applied")
)

// apply is the step that the loop repeats: it applies the workspaces and endpoints of a configuration that was loaded, with what was
// found wrong with it. Those that did not change are not touched. A configuration with a fault changes nothing.
func (r *Relay) apply(ctx context.Context, p *parts, cfg *config.Config, err error) error {
	if cfg != nil && cfg.FromEmptyFile() {
		r.log.Error("the changed configuration was not applied", "error", errEmpty)
		return errEmpty
	}
	var next *plan
	if cfg != nil {
		var perr error
		next, perr = newPlan(cfg)
		err = joinProblems(err, perr)
	}
	if err != nil {
		r.log.Error("the changed configuration has faults and was not applied", "error", err)
		return err
	}
	if sections := r.plan.needsRestart(next); len(sections) > 0 {
		r.log.Warn("the configuration changed outside workspaces and endpoints: that holds from the next start on", "sections", sections)
	}
	prepare, cancel := context.WithTimeout(ctx, prepareTime)
	defer cancel()
	if err := p.fanout.ApplyFile(prepare, next.endpoints); err != nil {
		r.log.Warn("the changed configuration cannot be applied while NATS does not answer, trying again", "error", err)
		return fmt.Errorf("%w: %w", errLater, err)
	}
	p.streams.Apply(next.workspaces)
	r.log.Info("configuration applied", "workspaces", len(next.workspaces), "endpoints", len(next.endpoints))
	return nil
}

func joinProblems(a, b error) error {
	var pa, pb config.Problems
	if errors.As(a, &pa) && errors.As(b, &pb) {
		return append(pa, pb...)
	}
	return errors.Join(a, b)
}

// fingerprint changes when a file's content does, or when one appears or goes.
func fingerprint(files []string) [sha256.Size]byte {
	h := sha256.New()
	for _, name := range files {
		addFile(h, name)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func addFile(h hash.Hash, name string) {
	_, _ = io.WriteString(h, name+"\x00")
	f, err := os.Open(name)
	if err != nil {
		_, _ = io.WriteString(h, "\x00missing")
		return
	}
	defer f.Close()
	_, _ = io.Copy(h, f)
}
