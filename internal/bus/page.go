package bus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Query says which messages of a stream are meant.
type Query struct {
	Stream string // [StreamNex], [StreamAttempts] or [StreamDead]
	// Subjects are the subjects wanted; they may have wildcards and overlap. None = all.
	Subjects []string
	// Before and After are sequences, both exclusive, such as the Next of a page; 0 = no bound.
	Before, After uint64
	// From, inclusive, and To, exclusive, are about when the stream took them; zero = no bound. They become sequences, because the
	// times of a stream rise with its sequences, unless the clock of its server was set back.
	From, To time.Time
	// Limit is how many a page has at most, 1 to [MaxPage]. [Bus.Walk] and [Bus.Count] have no limit.
	Limit  int
	Oldest bool // oldest first; else newest first
	// Heads leaves the bodies out; of use only with Oldest.
	Heads bool
}

// Page is a part of what a [Query] means, in its order.
type Page struct {
	Messages []Stored
	// Next is where the next page begins: its Before, or its After where the oldest come first. 0 says that the stream held no
	// more. A page that follows may still be empty, if what it would have had is gone.
	Next uint64
}

const (
	// MaxPage is the longest page.
	MaxPage = 1000
	// pageBytes is how large a page may become, subjects, headers and bodies together, unless one message alone is larger.
	pageBytes = 8 << 20
	// leanBytes may be read in vain rather than ask again.
	leanBytes = 1 << 20
)

var (
	// ErrQuery is returned for a [Query] that means nothing: the fault is the caller's.
	ErrQuery = errors.New("invalid query")
	// ErrBehind is returned where only replicas of a stream have answered that lack what its leader has. It passes.
	ErrBehind = errors.New("a replica of the stream is behind")
)

// Page reads a part of a stream that ends with the newest message it means, or begins with the oldest. It holds some 16 MiB at
// most, and is shorter than its limit where 8 MiB are full. What was removed from the stream is passed over, also while it is
// being read. It has no holes: in a cluster it contains every message that was acknowledged before the call, or fails with
// [ErrBehind].
func (b *Bus) Page(ctx context.Context, q Query) (Page, error) {
	if q.Limit < 1 || q.Limit > MaxPage {
		return Page{}, fmt.Errorf("%w: a page has 1 to %d messages, not %d", ErrQuery, MaxPage, q.Limit)
	}
	r, err := b.reach(ctx, q)
	if err == nil && !r.empty() {
		var p Page
		if p, err = b.part(ctx, &r, q); err == nil {
			return p, nil
		}
	}
	if err != nil {
		return Page{}, fmt.Errorf("read a page of %s: %w", q.Stream, err)
	}
	return Page{}, nil
}

// Walk hands over everything that a query means and the stream held when it began, page by page, until do answers false or fails.
// It holds as much as [Bus.Page], and nothing of it is open while do is at work: do may take its time.
func (b *Bus) Walk(ctx context.Context, q Query, do func(Stored) (more bool, err error)) error {
	q.Limit = MaxPage
	r, err := b.reach(ctx, q)
	for err == nil && !r.empty() {
		var p Page
		if p, err = b.part(ctx, &r, q); err != nil {
			break
		}
		for i, m := range p.Messages {
			p.Messages[i] = Stored{} // do may keep it, we need not
			if more, err := do(m); err != nil || !more {
				return err
			}
		}
		if p.Next == 0 {
			break
		}
		if q.Oldest {
			r.first = p.Next + 1
		} else {
			r.last = p.Next - 1
		}
	}
	if err != nil {
		return fmt.Errorf("walk %s: %w", q.Stream, err)
	}
	return nil
}

// Count is how many messages a query means, without reading them. It is exact: in a cluster the stream's leader counts, and where
// messages come in so fast that no two counts can be compared, it reads their headers after all.
func (b *Bus) Count(ctx context.Context, q Query) (uint64, error) {
	n, err := b.count(ctx, q)
	if err != nil {
		return 0, fmt.Errorf("count messages of %s: %w", q.Stream, err)
	}
	return n, nil
}

func (b *Bus) count(ctx context.Context, q Query) (uint64, error) {
	r, err := b.reach(ctx, q)
	if err != nil || r.empty() {
		return 0, err
	}
	if q.Before == 0 && q.To.IsZero() {
		return b.countFrom(ctx, &r, r.first)
	}
	// What a span holds is the difference of two counts, and between them more comes in, above the span: the truth lies between
	// the differences to a count before and to one after.
	low, high := uint64(0), uint64(math.MaxUint64)
	before, err := b.countFrom(ctx, &r, r.last+1)
	if err != nil {
		return 0, err
	}
	for i := 0; i < countTries && (i < countTries/8 || high > countFew); i++ {
		all, err := b.countFrom(ctx, &r, r.first)
		if err != nil {
			return 0, err
		}
		after, err := b.countFrom(ctx, &r, r.last+1)
		if err != nil {
			return 0, err
		}
		low, high = max(low, all-min(all, max(before, after))), min(high, all-min(all, min(before, after)))
		if low == high {
			return low, nil
		}
		if low > high { // some were removed meanwhile
			low, high = 0, math.MaxUint64
		}
		before = after
	}
	return b.countHeaders(ctx, &r)
}

