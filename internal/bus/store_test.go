package bus

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/event"
)

// nats-server gives a stream up when a write fails. It is started anew when the disk takes writes again, and everything
// goes on where it was, on the same address.
func TestServerInsideIsStartedAnewAfterItsStoreFailed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	b, err := Open(ctx, Config{
		Embedded: Embedded{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"}, Stream: Limits{MaxAge: time.Hour, DuplicateWindow: time.Minute},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	publish := func(id string) error {
		e, err := event.News("acme", event.GapFilled, "", nil, time.Now())
		if err != nil {
			return err
		}
		_, err = b.Append(ctx, e, id, Anywhere)
		return err
	}
	if err := publish("before"); err != nil {
		t.Fatal(err)
	}
	url, first := b.ClientURL(), b.embedded.server
	b.embedded.logger.heard("JetStream failed to store a msg on stream '$G > NEX': no space left on device")
	anew := func() bool { return b.embedded.current() != first } // which may be soon
	if !b.embedded.broken() && !anew() {
		t.Fatal("what the server says is not heard")
	}
	if b.Writable() && !anew() {
		t.Error("a broken store counts as one that takes writes")
	}
	for b.embedded.broken() || !b.Connected() || !anew() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("not started anew")
		}
	}
	for publish("after") != nil && ctx.Err() == nil {
	}
	info, err := b.nex.Info(ctx)
	if err != nil || info.State.Msgs != 2 {
		t.Errorf("%+v %v", info, err)
	}
	if !b.Writable() {
		t.Error("the store still counts as broken")
	}
	if b.ClientURL() != url {
		t.Errorf("listens on %s, before on %s", b.ClientURL(), url)
	}
}

func TestProbeDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := probeDisk(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v left behind, %v", left, err)
	}
	if err := probeDisk(dir + "/none"); err == nil {
		t.Error("a directory that is not there takes writes")
	}
}
