// Package fanout takes events from the log to the endpoints: it reads each event once, matches it in memory, hands it to
// a bounded lane per endpoint, and lets go of it when every endpoint has either answered or has its delivery stored for
// later. It never waits for an endpoint.
//
//	Run: fetch -> match -> lane -> attempt -> settle
//	                        |        |
//	                        +--park--+--> RELAY_RETRY -> due -> lane
//	                                 +--> RELAY_DEAD, RELAY_ATTEMPTS
package fanout

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

// Config of a [Fanout]. Bus, Endpoints, Sender, Schedule and Logger are needed.
type Config struct {
	Bus       *bus.Bus
	Endpoints *endpoint.Registry
	Sender    *webhook.Sender
	Policy    Policy
	// Timeout of an attempt and attempts in flight of an endpoint that names none; 15 s and 32 if 0.
	Timeout     time.Duration
	MaxInFlight int
	// DisableAfter is how long an endpoint may only fail before it is disabled; 0 = for ever.
	DisableAfter time.Duration
	// LossWarning is how long before the log loses what an endpoint is still to get its owner is told, but no earlier than a quarter
	// of the time for which the log keeps events; 0 = not at all.
	LossWarning time.Duration
	// Origin names the relay in the validation handshake, as a DNS name.
	Origin string
	// Replicas is how many relays share the rate limits; nil = this one alone.
	Replicas func() int
	// Grace is how long attempts in flight may take to finish when Run ends; 0 cuts them at once.
	Grace time.Duration
	// Logger must not be nil; nil Registerer registers the metrics nowhere.
	Logger     *slog.Logger
	Registerer prometheus.Registerer

	maxHeld      int64         // maxHeldBytes, or less in a test
	lookAgain    time.Duration // orderedLook, or less in a test
	noLookout    bool          // a test looks out itself
	restoreEvery time.Duration // restoreEvery, or other in a test
	ackWait      time.Duration // ackWait, or more in a test
}

const (
	// ackWait is how long JetStream waits before it gives a message to somebody else; working is how often it hears that a
	// message is still being worked on. Together: a dead replica's deliveries come back within ackWait.
	ackWait = 30 * time.Second
	working = 10 * time.Second
	// orderedLook is how often it is asked whether the event that holds up an ordered endpoint still has to wait.
	orderedLook = 30 * time.Second
	// maxAckPending bounds the events (and the due deliveries) that are being worked on, over all replicas.
	maxAckPending = 1 << 16
	// prefetch bounds the messages that are held of each consumer before they are looked at.
	prefetch = 2048
	// maxHeldBytes bounds the bodies held for endpoints that have not answered yet; an event counts for heldWeight at least.
	// The ordered ones have room of their own, three times orderedBytes: they may wait for it, and the reader of the log must not wait
	// for them.
	maxHeldBytes, orderedBytes = 128 << 20, 32 << 20
	heldWeight                 = 2 << 10
	// maxQueued bounds the deliveries that wait in all lanes together. At full speed it is well below a second's work, so
	// that the wait of a lane tells of its endpoint and not of this machine.
	maxQueued = 4096
	// maxStoring bounds the writes to RELAY_RETRY and RELAY_DEAD under way. When JetStream cannot keep up, fetching waits.
	maxStoring = 512
	// maxLoads bounds the events being read from the log at once: their answers come over one connection, which drops what it
	// cannot hold.
	maxLoads = 32
	// stopReading is how long what was read may take to be stored when the relay stops. NATS that is away takes nothing: what
	// was not stored comes again.
	stopReading = 3 * time.Second
	// giveBackTime is how long what was fetched may take to arrive when it is to be given back.
	giveBackTime = 3 * time.Second
	// sweepEvery is how often lanes are looked at that have stopped moving.
	sweepEvery = 100 * time.Millisecond

	storeTimeout = 5 * time.Second
)

// ErrStopping is the cause with which attempts are cut when the time to finish them is over.
var ErrStopping = errors.New("relay is stopping")

