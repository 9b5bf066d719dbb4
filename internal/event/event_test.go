package event

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestEnvelope(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 2, 5, 11, 30, 0, 0, time.FixedZone("CET", 3600))
	tests := []struct {
		name string
		in   Event
		want string
	}{
		{
			name: "insight",
			in: Event{Workspace: "acme", ID: "i-1", Type: "nex.insight.risk", Subject: "person/John Smith", Time: at,
				Data: json.RawMessage("{ \"n\": 12345678901234567890.10,\n\"x\":\"<&>\" }")},
			want: `{"specversion":"1.0","id":"i-1","source":"/nex/workspaces/acme","type":"nex.insight.risk",` +
				`"subject":"person/John Smith","time":"2026-02-05T10:30:00Z","datacontenttype":"application/json",` +
				"\"data\":{ \"n\": 12345678901234567890.10,\n\"x\":\"<&>\" }}",
		},
		{
			name: "no subject, no data, strings that need escapes",
			in:   Event{Workspace: "_", ID: "a\"\\\n<é\xff", Type: "nex.relay.endpoint.disabled", Time: at.Add(1500 * time.Microsecond)},
			want: `{"specversion":"1.0","id":"a\"\\\n<é\ufffd","source":"/nex/relay","type":"nex.relay.endpoint.disabled",` +
				`"time":"2026-02-05T10:30:00.0015Z","datacontenttype":"application/json","data":null}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := string(tt.in.JSON())
			if got != tt.want {
				t.Errorf("\ngot  %s\nwant %s", got, tt.want)
			}
			if !json.Valid([]byte(got)) {
				t.Error("not valid JSON")
			}
		})
	}
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", "quote\" back\\", "\x00\x1f\x7f", "é\u2028\xff", "\x81\xed\xed", "<script>&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := AppendString(nil, s)
		var back string
		if err := json.Unmarshal(got, &back); err != nil {
			t.Fatalf("%q -> %s: %v", s, got, err)
		}
		if want := string([]rune(s)); back != want { // each byte that is no UTF-8 becomes U+FFFD
			t.Fatalf("%q came back as %q", s, back)
		}
	})
}

func TestTraceparent(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`)
	parent := NewTraceparent()
	child := ChildTraceparent(parent)
	for _, tp := range []string{parent, child, ChildTraceparent("rubbish"), ChildTraceparent("")} {
		if !form.MatchString(tp) {
			t.Errorf("%q is no traceparent", tp)
		}
	}
	if parent[:35] != child[:35] || parent == child {
		t.Errorf("child %q is no new span of %q", child, parent)
	}
}

func TestInsightID(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 2, 5, 10, 30, 0, 0, time.UTC)
	derived := InsightID("acme", "", "risk", "text", at)
	if !regexp.MustCompile(`^evt_[a-z2-7]{32}$`).MatchString(derived) {
		t.Errorf("derived id %q", derived)
	}
	if same := InsightID("acme", "", "risk", "text", at.In(time.FixedZone("x", 7200))); same != derived {
		t.Error("the same instant in another zone gives another id")
	}
	different := map[string]string{
		"workspace": InsightID("acm", "", "erisk", "text", at),
		"type":      InsightID("acme", "", "risktext", "", at),
		"content":   InsightID("acme", "", "risk", "text ", at),
		"time":      InsightID("acme", "", "risk", "text", at.Add(time.Nanosecond)),
		"no time":   InsightID("acme", "", "risk", "text", time.Time{}),
	}
	seen := map[string]string{derived: "original"}
	for what, id := range different {
		if other, dup := seen[id]; dup {
			t.Errorf("another %s has the id of %s", what, other)
		}
		seen[id] = what
	}
	if id := InsightID("acme", "ins_1.2", "risk", "text", at); id != "ins_1.2" {
		t.Errorf("Nex's own id became %q", id)
	}
	for _, bad := range []string{"a b", "a\r\nX: y", "é", strings.Repeat("x", 201), "\x00"} {
		if id := InsightID("acme", bad, "risk", "text", at); !strings.HasPrefix(id, "evt_") {
			t.Errorf("unsafe id %q became %q", bad, id)
		}
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	a := Fingerprint("acme", "risk", "text")
	if len(a) != 32 || a != Fingerprint("acme", "risk", "text") {
		t.Errorf("fingerprint %q", a)
	}
	for _, b := range []string{Fingerprint("acme", "ris", "ktext"), Fingerprint("beta", "risk", "text"), Fingerprint("acme", "risk", "texT")} {
		if a == b {
			t.Error("different insights share a fingerprint")
		}
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                       "unknown",
		"opportunity":            "opportunity",
		"Role Detail":            "role_detail",
		"a.b*c>d":                "a_b_c_d",
		"Ünïcode":                "_n_code",
		"x\r\ny":                 "x__y",
		"-_09":                   "-_09",
		strings.Repeat("é", 500): strings.Repeat("_", 128),
	} {
		if got := Token(in); got != want {
			t.Errorf("Token(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add("Acme Corp")
	f.Add("\xff.>*")
	f.Fuzz(func(t *testing.T, s string) {
		got := Token(s)
		if Token(got) != got {
			t.Fatalf("Token(%q) = %q is not stable", s, got)
		}
		ws, typ, ok := SplitSubject(Subject(got, InsightType(s)))
		if !ok || ws != got || typ != InsightPrefix+got {
			t.Fatalf("subject of %q does not split: %q %q %v", s, ws, typ, ok)
		}
	})
}

func TestSplitSubject(t *testing.T) {
	t.Parallel()
	if got := Subject("acme", "nex.insight.risk"); got != "nex.acme.insight.risk" {
		t.Errorf("Subject = %q", got)
	}
	if got := Subject(NoWorkspace, EndpointDisabled); got != "nex._.relay.endpoint.disabled" {
		t.Errorf("Subject = %q", got)
	}
	for _, bad := range []string{"", "nex", "nex.", "nex.acme", "nex.acme.", "nex..x", "other.acme.x"} {
		if _, _, ok := SplitSubject(bad); ok {
			t.Errorf("%q was split", bad)
		}
	}
}

func TestValidatePattern(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"nex.insight.*", "nex.insight.risk", "nex.>", ">", "*.insight.*", "nex.relay.endpoint.*", "nex.insight.role_detail"} {
		if err := ValidatePattern(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"":                       "empty pattern",
		"nex..x":                 "empty token",
		"nex.>.x":                "only at the end",
		"nex.in*":                "whole-token wildcards",
		"nex.Insight":            "a-z",
		"insight.*":              "begin with nex.",
		"nex.in sight":           "a-z",
		strings.Repeat("x", 600): "at most 512",
	} {
		if err := ValidatePattern(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", bad, err, want)
		}
	}
}

func TestNews(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e, err := News("acme", StreamConnected, "", map[string]int{"n": 1}, now)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.NATSSubject(); got != "nex.acme.relay.stream_connected" || !IsNews(e.Type) || string(e.Data) != `{"n":1}` {
		t.Errorf("%s %+v", got, e)
	}
	if IsNews("nex.insight.risk") {
		t.Error("an insight is no news")
	}
	if _, err := News("acme", StreamConnected, "", func() {}, now); err == nil {
		t.Error("data that cannot be encoded was taken")
	}
}
