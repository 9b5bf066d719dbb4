//go:build unix

package chaos

import (
	"net"
	"sync"

	"github.com/nex-crm/relay/internal/porttest"
)

// proxy passes connections on to one address, until it is told to break them.
type proxy struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	links map[*link]struct{}
	deny  bool
	work  sync.WaitGroup
}

// link is a connection and the one it is passed on to. A mute link takes bytes and passes nothing on, nor does it tell of
// the end of either side: half open, as after a machine or a NAT between has gone away.
type link struct {
	sides [2]net.Conn
	mu    sync.Mutex
	mute  bool
}

func newProxy(to string) (*proxy, error) {
	l, err := porttest.Listen()
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, to: to, links: map[*link]struct{}{}}
	p.work.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.pass(c) })
	}
}

func (p *proxy) pass(c net.Conn) {
	to, err := net.Dial("tcp", p.to)
	if err != nil {
		_ = c.Close()
		return
	}
	l := &link{sides: [2]net.Conn{c, to}}
	if !p.add(l) {
		l.close()
		return
	}
	var both sync.WaitGroup
	for i := range l.sides {
		both.Go(func() { l.copy(l.sides[i], l.sides[1-i]) })
	}
	both.Wait()
	l.close()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

func (p *proxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.deny {
		return false
	}
	p.links[l] = struct{}{}
	return true
}

func (l *link) copy(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		mute := l.mute
		l.mu.Unlock()
		if n > 0 && !mute {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			if !mute {
				l.close()
			}
			return
		}
	}
}

func (l *link) close() {
	for _, c := range l.sides {
		_ = c.Close()
	}
}

// drop breaks all connections.
func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

// halfOpen mutes all connections. New ones work.
func (p *proxy) halfOpen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.mu.Lock()
		l.mute = true
		l.mu.Unlock()
	}
}

// refuse breaks all connections and takes none, or takes them again.
func (p *proxy) refuse(on bool) {
	p.mu.Lock()
	p.deny = on
	p.mu.Unlock()
	if on {
		p.drop()
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.refuse(true)
	p.work.Wait()
}