// Fanout delivers events to endpoints. Build it with [New], start it with [Fanout.Run].
type Fanout struct {
	cfg     Config
	log     *slog.Logger
	metrics metrics
	records *recorder

	heldBytes *semaphore.Weighted
	// inOrder is heldBytes of the ordered endpoints that have just answered well, doubtful that of those that have not, untried that
	// of those of which nothing is known yet.
	inOrder, doubtful, untried *semaphore.Weighted
	matched                    matched
	turns                      map[string]*rate.Limiter // see mayTurn; of follow alone
	heard                      uint64                   // the newest generation whose endpoints have been welcomed; of follow alone
	bodies                     atomic.Int64             // bytes of the events held or read again
	queued                     *semaphore.Weighted
	inQueues                   atomic.Int64       // deliveries in the lanes' queues
	swept                      *endpoint.Snapshot // no lane is left of an endpoint that is gone by it; nil = to be looked at; guarded by mu
	storing                    *semaphore.Weighted
	loads                      *semaphore.Weighted
	held                       heldSet
	reread                     *reread
	judge                      *judge
	crowd                      crowd
	lookout                    lookout
	forgotten                  forgotten
	young                      *young
	shelf                      *shelf
	name                       string // of this process, among those that work on spans
	began                      time.Time

	mu       sync.Mutex
	lanes    map[string]*lane
	catching map[string]bool // endpoints whose spans are being worked on here

	filterMu   sync.Mutex
	filterSaid map[string]FilterError // by endpoint

	strangers map[string]time.Time // endpoints with a backlog that are not known: since when; of the one that follows

	leavingMu sync.Mutex
	leaving   []*delivery // may be left to the log, see place.go
	leave     chan struct{}
	scan      chan struct{} // has a value when the backlogs are to be looked at

	marks sync.Map // orderMark by endpoint: how far the ordered ones have come, as this process knows

	ordered map[string]*orderedRun // of the one goroutine that follows the endpoints

	running    atomic.Int32       // consumers that are being read
	waiting    atomic.Int64       // deliveries in RELAY_RETRY, as last counted
	made       atomic.Uint64      // attempts
	inTurn     atomic.Int64       // ordered endpoints with an attempt under way
	granting   singleflight.Group // one handshake at a time of an endpoint at its URL
	drainers   sync.WaitGroup     // backlogs and spans being worked on
	ordering   sync.WaitGroup     // ordered endpoints being worked on
	attempts   sync.WaitGroup     // attempts and writes under way
	runCtx     context.Context    // of Run
	attemptCtx context.Context    // ends when attempts are cut
	storeCtx   context.Context    // ends when storing is given up
	stopping   atomic.Bool
}

// New checks nothing that could fail later: the streams are there since the bus was opened.
func New(cfg Config) (*Fanout, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = webhook.DefaultTimeout
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 32
	}
	if cfg.maxHeld == 0 {
		cfg.maxHeld = maxHeldBytes
	}
	if cfg.lookAgain == 0 {
		cfg.lookAgain = orderedLook
	}
	if cfg.restoreEvery == 0 {
		cfg.restoreEvery = restoreEvery
	}
	if cfg.ackWait == 0 {
		cfg.ackWait = ackWait
	}
	log := cfg.Logger.With("component", "fanout")
	f := &Fanout{
		cfg:        cfg,
		log:        log,
		heldBytes:  semaphore.NewWeighted(cfg.maxHeld),
		inOrder:    semaphore.NewWeighted(orderedBytes),
		doubtful:   semaphore.NewWeighted(orderedBytes),
		untried:    semaphore.NewWeighted(orderedBytes),
		turns:      map[string]*rate.Limiter{},
		queued:     semaphore.NewWeighted(maxQueued),
		storing:    semaphore.NewWeighted(maxStoring),
		loads:      semaphore.NewWeighted(maxLoads),
		lanes:      map[string]*lane{},
		catching:   map[string]bool{},
		shelf:      newShelf(),
		reread:     newReread(),
		lookout:    lookout{least: never},
		young:      newYoung(maxYoung),
		judge:      newJudge(max(1, runtime.GOMAXPROCS(0)/2)),
		name:       rand.Text()[:12],
		began:      time.Now(),
		leave:      make(chan struct{}, 1),
		scan:       make(chan struct{}, 1),
		ordered:    map[string]*orderedRun{},
		filterSaid: map[string]FilterError{},
		strangers:  map[string]time.Time{},
	}
	f.waiting.Store(-1)
	f.metrics = newMetrics(cfg.Registerer, f)
	var err error
	if f.records, err = newRecorder(cfg.Bus.Conn(), log, f.metrics.recordsLost); err != nil {
		return nil, fmt.Errorf("attempt records: %w", err)
	}
	return f, nil
}

