package nexsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// openAPI is the part of an OpenAPI 3.0 document that these tests need.
type openAPI struct {
	Servers []struct{ URL string }
	Paths   map[string]map[string]struct {
		Parameters []struct{ Name, In string }
		Responses  map[string]struct {
			Content map[string]struct{ Schema *schema }
		}
	}
	Components struct{ Schemas map[string]*schema }
}

type schema struct {
	Ref        string `json:"$ref"`
	Type       string
	Format     string
	Properties map[string]*schema
	Items      *schema
}

func loadOpenAPI(t *testing.T) *openAPI {
	t.Helper()
	path := os.Getenv("NEX_OPENAPI")
	if path == "" {
		path = "../../../shared/nex-openapi.json"
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("Nex's OpenAPI document is not at %s; NEX_OPENAPI can say where it is", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	var doc openAPI
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return &doc
}

func (d *openAPI) resolve(s *schema) *schema {
	for s != nil && s.Ref != "" {
		s = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	return s
}

// check lists where v, decoded JSON, is not what the schema declares. A property that is not declared is a fault.
func (d *openAPI) check(at string, s *schema, v any) []string {
	s = d.resolve(s)
	if s == nil {
		return []string{at + ": no schema"}
	}
	wrong := []string{fmt.Sprintf("%s: %v is no %s %s", at, v, s.Type, s.Format)}
	switch v := v.(type) {
	case map[string]any:
		if s.Type != "object" {
			return wrong
		}
		var faults []string
		for name, value := range v {
			if s.Properties[name] == nil {
				faults = append(faults, at+"."+name+": not declared")
				continue
			}
			faults = append(faults, d.check(at+"."+name, s.Properties[name], value)...)
		}
		return faults
	case []any:
		if s.Type != "array" {
			return wrong
		}
		var faults []string
		for i, value := range v {
			faults = append(faults, d.check(fmt.Sprintf("%s[%d]", at, i), s.Items, value)...)
		}
		return faults
	case string:
		_, err := time.Parse(time.RFC3339, v)
		if s.Type != "string" || s.Format == "date-time" && err != nil {
			return wrong
		}
	case float64:
		if s.Type != "number" && (s.Type != "integer" || v != float64(int64(v))) {
			return wrong
		}
	default:
		return wrong
	}
	return nil
}

func TestAnswersAreAsDeclared(t *testing.T) {
	t.Parallel()
	doc := loadOpenAPI(t)
	b := setup(t, Options{Workspaces: []Workspace{{Slug: "acme", Keys: []Key{
		{DefaultKey("acme"), []string{ScopeInsights}}, {"poor", nil},
	}}}})
	b.Emit("acme", 100)
	if err := b.Refuse(Refusal{Workspace: "acme", Status: 500, Count: 2}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, query, key string
		status           int
		declared         string // the response whose schema holds; Nex declares no 403, 404 and 429
	}{
		{"/v1/insights", "", DefaultKey("acme"), 500, "500"},
		{"/v1/insights/stream", "", DefaultKey("acme"), 500, "500"},
		{"/v1/insights", "?limit=100", DefaultKey("acme"), 200, "200"},
		{"/v1/insights", "?limit=x", DefaultKey("acme"), 400, "400"},
		{"/v1/insights", "", "bad", 401, "401"},
		{"/v1/insights", "", "poor", 403, "401"},
		{"/v1/insights/stream", "", "bad", 401, "401"},
		{"/v1/insights/stream", "", "poor", 403, "401"},
	} {
		resp := b.do(http.MethodGet, "/api/developers"+c.path+c.query, c.key, "")
		body := b.read(resp)
		if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s%s: %d %s", c.path, c.query, resp.StatusCode, resp.Header.Get("Content-Type"))
		}
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatal(err)
		}
		content := doc.Paths[c.path]["get"].Responses[c.declared].Content["application/json"]
		for _, fault := range doc.check("body", content.Schema, v) {
			t.Errorf("%s%s: %s", c.path, c.query, fault)
		}
	}
}

// Nex's document does not declare the enriched shape; what both shapes share has the declared types.
func TestEnrichedAnswerSharesDeclaredTypes(t *testing.T) {
	t.Parallel()
	doc := loadOpenAPI(t)
	b := setup(t, Options{RESTShape: RESTEnriched})
	b.Emit("acme", 5)
	_, body := b.get("/v1/insights")
	var answer struct {
		Insights     []map[string]any
		InsightCount int `json:"insight_count"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Insights) != 5 || answer.InsightCount != 5 {
		t.Fatalf("%v in %.300s", err, body)
	}
	declared := doc.Components.Schemas["developer.InsightResponse"]
	for _, in := range answer.Insights {
		for _, name := range []string{"id", "type", "content", "created_at"} {
			for _, fault := range doc.check(name, declared.Properties[name], in[name]) {
				t.Error(fault)
			}
		}
	}
}

func TestParametersAndPathsAreDeclared(t *testing.T) {
	t.Parallel()
	doc := loadOpenAPI(t)
	var declared []string
	for _, p := range doc.Paths["/v1/insights"]["get"].Parameters {
		declared = append(declared, p.Name)
	}
	slices.Sort(declared)
	if want := []string{"from", "last", "limit", "to"}; !slices.Equal(declared, want) {
		t.Errorf("declared parameters %v, the simulator takes %v", declared, want)
	}
	if len(doc.Servers) != 1 || !strings.HasSuffix(doc.Servers[0].URL, "/api/developers") {
		t.Errorf("servers %v", doc.Servers)
	}
	stream := doc.Paths["/v1/insights/stream"]["get"]
	if len(stream.Parameters) != 0 || stream.Responses["200"].Content["text/event-stream"].Schema == nil {
		t.Error("the stream is declared in another way")
	}
}

// The walker must be able to find a fault.
func TestSchemaWalker(t *testing.T) {
	t.Parallel()
	var doc openAPI
	err := json.Unmarshal([]byte(`{"components":{"schemas":{"T":{"type":"object","properties":{"s":{"type":"string"},"n":{"type":"integer"},
		"d":{"type":"string","format":"date-time"},"l":{"type":"array","items":{"$ref":"#/components/schemas/T"}}}}}}}`), &doc)
	if err != nil {
		t.Fatal(err)
	}
	for body, faults := range map[string]int{
		`{"s":"x","n":1,"d":"2026-01-02T03:04:05.6Z","l":[{"s":""}]}`: 0, `{"s":1}`: 1, `{"n":1.5}`: 1, `{"n":"1"}`: 1, `{"d":"today"}`: 1,
		`{"x":1}`: 1, `{"l":[{"s":1},{"x":true}]}`: 2, `{"l":{}}`: 1, `{"s":null}`: 1, `[]`: 1, `{"s":["x"]}`: 1,
	} {
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatal(err)
		}
		if got := doc.check("", &schema{Ref: "#/components/schemas/T"}, v); len(got) != faults {
			t.Errorf("%s: %q", body, got)
		}
	}
}