// countHeaders counts by reading.
func (b *Bus) countHeaders(ctx context.Context, r *reach) (n uint64, err error) {
	c, _, err := b.followOf(ctx, r.stream, r.consumer(r.first))
	if err != nil {
		return 0, err
	}
	err = b.readFrom(ctx, r, c, r.first, fetchMost, func(Stored, int) bool { n++; return true })
	return n, err
}

const (
	// countTries is how often a count is compared with others before the messages are read instead, an eighth of it if they are few.
	countTries = 32
	countFew   = 4096
)

const (
	// behindTries and behindPause are for how long another replica is tried where one is behind.
	behindTries = 6
	behindPause = 20 * time.Millisecond // then twice as long each time
)

// part reads a page of what a query reaches, and tries again where a replica is behind or a part did not arrive.
func (b *Bus) part(ctx context.Context, r *reach, q Query) (p Page, err error) {
	for i, pause := 0, behindPause; ; i, pause = i+1, 2*pause {
		if q.Oldest {
			p, err = b.oldestPart(ctx, r, q.Limit)
		} else {
			p, err = b.newestPart(ctx, r, q.Limit)
		}
		switch {
		case errors.Is(err, ErrBehind) && i < behindTries:
		case errors.Is(err, nats.ErrNoResponders) && i < behindTries: // the consumer's replica does not lead it yet
		case errors.Is(err, errIncomplete) && i == 0:
		default:
			return p, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return p, ctx.Err()
		}
		if err := b.askNewest(ctx, r); err != nil { // what it should have had may be gone
			return p, err
		}
	}
}

// oldestPart reads the first n messages.
func (b *Bus) oldestPart(ctx context.Context, r *reach, n int) (Page, error) {
	var p Page
	size, more := 0, false
	err := b.read(ctx, r, r.first, uint64(n)+1, func(m Stored, weight int) bool {
		if more = len(p.Messages) == n || len(p.Messages) > 0 && size+weight > pageBytes; more {
			return false
		}
		p.Messages, size = append(p.Messages, m), size+weight
		return true
	})
	if err != nil {
		return Page{}, err
	}
	if more {
		p.Next = p.Messages[len(p.Messages)-1].Sequence
	}
	return p, nil
}

// newestPart reads the last n messages. The counts only say where to begin: where that leaves too few, it goes on below.
func (b *Bus) newestPart(ctx context.Context, r *reach, n int) (Page, error) {
	var p Page
	size, more := 0, false
	for rest := *r; ; {
		want := n + 1 - len(p.Messages) // one more: whether there is a next page
		start, k, err := b.lastOf(ctx, &rest, uint64(want), pageBytes-size)
		if err != nil {
			return Page{}, err
		}
		if len(p.Messages) > 0 && k.size > pageBytes-size { // one alone that does not fit any more
			k.list, k.size, k.full = nil, 0, true
		}
		for _, m := range slices.Backward(k.list) {
			p.Messages = append(p.Messages, m.Stored)
		}
		size += k.size
		r.spread = rest.spread
		enough := len(p.Messages) > n || k.full || size >= pageBytes
		if more = enough || start > r.first; enough || !more {
			break
		}
		rest.last = start - 1
	}
	if len(p.Messages) > n {
		p.Messages = p.Messages[:n]
	}
	if more && len(p.Messages) > 0 {
		p.Next = p.Messages[len(p.Messages)-1].Sequence
	}
	return p, nil
}

// kept is the end of what is added: no more than n, and unless one alone is larger, no more than most bytes.
type kept struct {
	list []weighed // oldest first
	size int       // bytes
	full bool      // some were left out for their size
	n    uint64
	most int
}

type weighed struct {
	Stored
	weight int
}

func (k *kept) add(m Stored, weight int) bool {
	k.list, k.size = append(k.list, weighed{m, weight}), k.size+weight
	for uint64(len(k.list)) > k.n || k.size > k.most && len(k.list) > 1 {
		k.full = k.full || uint64(len(k.list)) <= k.n
		k.size -= k.list[0].weight
		k.list[0] = weighed{}
		k.list = k.list[1:]
	}
	return true
}