// Running tells whether both consumers are being read: part of readiness.
func (f *Fanout) Running() bool { return f.running.Load() == 2 }

// Run delivers until ctx ends. Then it stops fetching, stores what waits in the lanes, gives the attempts in flight until
// grace has passed to finish, and stores those that it had to cut. It returns when nothing of it runs any more.
func (f *Fanout) Run(ctx context.Context) error {
	attempt, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(ErrStopping)
	store, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	f.runCtx, f.attemptCtx, f.storeCtx = ctx, attempt, store

	f.HearErasures(ctx)
	var loops sync.WaitGroup
	loops.Go(func() { f.hearErasures(ctx) })
	loops.Go(func() { f.consume(ctx, bus.StreamNex, bus.FanoutConsumer(f.cfg.ackWait, maxAckPending), f.handleEvent) })
	loops.Go(func() { f.consume(ctx, bus.StreamRetry, bus.RetryConsumer(f.cfg.ackWait, maxAckPending), f.handleDue) })
	loops.Go(func() { f.every(ctx, sweepEvery, f.Sweep) })
	loops.Go(func() { f.keepPlaces(ctx) })
	loops.Go(func() { f.keepStreams(ctx) })
	loops.Go(func() { f.follow(ctx) })
	if !f.cfg.noLookout {
		loops.Go(func() { f.lookOut(ctx) })
	}
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var helpers sync.WaitGroup
	helpers.Go(func() { f.every(background, working, f.held.inProgress) })
	helpers.Go(func() { f.records.run(background) })
	helpers.Go(func() { f.keepShelf(background) })
	helpers.Go(func() { f.answerWork(background) })

	<-ctx.Done()
	f.mu.Lock()
	f.stopping.Store(true)
	f.mu.Unlock()
	late := time.AfterFunc(stopReading, giveUp)
	loops.Wait()
	f.drainers.Wait()
	f.finishLeaving()
	f.parkQueues()
	late.Stop()
	f.finish(f.cfg.Grace, cut, giveUp)
	stopBackground()
	helpers.Wait()
	return nil
}

// finish waits for the attempts in flight, cuts them when grace is over, and gives storing a little longer.
func (f *Fanout) finish(grace time.Duration, cut context.CancelCauseFunc, giveUp context.CancelFunc) {
	done := make(chan struct{})
	go func() {
		f.ordering.Wait()
		f.attempts.Wait()
		close(done)
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
	}
	f.log.Info("attempts still in flight are cut and will be made again", "after", grace)
	cut(ErrStopping)
	timer.Reset(2 * time.Second)
	select {
	case <-done:
	case <-timer.C:
		giveUp() // what is not stored stays unacknowledged in the log, and comes again
		<-done
	}
}

func (f *Fanout) every(ctx context.Context, d time.Duration, step func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			step()
		case <-ctx.Done():
			return
		}
	}
}

