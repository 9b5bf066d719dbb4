package webhook

import (
	"context"
	"syscall"
)

// HookDials has hook decide about every connection that s is about to make: it gets the address and what the guard says to it.
// Proxies that are allowed by name are dialled without a guard, and not hooked.
func HookDials(s *Sender, hook func(address string, verdict error) error) {
	guarded := s.transports.dialer.ControlContext
	s.transports.dialer.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		return hook(address, guarded(ctx, network, address, c))
	}
}
