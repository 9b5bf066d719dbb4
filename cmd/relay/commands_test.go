package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// answering is a relay that answers each request as a table says, by method and path; the last of several answers stays. asked is told of
// each.
func answering(t *testing.T, answers map[string][]string, asked func(*http.Request, map[string]any)) string {
	t.Helper()
	next := map[string]int{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Method + " " + r.URL.Path
		list := answers[key]
		if len(list) == 0 {
			t.Errorf("asked for %s", key)
			w.WriteHeader(http.StatusTeapot)
			return
		}
		var body map[string]any
		_ = json.NewDecoder(r.Body).Decode(&body)
		if asked != nil {
			asked(r, body)
		}
		text := list[min(next[key], len(list)-1)]
		next[key]++
		var refused struct{ Code int }
		if json.Unmarshal([]byte(text), &refused) == nil && refused.Code != 0 {
			w.WriteHeader(refused.Code)
		}
		fmt.Fprint(w, text)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// What cannot be meant is refused in the words of the command, before anything is asked.
func TestRefusedBeforeAsking(t *testing.T) {
	t.Parallel()
	relay := answering(t, nil, nil)
	for args, want := range map[string]string{
		"dead retry":                                         "which ones? give an id, --endpoint, --class, --since, --until or --all",
		"dead delete":                                        "which ones? give an id, --endpoint",
		"dead delete 7 --endpoint x --class 5xx":             "not both",
		"dead retry 7 --all":                                 "not both",
		"dead delete 0 --all":                                "not both",
		"dead retry 7 --since 1d":                            "not both",
		"dead list --since 1h --until 2h":                    "--since",
		"dead delete --since 1h --until 2h":                  "--until",
		"deliveries --since 1d --until 7d":                   "nothing is between them",
		"deliveries --since soon":                            "write an age, e.g. 2h or 7d",
		"deliveries -n=-1":                                   "-1",
		"deliveries replay billing":                          "which part of the log? give --since, --until, --after or --before",
		"deliveries replay billing --after 4 --before 5":     "--after 4 and --before 5",
		"deliveries replay billing --since 1h --until 1h30m": "--since",
		"endpoints list --timeout 0s":                        "--timeout 0s leaves no time",
		"trace x --timeout=-1s":                              "--timeout -1s leaves no time",
		"check --timeout 0s":                                 "--timeout 0s leaves no time",
		"tail --since=-1d":                                   "--since",
	} {
		list := strings.Fields(args)
		if list[0] != "check" && list[0] != "tail" {
			list = append(list, "--relay", relay)
		}
		if code, out, errs := call(t, nil, list...); code != exitUsage || out != "" || !strings.Contains(errs, want) {
			t.Errorf("relay %s: exit %d, want %d and %q\n%s%s", args, code, exitUsage, want, out, errs)
		}
	}
}

// What the relay finds at a field is told at the flag that has set it.
func TestRefusalsNameFlags(t *testing.T) {
	t.Parallel()
	bad := func(message string) []string { return []string{fmt.Sprintf(`{"code":400,"message":%q}`, message)} }
	changed := []string{`{"code":412,"message":"billing has revision 9 by now: give that with If-Match"}`}
	relay := answering(t, map[string][]string{
		"GET /api/v1/attempts":                  bad("outcome: x is none; to: no time; limit is fine"),
		"GET /api/v1/dead-letters":              bad("class: x is none"),
		"POST /api/v1/dead-letters/retry":       bad("from: no time; class: x is none"),
		"GET /api/v1/endpoints":                 bad("state: x is none"),
		"GET /api/v1/endpoints/billing":         {`{"id":"billing","revision":8}`},
		"PATCH /api/v1/endpoints/billing":       changed,
		"POST /api/v1/endpoints/billing/replay": bad("from: no time; events[1]: no pattern; filter: broken"),
		"POST /api/v1/endpoints/billing/enable": bad("resume: x is none"),
		"POST /api/v1/endpoints":                bad("url: no URL"),
		"GET /api/v1/events":                    bad("from: no time"),
	}, nil)
	for args, want := range map[string]string{
		"deliveries list --outcome x":                    "--outcome: x is none; --until: no time; limit is fine",
		"dead --class x":                                 "--class: x is none",
		"dead retry --class x":                           "--since: no time; --class: x is none",
		"endpoints --state x":                            "--state: x is none",
		"endpoints change billing url=x":                 "billing was changed by somebody else just now",
		"endpoints change billing url=x --revision 7":    "--revision 7 is not the endpoint's",
		"deliveries replay billing --after 1 --filter x": "--since: no time; --events[1]: no pattern; --filter: broken",
		"endpoints enable billing --resume x":            "--resume: x is none",
		"endpoints create url=x":                         "relay: url: no URL",
		"trace evt_1":                                    "--since: no time",
	} {
		code, out, errs := call(t, nil, append(strings.Fields(args), "--relay", relay)...)
		if code != exitFailed || out != "" || !strings.Contains(errs, want) || strings.Contains(errs, "If-Match") {
			t.Errorf("relay %s: exit %d\n%s%swant %s", args, code, out, errs, want)
		}
	}
}

// Ages and overlaps have days, as the file has.
func TestDays(t *testing.T) {
	t.Parallel()
	var from, overlap string
	relay := answering(t, map[string][]string{
		"GET /api/v1/attempts": {`{"data":[]}`}, "POST /api/v1/endpoints/billing/rotate-secret": {`{}`},
	}, func(r *http.Request, body map[string]any) {
		from, overlap = r.URL.Query().Get("from"), fmt.Sprint(body["overlap"])
	})
	if code, _, errs := call(t, nil, "deliveries", "--since", "7d12h", "--relay", relay); code != 0 {
		t.Fatal(errs)
	}
	at, err := time.Parse(time.RFC3339Nano, from)
	if age := time.Since(at); err != nil || age < 180*time.Hour || age > 180*time.Hour+patience {
		t.Errorf("from %s: %v %v", from, age, err)
	}
	for text, want := range map[string]string{"1d": "24h0m0s", "30m": "30m0s", "soon": "soon"} {
		if code, _, errs := call(t, nil, "endpoints", "rotate-secret", "billing", "overlap="+text, "--relay", relay); code != 0 || overlap != want {
			t.Errorf("%s: %s %s", text, overlap, errs)
		}
	}
}

// With --json every command prints what the API answers, one object a line, and nothing else.
func TestJSONIsWhatTheAPIAnswers(t *testing.T) {
	t.Parallel()
	event := `{"sequence":4,"subject":"nex.acme.insight.risk","stored":"2026-02-05T10:30:00Z","event":{"id":"evt_1"}}`
	attempt, letter := `{"id":8,"endpoint":"billing","outcome":"server_error"}`, `{"id":3,"endpoint":"billing","class":"5xx"}`
	bulk := []string{`{"done":2,"skipped":1,"reasons":["3: gone"],"more":true,"last":3}`, `{"done":1,"more":false}`}
	running, done := `{"id":"r1","state":"running","from":1,"to":9,"read":2,"queued":1}`, `{"id":"r1","state":"done","from":1,"to":9,"read":9,"queued":3}`
	for args, want := range map[string][]string{
		"dead retry --all":                           bulk,
		"dead delete --endpoint billing":             bulk,
		"deliveries replay billing --after 1 --wait": {running, done},
		"trace evt_1":                                {event, attempt, letter},
	} {
		relay := answering(t, map[string][]string{
			"POST /api/v1/dead-letters/retry": bulk, "POST /api/v1/dead-letters/delete": bulk,
			"POST /api/v1/endpoints/billing/replay": {running},
			"GET /api/v1/endpoints/billing/replays": {`{"data":[{"id":"r0","state":"done"},` + running + `]}`, `{"data":[` + done + `]}`},
			"GET /api/v1/events":                    {`{"data":[` + event + `]}`}, "GET /api/v1/attempts": {`{"data":[` + attempt + `]}`}, "GET /api/v1/dead-letters": {`{"data":[` + letter + `]}`},
		}, nil)
		code, out, errs := call(t, nil, append(strings.Fields(args), "--json", "--relay", relay)...)
		if lines := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || errs != "" || !slices.Equal(lines, want) {
			t.Errorf("relay %s --json: exit %d %s\ngot  %q\nwant %q", args, code, errs, lines, want)
		}
	}
}

// Where nothing could be done with any of them the command has failed.
func TestDeadRetryOfNoneFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		answer string
		code   int
	}{
		{`{"done":0,"skipped":2,"reasons":["3: gone: no such endpoint"],"more":false}`, exitFailed},
		{`{"done":1,"skipped":2,"more":false}`, exitOK},
		{`{"done":0,"more":false}`, exitOK}, // there were none
	} {
		relay := answering(t, map[string][]string{"POST /api/v1/dead-letters/retry": {tt.answer}}, nil)
		for _, more := range [][]string{nil, {"--json"}} {
			if code, out, errs := call(t, nil, append([]string{"dead", "retry", "--endpoint", "gd", "--relay", relay}, more...)...); code != tt.code {
				t.Errorf("%s: exit %d, want %d\n%s%s", tt.answer, code, tt.code, out, errs)
			}
		}
	}
}

