package dashboard_test

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/stream"
)

// relay is the HTTP side of a relay that is starting: the page needs no more.
func relay() http.Handler {
	return api.Handler(api.Config{
		Ready: func() map[string]bool { return nil }, Workspaces: func() []stream.Status { return nil }, Endpoints: func() *endpoint.Registry { return nil },
		Gatherer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
}

func get(t *testing.T, method, target string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	r.Host = "127.0.0.1:8080"
	w := httptest.NewRecorder()
	relay().ServeHTTP(w, r)
	return w
}

// files are the page's parts by name, its scripts alone or all of them.
func files(t *testing.T, end string) map[string]string {
	t.Helper()
	all := map[string]string{}
	tree := os.DirFS("assets")
	names, err := fs.Glob(tree, "*"+end)
	if err != nil || len(names) == 0 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(text)
	}
	return all
}

func TestServed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method, target string
		code           int
		contentType    string
	}{
		{"GET", "/", 200, "text/html; charset=utf-8"},
		{"HEAD", "/", 200, "text/html; charset=utf-8"},
		{"GET", "/?x=1", 200, "text/html; charset=utf-8"},
		{"GET", "/dashboard/page.js", 200, "text/javascript; charset=utf-8"},
		{"GET", "/dashboard/style.css", 200, "text/css; charset=utf-8"},
		{"GET", "/dashboard/icon.svg", 200, "image/svg+xml"},
		{"GET", "/index.html", 404, ""},
		{"GET", "/dashboard", 404, ""},
		{"GET", "/dashboard/", 404, ""},
		{"GET", "/dashboard/index.html", 404, ""},
		{"GET", "/dashboard/none.js", 404, ""},
		{"GET", "/dashboard/..%2fdashboard.go", 404, ""},
		{"GET", "/dashboard/%2e%2e", 404, ""},
		{"POST", "/", 405, ""},
	} {
		w := get(t, tt.method, tt.target)
		if w.Code != tt.code || tt.contentType != "" && w.Header().Get("Content-Type") != tt.contentType {
			t.Errorf("%s %s: %d %s", tt.method, tt.target, w.Code, w.Header().Get("Content-Type"))
		}
		if tt.code != 200 {
			continue
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cache-Control": "no-store",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", tt.target, name, got, want)
			}
		}
		policy(t, w.Header().Get("Content-Security-Policy"))
	}
}

// policy fails for one that lets in anything but what the relay itself serves.
func policy(t *testing.T, text string) {
	t.Helper()
	got := map[string]string{}
	for part := range strings.SplitSeq(text, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), " ")
		got[name] = value
		if value != "'none'" && value != "'self'" && name != "require-trusted-types-for" {
			t.Errorf("%s %s lets in more than is needed", name, value)
		}
	}
	for _, name := range []string{"default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"} {
		if got[name] != "'none'" {
			t.Errorf("%s is %q", name, got[name])
		}
	}
	if got["require-trusted-types-for"] != "'script'" {
		t.Error("text may become markup")
	}
}

// element is a start tag of the page.
type element struct {
	name       string
	attributes map[string]string
	inLabel    bool
}

// elements reads the page as XML, which is stricter than HTML: what is not closed, or twice, is a fault.
func elements(t *testing.T) (all []element) {
	t.Helper()
	dec := xml.NewDecoder(strings.NewReader(files(t, ".html")["index.html"]))
	var open []string
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := element{token.Name.Local, map[string]string{}, slices.Contains(open, "label")}
			for _, a := range token.Attr {
				if _, twice := e.attributes[a.Name.Local]; twice {
					t.Errorf("<%s> has %s twice", e.name, a.Name.Local)
				}
				e.attributes[a.Name.Local] = a.Value
			}
			all, open = append(all, e), append(open, e.name)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if text := strings.TrimSpace(string(token)); text != "" && (open[len(open)-1] == "script" || open[len(open)-1] == "style") {
				t.Errorf("inline %s: %s", open[len(open)-1], text)
			}
		}
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	all := elements(t)
	ids, labelled, refers := map[string]bool{}, map[string]bool{}, map[string]string{}
	for _, e := range all {
		for name, value := range e.attributes {
			switch {
			case strings.HasPrefix(name, "on") || name == "style":
				t.Errorf("<%s %s>: the policy does not let it run", e.name, name)
			case name == "id" && ids[value]:
				t.Errorf("id %s is there twice", value)
			case name == "id":
				ids[value] = true
			case name == "for":
				labelled[value] = true
			}
			if name == "for" || name == "aria-labelledby" || name == "aria-describedby" || strings.HasPrefix(value, "#") {
				refers[strings.TrimPrefix(value, "#")] = e.name
			}
			if (name == "src" || name == "href") && !strings.HasPrefix(value, "#") {
				if w := get(t, "GET", "/"+value); w.Code != http.StatusOK {
					t.Errorf("<%s %s=%q>: %d", e.name, name, value, w.Code)
				}
			}
		}
	}
	for id, where := range refers {
		if !ids[id] {
			t.Errorf("<%s> refers to %s, which is nowhere", where, id)
		}
	}
	inputs := 0
	for _, e := range all {
		if e.name == "input" {
			inputs++
			if !e.inLabel && !labelled[e.attributes["id"]] {
				t.Errorf("input %v has no label", e.attributes)
			}
		}
		if e.name == "html" && e.attributes["lang"] == "" {
			t.Error("the page does not say its language")
		}
	}
	if inputs == 0 {
		t.Error("no inputs: is this the page?")
	}
	used := regexp.MustCompile(`byID\("([^"]+)"\)`)
	for name, text := range files(t, ".js") {
		for _, m := range used.FindAllStringSubmatch(text, -1) {
			if !ids[m[1]] && m[1] != "show-" {
				t.Errorf("%s uses %s, which is not on the page", name, m[1])
			}
		}
	}
}

