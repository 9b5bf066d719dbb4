package shape_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/nex-crm/relay/internal/shape"
)

var meta = shape.Meta{Sequence: 4711, Attempt: 2}

func TestTemplate(t *testing.T) {
	t.Parallel()
	tests := []struct{ source, want string }{
		{`{{.id}} {{.relay.sequence}} {{.relay.attempt}}`, "ins_1 4711 2"},
		{`{{.data.n}} {{.data.confidence}} {{json .data.n}}`, "12345678901234567 0.85 12345678901234567"},
		{`{{.data.tags}} {{.data.target}} {{.data.yes}}`, `["a","b","c"] {"hint":"John Smith"} true`},

		// What is missing, or no object, is nothing.
		{`[{{.data.none}}{{.nope}}{{.data.nope.deeper.still}}{{.data.content.x}}{{.data.tags.x}}{{(index .data.tags 9).x}}]`, "[]"},
		{`{{json .nope}} {{json .data.none}}`, "null null"},
		{`{{with .nope}}x{{else}}none{{end}}{{range .nope}}x{{else}}none{{end}}{{range .data.content}}x{{else}}none{{end}}`, "nonenonenone"},
		{`{{if .data.zero}}x{{end}}{{if .data.no}}x{{end}}{{if .data.empty}}x{{end}}{{if .data.none}}x{{end}}{{if .data.confidence}}y{{end}}`, "y"},

		{`{{range $i, $t := .data.tags}}{{if $i}}, {{end}}{{$i}}={{$t}}{{end}}`, "0=a, 1=b, 2=c"},
		{`{{range .data.tags}}{{if eq . "b"}}{{continue}}{{end}}{{.}}{{end}} {{range .data.tags}}{{if eq . "b"}}{{break}}{{end}}{{.}}{{end}}`, "ac a"},
		{`{{range $k, $v := .data.evidence | json | len}}x{{end}}{{range 3}}{{.}}{{end}}`, strings.Repeat("x", 41) + "012"},
		{`{{range 2}}{{range $.nope}}{{else}}{{break}}{{end}}x{{end}}y`, "y"}, // the break is the outer loop's
		{`{{range $k, $v := .data.target}}{{$k}}:{{$v}}{{end}}`, "hint:John Smith"},
		{`{{$x := "a"}}{{if true}}{{$x = "b"}}{{$x := "c"}}{{$x}}{{end}}{{$x}}`, "cb"},
		{`{{define "row"}}<{{.excerpt}}>{{end}}{{range .data.evidence}}{{template "row" .}}{{end}}`, "<by Q2><or Q3>"},
		{`{{block "b" .data}}{{.confidence_level}}{{end}}`, "high"},
		{`{{if false}}a{{else if eq .specversion "1.0"}}b{{end}}{{with .nope}}{{else with .id}}{{.}}{{end}}`, "bins_1"},

		{`{{eq .data.n 12345678901234567}} {{eq .data.n 12345678901234568}} {{gt .data.confidence 0.8}} {{le 1 1.0}} {{lt "a" "b"}} {{ge .nope 1}} {{ne .nope nil}}`,
			"true false true true true false false"},
		{`{{eq .id "x" "ins_1"}} {{eq .data.yes true}} {{eq .data.tags .data.tags}} {{eq .id 1}} {{eq nil .nope}} {{eq .data.zero 0}}`, "true true false false true true"},
		{`{{and 1 .nope 2}}|{{or .nope 0 "x"}}|{{not .nope}}|{{"p" | and 1}}`, "|x|true|p"},
		{`{{len .data.tags}} {{len "äöü"}} {{len .nope}} {{index .data.tags 1}} {{index .data "target" "hint"}} {{index .data.tags -1}} {{index .id 0}}`, "3 3 0 b John Smith  "},
		{`{{slice .data.tags 1}} {{slice .data.tags 0 99}} {{slice "äöü" 1 2}} {{slice "äöü" 5}} {{slice .nope 1}} {{len (slice .data.tags 7)}}`, `["b","c"] ["a","b","c"] ö   0`},

		{`{{print "a" 1 true .nope 1.5}} {{printf "%s-%5.1f|%-4d|%x|%t|100%%|%v" .id .data.confidence .data.zero 255 .nope .data.tags}}`,
			`a1true1.5 ins_1-  0.8|0   |ff|false|100%|["a","b","c"]`},
		{`{{printf "%d %.2f %5s" .id .nope "x"}}`, "ins_1      x"},
		{`{{html .data.content}} {{urlquery "a b&c"}}`, "Budget &lt;approval&gt; &amp; &#34;more&#34;\nnext quarter a+b%26c"},
		{`{{json .data.content}} "{{quote .data.content}}"`, `"Budget <approval> & \"more\"\nnext quarter" "Budget <approval> & \"more\"\nnext quarter"`},
		{"{{json \"\\u2028\\x01\\x7f/\"}}", `"\u2028\u0001` + "\x7f" + `/"`},
		{`{{truncate 5 "äöüßab"}} {{truncate 6 "äöüßab"}} {{.data.content | truncate 1}} {{truncate 3 .nope}} {{truncate 4 .data.tags}}`, `äöüß… äöüßab …  ["a…`},
		{`{{default "-" .nope}} {{.data.empty | default "-"}} {{.data.zero | default 7}} {{.data.no | default 7}} {{.id | default "-"}}`, "- - 0 false ins_1"},
		{`{{upper "aß"}} {{lower "ÄB"}} [{{trim "  x\n"}}] [{{oneline " a\n\n\t b\x00c "}}]`, "Aß äb [x] [a b c]"},
		{`{{join ", " .data.tags}} {{join ", " .id}} {{join "-" .nope}}`, "a, b, c ins_1 "},
		{`{{date "2.1.2006 15:04" .time}} {{date "2006" "2026-02-05T23:30:00-05:00"}} {{date "2006-01-02" "2026-02-05T23:30:00-05:00"}} {{date "2006" "soon"}} {{date "2006" .nope}}`,
			"5.2.2026 10:30 2026 2026-02-06 soon "},
		{`{{slack "a & <!channel> b"}} {{slack 6 "ab<cd"}} {{slack 7 "ab<cd"}} {{slack 8 "ab<cd"}}`, "a &amp; &lt;!channel&gt; b ab… ab&lt;… ab&lt;cd"},
		{`{{slack 3 "😀😀"}} {{slack 4 "😀😀"}} {{slack 1 "ab"}} {{slack 5 "a\r\nb\x00\x1bc"}}`, "😀… 😀😀 … a\nbc"},
		{`{{discord "@everyone <@1> *b* [x](y) ` + "`c`" + ` ~~s~~ ||p||"}}`, "@\u200beveryone \\<@\u200b1\\> \\*b\\* \\[x\\](y) \\`c\\` \\~\\~s\\~\\~ \\|\\|p\\|\\|"},
		{`{{discord "# h\n  - l\n-# s a-b #c"}}`, "\\# h\n  \\- l\n\\-# s a-b #c"},
		{`{{teams "**b** {{DATE(x)}}\n- [l](u)" }}`, `\*\*b\*\* \{\{DATE(x)\}\}` + "\n\n" + `\- \[l\](u)`},
	}
	for _, tt := range tests {
		s, err := shape.Parse(shape.Spec{Kind: "template", Template: tt.source, ContentType: "text/plain"})
		if err != nil {
			t.Errorf("%s: %v", tt.source, err)
			continue
		}
		got, err := s.Render([]byte(sample), meta)
		if err != nil || string(got.Data) != tt.want || got.ContentType != "text/plain" {
			t.Errorf("%s:\ngot  %q, %v\nwant %q", tt.source, got.Data, err, tt.want)
		}
	}
}

func TestTemplateFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		source string
		want   []string
	}{
		{"a\n{{if}}", []string{"template: line 2: missing value for if"}},
		{"{{end}}", []string{"template: line 1: unexpected {{end}}"}},
		{"{{$x}}", []string{"template: line 1: undefined variable"}},
		{"ä\n {{.a | nope}}{{.b 1}}{{1 | .c}}", []string{
			"template: line 2, column 9: nope: is no function; there are and,",
			"template: line 2, column 17: .b is no function and takes no arguments",
			"template: line 2, column 29: .c is no function"}},
		{`{{call .x}}{{js .x}}{{println .x}}`, []string{"call: is not offered", "js: is not offered: its escapes are no JSON; write", "println: is not offered"}},
		{`{{truncate 5}}{{json}}{{json 1 2}}{{slice .a}}`, []string{
			"truncate gets 1 arguments: write truncate 100 X", "json gets 0", "json gets 2", "slice gets 1"}},
		{`{{json (json)}}`, []string{"column 9: json gets 0"}},
		{`{{printf .id}}`, []string{"printf takes its format first, as a literal text"}},
		{`{{.id | printf}}`, []string{"printf takes its format first"}},
		{`{{printf "%0999999999d" 1}}{{printf "%.101f" 1}}{{printf "%*d" 1 1}}{{printf "%[1]d" 1}}{{printf "%q" 1}}{{printf "%"}}`, []string{
			"widths and precisions go up to 100", "widths and precisions go up to 100", "the verbs are", "the verbs are", "the verbs are", "the verbs are"}},
		{`{{template "x"}}`, []string{`there is no template "x": {{define}} it`}},
		{`{{define "x"}}{{template "x"}}{{end}}`, []string{`template "x" leads back to itself`}},
		{`{{define "x"}}{{if 1}}{{template "y"}}{{end}}{{end}}{{define "y"}}{{with 1}}{{else}}{{range 1}}{{template "x"}}{{end}}{{end}}{{end}}`,
			[]string{`template "y" leads back to itself`, `template "x" leads back to itself`}},
		{`x{{template "source"}}`, []string{`leads back to itself`}},
		{`{{1i}}`, []string{"1i is no whole number"}},
		{`{{18446744073709551615}}`, []string{"is no whole number below 2^63"}},
		{strings.Repeat("{{.a 1}}", 30), append(slicesRepeat("is no function", 10), "template: and 20 faults more")},
		{strings.Repeat("{{if 1}}", 40) + strings.Repeat("{{end}}", 40), []string{"stands in more than 32 blocks"}},
		{"{{" + strings.Repeat("(", 40) + "1" + strings.Repeat(")", 40) + "}}", []string{"stands in more than 32 blocks"}},
		{"{{" + strings.Repeat("(", 1001), []string{"more than 1000 opening parentheses"}},
		{strings.Repeat("{{$x := 1}}", 51), []string{"declares more than 50 variables"}},
		{"{{nil}}", []string{"template: line 1, column 3: nil is no value to begin with"}},
		{`{{"` + strings.Repeat("x", 9000) + `" 1}}`, []string{"…"}},
	}
	for _, tt := range tests {
		_, err := shape.Parse(shape.Spec{Kind: "template", Template: tt.source})
		if err == nil {
			t.Errorf("%.80s: no error", tt.source)
			continue
		}
		checkLines(t, tt.source[:min(80, len(tt.source))], err, tt.want)
		for line := range strings.Lines(err.Error()) {
			if !strings.HasPrefix(line, "template: ") || len(line) > 500 || strings.Contains(line, "cannot be parsed") {
				t.Errorf("%.80s: error %q", tt.source, line)
			}
		}
	}
}

