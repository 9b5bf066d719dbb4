package relay

import (
	"context"
	"crypto/sha256"
	"errors"
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

// reloadLoop applies changes of the configuration until ctx ends.
func (r *Relay) reloadLoop(ctx context.Context, p *parts) {
	if r.opts.Reload == nil {
		<-ctx.Done()
		return
	}
	files := r.opts.Config.Files()
	seen := fingerprint(files)
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.opts.HUP:
		case <-ticker.C:
			now := fingerprint(files)
			if now == seen {
				continue
			}
			seen = now // taken before reading: a change in between is seen next time
		}
		// Also after a fault the files of that configuration are watched: Kubernetes renews a ConfigMap and a Secret one
		// after the other, and the second may mend what the first broke.
		cfg, err := r.reload(ctx, p)
		switch {
		case cfg == nil && err != nil: // could not be applied now
			seen = [sha256.Size]byte{}
		case cfg != nil && !slices.Equal(cfg.Files(), files):
			files = cfg.Files()
			seen = fingerprint(files)
		}
	}
}

// reload is the step that the loop repeats: it reads the configuration and applies its workspaces and endpoints. Those
// that did not change are not touched. A configuration with a fault changes nothing; it is returned with its error.
func (r *Relay) reload(ctx context.Context, p *parts) (*config.Config, error) {
	cfg, err := r.opts.Reload()
	var next *plan
	if cfg != nil {
		var perr error
		next, perr = newPlan(cfg)
		err = joinProblems(err, perr)
	}
	if err != nil {
		r.log.Error("the changed configuration has faults and was not applied", "error", err)
		return cfg, err
	}
	if sections := r.plan.needsRestart(next); len(sections) > 0 {
		r.log.Warn("the configuration changed outside workspaces and endpoints: that holds from the next start on", "sections", sections)
	}
	prepare, cancel := context.WithTimeout(ctx, prepareTime)
	defer cancel()
	if err := p.fanout.ApplyFile(prepare, next.endpoints); err != nil {
		r.log.Warn("the changed configuration cannot be applied while NATS does not answer, trying again", "error", err)
		return nil, err // the fingerprint of before holds on
	}
	p.streams.Apply(next.workspaces)
	r.log.Info("configuration applied", "workspaces", len(next.workspaces), "endpoints", len(next.endpoints))
	return cfg, nil
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
