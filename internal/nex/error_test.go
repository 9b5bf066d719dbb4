package nex

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"0": 0, "7": 7 * time.Second, " 120 ": 2 * time.Minute, "99999999999": maxRetryAfter, "99999999999999999999999": maxRetryAfter,
		"Sun, 01 Mar 2026 12:00:30 GMT": 30 * time.Second, "Sun, 01 Mar 2026 11:00:00 GMT": 0, "Sun, 01 Mar 2099 11:00:00 GMT": maxRetryAfter,
		"Sunday, 01-Mar-26 12:01:00 GMT": time.Minute,
	} {
		if got, ok := parseRetryAfter(v, now); !ok || got != want {
			t.Errorf("%q: %v %v, want %v", v, got, ok, want)
		}
	}
	for _, v := range []string{"", " ", "-1", "soon", "1.5", "1s", "2026-03-01T12:00:30Z"} {
		if got, ok := parseRetryAfter(v, now); ok {
			t.Errorf("%q passes as %v", v, got)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"0", "120", "99999999999999999999", "Sun, 01 Mar 2026 12:00:30 GMT", "-1"} {
		f.Add(s)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, v string) {
		if d, ok := parseRetryAfter(v, now); d < 0 || d > maxRetryAfter || !ok && d != 0 {
			t.Fatalf("%q: %v %v", v, d, ok)
		}
	})
}

func TestReadError(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status    int
		body      string
		want      string
		code      int
		refused   bool
		temporary bool
	}{
		"bad key":       {401, `{"code":401,"message":"invalid API key"}`, "Nex answered 401: invalid API key", 401, true, false},
		"missing scope": {403, `{"code":4031,"message":"scope"}`, "Nex answered 403: scope", 4031, true, false},
		"rate limit":    {429, `{"code":429,"message":"slow down"}`, "Nex answered 429: slow down", 429, false, true},
		"timeout":       {408, ``, "Nex answered 408 Request Timeout", 0, false, true},
		"proxy's page":  {502, "<html>Bad Gateway</html>", "Nex answered 502 Bad Gateway", 0, false, true},
		"not found":     {404, `{"code":404,"message":"no"}`, "Nex answered 404: no", 404, false, false},
		"control chars": {500, `{"message":"a\u001b[31m\nb\u0000\ufffd"}`, "Nex answered 500: a [31m b", 0, false, true},
		"other shape":   {500, `{"message":{"a":1}}`, "Nex answered 500 Internal Server Error", 0, false, true},
		"endless":       {500, `{"message":"` + strings.Repeat("ä", maxErrorBody) + `"}`, "Nex answered 500 Internal Server Error", 0, false, true},
	} {
		resp := &http.Response{StatusCode: c.status, Header: http.Header{"Retry-After": {"3"}}, Body: io.NopCloser(strings.NewReader(c.body))}
		e := readError(resp, time.Now())
		if e.Error() != c.want || e.Code != c.code || e.Unauthorized() != c.refused || e.Temporary() != c.temporary {
			t.Errorf("%s: %q %+v", name, e.Error(), e)
		}
		if !e.HasRetryAfter || e.RetryAfter != 3*time.Second {
			t.Errorf("%s: retry after %v", name, e.RetryAfter)
		}
	}
}

func TestPrintableIsShortAndValid(t *testing.T) {
	t.Parallel()
	got := printable(strings.Repeat("ä", maxErrorMessage))
	if len(got) > maxErrorMessage || !utf8.ValidString(got) || !strings.HasPrefix(got, "ää") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}
