package webhook_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/nex-crm/relay/internal/webhook"
)

// The test vector that the Standard Webhooks libraries share.
const (
	vectorSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTime      = 1614265330
	vectorBody      = `{"test": 2432232314}`
	vectorSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func TestSign(t *testing.T) {
	t.Parallel()
	vector, other := mustSecret(t, vectorSecret), mustSecret(t, encoded(64))
	at := time.Unix(vectorTime, 999_999_999) // a fraction is cut off, not rounded
	otherSignature := webhook.Sign(vectorID, at, []byte(vectorBody), other)
	tests := []struct {
		name    string
		secrets []webhook.Secret
		want    string
	}{
		{"vector", []webhook.Secret{vector}, vectorSignature},
		{"rotation, current first", []webhook.Secret{vector, other}, vectorSignature + " " + otherSignature},
		{"rotation, other way round", []webhook.Secret{other, vector}, otherSignature + " " + vectorSignature},
		{"zero secret is skipped", []webhook.Secret{{}, vector, {}}, vectorSignature},
		{"zero secret alone", []webhook.Secret{{}}, ""},
		{"none", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := webhook.Sign(vectorID, at, []byte(vectorBody), tt.secrets...); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSignLongID(t *testing.T) {
	t.Parallel()
	s := webhook.GenerateSecret()
	reference, err := standardwebhooks.NewWebhook(s.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 127, 128, 180, 200, 5000} {
		id, at := strings.Repeat("i", n), time.Unix(vectorTime, 0)
		want, err := reference.Sign(id, at, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if got := webhook.Sign(id, at, []byte("x"), s); got != want {
			t.Errorf("id of %d bytes: got %q, want %q", n, got, want)
		}
	}
}

func TestSetHeaders(t *testing.T) {
	t.Parallel()
	current, previous := webhook.GenerateSecret(), webhook.GenerateSecret()
	body, at := []byte(`{"a":1}`), time.Now()
	h := http.Header{"Webhook-Signature": {"stale"}}
	webhook.SetHeaders(h, "evt_1", at, body, current, previous)
	for _, s := range []webhook.Secret{current, previous} {
		reference, err := standardwebhooks.NewWebhook(s.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		if err := reference.Verify(body, h); err != nil {
			t.Errorf("the reference library refuses: %v", err)
		}
		if err := reference.Verify([]byte(`{"a":2}`), h); err == nil {
			t.Error("the reference library accepts another body")
		}
	}
	h.Add(webhook.HeaderID, "another")
	if got := h.Get(webhook.HeaderTimestamp); strings.Contains(got, "another") || len(h[webhook.HeaderTimestamp]) != 1 {
		t.Error("adding to one header changes the next")
	}
}

func TestMessageID(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 128)
	tests := []struct {
		name, in, want string
	}{
		{"as it is", "01JH_a-b:c/d+e=f@g~h", "01JH_a-b:c/d+e=f@g~h"},
		{"dots", "nex.insight.42", "nex_insight_42"},
		{"longest", long, long},
		{"one too long", long + "x", long[:111] + "_" + sha256Prefix(long+"x")},
		{"space", "a b", "a_b_" + sha256Prefix("a b")},
		{"line break", "a\r\nX-Evil: 1", "a__X-Evil:_1_" + sha256Prefix("a\r\nX-Evil: 1")},
		{"NUL", "a\x00", "a__" + sha256Prefix("a\x00")},
		{"not ASCII", "é.é", "____" + sha256Prefix("é.é")},
		{"not UTF-8", "\xff", "__" + sha256Prefix("\xff")},
		{"empty", "", "_" + sha256Prefix("")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := webhook.MessageID(tt.in); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if a, b := webhook.MessageID("a b"), webhook.MessageID("a\tb"); a == b {
		t.Errorf("two ids become one: %q", a)
	}
}

func FuzzMessageID(f *testing.F) {
	for _, s := range []string{"", "a", "a.b", "a b", "é", strings.Repeat("é.", 100), "\x00\xff", strings.Repeat("x", 129)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		id := webhook.MessageID(in)
		if id == "" || len(id) > 128 {
			t.Fatalf("%q has %d bytes", id, len(id))
		}
		for i := range len(id) {
			if id[i] <= ' ' || id[i] >= 0x7f || id[i] == '.' {
				t.Fatalf("%q holds %q", id, id[i])
			}
		}
		if again := webhook.MessageID(id); again != id {
			t.Fatalf("%q becomes %q the second time", id, again)
		}
		if plain := strings.ReplaceAll(in, ".", "_"); id != plain && !strings.HasSuffix(id, "_"+sha256Prefix(in)) {
			t.Fatalf("%q was changed into %q and has no hash", in, id)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	body, at, s := bytes.Repeat([]byte("x"), 1024), time.Unix(vectorTime, 0), webhook.GenerateSecret()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if webhook.Sign(vectorID, at, body, s) == "" {
			b.Fatal("no signature")
		}
	}
}
