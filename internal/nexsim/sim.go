package nexsim

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Sim is a running simulator. All methods may be called at any time from any goroutine. A workspace that does
// not exist is an error, or a panic where a method returns none: it is a mistake in the calling program.
type Sim struct {
	opts       Options
	log        *slog.Logger
	gen        *generator
	workspaces []*workspace // in the order of the options
	bySlug     map[string]*workspace
	journal    *journal // nil: what was emitted ends with the process

	keys     keyring
	refusals refusals
	counts   requestCounts // requests whose key is not known

	offset atomic.Int64 // of the clock, in nanoseconds
	shapes atomic.Pointer[shapes]

	rateMu      sync.Mutex
	rate        float64
	rateChanged chan struct{} // capacity 1
}

// shapes is what can be switched about the answers.
type shapes struct {
	rest       string
	restIDs    bool
	noFuture   bool
	replay     string
	replayTime string
}

// New checks the options, all problems at once, and sets up the workspaces. It starts nothing.
func New(o Options) (*Sim, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("simulator options: %w", err)
	}
	s := &Sim{
		opts: o, log: o.Logger, gen: newGenerator(o), bySlug: make(map[string]*workspace, len(o.Workspaces)),
		keys: newKeyring(o.Limit), rate: o.Rate, rateChanged: make(chan struct{}, 1),
	}
	s.shapes.Store(&shapes{rest: o.RESTShape, restIDs: !o.RESTNoIDs, replay: o.ReplayShape, replayTime: o.ReplayTime})
	for _, cfg := range o.Workspaces {
		w := newWorkspace(s, cfg)
		s.workspaces = append(s.workspaces, w)
		s.bySlug[cfg.Slug] = w
		keys := cfg.Keys
		if len(keys) == 0 {
			keys = []Key{{Token: DefaultKey(cfg.Slug), Scopes: []string{ScopeInsights}}}
		}
		for _, k := range keys {
			if err := s.keys.set(w, k); err != nil {
				return nil, fmt.Errorf("simulator options: workspace %q: %w", cfg.Slug, err)
			}
		}
	}
	if o.Journal != "" {
		if err := s.openJournal(o.Journal); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
	}
	return s, nil
}

// Run generates live batches at the rate until ctx is done; it returns nil then. The handler works without it.
func (s *Sim) Run(ctx context.Context) error {
	r := rand.New(rand.NewPCG(s.opts.Seed, 0))
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.rateChanged:
			next = time.Now()
		case <-timer.C:
		}
		wait := time.Hour // until the rate changes
		if rate := s.currentRate(); rate > 0 {
			next = s.catchUp(ctx, r, rate, next)
			wait = time.Until(next)
		}
		timer.Reset(wait)
	}
}

// catchUp emits what is due and returns when the next batch is. Timers are too coarse for thousands of batches a second:
// what they are late is made up for, but never more than a second of it.
func (s *Sim) catchUp(ctx context.Context, r *rand.Rand, rate float64, next time.Time) time.Time {
	now := time.Now()
	if oldest := now.Add(-time.Second); next.Before(oldest) {
		next = oldest
	}
	for !next.After(now) && ctx.Err() == nil && s.currentRate() == rate {
		b := s.workspaces[r.IntN(len(s.workspaces))].emitGenerated(0)
		unevenly := 0.5 + r.Float64() // as real life, 1 on average
		next = next.Add(time.Duration(unevenly * float64(b.InsightCount) / rate * float64(time.Second)))
	}
	return next
}

func (s *Sim) currentRate() float64 {
	s.rateMu.Lock()
	defer s.rateMu.Unlock()
	return s.rate
}

// SetRate changes what Run emits, in insights per second over all workspaces; 0 stops it.
func (s *Sim) SetRate(perSecond float64) error {
	if !validRate(perSecond) {
		return fmt.Errorf("rate %v: must be 0..%d per second", perSecond, int(maxRate))
	}
	s.rateMu.Lock()
	s.rate = perSecond
	s.rateMu.Unlock()
	select {
	case s.rateChanged <- struct{}{}:
	default:
	}
	return nil
}

// Close ends every stream cleanly and lets no new one open (503), so that a server can shut down. REST still answers.
func (s *Sim) Close() {
	for _, w := range s.workspaces {
		w.close()
	}
	if s.journal != nil {
		s.journal.close()
	}
}

