package main

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/bench"
)

var everyScenario = flag.Bool("bench.all", false, "run every scenario of relay bench, at its smallest")

// fewScenarios are those that a test run takes the time for: each kind of process has its part in them.
var fewScenarios = []string{"ingest", "deliver-1", "connections", "latency", "retries"}

// TestBench runs some scenarios, or every one, so small that its figures say nothing: what is wanted is that each is there, was measured, and left
// nothing behind.
func TestBench(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	dir, profiles := t.TempDir(), t.TempDir()
	args := []string{"bench", "--scale", "quick", "--json", "--dir", dir, "--profiles", profiles}
	wanted := bench.Scenarios
	if !*everyScenario {
		wanted = slices.DeleteFunc(slices.Clone(wanted), func(s bench.Scenario) bool { return !slices.Contains(fewScenarios, s.Name) })
		args = append(args, "--only", strings.Join(fewScenarios, ","))
	}
	stop := start(t, nil, args...)
	code := stop.wait()
	if code != 0 {
		t.Fatalf("exit code %d:\n%s\n%s", code, stop.out, stop.err)
	}
	var report bench.Report
	if err := json.Unmarshal([]byte(stop.out.String()), &report); err != nil {
		t.Fatalf("%v in:\n%s", err, stop.out)
	}
	for _, s := range wanted {
		if !slices.ContainsFunc(report.Figures, func(f bench.Figure) bool { return f.Scenario == s.Name }) {
			t.Errorf("%s has no figure", s.Name)
		}
	}
	for _, f := range report.Figures {
		relative := f.Reach.Kind == bench.ShareAtLeast || f.Reach.Kind == bench.TimesAtMost
		if relative && (f.Value <= 0 || f.Bound == nil || *f.Bound <= 0 || f.Compared <= 0) {
			t.Errorf("%s, %s: %+v", f.Scenario, f.Name, f)
		}
	}
	var table strings.Builder
	if err := report.Table(&table); err != nil || strings.Count(table.String(), "\n") < len(report.Figures) {
		t.Errorf("%v, table:\n%s", err, &table)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v left behind, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(profiles, "deliver-1.pprof")); err != nil {
		t.Error(err)
	}
}

func TestBenchScenarios(t *testing.T) {
	t.Parallel()
	if code, _, errs := call(t, nil, "bench", "--only", "ingest,nonsense"); code != exitUsage || !strings.Contains(errs, "nonsense") || !strings.Contains(errs, "deliver-100") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	for _, none := range []string{"--only=", "--only= "} {
		if code, _, errs := call(t, nil, "bench", none); code != exitUsage || !strings.Contains(errs, "--list") {
			t.Errorf("%s: exit code %d: %s", none, code, errs)
		}
	}
	if code, _, errs := call(t, nil, "bench", "--only", "ingest", "--only", "nonsense, idle"); code != exitUsage || !strings.Contains(errs, `"nonsense"`) {
		t.Errorf("exit code %d: %s", code, errs)
	}
	code, out, errs := call(t, nil, "bench", "--list")
	if code != 0 || strings.Count(out, "\n") != len(bench.Scenarios) {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}