// A replay that waits for its endpoint says so, once.
func TestReplayTellsWhyItWaits(t *testing.T) {
	t.Parallel()
	waiting := `{"data":[{"id":"r1","state":"waiting","from":1,"to":9}]}`
	relay := answering(t, map[string][]string{
		"POST /api/v1/endpoints/billing/replay": {`{"id":"r1","state":"waiting"}`},
		"GET /api/v1/endpoints/billing/replays": {waiting, waiting, `{"data":[{"id":"r1","state":"done","from":1,"to":9,"read":9}]}`},
		"GET /api/v1/endpoints/billing":         {`{"id":"billing","state":"paused"}`},
	}, nil)
	code, _, errs := call(t, nil, "deliveries", "replay", "billing", "--after", "1", "--wait", "--relay", relay)
	if code != 0 || strings.Count(errs, "it waits because the endpoint is paused: relay endpoints enable billing") != 1 {
		t.Errorf("exit %d %s", code, errs)
	}
}

func TestTrace(t *testing.T) {
	t.Parallel()
	trace := func(events, attempts string) (code int, out, errs string) {
		relay := answering(t, map[string][]string{
			"GET /api/v1/events": {`{"data":[` + events + `]}`}, "GET /api/v1/attempts": {`{"data":[` + attempts + `]}`}, "GET /api/v1/dead-letters": {`{"data":[]}`},
		}, nil)
		return call(t, nil, "trace", "evt_1", "--relay", relay)
	}
	if code, out, errs := trace("", ""); code != exitFailed || out != "" || !strings.Contains(errs, "nothing is known of evt_1") {
		t.Errorf("of nothing: exit %d\n%s%s", code, out, errs)
	}
	if code, out, _ := trace("", `{"id":8,"endpoint":"billing","outcome":"delivered"}`); code != 0 || !strings.Contains(out, "not in the log, or no more") || !strings.Contains(out, "billing: delivered") {
		t.Errorf("of an attempt: exit %d\n%s", code, out)
	}
	for kind, by := range map[string]string{"nex.insight.risk": "by Nex", "nex.relay.gap_filled": "by the relay"} {
		event := `{"sequence":4,"stored":"2026-02-05T10:30:00Z","event":{"id":"evt_1","type":"` + kind + `","time":"2026-02-05T10:29:59Z"}}`
		if code, out, errs := trace(event, ""); code != 0 || !strings.Contains(out, "emitted  "+by+"\n") {
			t.Errorf("%s: exit %d\n%s%s", kind, code, out, errs)
		}
	}
}
