package shape_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/shape"
)

// TestDocs keeps docs/shapes.md true: its first JSON block is an event, and what every shape makes of it stands in a block of its
// own, in full; so do the three templates; and it names every function.
func TestDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/shapes.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, strings.TrimSpace(m[1]))
	}
	if len(blocks) == 0 {
		t.Fatal("no blocks")
	}
	e := []byte(blocks[0])
	meta := shape.Meta{Sequence: 4711, Attempt: 1}
	for name, spec := range map[string]shape.Spec{
		"structured": {},
		"binary":     {Kind: "binary"},
		"thin":       {Kind: "thin"},
		"slack":      {Kind: "template", Template: shape.SlackTemplate},
		"discord":    {Kind: "template", Template: shape.DiscordTemplate},
		"teams":      {Kind: "template", Template: shape.TeamsTemplate},
	} {
		body, err := mustParse(t, spec).Render(e, meta)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := strings.TrimSpace(string(body.Data))
		if len(body.Header) > 0 {
			var head strings.Builder
			for _, name := range slices.Sorted(maps.Keys(body.Header)) {
				fmt.Fprintf(&head, "%s: %s\n", strings.ToLower(name), body.Header[name][0])
			}
			want = fmt.Sprintf("content-type: %s\n%s\n%s", body.ContentType, head.String(), want)
		}
		for _, want := range []string{want, strings.TrimSpace(spec.Template)} {
			if want != "" && !slices.Contains(blocks, want) {
				t.Errorf("%s: docs/shapes.md has no block\n%s", name, want)
			}
		}
	}

	_, err = shape.Parse(shape.Spec{Kind: "template", Template: "{{nope}}"})
	if err == nil {
		t.Fatal("no error")
	}
	_, list, _ := strings.Cut(err.Error(), "there are ")
	for name := range strings.SplitSeq(list, ", ") {
		if !strings.Contains(string(text), "`"+name) {
			t.Errorf("docs/shapes.md does not name %s", name)
		}
	}
}
