// Package internal_test holds the tree together: which package may import which, and that each says what it is for.
package internal_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/nex-crm/relay"

// mayImport is the direction of the whole program: for each package, which of our own its product code may import. A
// test may import more, as a program would.
var mayImport = map[string][]string{
	"cmd/relay":            {"internal/api", "internal/bench", "internal/config", "internal/nexsim", "internal/relay", "internal/webhook"},
	"internal/api":         {"internal/bus", "internal/dashboard", "internal/endpoint", "internal/event", "internal/fanout", "internal/live", "internal/stream", "internal/webhook"},
	"internal/bench":       {"internal/bus", "internal/config", "internal/endpoint", "internal/event", "internal/nexsim", "internal/webhook"}, // starts the relay as a process
	"internal/bus":         {"internal/event"},
	"internal/bus/bustest": {"internal/bus"},
	"internal/chaos":       {"internal/nexsim", "internal/porttest", "internal/webhook"}, // starts the relay as a process, and looks from outside
	"internal/config":      {},
	"internal/dashboard":   {},
	"internal/endpoint":    {"internal/event", "internal/shape", "internal/webhook"},
	"internal/event":       {},
	"internal/fanout":      {"internal/bus", "internal/endpoint", "internal/event", "internal/shape", "internal/webhook"},
	"internal/lease":       {},
	"internal/live":        {"internal/bus", "internal/event", "internal/fanout", "internal/webhook"},
	"internal/nex":         {},
	"internal/nexsim":      {"internal/nex"},
	"internal/porttest":    {},
	"internal/relay": {
		"internal/api", "internal/bus", "internal/config", "internal/endpoint", "internal/event", "internal/fanout",
		"internal/lease", "internal/nex", "internal/stream", "internal/webhook",
	},
	"internal/shape":   {"internal/event"},
	"internal/stream":  {"internal/bus", "internal/event", "internal/lease", "internal/nex"},
	"internal/webhook": {},
}

// knowNoNATS could be lifted out and published as they are.
var knowNoNATS = []string{"internal/config", "internal/nex", "internal/nexsim", "internal/shape", "internal/webhook"}

// goPackage is one directory's product code.
type goPackage struct {
	dir     string
	name    string
	doc     string // the package comment; that of the first file which has one
	imports []string
}

// readPackages parses every Go file of the module but tests, whatever its build constraints. Directories that the go
// command leaves out (testdata, a leading dot or underscore, modules of their own) are left out here too.
func readPackages(tree fs.FS) ([]*goPackage, error) {
	byDir := map[string]*goPackage{}
	err := fs.WalkDir(tree, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if skipDir(tree, file) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		return addFile(byDir, tree, file)
	})
	if err != nil {
		return nil, err
	}
	var pkgs []*goPackage
	for _, p := range byDir {
		slices.Sort(p.imports)
		p.imports = slices.Compact(p.imports)
		pkgs = append(pkgs, p)
	}
	slices.SortFunc(pkgs, func(a, b *goPackage) int { return strings.Compare(a.dir, b.dir) })
	return pkgs, nil
}

func skipDir(tree fs.FS, dir string) bool {
	if dir == "." {
		return false
	}
	name := path.Base(dir)
	if name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return true
	}
	_, err := fs.Stat(tree, path.Join(dir, "go.mod"))
	return err == nil
}

func addFile(byDir map[string]*goPackage, tree fs.FS, file string) error {
	text, err := fs.ReadFile(tree, file)
	if err != nil {
		return err
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return err
	}
	dir := path.Dir(file)
	p := byDir[dir]
	if p == nil {
		p = &goPackage{dir: dir, name: parsed.Name.Name}
		byDir[dir] = p
	}
	if p.doc == "" {
		p.doc = docText(parsed.Doc)
	}
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", file, spec.Path.Value, err)
		}
		p.imports = append(p.imports, imported)
	}
	return nil
}

func docText(doc *ast.CommentGroup) string {
	if doc == nil {
		return ""
	}
	return doc.Text()
}

// importProblems lists every import against the direction, every package whose place nobody has decided, and NATS
// where it must not be known.
func importProblems(pkgs []*goPackage) []string {
	var bad []string
	for _, p := range pkgs {
		allowed, known := mayImport[p.dir]
		if !known {
			bad = append(bad, fmt.Sprintf("%s has no row in mayImport: decide what it may import", p.dir))
			continue
		}
		for _, imported := range p.imports {
			ours, isOurs := strings.CutPrefix(imported, module+"/")
			if isOurs && !slices.Contains(allowed, ours) {
				bad = append(bad, fmt.Sprintf("%s must not import %s", p.dir, ours))
			}
			if strings.HasPrefix(imported, "github.com/nats-io/") && slices.Contains(knowNoNATS, p.dir) {
				bad = append(bad, fmt.Sprintf("%s must not know NATS, but imports %s", p.dir, imported))
			}
		}
	}
	return bad
}

