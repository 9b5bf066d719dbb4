package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

// consumer is one that the test plays: what it is asked, and how it answers.
type consumer struct {
	t     *testing.T
	bus   *bus.Bus
	asked chan *nats.Msg
}

func playConsumer(t *testing.T) *consumer {
	t.Helper()
	c := &consumer{t: t, bus: bustest.Open(t, bustest.Config(t)), asked: make(chan *nats.Msg, 16)}
	sub, err := c.bus.Conn().ChanSubscribe("$JS.API.CONSUMER.MSG.NEXT.PLAYED.c", c.asked)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return c
}

// request is the next one that comes, and how many messages it asks for.
func (c *consumer) request() (m *nats.Msg, batch int) {
	c.t.Helper()
	select {
	case m = <-c.asked:
	case <-time.After(2 * time.Minute):
		c.t.Fatal("no request has come")
	}
	var r struct{ Batch int }
	if err := json.Unmarshal(m.Data, &r); err != nil {
		c.t.Fatal(err)
	}
	return m, r.Batch
}

func (c *consumer) give(request *nats.Msg, from, to int) {
	for i := from; i < to; i++ {
		_ = c.bus.Conn().Publish(request.Reply, fmt.Append(nil, i))
	}
}

func (c *consumer) say(request *nats.Msg, status, why string, pending int) {
	m := &nats.Msg{Subject: request.Reply, Header: nats.Header{"Status": {status}, "Description": {why}}}
	if pending >= 0 {
		m.Header.Set("Nats-Pending-Messages", fmt.Sprint(pending))
	}
	_ = c.bus.Conn().PublishMsg(m)
}

// arrived returns when what was sent before has reached who pulls: the connection is the same.
func (c *consumer) arrived() {
	c.t.Helper()
	if err := c.bus.Conn().Flush(); err != nil {
		c.t.Fatal(err)
	}
}

func ended(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A reader that is busy gets all that it has asked for, whatever the server has said beside.
func TestPullHasRoomForAllThatItAskedFor(t *testing.T) {
	t.Parallel()
	c := playConsumer(t)
	p, err := c.bus.Pull("PLAYED", "c", 100)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(0, func(jetstream.Msg) {})
	if _, err := p.Next(ended(t)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	seen := 0
	for range 3 { // the reader asks, and is busy until all of it has come
		r, n := c.request()
		for range 10 {
			c.say(r, "100", "Idle Heartbeat", 0)
		}
		c.say(r, "409", "Batch Completed", 0)
		c.give(r, seen, seen+n)
		c.arrived()
		for end := seen + n; seen < end; seen++ {
			m, err := p.Next(limited(t))
			if err != nil || string(m.Data()) != fmt.Sprint(seen) {
				t.Fatalf("%v instead of message %d (%v)", m, seen, err)
			}
		}
		if _, err := p.Next(ended(t)); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
}

// One whose reader no longer waits asks no second time, and hands over what comes late: to the reader, or at the end.
func TestPullNowLeavesNothing(t *testing.T) {
	t.Parallel()
	c := playConsumer(t)
	p, err := c.bus.PullNow("PLAYED", "c", 3)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := p.Next(ended(t)); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	r, n := c.request()
	if n != 3 || len(c.asked) > 0 {
		t.Errorf("asked for %d, and %d times more", n, len(c.asked))
	}
	c.give(r, 0, 1)
	if m, err := p.Next(limited(t)); err != nil || string(m.Data()) != "0" {
		t.Errorf("%v, %v", m, err)
	}
	c.give(r, 1, 3)
	c.arrived()
	var late []string
	p.Close(10*time.Second, func(m jetstream.Msg) { late = append(late, string(m.Data())) })
	if fmt.Sprint(late) != "[1 2]" {
		t.Errorf("%v came late", late)
	}
}

func TestPullHearsWhatIsSaidOfARequest(t *testing.T) {
	t.Parallel()
	c := playConsumer(t)
	p, err := c.bus.PullNow("PLAYED", "c", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(0, func(jetstream.Msg) {})
	next := make(chan error, 1)
	wait := func() { go func() { _, err := p.Next(limited(t)); next <- err }() }

	wait()
	r, _ := c.request()
	c.say(r, "404", "No Messages", -1)
	if err := <-next; !errors.Is(err, bus.ErrNothing) {
		t.Errorf("%v, and there is nothing", err)
	}
	wait()
	r, _ = c.request()
	c.say(r, "409", "Leadership Change", -1)
	r, _ = c.request() // by the same wait: the next leader knows nothing of the first
	c.give(r, 0, 1)
	if err := <-next; err != nil {
		t.Error(err)
	}
	c.say(r, "409", "Consumer Deleted", -1)
	wait()
	if err := <-next; err == nil || errors.Is(err, bus.ErrNothing) {
		t.Errorf("%v, and there is no consumer any more", err)
	}
	nobody, err := c.bus.PullNow("PLAYED", "nobody", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close(0, func(jetstream.Msg) {})
	if _, err := nobody.Next(limited(t)); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("%v, and there is no consumer", err)
	}
}

// A request of which nothing is heard is lost, and what has ended without all its messages leaves room for others.
func TestPullAsksAgain(t *testing.T) {
	t.Parallel()
	c := playConsumer(t)
	p, err := c.bus.Pull("PLAYED", "c", 10)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(0, func(jetstream.Msg) {})
	p.SetQuiet(20 * time.Millisecond)
	done := make(chan error, 1)
	go func() { _, err := p.Next(limited(t)); done <- err }()
	c.request() // and nothing comes of it
	r, n := c.request()
	c.say(r, "408", "Request Timeout", n)
	r, _ = c.request()
	c.give(r, 0, 1)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
