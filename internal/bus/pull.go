package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrNothing is returned by [Pull.Next] of [Bus.PullNow] where a consumer has nothing to give now.
var ErrNothing = errors.New("the consumer has no message now")

// Pull has a consumer's messages come. It is for one goroutine, but for the messages.
//
// It stands for two of nats.go's own ways (v1.55.0). Messages makes room for as many messages as it asks for, and for no word of the
// server beside them: one whose reader is busy drops a message, which comes again when its acknowledgement is overdue. It asks for more
// only when somebody begins to wait, and not while its last request is being sent. FetchNoWait gives up after a second, also on messages
// that are on their way. A Pull leaves nothing that it has asked for before its [Pull.Close].
type Pull struct {
	nc      *nats.Conn
	subject string // of requests
	noWait  bool
	quiet   time.Duration // pullQuiet, or less in a test
	most    int
	batch   int // what is open at most

	sub     *nats.Subscription
	come    chan *nats.Msg
	up      chan nats.Status
	drained chan struct{} // closed when nothing more can come

	open    int // messages that were asked for, and have neither been handed over nor declined
	askedAt time.Time
}

const (
	// pullLeast is how many messages are asked for at a time where a reader takes long for them: they are somebody else's
	// when their acknowledgement is overdue.
	pullLeast = 64
	// pullSoon and pullLate are within what time a reader is to be through with what was asked for at a time. Much at a time is cheap:
	// nats-server decompresses a block of its store for a part of it as for all of it, and keeps it until garbage is collected.
	pullSoon, pullLate = 250 * time.Millisecond, time.Second
	// pullBytes is how many bytes are asked for at a time at most.
	pullBytes = 32 << 20
	// pullWords is room for what the server says of requests, beside messages: a word each, and one each pullBeat while one stands open.
	pullWords = 64
	// pullExpires is how long a request stands open, pullBeat how often the server says meanwhile that it does, pullQuiet after what
	// silence it is taken for lost.
	pullExpires, pullBeat, pullQuiet = 30 * time.Second, 10 * time.Second, 21 * time.Second
	// pullAgain is how soon it is looked whether a request can be made, where that failed.
	pullAgain = time.Second
)

// Pull has the messages of a consumer come, most at a time at most; fewer where the reader is slow.
func (b *Bus) Pull(stream, consumer string, most int) (*Pull, error) {
	return pull(b.nc, nextSubject(stream, consumer), most, false)
}

// PullNow has the messages of a consumer come that it can give now, most at a time.
func (b *Bus) PullNow(stream, consumer string, most int) (*Pull, error) {
	return pull(b.nc, nextSubject(stream, consumer), most, true)
}

func nextSubject(stream, consumer string) string {
	return jetstream.DefaultAPIPrefix + "CONSUMER.MSG.NEXT." + stream + "." + consumer
}

func pull(nc *nats.Conn, subject string, most int, noWait bool) (*Pull, error) {
	p := &Pull{
		nc: nc, subject: subject, noWait: noWait, quiet: pullQuiet, most: most, batch: min(most, pullLeast),
		come: make(chan *nats.Msg, 2*most+pullWords), drained: make(chan struct{}),
	}
	var ended sync.Once
	var err error
	if p.sub, err = nc.ChanSubscribe(nc.NewInbox(), p.come); err != nil {
		return nil, fmt.Errorf("pull: %w", err)
	}
	p.sub.SetClosedHandler(func(string) { ended.Do(func() { close(p.drained) }) }) // twice where the connection is closed meanwhile
	p.up = nc.StatusChanged(nats.CONNECTED)
	return p, nil
}

// Next waits for a message. It fails with ctx's error, [ErrNothing], or what only a new consumer or a new Pull may heal.
func (p *Pull) Next(ctx context.Context) (jetstream.Msg, error) {
	for {
		p.ask()
		m, err := p.receive(ctx)
		if err != nil {
			return nil, err
		}
		switch {
		case m == nil: // the request is lost
			p.open = 0
		case isWord(m):
			if err := p.hear(m); err != nil {
				return nil, err
			}
		default:
			p.open--
			return newPulled(p.nc, m), nil
		}
	}
}

// ask asks for more where little is open.
func (p *Pull) ask() {
	if p.open > p.batch/8 || p.noWait && p.open > 0 || !p.nc.IsConnected() {
		return
	}
	now := time.Now()
	switch took := now.Sub(p.askedAt); {
	case p.noWait:
		p.batch = p.most
	case took < pullSoon:
		p.batch = min(2*p.batch, p.most)
	case took > pullLate:
		p.batch = max(p.batch/2, min(p.most, pullLeast))
	}
	n := p.batch - max(p.open, 0)
	request := map[string]any{"batch": n}
	if p.noWait {
		request["no_wait"] = true
	} else {
		request["expires"], request["idle_heartbeat"], request["max_bytes"] = pullExpires, pullBeat, pullBytes
	}
	body, err := json.Marshal(request)
	if err == nil {
		err = p.nc.PublishRequest(p.subject, p.sub.Subject, body)
	}
	if err == nil { // else the connection is away: it is tried again
		p.open, p.askedAt = max(p.open, 0)+n, now
	}
}

