package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/event"
)

// Known is what the log tells of one insight it holds.
type Known struct {
	ID          string
	Fingerprint string
	Subject     string
	Emitted     time.Time // as Nex said; zero if it gave no time
	Stored      time.Time // when the log took it
	Sequence    uint64
}

// Stored is one event as it stands in the log.
type Stored struct {
	Sequence uint64
	Time     time.Time // when the log took it
	Subject  string
	Header   nats.Header
	Data     []byte
}

// ErrNotInLog is returned by [Bus.Get] for a sequence that the log does not hold any more.
var ErrNotInLog = errors.New("no longer in the log")

// Get reads one event by its sequence. Any replica of the stream answers; that the log does not hold it is for the leader to say.
func (b *Bus) Get(ctx context.Context, sequence uint64) (*Stored, error) {
	m, err := b.nex.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		if _, err = b.SubjectAt(ctx, sequence); err == nil {
			err = errors.New("a replica of the stream is behind")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read sequence %d: %w", sequence, err)
	}
	return &Stored{Sequence: m.Sequence, Time: m.Time, Subject: m.Subject, Header: m.Header, Data: m.Data}, nil
}

// Last reads the newest event of a subject, [ErrNotInLog] if there is none.
func (b *Bus) Last(ctx context.Context, subject string) (*Stored, error) {
	m, err := b.nex.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fmt.Errorf("%s: %w", subject, ErrNotInLog)
	}
	if err != nil {
		return nil, fmt.Errorf("read last of %s: %w", subject, err)
	}
	return &Stored{Sequence: m.Sequence, Time: m.Time, Subject: m.Subject, Header: m.Header, Data: m.Data}, nil
}

// First reads the oldest event of a subject, which may have wildcards; [ErrNotInLog] if there is none.
func (b *Bus) First(ctx context.Context, subject string) (*Stored, error) {
	m, err := b.nex.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(subject))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fmt.Errorf("%s: %w", subject, ErrNotInLog)
	}
	if err != nil {
		return nil, fmt.Errorf("read first of %s: %w", subject, err)
	}
	return &Stored{Sequence: m.Sequence, Time: m.Time, Subject: m.Subject, Header: m.Header, Data: m.Data}, nil
}

// Recent is what the log holds of a workspace's newest insights.
type Recent struct {
	Insights []Known // oldest first
	// From is where this begins: every insight of the workspace with this sequence or a later one is in Insights.
	From uint64
	// Complete says that the log holds no others.
	Complete bool
}

// Recent reads back the newest insights of a workspace, headers alone: n of them, or as many as were stored since a time
// if those are more, but never more than most. It costs a handful of requests and the memory of what it returns, whatever
// the size of the log.
func (b *Bus) Recent(ctx context.Context, workspace string, n int, since time.Time, most int) (Recent, error) {
	r, err := b.recent(ctx, event.Subject(workspace, event.InsightPrefix+">"), uint64(n), since, uint64(most))
	if err != nil {
		return Recent{}, fmt.Errorf("read back %s: %w", workspace, err)
	}
	return r, nil
}

func (b *Bus) recent(ctx context.Context, filter string, n uint64, since time.Time, most uint64) (Recent, error) {
	info, err := b.nex.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return Recent{}, err
	}
	var held uint64
	for _, count := range info.State.Subjects {
		held += count
	}
	r, err := b.newest(ctx, filter, info.State, held, n)
	if err != nil || r.Complete || len(r.Insights) == 0 || since.IsZero() || r.Insights[0].Stored.Before(since) {
		return r, err
	}
	from, pending, err := b.follow(ctx, scanConsumer(filter, since))
	if err != nil {
		return Recent{}, err
	}
	if pending > most {
		b.drop(from)
		return b.newest(ctx, filter, info.State, held, most)
	}
	last := newLastOf(most)
	err = b.drain(ctx, from, pending, last.add)
	if known := last.list(); err == nil && len(known) > len(r.Insights) {
		r = Recent{Insights: known, From: known[0].Sequence}
	}
	return r, err
}

// newest reads the n newest messages of filter, of which the log holds about held.
func (b *Bus) newest(ctx context.Context, filter string, state jetstream.StreamState, held, n uint64) (Recent, error) {
	if state.Msgs == 0 {
		return Recent{From: state.LastSeq + 1, Complete: true}, nil
	}
	s := span{stream: StreamNex, filters: []string{filter}, first: state.FirstSeq, last: state.LastSeq, held: held}
	c, start, pending, err := b.tail(ctx, s, n)
	if err != nil {
		return Recent{}, err
	}
	last := newLastOf(n)
	if err := b.drain(ctx, c, pending, last.add); err != nil {
		return Recent{}, err
	}
	r := Recent{Insights: last.list(), From: start, Complete: start == state.FirstSeq && last.seen <= n}
	if len(r.Insights) > 0 && !r.Complete {
		r.From = r.Insights[0].Sequence
	}
	return r, nil
}

// lastOf keeps the last n of what is added, and no more memory than they need.
type lastOf struct {
	ring     []Known
	seen, n  uint64
	subjects map[string]string // a few subjects stand thousands of times
}

