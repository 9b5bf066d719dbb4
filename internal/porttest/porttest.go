// Package porttest gives tests TCP ports of 127.0.0.1 on which something may be started, stopped and started again.
//
// A port that the system gave (":0") and that was closed again is no such port: the system gives it to the next one who
// asks, or to an outgoing connection. These are below the range that it gives from.
package porttest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// The ports of one process begin at one of places, each step ports after the one before, and end within room.
const first, room, places, step = 11000, 20000, 97, 200

var next atomic.Int32

// Listen listens on a port that this process was not given before.
func Listen() (net.Listener, error) {
	for range room {
		port := first + (os.Getpid()%places*step+int(next.Add(1)))%room
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return l, nil
		}
	}
	return nil, errors.New("no free port")
}

// Free is a port for a server to listen on. While it is tried no process is started: a child holds what is open here
// until it has become another program, and so would keep the port in use.
func Free() (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	l, err := Listen()
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