// docProblems lists every package without a comment that says what it is for.
func docProblems(pkgs []*goPackage) []string {
	var bad []string
	for _, p := range pkgs {
		want := "Package " + p.name + " "
		if p.name == "main" {
			want = "Command " + path.Base(p.dir) + " "
		}
		if !strings.HasPrefix(strings.ReplaceAll(p.doc, "\n", " "), want) {
			bad = append(bad, fmt.Sprintf("%s: no package comment that begins with %q", p.dir, want))
		}
	}
	return bad
}

func TestImportDirection(t *testing.T) {
	t.Parallel()
	for _, problem := range importProblems(ourPackages(t)) {
		t.Error(problem)
	}
}

func TestPackageComments(t *testing.T) {
	t.Parallel()
	for _, problem := range docProblems(ourPackages(t)) {
		t.Error(problem)
	}
}

func ourPackages(t *testing.T) []*goPackage {
	t.Helper()
	pkgs, err := readPackages(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(pkgs, func(p *goPackage) bool { return p.dir == "internal/event" }) {
		t.Fatalf("%d packages found, internal/event not among them: is this the module's tree?", len(pkgs))
	}
	return pkgs
}

// TestDirectionHasNoCycle keeps the table itself honest: what is allowed must be able to compile.
func TestDirectionHasNoCycle(t *testing.T) {
	t.Parallel()
	var visit func(pkg string, above []string)
	visit = func(pkg string, above []string) {
		if slices.Contains(above, pkg) {
			t.Fatalf("cycle: %s", strings.Join(append(above, pkg), " -> "))
		}
		for _, next := range mayImport[pkg] {
			if _, known := mayImport[next]; !known {
				t.Errorf("%s may import %s, which has no row", pkg, next)
			}
			visit(next, append(slices.Clone(above), pkg))
		}
	}
	for pkg := range mayImport {
		visit(pkg, nil)
	}
}

// TestProblemsAreFound breaks each rule once.
func TestProblemsAreFound(t *testing.T) {
	t.Parallel()
	const event = "// Package event is the envelope.\npackage event\n"
	tests := []struct {
		name, file, text string
		want             string // "" = nothing is wrong
	}{
		{"allowed", "internal/bus/bus.go", "// Package bus is.\npackage bus\nimport _ \"" + module + "/internal/event\"", ""},
		{"against the flow", "internal/event/b.go", "package event\nimport _ \"" + module + "/internal/bus\"",
			"internal/event must not import internal/bus"},
		{"behind a build tag", "internal/event/b.go", "//go:build plan9\n\npackage event\nimport _ \"" + module + "/internal/bus\"",
			"internal/event must not import internal/bus"},
		{"test helper in the product", "internal/fanout/f.go",
			"// Package fanout is.\npackage fanout\nimport _ \"" + module + "/internal/bus/bustest\"",
			"internal/fanout must not import internal/bus/bustest"},
		{"a test may", "internal/event/b_test.go", "package event\nimport _ \"" + module + "/internal/bus\"", ""},
		{"NATS", "internal/webhook/w.go", "// Package webhook is.\npackage webhook\nimport _ \"github.com/nats-io/nats.go\"",
			"internal/webhook must not know NATS"},
		{"new package", "internal/utils/u.go", "// Package utils is.\npackage utils", "internal/utils has no row"},
		{"no comment", "internal/lease/l.go", "package lease", "internal/lease: no package comment"},
		{"a licence is no comment", "internal/lease/l.go", "// Copyright.\npackage lease", "internal/lease: no package comment"},
		{"comment in another file", "internal/event/a.go", "package event", ""},
		{"command", "cmd/relay/main.go", "// Command relay is.\npackage main", ""},
		{"command without", "cmd/relay/main.go", "// Package main is.\npackage main", `begins with "Command relay "`},
		{"testdata", "internal/event/testdata/x.go", "package x", ""},
		{"hidden", ".cache/x.go", "package x", ""},
		{"another module", "deploy/x.go", "package x", ""},
		{"no Go", "internal/event/x.go", "pakage event", "expected 'package'"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pkgs, err := readPackages(fstest.MapFS{
				"go.mod":                  {Data: []byte("module " + module)},
				"deploy/go.mod":           {Data: []byte("module other")},
				"internal/event/event.go": {Data: []byte(event)},
				tt.file:                   {Data: []byte(tt.text)},
			})
			problems := append(importProblems(pkgs), docProblems(pkgs)...)
			if err != nil {
				problems = append(problems, err.Error())
			}
			got := strings.Join(problems, "\n")
			if tt.want == "" && got != "" {
				t.Errorf("problems %q, want none", got)
			}
			if !strings.Contains(got, tt.want) {
				t.Errorf("problems %q, want one with %q", got, tt.want)
			}
		})
	}
}
