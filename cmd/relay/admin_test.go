package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"unicode"
)

// What a receiver answers stands in JSON that goes to a terminal: it does not steer that, and the JSON says the same.
func TestJSONSteersNoTerminal(t *testing.T) {
	t.Parallel()
	const one = "{\"outcome\":\"http_5xx\",\"id\":1,\"response\":\"\\u001b[31m \u009b31m \u0085 \x7f ä€😀 \\u009b \\n\"}"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path == "/api/v1/attempts" {
			fmt.Fprintf(w, `{"data":[%s]}`, one)
			return
		}
		fmt.Fprint(w, one)
	}))
	t.Cleanup(s.Close)
	var want any
	if err := json.Unmarshal([]byte(one), &want); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"endpoints", "test", "crm"}, {"endpoints", "test", "crm", "--json"}, {"endpoints", "show", "crm"},
		{"deliveries", "list", "--json"}, {"deliveries", "show", "1", "--json"},
	} {
		_, out, _ := call(t, nil, append(args, "--relay", s.URL)...)
		if i := strings.IndexFunc(strings.ReplaceAll(out, "\n", ""), unicode.IsControl); i >= 0 || !strings.Contains(out, "ä€😀") {
			t.Errorf("%v: %q", args, out)
		}
		var got any
		if err := json.Unmarshal([]byte(out), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v says otherwise: %v, %v", args, got, err)
		}
	}
	// An answer that is no JSON, as of something else that listens there.
	if got := string(tame([]byte("\x1b]0;x\x07 \x9b31m\tä"))); got != `\u001b]0;x\u0007 `+"\uFFFD31m\tä" {
		t.Errorf("%q", got)
	}
}

// An id stays one segment of the path: what is none is refused before anything is asked, by the name of its argument and without
// quoting it.
func TestIdsStayIds(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s %s", r.Method, r.URL) }))
	t.Cleanup(s.Close)
	for _, id := range []string{".", "..", "", "%2e%2e", "a/..", "../billing", "a/b", "a?b", "a#b", `a\..`, "wh+sec/x=", strings.Repeat("x", 65)} {
		for argument, args := range map[string][]string{
			"<id>":       {"endpoints", "show", id},
			" <id>":      {"endpoints", "delete", id},
			"  <id>":     {"endpoints", "undelivered", id},
			"   <id>":    {"endpoints", "change", id, "enabled=true"},
			"    <id>":   {"deliveries", "replay", id, "--after", "1"},
			"     <id>":  {"deliveries", "cancel", id, "r1"},
			"<replay>":   {"deliveries", "cancel", "billing", id},
			"<endpoint>": {"deliveries", "retry", id, "1"},
		} {
			code, out, errs := call(t, nil, append(args, "--relay", s.URL)...)
			if code != exitUsage || out != "" || !strings.Contains(errs, strings.TrimSpace(argument)) || len(id) > 2 && strings.Contains(errs, id) {
				t.Errorf("%q: exit %d, want %d and %s\n%s%s", args, code, exitUsage, argument, out, errs)
			}
		}
	}
}

// A relay that is really there loses nothing by them.
func TestCancelOfNoReplayDeletesNothing(t *testing.T) {
	t.Parallel()
	w := newCLIWorld(t)
	as := []string{"--relay", w.relay, "--token", "a-token-of-the-test"}
	if code, _, errs := call(t, nil, append([]string{"endpoints", "create", "id=billing", "url=http://" + w.receiver}, as...)...); code != 0 {
		t.Fatal(errs)
	}
	for _, replay := range []string{"..", ".", "%2E%2E", "../..", "nosuch"} {
		if code, _, errs := call(t, nil, append([]string{"deliveries", "cancel", "billing", replay}, as...)...); code == 0 {
			t.Errorf("%q: exit 0\n%s", replay, errs)
		}
		if code, _, errs := call(t, nil, append([]string{"endpoints", "show", "billing"}, as...)...); code != 0 {
			t.Fatalf("after %q: %s", replay, errs)
		}
	}
	// Nor does anybody who writes such a path himself.
	for _, path := range []string{"/api/v1/endpoints/billing/replays/%2E%2E", "/api/v1/endpoints/billing/replays/..", "/api/v1/endpoints/billing/replays/%2e%2e/"} {
		req, err := http.NewRequest("DELETE", w.relay, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = path
		req.Header.Set("Authorization", "Bearer a-token-of-the-test")
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode < 300 {
			t.Errorf("DELETE %s: %s", path, resp.Status)
		}
	}
	if code, _, errs := call(t, nil, append([]string{"endpoints", "show", "billing"}, as...)...); code != 0 {
		t.Fatal(errs)
	}
}