func newLastOf(n uint64) *lastOf { return &lastOf{n: n, subjects: map[string]string{}} }

func (l *lastOf) add(k Known) bool {
	if subject, ok := l.subjects[k.Subject]; ok {
		k.Subject = subject
	} else {
		l.subjects[k.Subject] = k.Subject
	}
	if uint64(len(l.ring)) < l.n {
		l.ring = append(l.ring, k)
	} else {
		l.ring[l.seen%l.n] = k
	}
	l.seen++
	return true
}

// list is what was kept, oldest first.
func (l *lastOf) list() []Known {
	if l.seen <= l.n {
		return l.ring
	}
	first := l.seen % l.n
	return slices.Concat(l.ring[first:], l.ring[:first])
}

// Scan reads the insights of a workspace that were stored since a time, oldest first, headers alone, until the end or
// until each answers false. A zero time begins with the newest most. It holds a bounded part of them at a time.
func (b *Bus) Scan(ctx context.Context, workspace string, since time.Time, most int, each func(Known) bool) error {
	err := b.scan(ctx, event.Subject(workspace, event.InsightPrefix+">"), since, uint64(most), each)
	if err != nil {
		return fmt.Errorf("scan %s: %w", workspace, err)
	}
	return nil
}

func (b *Bus) scan(ctx context.Context, filter string, since time.Time, most uint64, each func(Known) bool) error {
	var c jetstream.Consumer
	var pending uint64
	if since.IsZero() {
		info, err := b.nex.Info(ctx)
		if err != nil {
			return err
		}
		if info.State.Msgs == 0 {
			return nil
		}
		s := span{stream: StreamNex, filters: []string{filter}, first: info.State.FirstSeq, last: info.State.LastSeq}
		if c, _, pending, err = b.tail(ctx, s, most); err != nil {
			return err
		}
	} else {
		var err error
		if c, pending, err = b.follow(ctx, scanConsumer(filter, since)); err != nil {
			return err
		}
	}
	return b.drain(ctx, c, pending, each)
}

const (
	// fewTooMany is how many messages may be read in vain: finding a closer start would take as long.
	fewTooMany = 1024
	// sparse is among how many others a message stands where the server reads a block of its store for each: the same time
	// finds a start so close that hardly any is read in vain.
	sparse = 2048
)

// spare is how many of pending messages may be read in vain to have the n newest, where they lie in a span of the log.
func spare(n, pending, span uint64) uint64 {
	if span/max(pending, 1) >= sparse {
		return n / 16
	}
	return max(n/4, fewTooMany)
}

// span is a part of a stream, and what of it is looked for.
type span struct {
	stream      string
	filters     []string // none = all; none is a part of another
	first, last uint64   // sequences, both inclusive
	held        uint64   // about how many messages it has; 0 = not known
	average     uint64   // bytes of a message of the stream; 0 = not known
	whole       bool     // bodies too
}

// near tells whether a start after which pending messages follow is close enough to the n newest. Where the size of the messages is
// known, what lies between must not be much more than a block of the server's store either: it reads them whole, for milliseconds each.
func (s span) near(n, pending, start uint64) bool {
	vain := pending - min(pending, n)
	if vain > spare(n, pending, s.last-start) {
		return false
	}
	return vain <= n/16 || (s.last-start)/pending*vain*s.average <= blockBytes/2
}

// blockBytes is the size of a block of the server's file store, see its FileStoreMaxBlkSize.
const blockBytes = 8 << 20

// consumer is one that begins within the span.
func (s span) consumer(start uint64) jetstream.ConsumerConfig {
	cfg := tailConsumer("", start)
	if len(s.filters) == 1 {
		cfg.FilterSubject = s.filters[0]
	} else {
		cfg.FilterSubjects = s.filters
	}
	cfg.HeadersOnly = !s.whole
	return cfg
}

// tail finds a sequence from which at least n messages of a span follow, and answers a consumer that begins there and how
// many do. JetStream cannot start "n before the end" of a subject, but says at once how many messages would follow a
// start: so the start goes back in growing steps, then in halves if one step caught many more than are wanted.
func (b *Bus) tail(ctx context.Context, s span, n uint64) (c jetstream.Consumer, start, pending uint64, err error) {
	first, last := s.first, s.last
	step := max(2*n, 1024)
	switch {
	case s.held > 0 && s.held <= 2*n:
		step = last - first + 1
	case s.held > 0:
		step = max(step, (last-first+1)/s.held*(n+n/4)) // as if they were spread evenly
	}
	tooFew := last + 1
	for {
		start = first
		if last-first > step {
			start = last - step
		}
		if c, pending, err = b.followOf(ctx, s.stream, s.consumer(start)); err != nil {
			return nil, 0, 0, err
		}
		if pending >= n || start == first {
			break
		}
		b.drop(c)
		tooFew, step = start, step*16
	}
	for !s.near(n, pending, start) && start+1 < tooFew {
		mid := start + (tooFew-start)/2
		closer, p, err := b.followOf(ctx, s.stream, s.consumer(mid))
		if err != nil {
			b.drop(c)
			return nil, 0, 0, err
		}
		if p >= n {
			b.drop(c)
			c, start, pending = closer, mid, p
		} else {
			b.drop(closer)
			tooFew = mid
		}
	}
	return c, start, pending, nil
}

