package nexsim

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"
)

// ScopeInsights is the scope a key needs for the stream and for REST insights; a known key without it gets 403.
const ScopeInsights = "insight.stream"

// The values of Options.RESTShape, Options.ReplayShape and Options.ReplayTime.
const (
	RESTData     = "data"     // {"data":[{id,workspace_id,content,type,entities,created_at}]}, as Nex publishes it
	RESTEnriched = "enriched" // {"insights":[…as in a live batch, with id and created_at…],"insight_count":n}

	ReplayBatch  = "batch"  // each replay event is a batch of one insight
	ReplaySingle = "single" // each replay event is one insight
	ReplayArray  = "array"  // one replay event holds them all in an array

	ReplaySeconds = "seconds" // replayed insights carry created_at cut to whole seconds
	ReplayNoTime  = "none"    // nothing in a replay says when
)

// Options of a simulator. The zero value is valid: one workspace "acme" that emits only what it is told to.
type Options struct {
	// Workspaces; empty means one with the slug "acme".
	Workspaces []Workspace
	// Seed decides all contents; each workspace draws from it independently. Times do not depend on it.
	Seed uint64
	// Rate is what [Sim.Run] emits: insights per second over all workspaces. 0 emits nothing by itself.
	Rate float64
	// BatchMin and BatchMax bound the insights in a generated batch: 1..5, which is the default.
	BatchMin, BatchMax int
	// SizeMin and SizeMax bound a generated insight's JSON in bytes, without id and created_at: 1 KiB to 200 KiB, which is
	// the default. Sizes are skewed: three of four lie below three times SizeMin if SizeMax is far away.
	SizeMin, SizeMax int
	// Keepalive is the time between keepalive comments; 30 s if 0.
	Keepalive time.Duration
	// History is how many insights of a workspace REST can still give; 10,000 if 0.
	History int
	// Remember is how many insights of a workspace [Sim.Emitted] can still tell, those older than History without evidence
	// and target; 1,000,000 if 0 (about 300 bytes each), never less than History.
	Remember int
	// Journal is a file that keeps what was emitted for the next start; none if empty. [Sim.Close] closes it.
	Journal string
	// Buffer is how many bytes may wait for one slow stream before it is cut off; 16 MiB if 0. One event always fits.
	Buffer int
	// RESTShape is RESTData (default) or RESTEnriched; with RESTNoIDs neither carries ids.
	RESTShape string
	RESTNoIDs bool
	// ReplayShape is ReplayBatch (default), ReplaySingle or ReplayArray; ReplayTime is ReplaySeconds (default) or ReplayNoTime.
	ReplayShape string
	ReplayTime  string
	// LiveIDs puts the id into live and replayed insights, where Nex usually sends none.
	LiveIDs bool
	// Limit is the rate limit of each key; off if zero.
	Limit RateLimit
	// Logger may be nil. Keys are never logged.
	Logger *slog.Logger
	// Now is the clock of everything emitted; time.Now if nil.
	Now func() time.Time
}

// Workspace is one customer of Nex.
type Workspace struct {
	Name string // as shown; made from the slug if empty
	Slug string
	Keys []Key // empty means one key, DefaultKey(Slug), with ScopeInsights
}

// Key is an API key and what it may do. Every key belongs to one workspace.
type Key struct {
	Token  string
	Scopes []string
}

// RateLimit bounds the requests per key, stream connects and REST alike.
type RateLimit struct {
	PerSecond  float64 // 0 = no limit
	Burst      int     // at once; 1 if 0
	RetryAfter bool    // whether the 429 says how many seconds to wait
}

// DefaultKey is the key of a workspace that was given none: the same for the same slug, in every process.
func DefaultKey(slug string) string {
	sum := sha256.Sum256([]byte("nexsim key " + slug))
	return "sk-sim-" + slug + "-" + hex.EncodeToString(sum[:12])
}

func (o Options) withDefaults() Options {
	if len(o.Workspaces) == 0 {
		o.Workspaces = []Workspace{{Slug: "acme", Name: "Acme Corp"}}
	}
	o.BatchMin = orDefault(o.BatchMin, 1)
	o.BatchMax = orDefault(o.BatchMax, max(maxBatch, o.BatchMin))
	o.SizeMin = orDefault(o.SizeMin, minSize)
	o.SizeMax = orDefault(o.SizeMax, max(maxSize, o.SizeMin))
	o.Keepalive = orDefault(o.Keepalive, 30*time.Second)
	o.History = orDefault(o.History, 10_000)
	o.Remember = max(orDefault(o.Remember, 1_000_000), o.History)
	o.Buffer = orDefault(o.Buffer, 16<<20)
	o.RESTShape = orDefault(o.RESTShape, RESTData)
	o.ReplayShape = orDefault(o.ReplayShape, ReplayBatch)
	o.ReplayTime = orDefault(o.ReplayTime, ReplaySeconds)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

const (
	maxBatch = 5
	minSize  = 1 << 10
	maxSize  = 200 << 10
)

// validate lists every problem at once. It sees options with defaults.
func (o Options) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(1 <= o.BatchMin && o.BatchMin <= o.BatchMax && o.BatchMax <= maxBatch,
		"batch size %d..%d: must lie within 1..%d", o.BatchMin, o.BatchMax, maxBatch)
	check(minSize <= o.SizeMin && o.SizeMin <= o.SizeMax && o.SizeMax <= maxSize,
		"insight size %d..%d: must lie within %d..%d bytes", o.SizeMin, o.SizeMax, minSize, maxSize)
	check(o.Keepalive > 0, "keepalive %v: must be positive", o.Keepalive)
	check(o.History > 0, "history %d: must be positive", o.History)
	check(o.Buffer > 0, "buffer %d: must be positive", o.Buffer)
	check(validRate(o.Rate), "rate %v: must be 0..%d per second", o.Rate, int(maxRate))
	check(o.Limit.valid(), "limit %v per second, burst %d: must not be negative", o.Limit.PerSecond, o.Limit.Burst)
	check(slices.Contains([]string{RESTData, RESTEnriched}, o.RESTShape), "REST shape %q: unknown", o.RESTShape)
	check(validReplay(o.ReplayShape, o.ReplayTime), "replay shape %q, time %q: unknown", o.ReplayShape, o.ReplayTime)
	slugs := make(map[string]bool, len(o.Workspaces))
	for _, w := range o.Workspaces {
		check(w.Slug != "" && len(w.Slug) <= 100, "workspace %q: the slug must have 1..100 bytes", w.Slug)
		check(!slugs[w.Slug], "workspace %q: given twice", w.Slug)
		slugs[w.Slug] = true
	}
	return errors.Join(errs...)
}

// maxRate is above what one process can generate.
const maxRate = 1e6

func validRate(perSecond float64) bool {
	return !math.IsNaN(perSecond) && 0 <= perSecond && perSecond <= maxRate
}

func (l RateLimit) valid() bool {
	return !math.IsNaN(l.PerSecond) && l.PerSecond >= 0 && l.Burst >= 0
}

func validReplay(shape, time string) bool {
	return slices.Contains([]string{ReplayBatch, ReplaySingle, ReplayArray}, shape) &&
		slices.Contains([]string{ReplaySeconds, ReplayNoTime}, time)
}

// displayName makes "Acme-eu" of "acme-eu".
func displayName(slug string) string { return strings.ToUpper(slug[:1]) + slug[1:] }