// Emit emits one live batch of n generated insights, or of as many as the options draw if n is 0, and returns it. Its
// insights carry the ids and times under which REST knows them.
func (s *Sim) Emit(slug string, n int) Batch { return s.must(slug).emitGenerated(n) }

// EmitInsights emits these insights as one live batch and returns it. An id or a time that is given is sent as it is; one
// that is missing is filled in for REST and for the returned batch alone.
func (s *Sim) EmitInsights(slug string, insights ...Insight) Batch {
	return s.must(slug).emit(insights)
}

// EmitRaw sends an event with this name ("" = none) and data to the open streams. REST and replay never know of it.
func (s *Sim) EmitRaw(slug, event string, data []byte) {
	w := s.must(slug)
	w.broadcast(frame{wire: encodeEvent(event, data, w.wire.Load().eol())})
}

// Emitted returns every insight of a workspace emitted since the start, oldest first: at most Options.Remember, those
// beyond Options.History without evidence and target. Do not change what the insights point to.
func (s *Sim) Emitted(slug string) []Insight { return s.must(slug).emitted() }

// WaitConnected waits until exactly n streams of a workspace are open. Otherwise the error is the
// context's.
func (s *Sim) WaitConnected(ctx context.Context, slug string, n int) error {
	w, err := s.find(slug)
	if err != nil {
		return err
	}
	return w.waitConnected(ctx, n)
}

// JumpClock moves the simulator's clock, forth or back. The sum of all jumps is kept within 90 years.
func (s *Sim) JumpClock(by time.Duration) {
	const most = 90 * 365 * 24 * time.Hour
	by = min(max(by, -2*most), 2*most) // with what went before no more than 270 years; an int64 holds 292
	for {
		old := s.offset.Load()
		if s.offset.CompareAndSwap(old, int64(min(max(time.Duration(old)+by, -most), most))) {
			return
		}
	}
}

// Now is the simulator's time: what an insight emitted at this moment would carry.
func (s *Sim) Now() time.Time {
	// Without the monotonic reading, so that emitted times compare equal to what a client parses.
	return s.opts.Now().Add(time.Duration(s.offset.Load())).Round(0).UTC()
}

func (s *Sim) find(slug string) (*workspace, error) {
	w, ok := s.bySlug[slug]
	if !ok {
		return nil, fmt.Errorf("workspace %q: unknown", slug)
	}
	return w, nil
}

func (s *Sim) must(slug string) *workspace {
	w, err := s.find(slug)
	if err != nil {
		panic("nexsim: " + err.Error())
	}
	return w
}

// each returns the workspace, or all of them for "".
func (s *Sim) each(slug string) ([]*workspace, error) {
	if slug == "" {
		return s.workspaces, nil
	}
	w, err := s.find(slug)
	return []*workspace{w}, err
}

func (s *Sim) mustEach(slug string) []*workspace {
	if slug == "" {
		return s.workspaces
	}
	return []*workspace{s.must(slug)}
}

// digits makes a stable number of 18 digits from the parts, as an id that nobody can guess a meaning into.
func digits(parts ...string) string {
	return strconv.FormatUint(1e17+hash(parts...)%9e17, 10)
}

func hash(parts ...string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(strings.Join(parts, "\x00"))) // a hash never returns an error
	return h.Sum64()
}

// SetREST switches the form of REST answers: RESTData or RESTEnriched, with or without ids.
func (s *Sim) SetREST(shape string, ids bool) error {
	if !slices.Contains([]string{RESTData, RESTEnriched}, shape) {
		return fmt.Errorf("REST shape %q: unknown", shape)
	}
	s.switchShapes(func(sh *shapes) { sh.rest, sh.restIDs = shape, ids })
	return nil
}

// SetFuture switches whether REST answers 400 to windows that end after the simulator's now.
func (s *Sim) SetFuture(refuse bool) {
	s.switchShapes(func(sh *shapes) { sh.noFuture = refuse })
}

// SetReplay switches how streams opened from now on replay; see Options.ReplayShape and Options.ReplayTime.
func (s *Sim) SetReplay(shape, times string) error {
	if !validReplay(shape, times) {
		return fmt.Errorf("replay shape %q, time %q: unknown", shape, times)
	}
	s.switchShapes(func(sh *shapes) { sh.replay, sh.replayTime = shape, times })
	return nil
}

func (s *Sim) switchShapes(change func(*shapes)) {
	for {
		old := s.shapes.Load()
		changed := *old
		change(&changed)
		if s.shapes.CompareAndSwap(old, &changed) {
			return
		}
	}
}
