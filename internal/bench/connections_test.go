package bench

import (
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"testing"
	"time"
)

// Over HTTP and over HTTPS each post has a connection of its own where the receiver closes it, and the certificate is trusted by those who
// are told to.
func TestNewConnections(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https"} {
		r := newReceiver()
		defer r.close()
		var open openArgs
		if open.Ports = 1; scheme == "https" {
			open.CA = filepath.Join(t.TempDir(), "ca.pem")
		}
		urls, err := r.open(t.Context(), open)
		if err != nil {
			t.Fatal(err)
		}
		if done, err := postAll(t.Context(), postArgs{URLs: boundURLs(urls, "close"), N: 20, AtOnce: 2, CA: open.CA}); err != nil || done.PerSecond <= 0 {
			t.Errorf("%s: %+v, %v", scheme, done, err)
		}
		if _, err := postAll(t.Context(), postArgs{URLs: boundURLs(urls, ""), N: 1, AtOnce: 1}); (err != nil) != (scheme == "https") {
			t.Errorf("%s, trusting nobody new: %v", scheme, err)
		}
		trusted, err := trusting(open.CA)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: trusted, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		for _, behaviour := range []string{"close", ""} {
			reused := 0
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
				if i.Reused {
					reused++
				}
			}})
			to, err := parseAll(boundURLs(urls, behaviour))
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := newMessage(1, time.Now()).post(ctx, transport, to[0]); err != nil {
					t.Fatal(err)
				}
			}
			if (reused == 0) != (behaviour == "close") {
				t.Errorf("%s, %q: %d of 3 over a connection that was there", scheme, behaviour, reused)
			}
		}
	}
}