func slicesRepeat(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}

func TestOutputMustBeJSON(t *testing.T) {
	t.Parallel()
	tests := []struct{ source, contentType, want string }{
		{`{"a":{{json .id}}}`, "", ""},
		{`{"a":"{{.data.content}}"}`, "text/plain", ""},
		{"{\"ä\":\n  \"{{.data.content}}\"}", "", `template: the output is no JSON: line 2, column 25 of it: invalid character 'm' after object key:value pair; write {{json .x}}`},
		{`{"a":{{.nope}}}`, "application/problem+json; charset=utf-8", "line 1, column 6 of it"},
		{`{{.nope}}`, "", "the output is no JSON: line 1, column 1 of it: unexpected end"},
		{`{{json .id}} 1`, "text/json", "column 9 of it: invalid character '1'"},
	}
	for _, tt := range tests {
		_, err := mustParse(t, shape.Spec{Kind: "template", Template: tt.source, ContentType: tt.contentType}).Render([]byte(sample), meta)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.source, err, tt.want)
		}
	}
}

func TestTemplateOfNoEvent(t *testing.T) {
	t.Parallel()
	s := mustParse(t, shape.Spec{Kind: "template", Template: "{{.id}}", ContentType: "text/plain"})
	for data, want := range map[string]string{
		"":         "event: is no JSON object",
		"{":        "event: is no JSON object",
		"[]":       "event: is no JSON object",
		"null":     "event: is no JSON object",
		"{} {}":    "event: is no JSON object",
		"{}":       "",
		"{} \n":    "",
		`{"id":1}`: "",
		`{"a":"` + strings.Repeat("x", shape.MaxEvent) + `"}`: "event: has 4194312 bytes, a template takes 4194304",
		`{"a":[` + strings.Repeat("1,", 100_000) + `1]}`:      "event: has up to 100002 values, a template takes 100000",
	} {
		_, err := s.Render([]byte(data), meta)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%.40s: got %v, want %q", data, err, want)
		}
	}
}