// Nothing comes from elsewhere, everything there is used, and nothing that is text can become anything else.
func TestScripts(t *testing.T) {
	t.Parallel()
	external := regexp.MustCompile(`(?i)[a-z]+://[^\s"'<>)]*|url\(|@import`)
	imported := regexp.MustCompile(`from "\./([^"]+)"|(?:src|href)="dashboard/([^"]+)"`)
	forbidden := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|setHTML|document\.write|createContextualFragment|DOMParser|srcdoc|javascript:|\beval\(|new Function|` +
		`localStorage|document\.cookie|EventSource|WebSocket|XMLHttpRequest|sendBeacon|setTimeout\("`)
	used := map[string]bool{"index.html": true}
	all := files(t, "")
	for name, text := range all {
		for _, link := range external.FindAllString(text, -1) {
			if link != "http://www.w3.org/2000/svg" {
				t.Errorf("%s refers to %s", name, link)
			}
		}
		for _, m := range imported.FindAllStringSubmatch(text, -1) {
			used[m[1]+m[2]] = true
			if w := get(t, "GET", "/dashboard/"+m[1]+m[2]); w.Code != http.StatusOK {
				t.Errorf("%s needs %s: %d", name, m[1]+m[2], w.Code)
			}
		}
		if found := forbidden.FindString(text); found != "" && path.Ext(name) == ".js" {
			t.Errorf("%s has %s", name, found)
		}
	}
	for name := range all {
		if !used[name] {
			t.Errorf("%s is not used", name)
		}
	}
}

// The scripts ask for nothing that the API's document does not have.
func TestCallsAreOfTheDocument(t *testing.T) {
	t.Parallel()
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name, In string }
		}
	}
	if err := json.Unmarshal(get(t, "GET", "/api/openapi.json").Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	hole := regexp.MustCompile(`\$?\{[^}]*\}`)
	operations := map[string][]string{} // the names of their query parameters
	for at, methods := range doc.Paths {
		for method, op := range methods {
			key := strings.ToUpper(method) + " " + hole.ReplaceAllString(at, "{}")
			operations[key] = []string{}
			for _, p := range op.Parameters {
				if p.In == "query" {
					operations[key] = append(operations[key], p.Name)
				}
			}
		}
	}
	calls := regexp.MustCompile("\\b(?:call|list|stream)\\(\"([A-Z]+)\", [\"`](api/[^\"`?]*)\\??([^\"`]*)[\"`]")
	fetched := regexp.MustCompile(`fetch\(([^,)]+)`)
	n := 0
	for name, text := range files(t, ".js") {
		found := calls.FindAllStringSubmatch(text, -1)
		n += len(found)
		if mentioned := regexp.MustCompile("[\"`]/?api/").FindAllString(text, -1); len(mentioned) != len(found) {
			t.Errorf("%s has %d paths of the API, but only %d are calls that this test understands", name, len(mentioned), len(found))
		}
		for _, m := range found {
			key := m[1] + " /" + hole.ReplaceAllString(m[2], "{}")
			parameters, ok := operations[key]
			if !ok {
				t.Errorf("%s calls %s, which the API does not have", name, key)
			}
			for pair := range strings.SplitSeq(m[3], "&") {
				if parameter, _, _ := strings.Cut(pair, "="); parameter != "" && !slices.Contains(parameters, parameter) {
					t.Errorf("%s calls %s with %s, which it does not take", name, key, parameter)
				}
			}
		}
		for _, m := range fetched.FindAllStringSubmatch(text, -1) {
			if m[1] != `path` && m[1] != `"readyz"` {
				t.Errorf("%s fetches %s by itself", name, m[1])
			}
		}
	}
	if n < 10 {
		t.Errorf("%d calls only: is this the page?", n)
	}
}
