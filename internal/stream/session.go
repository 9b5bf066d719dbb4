package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
)

// greetTime is how long Nex's greeting is waited for before the stream counts as connected without it.
const greetTime = 5 * time.Second

// sameWorkspace is the type of the news that two workspaces of the configuration are one of Nex's.
const sameWorkspace = "nex.relay.same_workspace"

// session is one connection: from the dial to its end. lived is how long it was up, retry what the server asks to wait
// before the next, err why it ended.
func (s *stream) session(ctx context.Context) (lived, retry time.Duration, err error) {
	s.count.enter(StateConnecting, s.cfg.Now())
	feed, err := s.dial(ctx)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	ctx, end := context.WithCancel(ctx)
	var side sync.WaitGroup
	side.Go(func() { s.accompany(ctx, feed) })
	s.count.enter(StateConnected, s.cfg.Now())
	s.gap.cameUp(s.cfg.Now())
	err = s.read(ctx, feed)
	s.gap.wentDown(s.cfg.Now())
	end()
	apart(func() { _ = feed.Close() })
	side.Wait()
	lived = time.Since(start)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return lived, 0, err
	}
	s.count.enter(StateWaiting, s.cfg.Now())
	apart(func() {
		s.news(context.WithoutCancel(ctx), event.StreamDisconnected, map[string]any{"reason": err.Error(), "connected_for_seconds": int(lived.Seconds())})
	})
	retry, _ = feed.Retry()
	return lived, retry, err
}

func (s *stream) dial(ctx context.Context) (feed *nex.Feed, err error) {
	if err := s.shared.dialRate.Wait(ctx); err != nil {
		return nil, err
	}
	select {
	case s.shared.dials <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.shared.dials }()
	apart(func() { feed, err = s.cfg.Client.Stream(ctx, s.workspace.Key) })
	if err == nil {
		s.shared.succeeded()
	}
	return feed, err
}

// accompany waits for Nex's greeting beside reading, says so, and has the gap before this connection filled.
func (s *stream) accompany(ctx context.Context, feed *nex.Feed) {
	greeted := time.NewTimer(greetTime)
	defer greeted.Stop()
	select {
	case <-feed.Connected():
	case <-greeted.C:
	case <-ctx.Done():
		return
	}
	workspaceID, tokenID := feed.Identity()
	s.count.update(func(st *Status) { st.WorkspaceID, st.TokenID, st.LastError = workspaceID, tokenID, "" })
	s.log.Info("stream connected", "workspace_id", workspaceID, "token_id", tokenID)
	signal(s.gap.connected) // what is asked for while the news wait for room is asked for after it
	s.news(ctx, event.StreamConnected, map[string]any{"workspace_id": workspaceID, "token_id": tokenID})
	s.compare(ctx, workspaceID)
	s.lookForGaps()
}

// compare says once where two workspaces of the configuration are one of Nex's: each insight is then in the log twice.
func (s *stream) compare(ctx context.Context, workspaceID string) {
	if s.nexID != workspaceID {
		s.shared.letGo(s.nexID, s.workspace.Token)
		s.nexID = workspaceID
	}
	other, warning := s.shared.hold(workspaceID, s.workspace.Token), ""
	if other != "" {
		warning = fmt.Sprintf("the workspace %s has a key of the same workspace of Nex (%s): every insight is in the log twice, remove one of the two", other, workspaceID)
	}
	s.count.update(func(st *Status) { st.Warning = warning })
	if warning == "" || warning == s.warned {
		return
	}
	s.warned = warning
	s.log.Warn(warning)
	s.news(ctx, sameWorkspace, map[string]any{"workspace_id": workspaceID, "other": other})
}

// read takes events until the connection ends; the error is never nil.
func (s *stream) read(ctx context.Context, feed *nex.Feed) (err error) {
	for err == nil {
		if err = s.await(ctx, feed); err == nil {
			apart(func() { err = s.takeAll(ctx, feed) })
		}
	}
	if ctx.Err() == nil && errors.Is(err, io.EOF) {
		return errStreamEnded
	}
	return err
}

// await returns when something has come. While NATS is away nothing more is read: what waits stays in the connection, not in our
// memory.
func (s *stream) await(ctx context.Context, feed *nex.Feed) error {
	if err := s.cfg.Bus.WaitConnected(ctx); err != nil {
		return err
	}
	return feed.Wait()
}

// takeAll takes events for as long as they come: with a keepalive between them, the stream is taken to be a quiet one again.
func (s *stream) takeAll(ctx context.Context, feed *nex.Feed) error {
	for {
		took, err := s.takeCome(ctx, feed)
		if err != nil || !took {
			return err
		}
		if err := s.await(ctx, feed); err != nil {
			return err
		}
	}
}

// takeCome takes the events that have come, and answers whether there were any.
func (s *stream) takeCome(ctx context.Context, feed *nex.Feed) (took bool, err error) {
	for {
		frame, ok := feed.Take()
		if !ok {
			return took, nil
		}
		s.lastError, took = "", true
		if err := s.handle(frame); err != nil {
			return true, err
		}
		if err := s.cfg.Bus.WaitConnected(ctx); err != nil {
			return true, err
		}
	}
}