// hostile are templates that would take long or much if they were let, and what stops each.
var hostile = map[string]struct{ source, want string }{
	"range over a number":   {`{{range 1000000000}}{{end}}`, "does too much"},
	"just within":           {`{{range 16000}}{{end}}{{range 16000}}{{end}}{{range 16000}}{{end}}`, ""},
	"nested ranges":         {`{{range 1000}}{{range 1000}}{{range 1000}}{{end}}{{end}}{{end}}`, "does too much"},
	"range over the event":  {`{{range $.data.list}}{{range $.data.list}}{{end}}{{end}}`, "does too much"},
	"sort for nothing":      {`{{range 1000}}{{range $.data.object}}{{break}}{{end}}{{end}}`, "does too much"},
	"sort in JSON":          {`{{range 1000}}{{if json $.data.object}}{{end}}{{end}}`, "does too much"},
	"sort for a beginning":  {`{{range 5000}}{{if truncate 1 $.data.object}}{{end}}{{end}}`, ""},
	"doubling":              {`{{$x := "0123456789"}}{{range 40}}{{$x = print $x $x}}{{end}}{{len $x}}`, "more than 262144 bytes"},
	"doubling by printf":    {`{{$x := "0123456789"}}{{range 40}}{{$x = printf "%s%s" $x $x}}{{end}}`, "does too much"},
	"doubling by join":      {`{{$x := "0123456789"}}{{range 40}}{{$x = join $x $.data.short}}{{end}}`, "more than 262144 bytes"},
	"doubling by quote":     {`{{$x := "\\"}}{{range 40}}{{$x = quote $x}}{{end}}`, "does too much"},
	"doubling by html":      {`{{$x := "&"}}{{range 90000}}{{$x = html $x}}{{end}}`, "does too much"},
	"doubling by urlquery":  {`{{$x := "%%%%%%%%"}}{{range 4000}}{{$x = urlquery $x}}{{end}}`, "does too much"},
	"doubling by discord":   {`{{$x := "*"}}{{range 40}}{{$x = discord $x}}{{end}}`, "does too much"},
	"doubling by layout":    {`{{$x := "January"}}{{range 40}}{{$x = print $x $x | truncate 60000}}{{$y := date $x $.time}}{{end}}`, "does too much"},
	"templates":             {templateBomb(), "does too much"},
	"long texts":            {`{{range 10000}}{{if upper $.data.text}}{{end}}{{end}}`, "does too much"},
	"comparing long texts":  {`{{range 10000}}{{if eq $.data.text $.data.text2}}{{end}}{{end}}`, "does too much"},
	"counting long texts":   {`{{range 10000}}{{if len $.data.long}}{{end}}{{end}}`, "does too much"},
	"slicing long texts":    {`{{range 10000}}{{if slice $.data.long 130000}}{{end}}{{end}}`, "does too much"},
	"too long a text":       {`{{upper .data.long}}`, "column 3: upper: a text of more than 262144 bytes: truncate it first"},
	"nothing but controls":  {`{{range 10000}}{{if slack 5 $.data.controls}}{{end}}{{end}}`, "does too much"},
	"controls in JSON":      {`{{json (slice .data.controls 0 90000)}}`, "more than 262144 bytes"},
	"long keys":             {`{{range 10000}}{{if index $.data $.data.text}}{{end}}{{end}}`, "does too much"},
	"long numbers":          {`{{range 10000}}{{if eq $.data.number 1.5}}{{end}}{{if printf "%f" $.data.number}}{{end}}{{end}}`, "does too much"},
	"truth of long numbers": {`{{range 5000}}{{if $.data.zeros}}{{end}}{{end}}`, ""},
	"the whole event":       {`{{.}}`, "more than 262144 bytes"},
	"long output":           {`{{range 100}}{{$.data.text}}{{end}}`, "the output has more than 262144 bytes"},
	"wide output":           {`{{range 5000}}{{printf "%100d" 1}}{{end}}`, "the output has more than 262144 bytes"},
	"deep values":           {`{{json .data.deep}}`, ""},
	"variables":             {strings.Repeat(`{{$x := 1}}`, 49) + `{{range 12000}}{{if $}}{{end}}{{end}}`, ""},
	"long paths":            {`{{range 12000}}{{$.a` + strings.Repeat(".a", 5000) + `}}{{end}}`, "does too much"},
	"a chain":               {chain(), ""},
	"widths":                {`{{range 9000}}{{if printf "%100.100f%100.100f" 1e308 1e308}}{{end}}{{end}}`, "does too much"},
}

