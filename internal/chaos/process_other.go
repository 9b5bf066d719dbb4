//go:build unix && !linux

package chaos

import "syscall"

func endWithUs() *syscall.SysProcAttr { return nil }
