package shape_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/nex-crm/relay/internal/shape"
)

// nasty are texts that have broken somebody's webhook.
var nasty = map[string]string{
	"plain":         "Budget approval expected next quarter",
	"empty":         "",
	"quotes":        `"},{"a":"b\" \\ ' </script>`,
	"newlines":      "a\nb\r\nc\rd\u2028e\u2029f\u0085g\v\f",
	"controls":      "\x00\x01\x07\x1b[31m\x7f\u0080\u009f",
	"only controls": strings.Repeat("\x00\x1b", 5000),
	"only spaces":   strings.Repeat(" \n\t", 3000),
	"invalid":       "\xff\xfe\xc0\xaf\xed\xa0\x80ok",
	"template":      "{{.data}} {{call .x}} {{DATE(2026-01-01T00:00:00Z,SHORT)}} ${x} %s%n",
	"mentions":      "<!channel> <!here> <!everyone> <@U123> <#C123> @everyone @here <@&1> <@!1> <at>x</at>",
	"links":         "<https://evil.example|https://good.example> [good](https://evil.example) https://x.example/a_b_c",
	"markdown":      "*b* _i_ ~s~ ~~s~~ `c` ```\nblock\n``` # h\n> q\n- l\n1. l ||spoiler|| __u__",
	"backticks":     strings.Repeat("`", 5000),
	"stars":         strings.Repeat("*", 200_000),
	"backslashes":   strings.Repeat(`\`, 20_000),
	"double quotes": strings.Repeat(`"`, 20_000),
	"ampersands":    strings.Repeat("&", 20_000),
	"at signs":      strings.Repeat("@", 20_000),
	"line ends":     strings.Repeat("\n", 20_000),
	"separators":    strings.Repeat("\u2028", 20_000),
	"long":          strings.Repeat("long text ", 20_000),
	"very long":     strings.Repeat("x", 300_000), // more than a function takes as a whole
	"emoji":         strings.Repeat("😀", 20_000),
	"combining":     strings.Repeat("e\u0301\u200d", 20_000),
	"chinese":       strings.Repeat("漢", 20_000),
	"long invalid":  strings.Repeat("\xff", 20_000),
}

// nastyEvents put each of them wherever a template may look, and other kinds where texts are expected.
func nastyEvents(t testing.TB) map[string][]byte {
	t.Helper()
	events := map[string][]byte{"sample": []byte(sample), "nothing": []byte(`{}`), "no data": []byte(`{"id":"1","data":null}`), "text as data": []byte(`{"data":"x"}`)}
	encode := func(name string, value any) {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(value); err != nil {
			t.Fatal(err)
		}
		if b.Len() > shape.MaxEvent {
			t.Fatalf("%s has %d bytes: a template would not look at it", name, b.Len())
		}
		events[name] = b.Bytes()
	}
	add := func(name string, value any) {
		excerpt := map[string]any{"excerpt": value}
		envelope := map[string]any{"id": value, "type": value, "subject": value, "time": value, "source": value, "relay": value}
		data := map[string]any{
			"type": value, "content": value, "confidence": value, "confidence_level": value, "target": map[string]any{"hint": value},
			"evidence": []any{value, excerpt, excerpt},
		}
		if text, _ := value.(string); len(text) > 50_000 || name == "list of long texts" { // in parts, so that it fits
			encode(name, map[string]any{"data": map[string]any{"content": value, "type": value}})
			encode(name+" elsewhere", map[string]any{"type": value, "subject": value, "data": map[string]any{"confidence_level": value}})
			encode(name+" as evidence", map[string]any{"time": value, "data": map[string]any{"evidence": []any{excerpt}, "target": data["target"]}})
			return
		}
		envelope["data"] = data
		encode(name, envelope)
		encode(name+" directly", map[string]any{"data": map[string]any{"target": value, "evidence": value}})
		encode(name+" as data", map[string]any{"data": value})
		encode(name+" alone", map[string]any{"data": map[string]any{"content": value}})
	}
	for name, text := range nasty {
		add(name, text)
		// As bytes that encoding/json would not write.
		raw, _ := json.Marshal(text)
		raw = []byte(strings.ReplaceAll(string(raw), `\ufffd`, "\xff"))
		events[name+", raw"] = slices.Concat([]byte(`{"data":{"content":`), raw, []byte(`,"target":{"hint":`), raw, []byte(`}}}`))
	}
	object, list := map[string]any{}, []any{}
	for i := range 20_000 {
		object[fmt.Sprint("k", i)] = i
		list = append(list, "x")
	}
	for name, value := range map[string]any{
		"null": nil, "true": true, "false": false, "number": 0.95, "large number": json.RawMessage("1" + strings.Repeat("0", 5000)),
		"list": []any{1, "a", nil}, "long list": list[:5000], "object": map[string]any{"a": "b"}, "list of long texts": []any{nasty["stars"], nasty["long"]},
	} {
		add(name, value)
	}
	for name, value := range map[string]any{"large object": object, "large list": list} {
		encode(name, map[string]any{"data": map[string]any{"content": value, "type": value}, "subject": value})
	}
	return events
}

// characters counts as the strictest service might.
func characters(s string) int { return len(utf16.Encode([]rune(s))) }

func TestExamples(t *testing.T) {
	t.Parallel()
	checks := map[string]struct {
		template string
		check    func(t *testing.T, out []byte)
	}{
		"slack":   {shape.SlackTemplate, checkSlack},
		"discord": {shape.DiscordTemplate, checkDiscord},
		"teams":   {shape.TeamsTemplate, checkTeams},
	}
	events := nastyEvents(t)
	for service, c := range checks {
		s := mustParse(t, shape.Spec{Kind: "template", Template: c.template})
		for name, data := range events {
			t.Run(service+"/"+name, func(t *testing.T) {
				body, err := s.Render(data, meta)
				if err != nil {
					t.Fatal(err)
				}
				if !json.Valid(body.Data) || body.ContentType != "application/json" {
					t.Fatalf("%s: %s", body.ContentType, body.Data)
				}
				c.check(t, body.Data)
			})
		}
	}
}

func decodeInto[T any](t *testing.T, out []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v: %.300s", err, out)
	}
	return v
}

