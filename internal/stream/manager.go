package stream

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/lease"
	"github.com/nex-crm/relay/internal/nex"
)

// Config of a [Manager]. Client, Bus and Logger are needed; the zero of everything else takes the default named.
type Config struct {
	Client     *nex.Client
	Bus        *bus.Bus
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil registers the metrics nowhere
	// Leases says which of the workspaces this replica holds; nil holds them all.
	Leases *lease.Table

	ReconnectMin      time.Duration // 1 s
	ReconnectMax      time.Duration // 1 min
	HealthyAfter      time.Duration // 30 s: a connection that lived as long starts the backoff anew
	UnauthorizedRetry time.Duration // 5 min, after 401 and 403
	RetryAfterMax     time.Duration // 15 min, the most that Nex may ask us to wait
	IdentityWindow    time.Duration // 10 min apart at most, equal texts are one insight
	Backfill          time.Duration // how far back the first ever start of a workspace goes; 0 = not at all
	GapCheckInterval  time.Duration // 0 = on connect only, and as often as the checkpoint is told
	GapOverlap        time.Duration // how far before the last known time a gap begins
	MaxAge            time.Duration // of the log; what is older is not fetched. 0 = no limit
	MaxDials          int           // 64 connection attempts at once, over all streams
	MaxFetches        int           // 32 REST requests at once, over all streams
	DialsPerSecond    int           // 500 connection attempts a second, over all streams
	Now               func() time.Time
	// Started is when the relay was: its first workspaces are asked for from then on, however long NATS was waited for. Zero
	// = when they were first applied.
	Started time.Time

	// For tests: REST requests a second for each key, requestsPerSecond if 0, the first pause after one that failed,
	// requestPause if 0, and how long what is young is left to the stream, liveFirst if 0.
	requests  rate.Limit
	pause     time.Duration
	liveFirst time.Duration
}

// Workspace is one stream to hold.
type Workspace struct {
	Name  string
	Token string // of its subjects, see event.Token
	Key   string // Nex API key
}

// Manager holds the streams of all workspaces. Its methods are safe for concurrent use.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	shared  *shared

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	closed  bool            // Run is ending
	want    []Workspace
	since   map[string]time.Time // by token: when it was first wanted
	running map[string]*running  // by token
	ending  map[string]*running  // told to stop, not started again
	streams sync.WaitGroup
}

type running struct {
	workspace Workspace
	count     *counters
	cancel    context.CancelFunc
	done      chan struct{}
}

// NewManager starts nothing.
func NewManager(cfg Config) *Manager {
	cfg.ReconnectMin = orDefault(cfg.ReconnectMin, time.Second)
	cfg.ReconnectMax = orDefault(cfg.ReconnectMax, time.Minute)
	cfg.HealthyAfter = orDefault(cfg.HealthyAfter, 30*time.Second)
	cfg.UnauthorizedRetry = orDefault(cfg.UnauthorizedRetry, 5*time.Minute)
	cfg.RetryAfterMax = orDefault(cfg.RetryAfterMax, 15*time.Minute)
	cfg.IdentityWindow = orDefault(cfg.IdentityWindow, 10*time.Minute)
	cfg.MaxDials = orDefault(cfg.MaxDials, 64)
	cfg.MaxFetches = orDefault(cfg.MaxFetches, 32)
	cfg.DialsPerSecond = orDefault(cfg.DialsPerSecond, 500)
	cfg.pause = orDefault(cfg.pause, requestPause)
	cfg.liveFirst = orDefault(cfg.liveFirst, liveFirst)
	if cfg.requests == 0 {
		cfg.requests = requestsPerSecond
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Manager{
		cfg: cfg, log: cfg.Logger.With("component", "stream"), metrics: newMetrics(cfg.Registerer),
		shared: newShared(&cfg), since: map[string]time.Time{}, running: map[string]*running{}, ending: map[string]*running{},
	}
}

// Apply says which workspaces to hold: new ones are started, those left out stopped, those with another key started anew
// at once, and the others not touched. It does not wait for any of it.
func (m *Manager) Apply(list []Workspace) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.want = slices.Clone(list)
	m.noteSince()
	if m.cfg.Leases != nil {
		tokens := make([]string, len(list))
		for i, w := range list {
			tokens[i] = w.Token
		}
		m.cfg.Leases.Want(tokens)
	}
	if m.ctx != nil && !m.closed {
		m.adjust()
	}
}