// follow makes a consumer of the log and tells how many messages it has before it.
func (b *Bus) follow(ctx context.Context, cfg jetstream.ConsumerConfig) (jetstream.Consumer, uint64, error) {
	return b.followOf(ctx, StreamNex, cfg)
}

// followOf is follow for any stream.
func (b *Bus) followOf(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, uint64, error) {
	c, err := b.js.CreateConsumer(ctx, stream, cfg)
	if err != nil {
		return nil, 0, err
	}
	return c, c.CachedInfo().NumPending, nil
}

// drop removes a consumer that is not needed any more. It would end by itself.
func (b *Bus) drop(c jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	info := c.CachedInfo()
	_ = b.js.DeleteConsumer(ctx, info.Stream, info.Name)
}

func tailConsumer(filter string, start uint64) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		FilterSubject:     filter,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       start,
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       true,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 10 * time.Second,
	}
}

func scanConsumer(filter string, since time.Time) jetstream.ConsumerConfig {
	cfg := tailConsumer(filter, 0)
	cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	return cfg
}

// headers reads count messages of c and removes it.
func (b *Bus) headers(ctx context.Context, c jetstream.Consumer, count uint64) ([]Known, error) {
	out := make([]Known, 0, count)
	err := b.drain(ctx, c, count, func(k Known) bool {
		out = append(out, k)
		return true
	})
	return out, err
}

func known(m jetstream.Msg, meta *jetstream.MsgMetadata) Known {
	h := m.Headers()
	k := Known{
		ID: h.Get(nats.MsgIdHdr), Fingerprint: h.Get(HeaderFingerprint), Subject: m.Subject(),
		Stored: meta.Timestamp, Sequence: meta.Sequence.Stream,
	}
	if at := h.Get(HeaderEmitted); at != "" {
		k.Emitted, _ = time.Parse(time.RFC3339Nano, at) // ours; a foreign one counts as none
	}
	return k
}

// After reads the insights of one subject with a sequence greater than after, oldest first, headers alone, and answers the
// sequence of the subject's newest, 0 if the log holds none. It asks the stream's leader, and where a replica of the
// stream is behind the leader it fails rather than answer less.
func (b *Bus) After(ctx context.Context, subject string, after uint64) ([]Known, uint64, error) {
	last, err := b.lastSequence(ctx, subject)
	if err != nil || last <= after {
		return nil, last, err
	}
	c, pending, err := b.follow(ctx, tailConsumer(subject, after+1))
	if err != nil {
		return nil, 0, fmt.Errorf("read %s after %d: %w", subject, after, err)
	}
	list, err := b.headers(ctx, c, pending)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s after %d: %w", subject, after, err)
	}
	if len(list) == 0 || list[len(list)-1].Sequence < last {
		return nil, 0, fmt.Errorf("read %s after %d: a replica of the stream is behind", subject, after)
	}
	return list, list[len(list)-1].Sequence, nil
}

// lastSequence is the sequence of a subject's newest event, 0 if there is none.
func (b *Bus) lastSequence(ctx context.Context, subject string) (uint64, error) {
	m, err := b.askLeader(ctx, StreamNex, map[string]any{"last_by_subj": subject})
	if errors.Is(err, ErrNotInLog) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("last sequence of %s: %w", subject, err)
	}
	return m.Sequence, nil
}

// SubjectAt is the subject of the event with a sequence, or [ErrNotInLog].
func (b *Bus) SubjectAt(ctx context.Context, sequence uint64) (string, error) {
	m, err := b.askLeader(ctx, StreamNex, map[string]any{"seq": sequence})
	if err != nil {
		return "", fmt.Errorf("sequence %d: %w", sequence, err)
	}
	return m.Subject, nil
}

// askLeader gets a message from a stream's leader, or [ErrNotInLog]. A direct get, which the client would use, may be answered by
// a replica that is behind.
func (b *Bus) askLeader(ctx context.Context, stream string, request map[string]any) (*Stored, error) {
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Sequence uint64    `json:"seq"`
			Time     time.Time `json:"time"`
			Subject  string    `json:"subject"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
		} `json:"message"`
	}
	if err := b.call(ctx, "STREAM.MSG.GET."+stream, request, &answer); err != nil {
		return nil, err
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, ErrNotInLog
		}
		return nil, answer.Error
	}
	m := &Stored{Sequence: answer.Message.Sequence, Time: answer.Message.Time, Subject: answer.Message.Subject, Data: answer.Message.Data}
	if len(answer.Message.Header) > 0 {
		var err error
		if m.Header, err = nats.DecodeHeadersMsg(answer.Message.Header); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// call asks JetStream for what the client does not offer as it is needed.
func (b *Bus) call(ctx context.Context, operation string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	m, err := b.nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+operation, body)
	if err != nil {
		return err
	}
	return json.Unmarshal(m.Data, answer)
}