// receive waits for what comes next, nil where nothing does that was asked for.
func (p *Pull) receive(ctx context.Context) (*nats.Msg, error) {
	select {
	case m := <-p.come:
		return m, nil
	default:
	}
	patience := p.quiet
	if p.open <= 0 {
		patience = pullAgain
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case m := <-p.come:
		return m, nil
	case <-p.up: // requests are forgotten with the connection on which they came
	case <-timer.C:
		if p.nc.IsClosed() {
			return nil, nats.ErrConnectionClosed
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return nil, nil
}

// isWord tells whether a message is none of the stream but a word about a request.
func isWord(m *nats.Msg) bool { return len(m.Data) == 0 && m.Header.Get("Status") != "" }

// hear takes what the server says about a request.
func (p *Pull) hear(m *nats.Msg) error {
	status, why := m.Header.Get("Status"), m.Header.Get("Description")
	left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	switch {
	case status == "100": // it stands open
		return nil
	case status == "503":
		return nats.ErrNoResponders
	case p.noWait && (status == "404" || status == "408"):
		p.open = 0
		return ErrNothing
	case err == nil: // it has ended, and so much of it will not come
		p.open -= left
		return nil
	case status == "409" && (strings.Contains(why, "Leadership Change") || strings.Contains(why, "Server Shutdown")):
		p.open = 0
		return nil
	}
	return fmt.Errorf("pull: %s %s", status, why)
}

// Close ends the asking, and hands over what had been asked for and comes within a time.
func (p *Pull) Close(within time.Duration, each func(jetstream.Msg)) {
	defer p.nc.RemoveStatusListener(p.up)
	if p.sub.Drain() != nil { // the connection is away, and what was on its way with it
		_ = p.sub.Unsubscribe()
	}
	late := time.NewTimer(within)
	defer late.Stop()
	for end := false; ; {
		select {
		case m := <-p.come:
			if !isWord(m) {
				each(newPulled(p.nc, m))
			}
			continue
		default:
		}
		if end {
			return
		}
		select {
		case m := <-p.come:
			if !isWord(m) {
				each(newPulled(p.nc, m))
			}
		case <-p.drained:
			end = true
		case <-late.C:
			end = true
		}
	}
}

// pulled is a message of a consumer.
type pulled struct {
	nc   *nats.Conn
	msg  *nats.Msg
	meta jetstream.MsgMetadata
	err  error // why it has no meta
}

func newPulled(nc *nats.Conn, m *nats.Msg) *pulled {
	p := &pulled{nc: nc, msg: m}
	meta, err := m.Metadata()
	if err != nil {
		p.err = err
		return p
	}
	p.meta = jetstream.MsgMetadata{
		Sequence:     jetstream.SequencePair{Consumer: meta.Sequence.Consumer, Stream: meta.Sequence.Stream},
		NumDelivered: meta.NumDelivered, NumPending: meta.NumPending, Timestamp: meta.Timestamp,
		Stream: meta.Stream, Consumer: meta.Consumer, Domain: meta.Domain,
	}
	return p
}

// What a consumer is told of a message.
var (
	ackDone     = []byte("+ACK")
	ackAgain    = []byte("-NAK")
	ackProgress = []byte("+WPI")
	ackNever    = []byte("+TERM")
)

func (p *pulled) Metadata() (*jetstream.MsgMetadata, error) {
	if p.err != nil {
		return nil, p.err
	}
	return &p.meta, nil
}

func (p *pulled) Data() []byte         { return p.msg.Data }
func (p *pulled) Headers() nats.Header { return p.msg.Header }
func (p *pulled) Subject() string      { return p.msg.Subject }
func (p *pulled) Reply() string        { return p.msg.Reply }
func (p *pulled) Ack() error           { return p.nc.Publish(p.msg.Reply, ackDone) }
func (p *pulled) Nak() error           { return p.nc.Publish(p.msg.Reply, ackAgain) }
func (p *pulled) InProgress() error    { return p.nc.Publish(p.msg.Reply, ackProgress) }
func (p *pulled) Term() error          { return p.nc.Publish(p.msg.Reply, ackNever) }

func (p *pulled) TermWithReason(reason string) error {
	return p.nc.Publish(p.msg.Reply, fmt.Appendf(nil, "%s %s", ackNever, reason))
}

func (p *pulled) NakWithDelay(delay time.Duration) error {
	return p.nc.Publish(p.msg.Reply, fmt.Appendf(nil, `%s {"delay": %d}`, ackAgain, delay.Nanoseconds()))
}

func (p *pulled) DoubleAck(ctx context.Context) error {
	_, err := p.nc.RequestWithContext(ctx, p.msg.Reply, ackDone)
	return err
}