func within(t *testing.T, what, s string, limit int) {
	t.Helper()
	if n := characters(s); strings.TrimSpace(s) == "" || n > limit {
		t.Errorf("%s has %d characters, want 1 to %d, and not all of them spaces: %.100q", what, n, limit, s)
	}
}

// checkSlack knows the limits of docs.slack.dev: a text object has 1 to 3000 characters. What Slack would read begins with <.
func checkSlack(t *testing.T, out []byte) {
	type text struct {
		Type, Text string
		Verbatim   bool
	}
	m := decodeInto[struct {
		Text   string
		Blocks []struct {
			Type     string
			Text     *text
			Elements []text
		}
	}](t, out)
	within(t, "text", m.Text, 3000)
	texts := []text{{Text: m.Text, Verbatim: true}}
	for _, b := range m.Blocks {
		if b.Text != nil {
			texts = append(texts, *b.Text)
		}
		texts = append(texts, b.Elements...)
	}
	if len(texts) != 4 {
		t.Errorf("%d texts", len(texts))
	}
	for _, x := range texts {
		within(t, "a text", x.Text, 3000)
		if strings.ContainsAny(x.Text, "<>") || !x.Verbatim {
			t.Errorf("Slack would read %.200q", x.Text)
		}
		for rest := x.Text; strings.Contains(rest, "&"); {
			_, rest, _ = strings.Cut(rest, "&")
			if !strings.HasPrefix(rest, "amp;") && !strings.HasPrefix(rest, "lt;") && !strings.HasPrefix(rest, "gt;") {
				t.Fatalf("an escape is cut: %.20q", rest)
			}
		}
	}
}

