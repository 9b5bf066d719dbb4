package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/nexsim"
	"github.com/nex-crm/relay/internal/webhook"
)

// stage is where one scenario plays: its parts, its directory, and its figures.
type stage struct {
	opts     Options
	scenario string
	dir      string
	report   *Report
	heaps    int
	starts   int

	mu    sync.Mutex // guards what follows
	parts []*part
	made  int

	died func(error) // ends the scenario: one of its parts has

	profileStarts bool // what a start takes is what is measured
}

// part starts a process that ends with the scenario at the latest.
func (s *stage) part(role string) (*part, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made++
	p, err := startPart(append(s.opts.Command[:len(s.opts.Command):len(s.opts.Command)], strconv.Itoa(s.opts.Size)), role, filepath.Join(s.dir, fmt.Sprintf("%s-%d.log", role, s.made)), s.died)
	if err == nil {
		s.parts = append(s.parts, p)
	}
	return p, err
}

// deathTime is how long it takes at most until it is known that a part has ended, after what it was to do has failed.
const deathTime = 200 * time.Millisecond

// blame names the part that has ended, if one has, where something failed.
func blame(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
	case <-time.After(deathTime):
	}
	var ended *endedError
	if cause := context.Cause(ctx); errors.As(cause, &ended) && !errors.As(err, &ended) {
		return fmt.Errorf("%w\n%w", cause, err)
	}
	return err
}

// clear ends all parts and removes what they left.
func (s *stage) clear() error {
	var errs []error
	for _, p := range s.parts {
		errs = append(errs, p.end())
	}
	s.parts = nil
	s.report.Warnings = append(s.report.Warnings, s.warnings()...)
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// warnings is what the relays have logged: from warnings on, which a run should not see.
func (s *stage) warnings() (list []string) {
	files, _ := filepath.Glob(s.path(roleRelay + "-*.log"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
			switch {
			case line == "":
			case i < maxWarnings:
				list = append(list, s.scenario+": "+line)
			case i == maxWarnings:
				list = append(list, s.scenario+": and more")
			}
		}
	}
	return list
}

// maxWarnings are shown of each relay.
const maxWarnings = 3

// end ends one part before the others.
func (s *stage) end(p *part) error {
	s.mu.Lock()
	s.parts = slices.DeleteFunc(s.parts, func(other *part) bool { return other == p })
	s.mu.Unlock()
	return p.end()
}

// path is a place in the scenario's directory.
func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// target is an endpoint of the relay under test.
type target struct {
	id     string
	url    string
	events []string // all insights if empty
}

// setting is what the relay under test is configured to do; all else is the default.
type setting struct {
	store     string // name of its log on disk
	nats      string // URL of a server outside; empty = its own
	nex       string // base URL
	slugs     []string
	endpoints []target
	schedule  string        // of the attempts, in YAML; empty = the relay's own
	timeout   time.Duration // of an attempt; 0 = the relay's own
	window    time.Duration // for how long message ids are known; 0 = the relay's own
	ca        string        // file of the authority that its receivers' certificates are of; empty = the system's
}

// configure writes a plain relay.yaml.
func (s *stage) configure(w setting) (file string, err error) {
	var b strings.Builder
	if w.nex == "" {
		w.nex = "http://127.0.0.1:1/api/developers" // no workspace asks it
	}
	fmt.Fprintf(&b, "nex: {base_url: %q}\nnats: {url: %q, embedded: {listen: \"127.0.0.1:0\", store_dir: %q}}\n", w.nex, w.nats, s.path(w.store))
	more := ""
	if w.schedule != "" {
		more += ", schedule: " + w.schedule
	}
	if w.timeout != 0 {
		more += fmt.Sprintf(", timeout: %q", w.timeout)
	}
	if w.ca != "" {
		more += fmt.Sprintf(", ca_file: %q", w.ca)
	}
	fmt.Fprintf(&b, "webhooks: {allow_http: true, allow_networks: [127.0.0.0/8]%s}\n", more)
	b.WriteString("http: {listen: \"127.0.0.1:0\"}\nlog: {level: warn}\n")
	if w.window != 0 {
		fmt.Fprintf(&b, "stream: {duplicate_window: %s}\n", w.window)
	}
	b.WriteString("workspaces:\n")
	for _, slug := range w.slugs {
		fmt.Fprintf(&b, "  - {name: %s, api_key: %s}\n", slug, nexsim.DefaultKey(slug))
	}
	b.WriteString("endpoints:\n")
	for _, e := range w.endpoints {
		events := ""
		if len(e.events) > 0 {
			events = ", events: [" + strings.Join(e.events, ", ") + "]"
		}
		fmt.Fprintf(&b, "  - {id: %s, url: %q, secret: %s%s}\n", e.id, e.url, webhook.GenerateSecret().Reveal(), events)
	}
	file = s.path(w.store + ".yaml")
	return file, os.WriteFile(file, []byte(b.String()), 0o600)
}

// relay is a relay that is up.
type relay struct {
	*part
	reachable
	began time.Time // when its process was started
}

// startRelay returns when every part of it runs.
func (s *stage) startRelay(ctx context.Context, file string) (*relay, error) {
	r := &relay{began: time.Now()}
	var err error
	if r.part, err = s.part(roleRelay); err != nil {
		return nil, err
	}
	start := func() error {
		r.reachable, err = ask[reachable](ctx, r.part, "start", startArgs{File: file})
		return err
	}
	if s.starts++; s.profileStarts {
		return r, s.profiled(ctx, r.part, fmt.Sprintf("-start-%d", s.starts), start)
	}
	return r, start()
}

// stopRelay stops it as SIGTERM would.
func (s *stage) stopRelay(ctx context.Context, r *relay) error {
	err := do(ctx, r.part, "stop", nothing{})
	return errors.Join(err, s.end(r.part))
}

// introduce has a relay start once with a configuration, so that its log and its endpoints are there before the events are.
func (s *stage) introduce(ctx context.Context, file string) error {
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return err
	}
	return s.stopRelay(ctx, r)
}

