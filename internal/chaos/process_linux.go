package chaos

import "syscall"

// endWithUs has the system kill the process when this one ends, however it ends.
func endWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
