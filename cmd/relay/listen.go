package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

type listenCmd struct {
	Addr       string   `default:"127.0.0.1:9000" help:"Address to listen on."`
	Secret     []string `env:"RELAY_LISTEN_SECRET" sep:"," help:"Signing secret (whsec_...), or several separated by commas. Better given as RELAY_LISTEN_SECRET or --secret-file: arguments are visible to other users of the machine."`
	SecretFile string   `type:"path" help:"File with the signing secret or public key, one a line."`
	PublicKey  []string `help:"Public key (whpk_...) of an endpoint that signs with Ed25519, as the API and /.well-known/webhook-keys show it; or several separated by commas."`
	Status     int      `default:"200" help:"Status to answer with, e.g. 500 or 410, to see what the relay does."`
	RetryAfter string   `help:"Retry-After header to answer with."`
	Body       bool     `help:"Print whole bodies."`
}

func (c *listenCmd) Help() string {
	return "Prints a line for each webhook: when, verified or why not, its id, type and age. Without a secret nothing is\n" +
		"verified and every line says so. A webhook whose signature is wrong is answered 401. A relay that asks first\n" +
		"(handshake: true, OPTIONS) is answered that it may send.\n\n" +
		"The relay refuses loopback targets by default; to deliver here it needs\n" +
		"  webhooks: {allow_http: true, allow_networks: [127.0.0.0/8]}"
}

func (c *listenCmd) Run(ctx context.Context, e env) error {
	if c.Status < 200 || c.Status > 599 {
		return usageError{fmt.Errorf("--status %d: an HTTP status from 200 to 599 is needed", c.Status)}
	}
	verifier, err := c.verifier()
	if err != nil {
		return usageError{err}
	}
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Fprintf(e.stderr, "listening on http://%s for POST on any path; Ctrl-C ends\n", l.Addr())
	verify := len(verifier.Secrets)+len(verifier.PublicKeys) > 0
	if !verify {
		fmt.Fprintln(e.stderr, "no secret given: signatures are not verified")
	}
	r := &receiver{cmd: c, out: e.stdout, verify: verify, verifier: verifier, seen: map[string]int{}}
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "summary: received=%d verified=%d rejected=%d repeated=%d\n", r.received, r.verified, r.rejected, r.repeated)
	return err
}

// verifier accepts what the secrets and public keys given have signed.
func (c *listenCmd) verifier() (v webhook.Verifier, err error) {
	texts := append(slices.Clone(c.Secret), c.PublicKey...)
	if c.SecretFile != "" {
		content, err := os.ReadFile(c.SecretFile)
		if err != nil {
			return v, fmt.Errorf("--secret-file: %w", err)
		}
		texts = append(texts, strings.Fields(string(content))...)
	}
	for _, text := range texts {
		text = strings.TrimSpace(text)
		if strings.HasPrefix(text, webhook.PublicKeyPrefix) {
			key, err := webhook.ParsePublicKey(text)
			if err != nil {
				return v, fmt.Errorf("public key: %w", err)
			}
			v.PublicKeys = append(v.PublicKeys, key)
			continue
		}
		secret, err := webhook.ParseSecret(text)
		if err != nil {
			return v, fmt.Errorf("secret: %w", err)
		}
		v.Secrets = append(v.Secrets, secret)
	}
	return v, nil
}

// maxWebhook bounds a body: the largest event is far smaller.
const maxWebhook = 64 << 20

// receiver answers webhooks as its flags say and prints a line for each.
type receiver struct {
	cmd      *listenCmd
	verify   bool
	verifier webhook.Verifier

	mu                                     sync.Mutex
	out                                    io.Writer
	seen                                   map[string]int // by webhook-id
	received, verified, rejected, repeated int
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if origin := req.Header.Get(webhook.HeaderRequestOrigin); req.Method == http.MethodOptions && origin != "" {
		w.Header().Set(webhook.HeaderAllowedOrigin, origin)
		w.Header().Set(webhook.HeaderAllowedRate, "*")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxWebhook))
	if err != nil {
		http.Error(w, "body cannot be read", http.StatusBadRequest)
		return
	}
	if req.Method != http.MethodPost {
		http.Error(w, "webhooks are POSTed", http.StatusMethodNotAllowed)
		return
	}
	note, status := "unverified", r.cmd.Status
	if r.verify {
		note = "verified"
		if err := r.verifier.Verify(req.Header, body); err != nil {
			note, status = "REJECTED: "+err.Error(), http.StatusUnauthorized
		}
	}
	r.print(req, body, note, status)
	if r.cmd.RetryAfter != "" {
		w.Header().Set("Retry-After", r.cmd.RetryAfter)
	}
	w.WriteHeader(status)
}

func (r *receiver) print(req *http.Request, body []byte, note string, status int) {
	var event struct {
		Type string    `json:"type"`
		Time time.Time `json:"time"`
		Data struct {
			Content string `json:"content"`
		} `json:"data"`
	}
	_ = json.Unmarshal(body, &event) // what is no event is shown without these
	r.mu.Lock()
	defer r.mu.Unlock()
	r.received++
	id := req.Header.Get(webhook.HeaderID)
	if r.seen[id]++; r.seen[id] > 1 {
		r.repeated++
		note += fmt.Sprintf(" (delivery %d of this id)", r.seen[id])
	}
	switch {
	case strings.HasPrefix(note, "verified"):
		r.verified++
	case strings.HasPrefix(note, "REJECTED"):
		r.rejected++
	}
	fmt.Fprintf(r.out, "%s  %s %d  %s  %s  %d bytes  %s\n", time.Now().Format("15:04:05.000"), req.URL.Path, status, printable(note, 200), printable(id, 60), len(body),
		printable(event.Type+"  "+event.Data.Content, 100))
	if r.cmd.Body {
		fmt.Fprintf(r.out, "%s\n", bytes.TrimSpace(body))
	}
}

// printable cuts a foreign text to n runes and takes out what could steer a terminal.
func printable(s string, n int) string {
	out := make([]rune, 0, n)
	for _, c := range strings.TrimSpace(s) {
		if len(out) == n {
			out[n-1] = '…'
			break
		}
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			c = ' '
		}
		out = append(out, c)
	}
	return string(out)
}