// lastOf keeps the last n messages, as many bytes at most, of those from start on.
func (b *Bus) lastOf(ctx context.Context, r *reach, n uint64, most int) (start uint64, k *kept, err error) {
	r.whole = r.average*(n+spare(n, n, 0)) <= leanBytes
	c, start, expected, err := b.begin(ctx, r, n)
	if err != nil {
		return 0, nil, err
	}
	k = &kept{n: n, most: most}
	switch {
	case r.whole:
		err = b.readFrom(ctx, r, c, start, expected, k.add)
	case expected <= few:
		b.drop(c)
		err = b.read(ctx, r, start, expected, k.add)
	default: // which ones they are, and how large, is in the headers
		if err = b.readFrom(ctx, r, c, start, expected, k.add); err == nil && len(k.list) > 0 {
			heads := k
			k = &kept{n: n, most: most, full: heads.full}
			err = b.read(ctx, r, heads.list[0].Sequence, uint64(len(heads.list)), k.add)
		}
	}
	if err != nil {
		return 0, nil, err
	}
	r.learn(start, n, k)
	return start, k, nil
}

// few is how many messages are read whole without a look at their sizes first.
const few = 16

// begin makes a consumer from which the last n messages may follow, and tells where it begins and about how many they are. At the
// stream's end it goes by what the consumers count. Elsewhere that takes in what follows the span, and each count costs the server
// a look into up to half of its blocks: there it goes by how the messages are spread.
func (b *Bus) begin(ctx context.Context, r *reach, n uint64) (c jetstream.Consumer, start, expected uint64, err error) {
	if r.spread == 0 {
		c, held, err := b.followOf(ctx, r.stream, r.consumer(r.first))
		if err != nil || held <= n || r.last == r.end && r.near(n, held, r.first) {
			return c, r.first, held, err
		}
		b.drop(c)
		if r.last == r.end {
			s := r.span
			s.held = held
			return b.tail(ctx, s, n)
		}
		r.spread = float64(r.end-r.first+1) / float64(held)
	}
	expected = n + n/4
	if step := r.spread * float64(expected); step < float64(r.last-r.first) {
		start = r.last - uint64(step)
	} else {
		start = r.first
	}
	c, _, err = b.followOf(ctx, r.stream, r.consumer(start))
	return c, start, expected, err
}

// read hands over the messages of a span from a sequence on, oldest first, with what they weigh, until each answers false. Some
// expected of them are asked for at a time.
func (b *Bus) read(ctx context.Context, r *reach, from, expected uint64, each func(Stored, int) bool) error {
	s := r.span
	s.whole = !r.heads
	c, _, err := b.followOf(ctx, s.stream, s.consumer(from))
	if err != nil {
		return err
	}
	return b.readFrom(ctx, r, c, from, expected, each)
}

// readFrom is read by a consumer that begins at from, and removes it. That it came to the end of the span shows in what follows, or
// in the newest message there is: the replica that answers has all before.
func (b *Bus) readFrom(ctx context.Context, r *reach, c jetstream.Consumer, from, expected uint64, each func(Stored, int) bool) error {
	last, passed := uint64(0), false
	most := min(max(expected, 1)+1, fetchMost)
	err := b.deliverBy(ctx, c, math.MaxUint64, most, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if passed = meta.Sequence.Stream > r.last; passed {
			return errEnough
		}
		last = meta.Sequence.Stream
		stored := Stored{Sequence: last, Time: meta.Timestamp, Subject: m.Subject(), Header: m.Headers(), Data: m.Data()}
		if !each(stored, weight(stored)) {
			passed = true
			return errEnough
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case passed || r.newest == 0 || r.newest < from || last >= r.newest:
		return nil
	}
	return ErrBehind
}

// weight is the bytes of a message, also where it came without its body.
func weight(m Stored) int {
	n := len(m.Subject) + len(m.Data)
	for k, values := range m.Header {
		for _, v := range values {
			n += len(k) + len(v)
		}
	}
	if size, err := strconv.Atoi(m.Header.Get("Nats-Msg-Size")); err == nil {
		n += size
	}
	return n
}

// countFrom is how many messages a stream's leader has from a sequence on.
func (b *Bus) countFrom(ctx context.Context, r *reach, from uint64) (uint64, error) {
	for range leaderTries {
		c, n, err := b.followOf(ctx, r.stream, r.consumer(from))
		if err != nil {
			return 0, err
		}
		info := c.CachedInfo()
		b.drop(c)
		if r.leader == "" || info.Cluster != nil && info.Cluster.Leader == r.leader {
			return n, nil
		}
		// The server chooses where a consumer of one replica is.
	}
	return 0, ErrBehind
}

// leaderTries is how often a consumer is made to have one beside the leader of a stream: of five replicas one in five is.
const leaderTries = 64