// templateBomb calls the first of 40 templates, each of which calls the next one twice.
func templateBomb() string {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, `{{define "%d"}}{{template "%d"}}{{template "%d"}}{{end}}`, i, i+1, i+1)
	}
	return b.String() + `{{define "40"}}{{end}}{{template "0"}}`
}

// chain is as many templates as fit, each of which calls the next.
func chain() string {
	var b strings.Builder
	for i := range 380 {
		fmt.Fprintf(&b, `{{define "%d"}}{{template "%d"}}{{end}}`, i, i+1)
	}
	return b.String() + `{{define "380"}}{{end}}{{template "0"}}`
}

// hostileEvent has 1.5 MB and all that the templates above look for.
var hostileEvent = func() []byte {
	object := map[string]int{}
	for i := range 8000 {
		object[strings.Repeat("k", 20)+string(rune(0x4e00+i))] = i
	}
	data := map[string]any{
		"object": object, "list": make([]int, 20_000), "short": []string{"", "", ""}, "text": strings.Repeat("x", 50_000), "text2": strings.Repeat("x", 50_000),
		"long": strings.Repeat("ä", 140_000), "controls": strings.Repeat("\x01", 100_000),
		"number": json.RawMessage("1." + strings.Repeat("9", 390)), "zeros": json.RawMessage("0." + strings.Repeat("0", 200_000)),
		"deep": json.RawMessage(strings.Repeat("[", 9000) + strings.Repeat("]", 9000)),
	}
	e, err := json.Marshal(map[string]any{"id": "1", "time": "2026-02-05T10:30:00Z", "data": data})
	if err != nil {
		panic(err)
	}
	return e
}()