// noteSince remembers since when each workspace is wanted; mu is held.
func (m *Manager) noteSince() {
	now := m.cfg.Now()
	if m.ctx == nil && !m.cfg.Started.IsZero() && m.cfg.Started.Before(now) {
		now = m.cfg.Started
	}
	since := make(map[string]time.Time, len(m.want))
	for _, w := range m.want {
		at, known := m.since[w.Token]
		if !known {
			at = now
		}
		since[w.Token] = at
	}
	m.since = since
}

// Run holds the streams until ctx ends, then waits until what they read is in the log, ten seconds at most.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	m.adjust()
	m.mu.Unlock()
	m.followLeases(ctx)
	m.close()
	m.streams.Wait()
	return nil
}

// followLeases starts and stops streams as the leases come and go, until ctx ends.
func (m *Manager) followLeases(ctx context.Context) {
	if m.cfg.Leases == nil {
		<-ctx.Done()
		return
	}
	for {
		select {
		case <-m.cfg.Leases.Changed():
			m.mu.Lock()
			m.adjust()
			m.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// close lets no stream start any more: an Apply under way has started its own before it returns.
func (m *Manager) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
}

// adjust makes running what is wanted and held; mu is held.
func (m *Manager) adjust() {
	wanted := make(map[string]Workspace, len(m.want))
	for _, w := range m.want {
		wanted[w.Token] = w
	}
	if m.cfg.Leases != nil {
		held := m.cfg.Leases.Held()
		maps.DeleteFunc(wanted, func(token string, _ Workspace) bool { return !held[token] })
	}
	for token, r := range m.running {
		if wanted[token] != r.workspace {
			r.cancel()
			delete(m.running, token)
			m.ending[token] = r
		}
	}
	for token, w := range wanted {
		if m.running[token] == nil {
			m.start(w, m.ending[token])
			delete(m.ending, token)
		}
	}
}

// start runs a stream; before is the one of the same workspace that must have ended first, or nil. mu is held.
func (m *Manager) start(w Workspace, before *running) {
	ctx, cancel := context.WithCancel(m.ctx)
	r := &running{workspace: w, cancel: cancel, done: make(chan struct{}), count: &counters{metrics: m.metrics}}
	r.count.s = Status{Workspace: w.Name, Token: w.Token, State: StateStarting, Since: m.cfg.Now()}
	m.running[w.Token] = r
	log := m.log.With("workspace", w.Token)
	s := &stream{
		cfg: &m.cfg, workspace: w, wanted: m.since[w.Token], log: log, shared: m.shared, count: r.count, gap: newGap(m.cfg.GapOverlap),
		limiter: rate.NewLimiter(m.cfg.requests, requestBurst),
	}
	s.publisher = newPublisher(m.cfg.Bus, log, r.count, m.cfg.Now, s.surprised)
	s.publisher.told, s.publisher.past, s.publisher.erased = s.wasTold, s.past, s.erased
	m.streams.Go(func() {
		defer cancel()
		if before != nil {
			<-before.done
		}
		s.run(ctx)
		m.ended(w.Token, r)
	})
}

// ended notes that a stream has. Where no other has taken its place, its lease can go to another replica.
func (m *Manager) ended(token string, r *running) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(r.done)
	if m.ending[token] != r {
		return
	}
	delete(m.ending, token)
	if m.cfg.Leases != nil {
		m.cfg.Leases.Done(token)
	}
}

// Status is how each stream is, by token; of those that another replica holds, which.
func (m *Manager) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Status, 0, max(len(m.running), len(m.want)))
	for _, r := range m.running {
		out = append(out, r.count.get())
	}
	if m.cfg.Leases != nil {
		for _, w := range m.want {
			if m.running[w.Token] == nil {
				out = append(out, Status{Workspace: w.Name, Token: w.Token, State: StateElsewhere, Replica: m.cfg.Leases.Holder(w.Token)})
			}
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Token, b.Token) })
	return out
}

// Running is how many streams are held here, up or not.
func (m *Manager) Running() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.running)
}

// Connected is how many streams are up.
func (m *Manager) Connected() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, r := range m.running {
		if r.count.get().State == StateConnected {
			n++
		}
	}
	return n
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}
