//go:build unix

package chaos

import (
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/porttest"
	"github.com/nex-crm/relay/internal/webhook"
)

// The endpoints: one that always answers, and one that often does not.
const (
	steady = "steady"
	flaky  = "flaky"
)

// receiver takes webhooks and remembers which were answered with success.
type receiver struct {
	server   *http.Server
	listener net.Listener
	secret   string
	verifier webhook.Verifier

	mu       sync.Mutex
	rand     *rand.Rand
	accepted map[string]map[string]int // by endpoint, by webhook-id
	invalid  int
	calm     bool
}

func newReceiver(seed uint64) (*receiver, error) {
	secret := webhook.GenerateSecret()
	l, err := porttest.Listen()
	if err != nil {
		return nil, err
	}
	r := &receiver{
		listener: l, secret: secret.Reveal(), verifier: webhook.Verifier{Secrets: []webhook.Secret{secret}},
		rand: rand.New(rand.NewPCG(seed, 7)), accepted: map[string]map[string]int{steady: {}, flaky: {}},
	}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = r.server.Serve(l) }()
	return r, nil
}

func (r *receiver) url(endpoint string) string {
	return "http://" + r.listener.Addr().String() + "/" + endpoint
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	endpoint := strings.TrimPrefix(req.URL.Path, "/")
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	err = r.verifier.Verify(req.Header, body)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil || r.accepted[endpoint] == nil:
		r.invalid++
		w.WriteHeader(http.StatusBadRequest)
	case endpoint == flaky && !r.calm && r.rand.IntN(4) == 0:
		w.WriteHeader(http.StatusInternalServerError)
	default:
		r.accepted[endpoint][req.Header.Get(webhook.HeaderID)]++
		w.WriteHeader(http.StatusOK)
	}
}

// behave ends the flakiness.
func (r *receiver) behave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calm = true
}

// got is how often each webhook was accepted.
func (r *receiver) got(endpoint string) map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]int, len(r.accepted[endpoint]))
	for id, n := range r.accepted[endpoint] {
		out[id] = n
	}
	return out
}

func (r *receiver) close() { _ = r.server.Close() }
