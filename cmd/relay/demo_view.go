package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// view prints how the demo goes: coloured and fitted to the width on a terminal, plain lines elsewhere or with NO_COLOR.
type view struct {
	mu    sync.Mutex
	out   io.Writer
	color bool
	width int
}

func newView(e env) *view {
	v := &view{out: e.stdout, width: 132}
	f, ok := e.stdout.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return v
	}
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		v.width = w
	}
	v.color = true
	for _, kv := range e.vars { // https://no-color.org: present and not empty
		if name, value, _ := strings.Cut(kv, "="); name == "NO_COLOR" && value != "" || kv == "TERM=dumb" {
			v.color = false
		}
	}
	return v
}

const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (v *view) paint(color, text string) string {
	if !v.color {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

func (v *view) printf(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintf(v.out, format, args...)
}

// step says that a part has started.
func (v *view) step(what, detail string) {
	v.printf("%s %-18s %s\n", v.paint(green, "started"), what, v.paint(dim, detail))
}

func (v *view) legend(natsURL string, d time.Duration) {
	end := "Ctrl-C ends"
	if d > 0 {
		end = "ends after " + d.String()
	}
	v.printf("\n%s\n%s\n\n", v.paint(bold, "time          subject                            insight -> endpoint, answer, latency from emission"),
		v.paint(dim, "the same events in NATS: relay tail --nats "+natsURL+"   ("+end+")"))
}

// answer is one webhook and what the receiver said to it.
type answer struct {
	at                               time.Time
	subject, content, endpoint, note string
	status                           int
	latency                          time.Duration
}

func (v *view) answer(a answer) {
	color := green
	switch {
	case a.status == http.StatusServiceUnavailable:
		color = yellow
	case a.status >= 300:
		color = red
	case a.note != "verified":
		color = cyan
	}
	tail := fmt.Sprintf("%-11s %d %s  %s", a.endpoint, a.status, a.note, milliseconds(a.latency))
	room := max(v.width-len("15:04:05.000  ")-len(fmt.Sprintf("%-33s  ", a.subject))-len(" -> ")-35, 16)
	content := printable(a.content, room)
	pad := max(room-len([]rune(content)), 0)
	v.printf("%s  %-33s  %s%s %s %s\n", v.paint(dim, a.at.Format("15:04:05.000")), a.subject, content, strings.Repeat(" ", pad), v.paint(dim, "->"), v.paint(color, tail))
}

func (v *view) summary(line string) { v.printf("\n%s\n", v.paint(bold, line)) }
