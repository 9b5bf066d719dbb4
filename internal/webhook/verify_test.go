package webhook_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/nex-crm/relay/internal/webhook"
)

// sha256Prefix is the hash that stands at the end of a changed message id.
func sha256Prefix(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

func signedHeader(id, timestamp, signature string) http.Header {
	h := http.Header{}
	for name, v := range map[string]string{"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature} {
		if v != "" {
			h.Set(name, v)
		}
	}
	return h
}

func TestVerify(t *testing.T) {
	t.Parallel()
	vector, other := mustSecret(t, vectorSecret), webhook.GenerateSecret()
	at := time.Unix(vectorTime, 0)
	unix := strconv.Itoa(vectorTime)
	body := []byte(vectorBody)
	otherSignature := webhook.Sign(vectorID, at, body, other)
	bare := strings.TrimPrefix(vectorSignature, "v1,")
	tests := []struct {
		name      string
		id, time  string
		signature string
		body      string
		secrets   []webhook.Secret
		now       time.Duration // after the signature
		tolerance time.Duration
		want      error
	}{
		{name: "vector"},
		{name: "id missing", id: "-", want: webhook.ErrMissingHeader},
		{name: "timestamp missing", time: "-", want: webhook.ErrMissingHeader},
		{name: "signature missing", signature: "-", want: webhook.ErrMissingHeader},
		{name: "other id", id: "msg_other", want: webhook.ErrNoMatchingSignature},
		{name: "id with a dot", id: "msg.1", want: webhook.ErrBadID},
		{name: "other second", time: strconv.Itoa(vectorTime + 1), want: webhook.ErrNoMatchingSignature},
		{name: "other body", body: vectorBody + " ", want: webhook.ErrNoMatchingSignature},
		{name: "no number", time: "yesterday", want: webhook.ErrBadTimestamp},
		{name: "leading zero", time: "0" + unix, want: webhook.ErrBadTimestamp},
		{name: "leading plus", time: "+" + unix, want: webhook.ErrBadTimestamp},
		{name: "fraction", time: unix + ".0", want: webhook.ErrBadTimestamp},
		{name: "before 1970", time: "-1", want: webhook.ErrBadTimestamp},
		{name: "too big a number", time: "99999999999999999999", want: webhook.ErrBadTimestamp},
		{name: "biggest number", time: "9223372036854775807", want: webhook.ErrBadTimestamp},
		{name: "end of time", time: "253402300799", want: webhook.ErrTooNew},
		{name: "oldest allowed", now: 5 * time.Minute},
		{name: "too old", now: 5*time.Minute + 1, want: webhook.ErrTooOld},
		{name: "newest allowed", now: -5 * time.Minute},
		{name: "too new", now: -5*time.Minute - 1, want: webhook.ErrTooNew},
		{name: "own tolerance", now: time.Hour, tolerance: time.Hour},
		{name: "beyond own tolerance", now: 2 * time.Second, tolerance: time.Second, want: webhook.ErrTooOld},
		{name: "other secret", secrets: []webhook.Secret{other}, want: webhook.ErrNoMatchingSignature},
		{name: "second secret", secrets: []webhook.Secret{other, vector}},
		{name: "no secret", secrets: []webhook.Secret{}, want: webhook.ErrNoMatchingSignature},
		{name: "zero secret", secrets: []webhook.Secret{{}}, want: webhook.ErrNoMatchingSignature},
		{name: "among others", signature: "v2,AAAA v1a,BBBB " + otherSignature + " " + vectorSignature + " v1,CCCC"},
		{name: "other signature only", signature: otherSignature, want: webhook.ErrNoMatchingSignature},
		{name: "other version", signature: "v2," + bare, want: webhook.ErrNoMatchingSignature},
		{name: "v1a is no v1", signature: "v1a," + bare, want: webhook.ErrNoMatchingSignature},
		{name: "no version", signature: bare, want: webhook.ErrNoMatchingSignature},
		{name: "cut off", signature: vectorSignature[:len(vectorSignature)-1], want: webhook.ErrNoMatchingSignature},
		{name: "empty signature", signature: "v1,", want: webhook.ErrNoMatchingSignature},
		{name: "only spaces", signature: "   ", want: webhook.ErrNoMatchingSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pick := func(v, otherwise string) string {
				switch v {
				case "":
					return otherwise
				case "-":
					return ""
				}
				return v
			}
			h := signedHeader(pick(tt.id, vectorID), pick(tt.time, unix), pick(tt.signature, vectorSignature))
			v := webhook.Verifier{Secrets: tt.secrets, Tolerance: tt.tolerance, Now: func() time.Time { return at.Add(tt.now) }}
			if tt.secrets == nil {
				v.Secrets = []webhook.Secret{vector}
			}
			err := v.Verify(h, []byte(pick(tt.body, vectorBody)))
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// TestVerifyShiftedDots: without the rule on dots, a genuine message could be read as another with the same signature.
func TestVerifyShiftedDots(t *testing.T) {
	t.Parallel()
	s, now := webhook.GenerateSecret(), time.Unix(vectorTime, 0)
	unix := strconv.Itoa(vectorTime)
	signature := webhook.Sign("evt", now, []byte(unix+".body"), s)
	v := webhook.Verifier{Secrets: []webhook.Secret{s}, Now: func() time.Time { return now }}
	if err := v.Verify(signedHeader("evt", unix, signature), []byte(unix+".body")); err != nil {
		t.Fatal(err)
	}
	if err := v.Verify(signedHeader("evt."+unix, unix, signature), []byte("body")); !errors.Is(err, webhook.ErrBadID) {
		t.Fatalf("a shifted message gives %v", err)
	}
}

func TestVerifyReferenceSender(t *testing.T) {
	t.Parallel()
	s := webhook.GenerateSecret()
	reference, err := standardwebhooks.NewWebhook(s.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, body := range []string{"", "x", vectorBody, strings.Repeat("ä", 100_000), "\x00\xff"} {
		signature, err := reference.Sign("evt_1", now, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		v := webhook.Verifier{Secrets: []webhook.Secret{s}}
		if err := v.Verify(signedHeader("evt_1", strconv.FormatInt(now.Unix(), 10), signature), []byte(body)); err != nil {
			t.Errorf("body of %d bytes: %v", len(body), err)
		}
	}
}

// FuzzSignVerify: what is signed verifies, here and in the reference library, and not with anything changed.
func FuzzSignVerify(f *testing.F) {
	f.Add("evt_1", []byte(vectorBody), uint16(0))
	f.Add("a.b c", []byte{}, uint16(3))
	f.Add("", []byte("\x00"), uint16(9))
	secret, other := webhook.GenerateSecret(), webhook.GenerateSecret()
	reference, err := standardwebhooks.NewWebhook(secret.Reveal())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, eventID string, body []byte, flip uint16) {
		h, now := http.Header{}, time.Now()
		webhook.SetHeaders(h, webhook.MessageID(eventID), now, body, other, secret)
		v := webhook.Verifier{Secrets: []webhook.Secret{secret}}
		if err := v.Verify(h, body); err != nil {
			t.Fatal(err)
		}
		if err := reference.Verify(body, h); err != nil {
			t.Fatal(err)
		}
		if len(body) > 0 {
			changed := bytes.Clone(body)
			changed[int(flip)%len(body)] ^= byte(flip>>8) | 1
			if err := v.Verify(h, changed); !errors.Is(err, webhook.ErrNoMatchingSignature) {
				t.Fatalf("changed body: %v", err)
			}
		}
		h.Set(webhook.HeaderID, h.Get(webhook.HeaderID)+"x")
		if err := v.Verify(h, body); !errors.Is(err, webhook.ErrNoMatchingSignature) {
			t.Fatalf("changed id: %v", err)
		}
	})
}

// FuzzVerify feeds headers as any stranger may send them.
func FuzzVerify(f *testing.F) {
	f.Add(vectorID, "1614265330", vectorSignature, []byte(vectorBody))
	f.Add("a.b", "-0", "v1, v1,, ,", []byte{})
	v := webhook.Verifier{Secrets: []webhook.Secret{webhook.GenerateSecret()}, Now: func() time.Time { return time.Unix(vectorTime, 0) }}
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		if err := v.Verify(signedHeader(id, timestamp, signature), body); err == nil {
			t.Fatal("a stranger's message is accepted")
		}
	})
}