// spent has a part do something so many times, and answers how much processor time each took it, in microseconds: what the machine
// can do depends on who else uses it, this hardly. It profiles the phase, where that was asked for.
func (s *stage) spent(ctx context.Context, p *part, phase string, n int, do func() error) (each float64, err error) {
	before, err := ask[usage](ctx, p, "usage", nothing{})
	if err != nil {
		return 0, err
	}
	if err := s.profiled(ctx, p, phase, do); err != nil {
		return 0, err
	}
	after, err := ask[usage](ctx, p, "usage", nothing{})
	return (after.CPU - before.CPU) * 1e6 / float64(n), err
}

// spentInAll is spent from the start of the part's process on.
func (s *stage) spentInAll(ctx context.Context, p *part, phase string, n int, do func() error) (each float64, err error) {
	if err := s.profiled(ctx, p, phase, do); err != nil {
		return 0, err
	}
	after, err := ask[usage](ctx, p, "usage", nothing{})
	return after.CPU * 1e6 / float64(n), err
}

// profiled profiles a phase of a part, where that was asked for.
func (s *stage) profiled(ctx context.Context, p *part, phase string, do func() error) error {
	if s.opts.Profiles == "" {
		return do()
	}
	file, err := filepath.Abs(filepath.Join(s.opts.Profiles, s.scenario+phase+".pprof"))
	if err != nil {
		return err
	}
	if _, err := ask[nothing](ctx, p, "profile", profileArgs{File: file}); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	_, err = ask[nothing](ctx, p, "profiled", nothing{})
	return err
}

// fill puts events into a log while no relay has it.
func (s *stage) fill(ctx context.Context, a fillArgs) (published, error) {
	a.Dir = s.path(a.Dir)
	p, err := s.part(rolePublisher)
	if err != nil {
		return published{}, err
	}
	done, err := ask[published](ctx, p, "fill", a)
	return done, errors.Join(err, s.end(p))
}

// receive starts a receiver.
func (s *stage) receive(ctx context.Context, a openArgs) (*part, []string, error) {
	p, err := s.part(roleReceiver)
	if err != nil {
		return nil, nil, err
	}
	urls, err := ask[[]string](ctx, p, "open", a)
	return p, urls, err
}

// metric reads one of the relay's own; the sum of all series whose name and labels begin so.
func metric(ctx context.Context, r *relay, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.HTTP+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	lines, sum, found := bufio.NewScanner(resp.Body), 0.0, false
	for lines.Scan() {
		series, text, ok := strings.Cut(lines.Text(), " ")
		if !ok || series != name && !(strings.HasSuffix(name, "{") && strings.HasPrefix(series, name)) {
			continue
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, err
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, errors.Join(fmt.Errorf("the relay has no metric %s", name), lines.Err())
	}
	return sum, nil
}

// awaitMetric waits until a metric has a value that is enough.
func awaitMetric(ctx context.Context, r *relay, name string, enough func(float64) bool) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		v, err := metric(ctx, r, name)
		if err != nil {
			return err
		}
		if enough(v) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is %v: %w", name, v, ctx.Err())
		}
	}
}

func slugs(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("ws-%d", i))
	}
	return list
}

// pause waits, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