// handleEvent gives one event of the log to the lanes of the endpoints that want it.
func (f *Fanout) handleEvent(ctx context.Context, m jetstream.Msg) {
	meta, err := m.Metadata()
	_, _, ok := event.SplitSubject(m.Subject())
	if err != nil || !ok {
		_ = m.Term() // nothing that the relay put there
		return
	}
	ev := newMessage(m.Subject(), m.Headers(), meta.Sequence.Stream, meta.Timestamp, m.Data())
	to, unprepared := f.match(ev)
	if err := f.prepare(ctx, unprepared); err != nil {
		comeAgain(m, time.Second)
		return
	}
	if len(to.active)+len(to.asleep) == 0 {
		_ = m.Ack()
		return
	}
	if len(to.unasked) > 0 {
		f.judge.keep(ev, to.view)
	}
	shares := make([]share, len(to.active)+len(to.asleep))
	for i, e := range slices.Concat(to.active, to.asleep) {
		shares[i].endpoint, shares[i].sequence = e.ID, ev.sequence
	}
	h := f.hold(ctx, m, len(ev.data), shares)
	if h == nil {
		return
	}
	first := func(e *endpoint.Endpoint, i int) *delivery {
		return &delivery{endpoint: e.ID, workspace: ev.workspace, sequence: ev.sequence, id: ev.id, attempt: 1, event: ev, unasked: to.unasked[e.ID], held: h, share: &shares[i]}
	}
	for i, e := range to.active {
		d := first(e, i)
		if delay := f.cfg.Policy.Schedule[0]; delay > 0 {
			f.park(d, time.Now().Add(delay))
			continue
		}
		f.hand(ctx, e, d, true)
	}
	for i, e := range to.asleep {
		f.asleep(e, first(e, len(to.active)+i))
	}
}

// Attempts is how many were made so far, whatever came of them.
func (f *Fanout) Attempts() uint64 { return f.made.Load() }

// hand puts a delivery into its endpoint's lane, or stores it for later if the lane does not take it.
func (f *Fanout) hand(ctx context.Context, e *endpoint.Endpoint, d *delivery, fresh bool) {
	if f.stopping.Load() || !e.Active() || !f.lane(e).offer(ctx, d, fresh) {
		f.backlog(d)
	}
}

func (f *Fanout) lane(e *endpoint.Endpoint) *lane {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lanes[e.ID]
	if l == nil {
		l = newLane(f, e.ID)
		f.lanes[e.ID] = l
		f.swept = nil // e may be of an older snapshot, and gone
	}
	l.setLimits(e.URL, orDefault(e.MaxInFlight, f.cfg.MaxInFlight), perSecond(e, f.cfg.Origin)/float64(f.replicas()))
	return l
}

// perSecond is the rate limit: the endpoint's own, or what its receiver has consented to, if that is less; 0 = none.
func perSecond(e *endpoint.Endpoint, origin string) float64 {
	limit := e.RateLimit
	if g := e.GrantedNow(origin); e.Handshake && g != nil && g.Rate > 0 {
		if granted := float64(g.Rate) / 60; limit == 0 || granted < limit {
			limit = granted
		}
	}
	return limit
}

// Sweep is the step that the sweeper repeats: it stores what waits in lanes that have stopped moving, and forgets lanes
// whose endpoint is gone. Where nothing waits it looks at no lane: ten thousand at rest cost a fiftieth of a processor.
func (f *Fanout) Sweep() {
	snapshot, now := f.cfg.Endpoints.Snapshot(), time.Now()
	if f.forgetGone(snapshot); f.inQueues.Load() > 0 {
		for _, l := range f.allLanes() {
			for _, d := range l.stuck(now) {
				f.backlog(d)
			}
		}
	}
	f.reread.expire(now)
	f.judge.expire(now)
}

// forgetGone forgets the lanes of endpoints that are gone, when endpoints have changed, and later where one still had something to do.
func (f *Fanout) forgetGone(snapshot *endpoint.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.swept == snapshot {
		return
	}
	f.swept = snapshot
	for id, l := range f.lanes {
		switch {
		case snapshot.Get(id) != nil:
		case l.idle():
			delete(f.lanes, id)
		default:
			f.swept = nil
		}
	}
}

func (f *Fanout) allLanes() []*lane {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.lanes))
}

// parkQueues empties every lane into RELAY_RETRY when the relay stops.
func (f *Fanout) parkQueues() {
	for _, l := range f.allLanes() {
		for _, d := range l.takeQueue() {
			f.backlog(d)
		}
	}
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}
