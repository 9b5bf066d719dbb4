//go:build unix

package bus

import (
	"errors"
	"os"
	"syscall"
)

// lockDir takes an advisory lock that ends with the process, however it ends. JetStream has no lock of its own, and two
// servers on one directory destroy it.
func lockDir(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrStoreLocked
		}
		return nil, err
	}
	return f.Close, nil
}