// checkDiscord knows the limits of discord.com/developers: message and embed.
func checkDiscord(t *testing.T, out []byte) {
	m := decodeInto[struct {
		Content         string
		AllowedMentions struct{ Parse []string } `json:"allowed_mentions"`
		Embeds          []struct {
			Title, Description string
			Color              int
			Fields             []struct{ Name, Value string }
		}
	}](t, out)
	within(t, "content", m.Content, 2000)
	if m.AllowedMentions.Parse == nil || len(m.AllowedMentions.Parse) > 0 || len(m.Embeds) != 1 {
		t.Fatalf("mentions or embeds: %.300s", out)
	}
	e := m.Embeds[0]
	within(t, "title", e.Title, 256)
	within(t, "description", e.Description, 4096)
	total := characters(e.Title + e.Description)
	if len(e.Fields) < 2 || len(e.Fields) > 25 {
		t.Errorf("%d fields", len(e.Fields))
	}
	for _, f := range e.Fields {
		within(t, "field name", f.Name, 256)
		within(t, "field value", f.Value, 1024)
		total += characters(f.Name + f.Value)
	}
	if total > 6000 {
		t.Errorf("the embed has %d characters, at most 6000", total)
	}
	for _, mention := range []string{"@everyone", "@here"} {
		if strings.Contains(string(out), mention) {
			t.Errorf("%s came through", mention)
		}
	}
}

// checkTeams knows the limit of "Create Incoming Webhooks", 28 KB, in bytes and in UTF-16 as well: both are told.
func checkTeams(t *testing.T, out []byte) {
	if len(out) > 28_000 || 2*characters(string(out)) > 28_000 {
		t.Errorf("%d bytes, %d in UTF-16", len(out), 2*characters(string(out)))
	}
	m := decodeInto[struct {
		Type        string
		Attachments []struct {
			ContentType string
			Content     struct {
				Type, Version string
				Body          []struct {
					Type, Text string
					Facts      []struct{ Title, Value string }
				}
			}
		}
	}](t, out)
	if m.Type != "message" || len(m.Attachments) != 1 || m.Attachments[0].ContentType != "application/vnd.microsoft.card.adaptive" {
		t.Fatalf("no card: %.300s", out)
	}
	card := m.Attachments[0].Content
	if card.Type != "AdaptiveCard" || len(card.Body) != 3 || len(card.Body[2].Facts) != 3 {
		t.Fatalf("no card: %.300s", out)
	}
	within(t, "title", card.Body[0].Text, 200)
	within(t, "text", card.Body[1].Text, 4000)
	for _, f := range card.Body[2].Facts {
		within(t, f.Title, f.Value, 300)
	}
	if strings.Contains(card.Body[1].Text, "{{") {
		t.Errorf("Teams would replace %.200q", card.Body[1].Text)
	}
}

// FuzzRender is about events: whatever one holds, each kind gives a valid body or an error of its own.
func FuzzRender(f *testing.F) {
	for _, e := range nastyEvents(f) {
		if len(e) < 20_000 {
			f.Add(e)
		}
	}
	f.Add([]byte(`{"a":"\ud800\u0000","a":1e999,"data_base64":"AA==","datacontenttype":"text/plain"}`))
	var all []*shape.Shape
	for _, spec := range []shape.Spec{
		{}, {Kind: "binary"}, {Kind: "thin"}, {Kind: "template", Template: shape.SlackTemplate}, {Kind: "template", Template: shape.DiscordTemplate},
		{Kind: "template", Template: shape.TeamsTemplate}, {Kind: "template", Template: `{{json .}}`},
		{Kind: "template", Template: `["{{range $k, $v := .}}{{quote $k}}{{quote $v}}{{end}}"]`},
	} {
		all = append(all, mustParse(f, spec))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, s := range all {
			body, err := s.Render(data, meta)
			if err != nil {
				checkFault(t, err, "event: ", "template: line ")
				continue
			}
			spec := s.Spec()
			if spec.Kind != shape.Structured && spec.Kind != shape.Binary && !json.Valid(body.Data) {
				t.Fatalf("%s: %s gave %s", spec.Kind, data, body.Data)
			}
			for name, values := range body.Header {
				for _, c := range []byte(name + values[0]) {
					if c <= ' ' || c > '~' || c == '"' {
						t.Fatalf("header %q: %q", name, values)
					}
				}
			}
		}
	})
}
