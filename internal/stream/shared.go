package stream

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// outage is how long no stream may have come up, while some tried, for Nex to count as having been away.
	outage = 3 * time.Second
	// largeAnswers is how many answers over REST of more than nex.SmallAnswer are held at once: with 64 MiB each at most, and
	// all others small, 32 requests hold 192 MiB of answers.
	largeAnswers = 2
	// Nex also counts as away while few of the dials succeed, and as back when most do again. Each dial counts for an
	// eighth, those before it for the rest, so that it takes some of them to turn the one into the other.
	dialWeight      = 1. / 8
	mostFail, fewDo = 0.75, 0.25 // shares of dials that fail
	// readBacksAtOnce is how many streams read the log back at once when they start. Each has a consumer for that: thousands at
	// once take NATS's limit of them and as many MB, and are not done sooner.
	readBacksAtOnce = 32
)

// shared is what the streams of a replica have in common: what they may ask of Nex together, and the news that it is
// back. Alone, a stream that has waited for long would wait on after an outage is over; all at once they would be the
// next one.
type shared struct {
	readBacks chan struct{} // a place for each stream that reads the log back
	dials     chan struct{} // a place for each connection attempt under way
	dialRate  *rate.Limiter
	fetches   chan struct{} // a place for each REST request, until what it brought is handed over
	large     chan struct{} // and for each of those whose answer is large

	mu      sync.Mutex
	holders map[string]map[string]bool // by Nex's id of a workspace: the tokens of those that stand for it
	failing float64                    // the share of the last dials that failed
	partial bool                       // most did
	lastUp  time.Time                  // when a stream last came up
	tried   bool                       // one failed since
	back    chan struct{}              // closed when Nex is back
}

func newShared(cfg *Config) *shared {
	return &shared{
		dials: make(chan struct{}, cfg.MaxDials), fetches: make(chan struct{}, cfg.MaxFetches),
		large:     make(chan struct{}, largeAnswers),
		readBacks: make(chan struct{}, readBacksAtOnce),
		dialRate:  rate.NewLimiter(rate.Limit(cfg.DialsPerSecond), cfg.MaxDials), back: make(chan struct{}),
		holders: map[string]map[string]bool{},
	}
}

// failed notes that Nex could not be reached, and answers what is closed when it can again.
func (s *shared) failed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried = true
	s.failing += (1 - s.failing) * dialWeight
	s.partial = s.partial || s.failing > mostFail
	return s.back
}

// succeeded notes that a stream came up. After an outage all that wait try at once, as fast as dialRate lets them.
func (s *shared) succeeded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.failing -= s.failing * dialWeight
	ended := s.partial && s.failing < fewDo
	if ended || s.tried && now.Sub(s.lastUp) >= outage {
		s.partial = s.partial && !ended
		close(s.back)
		s.back = make(chan struct{})
	}
	s.lastUp, s.tried = now, false
}

// hold notes that a workspace of the configuration stands for this one of Nex's, and answers another that does too, or "".
func (s *shared) hold(id, token string) (other string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == "" {
		return ""
	}
	if s.holders[id] == nil {
		s.holders[id] = map[string]bool{}
	}
	s.holders[id][token] = true
	for t := range s.holders[id] {
		if t != token && (other == "" || t < other) {
			other = t
		}
	}
	return other
}

// letGo ends what hold noted.
func (s *shared) letGo(id, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.holders[id], token); len(s.holders[id]) == 0 {
		delete(s.holders, id)
	}
}