func TestHostile(t *testing.T) {
	plain := mustParse(t, shape.Spec{Kind: "template", Template: "x", ContentType: "text/plain"})
	floor, floorTime, _ := cost(t, plain)
	for name, tt := range hostile {
		s, err := shape.Parse(shape.Spec{Kind: "template", Template: tt.source, ContentType: "text/plain"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		size, took, err := cost(t, s)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
		if err != nil && (!strings.HasPrefix(err.Error(), "template: line 1, column ") || len(err.Error()) > 400) {
			t.Errorf("%s: error %q", name, err)
		}
		// Ten times what is promised: the race detector and a busy machine take their share.
		if size -= min(floor, size); size > 16<<20 || took-floorTime > time.Second {
			t.Errorf("%s: %v and %d bytes beside the decoding", name, took-floorTime, size)
		}
		t.Logf("%-22s %8v %9d bytes", name, (took - floorTime).Round(100*time.Microsecond), size)
	}
}

// cost is what one rendering of the hostile event allocates and takes.
func cost(t *testing.T, s *shape.Shape) (size uint64, took time.Duration, err error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	_, err = s.Render(hostileEvent, meta)
	took = time.Since(start)
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, took, err
}

func BenchmarkHostile(b *testing.B) {
	for name, tt := range hostile {
		b.Run(strings.ReplaceAll(name, " ", "_"), func(b *testing.B) {
			s := mustParse(b, shape.Spec{Kind: "template", Template: tt.source, ContentType: "text/plain"})
			b.ReportAllocs()
			for b.Loop() {
				_, _ = s.Render(hostileEvent, meta)
			}
		})
	}
}

// TestLikeTextTemplate runs templates that use nothing of our own in text/template as well.
func TestLikeTextTemplate(t *testing.T) {
	t.Parallel()
	for _, source := range likeTextTemplate {
		want, ok := byTextTemplate(t, source)
		if !ok {
			t.Errorf("%s: text/template fails", source)
			continue
		}
		got, err := mustParse(t, shape.Spec{Kind: "template", Template: source, ContentType: "text/plain"}).Render([]byte(common), meta)
		if err != nil || string(got.Data) != want {
			t.Errorf("%s:\ngot  %q, %v\nwant %q", source, got.Data, err, want)
		}
	}
}

// common holds values that print the same in both: texts, and lists and objects of them.
const common = `{"a":"x","b":{"c":"y","d":{"e":"z"}},"l":["p","q","r"],"o":{"k2":"v2","k1":"v1"},"empty":[],"t":true,"f":false}`

var likeTextTemplate = []string{
	"a {{- .a -}} b {{/* c */}} {{.b.d.e}}",
	"{{with .b}}{{.c}}{{$.a}}{{with .d}}{{.e}}{{end}}{{end}}",
	"{{with $x := .a}}{{$x}}{{.}}{{end}}{{with .empty}}1{{else with .a}}{{.}}{{else}}3{{end}}",
	"{{range .l}}{{.}}{{$.a}}{{end}}{{range $x := .l}}{{$x}}{{.}}{{end}}{{range $i, $x := .l}}{{$i}}{{$x}}{{end}}",
	"{{range $k, $v := .o}}{{$k}}={{$v}} {{end}}{{range .o}}{{.}}{{end}}{{range .empty}}1{{else}}2{{.a}}{{end}}",
	"{{$x := .a}}{{range .l}}{{$x = .}}{{$y := .}}{{$y}}{{end}}{{$x}}",
	"{{$i := 0}}{{$x := .a}}{{range $i, $x = .l}}{{end}}{{$i}}{{$x}}",
	"{{range $i := 3}}{{$i}}{{end}}{{range 0}}1{{else}}2{{end}}",
	"{{range .l}}{{if eq . \"q\"}}{{continue}}{{end}}{{.}}{{end}}{{range .l}}{{.}}{{if eq . \"q\"}}{{break}}{{end}}{{end}}",
	"{{range .l}}{{range $.l}}{{if eq . \"q\"}}{{break}}{{end}}{{.}}{{end}};{{end}}",
	"{{define \"T\"}}[{{.}}{{$}}]{{end}}{{template \"T\" .a}}{{with .b}}{{template \"T\" .c}}{{end}}{{block \"B\" .b}}{{.c}}{{end}}",
	"{{$x := .a}}{{define \"U\"}}{{$x := .}}{{$x}}{{end}}{{template \"U\" .b.c}}{{$x}}",
	"{{if and .t .a}}1{{end}}{{if or .f .empty}}1{{else if not .f}}2{{end}}{{and .t .a .b.c}}{{or .f .a}}",
	"{{.a | print \"1\" | printf \"%s-%s\" \"2\"}}{{(index .l 1) | len}}{{index .o \"k1\"}}{{index .b \"d\" \"e\"}}{{(index .b \"d\").e}}",
	"{{len .l}}{{slice .l 1 2 | len}}{{slice .a 0 1}}{{printf \"%5s|%-5s|%05d|%.2f|%t|%v|%%\" .a .a 7 1.5 .t .a}}",
	"{{eq .a \"x\"}}{{eq .a \"y\" \"x\"}}{{ne .a \"x\"}}{{lt 1 2}}{{le 2 2}}{{gt 1.5 1.25}}{{ge \"b\" \"a\"}}",
	"{{1}}{{-3}}{{0x10}}{{1.5}}{{1e6}}{{'a'}}{{\"q\\n\"}}{{`r`}}{{true}}{{1_000}}",
	"{{html .a}}{{urlquery \"a b/ä\"}}{{print .a .b.c}}{{print 1}}",
	"{{if true}}{{$x := .a}}{{$x}}{{else}}{{end}}{{with .a}}{{else}}{{end}}",
}

func byTextTemplate(t testing.TB, source string) (string, bool) {
	t.Helper()
	tmpl, err := template.New("x").Parse(source)
	if err != nil {
		t.Fatalf("%s: %v", source, err)
	}
	var dot any
	if err := json.Unmarshal([]byte(common), &dot); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	err = tmpl.Execute(&b, dot)
	return b.String(), err == nil
}

// FuzzTemplate is about sources: whatever is accepted ends, in bounds.
func FuzzTemplate(f *testing.F) {
	for _, tt := range hostile {
		f.Add(tt.source)
	}
	for _, source := range likeTextTemplate {
		f.Add(source)
	}
	f.Add(shape.SlackTemplate)
	f.Add(shape.DiscordTemplate)
	f.Add(shape.TeamsTemplate)
	f.Fuzz(func(t *testing.T, source string) {
		for _, contentType := range []string{"text/plain", ""} {
			s, err := shape.Parse(shape.Spec{Kind: "template", Template: source, ContentType: contentType})
			if err != nil {
				checkFault(t, err, "template: ")
				return
			}
			start := time.Now()
			body, err := s.Render([]byte(sample), meta)
			if took := time.Since(start); took > time.Second {
				t.Fatalf("took %v", took)
			}
			if err != nil {
				checkFault(t, err, "template: ")
				continue
			}
			if len(body.Data) > shape.MaxOutput || !utf8.Valid(body.Data) || contentType == "" && !json.Valid(body.Data) {
				t.Fatalf("%d bytes of output: %.100q", len(body.Data), body.Data)
			}
		}
	})
}

func checkFault(t *testing.T, err error, prefixes ...string) {
	t.Helper()
	for line := range strings.Lines(err.Error()) {
		ok := false
		for _, prefix := range prefixes {
			ok = ok || strings.HasPrefix(line, prefix)
		}
		if !ok || len(line) > 600 || !utf8.ValidString(line) || strings.Contains(line, "cannot be parsed") || strings.Contains(line, "cannot be rendered") {
			t.Fatalf("error %q", line)
		}
	}
}

// TestParseIsBounded is about sources that are meant to keep the parser and the checks busy.
func TestParseIsBounded(t *testing.T) {
	t.Parallel()
	repeat := func(s string, n int) string { return strings.Repeat(s, n)[:min(len(s)*n, shape.MaxTemplate)] }
	star := `{{define "a"}}` + repeat(`{{template "b"}}`, 500) + `{{end}}{{define "b"}}` + repeat(`{{template "c"}}`, 480) + `{{end}}{{define "c"}}{{end}}`
	for _, source := range []string{
		chain(), star, templateBomb(), repeat("{{if .}}", 3000), repeat("{{if .}}", 1200) + repeat("{{end}}", 900), "{{" + repeat("(", 1000), "{{" + repeat("a|", 8000),
		repeat("{{.a 1}}", 3000), repeat("{{$x:=1}}", 3000), "{{." + repeat("a.", 8000), repeat("{{", 9000), repeat("{{/*", 9000), repeat("{{x y z}}", 2000),
		"{{$x:=1}}" + repeat("{{$x}}", 2700), repeat("{{else}}", 9000), "{{print " + repeat("1 ", 8100) + "}}", repeat("{{range .}}{{break}}{{end}}", 700),
	} {
		start := time.Now()
		if _, err := shape.Parse(shape.Spec{Kind: "template", Template: source}); err != nil {
			checkFault(t, err, "template: ")
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%.40s: took %v", source, took)
		} else {
			t.Logf("%-40.40q %v", source, took)
		}
	}
}
