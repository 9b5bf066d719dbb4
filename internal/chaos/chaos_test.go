//go:build unix

package chaos

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	first    = flag.Uint64("chaos.seed", 1, "first seed")
	seeds    = flag.Int("chaos.seeds", 0, "runs at least; 0 makes the short run alone")
	least    = flag.Duration("chaos.for", 0, "go on with further seeds for as long")
	parallel = flag.Int("chaos.parallel", 2, "runs at once")
	length   = flag.Duration("chaos.length", 15*time.Second, "how long faults are injected in each run")
	only     = flag.String("chaos.topology", "", "embedded, external or cluster; all in turn if empty")
	dir      = flag.String("chaos.dir", "", "where logs and stores of failed runs stay; a directory of the test's own if empty")
	keep     = flag.Bool("chaos.keep", false, "keep the directories of good runs too")
	race     = flag.Bool("chaos.race", false, "build the relay with the race detector")
)

// run makes one run and keeps its directory only if it failed.
func run(t *testing.T, o Options) Report {
	o.Settle = 90 * time.Second
	var mu sync.Mutex
	var log bytes.Buffer
	o.Logf = func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&log, format+"\n", args...)
	}
	report, err := Run(t.Context(), o)
	if err != nil && t.Context().Err() == nil {
		report.Seed, report.Topology, report.Failure = o.Seed, o.Topology, err.Error()
	}
	if !report.OK() {
		_ = os.WriteFile(filepath.Join(o.Dir, "faults.log"), log.Bytes(), 0o600)
		t.Errorf("seed %d, %s: %+v\nrun it again: go test ./internal/chaos -run Seeds -chaos.seeds 1 -chaos.seed %d -chaos.topology %s -chaos.length %v\nlogs: %s",
			o.Seed, o.Topology, report, o.Seed, o.Topology, o.Faults, o.Dir)
	} else {
		if !*keep {
			_ = os.RemoveAll(o.Dir)
		}
	}
	return report
}

// TestShort is a run of each topology, short enough for every day.
func TestShort(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	if *seeds > 0 || *least > 0 {
		t.Skip("the long run is asked for")
	}
	binaries, err := Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i, topology := range []Topology{Embedded, External, Cluster} {
		t.Run(string(topology), func(t *testing.T) {
			t.Parallel()
			report := run(t, Options{Seed: uint64(i + 1), Topology: topology, Faults: 6 * time.Second, Rate: 20, Dir: t.TempDir(), Binaries: binaries})
			t.Logf("%+v", report)
		})
	}
}

// TestSeeds is the long run: as many seeds as asked for, or as many as fit into the time, whichever are more. It prints
// the table of docs/reliability.md.
func TestSeeds(t *testing.T) {
	if *seeds == 0 && *least == 0 {
		t.Skip("asked for with -chaos.seeds or -chaos.for")
	}
	root := *dir
	if root == "" {
		root = t.TempDir()
	}
	var flags []string
	if *race {
		flags = []string{"-race"}
	}
	binaries, err := Build(t.TempDir(), flags...)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var mu sync.Mutex
	var reports []Report
	var next atomic.Int64
	var all sync.WaitGroup
	for range *parallel {
		all.Go(func() {
			for t.Context().Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= *seeds && time.Since(began) >= *least {
					return
				}
				seed := *first + uint64(n)
				topology := []Topology{Embedded, External, Cluster}[seed%3]
				if *only != "" {
					topology = Topology(*only)
				}
				report := run(t, Options{
					Seed: seed, Topology: topology, Faults: *length, Rate: 20, Binaries: binaries,
					Dir: filepath.Join(root, fmt.Sprintf("seed-%d", seed)),
				})
				mu.Lock()
				reports = append(reports, report)
				fmt.Printf("%s seed %d %s: %d emitted, %d lost, %d doubled, %d webhooks, %d missing, %d repeated, settled in %v, taken over in %v %s\n",
					time.Since(began).Round(time.Second), report.Seed, report.Topology, report.Emitted, report.Lost, report.Doubled,
					report.Webhooks, report.Missing, report.Repeated, report.Settled.Round(100*time.Millisecond),
					report.Takeover.Round(100*time.Millisecond), report.Failure)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	fmt.Print(table(reports, time.Since(began)))
}

// table is what the runs found, in Markdown.
func table(reports []Report, took time.Duration) string {
	sums := map[Topology]*Report{}
	runs, faults := map[Topology]int{}, map[string]int{}
	settled := map[Topology]time.Duration{}
	for _, r := range reports {
		for _, key := range []Topology{r.Topology, "all"} {
			sum := sums[key]
			if sum == nil {
				sum = &Report{}
				sums[key] = sum
			}
			runs[key]++
			sum.Emitted += r.Emitted
			sum.Lost += r.Lost
			sum.Doubled += r.Doubled
			sum.Webhooks += r.Webhooks
			sum.Missing += r.Missing
			sum.Repeated += r.Repeated
			sum.Takeover = max(sum.Takeover, r.Takeover)
			settled[key] = max(settled[key], r.Settled)
		}
		for name, n := range r.Faults {
			faults[name] += n
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d runs in %v\n\n", len(reports), took.Round(time.Second))
	b.WriteString("| topology | runs | insights | lost | doubled | webhooks | missing | repeated | worst takeover | worst settling |\n")
	b.WriteString("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, key := range []Topology{Embedded, External, Cluster, "all"} {
		if sum := sums[key]; sum != nil {
			share := 100 * float64(sum.Repeated) / float64(max(sum.Webhooks, 1))
			fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %d (%.2f %%) | %.1f s | %.1f s |\n", key, runs[key], sum.Emitted, sum.Lost,
				sum.Doubled, sum.Webhooks, sum.Missing, sum.Repeated, share, sum.Takeover.Seconds(), settled[key].Seconds())
		}
	}
	b.WriteString("\n| fault | injected |\n| --- | ---: |\n")
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		fmt.Fprintf(&b, "| %s | %d |\n", name, faults[name])
	}
	return b.String()
}

// The harness finds what it looks for: without a fault in the relay, by what is missing on purpose.
func TestJudge(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]Report{
		"lost": {Lost: 1}, "doubled": {Doubled: 1}, "foreign": {Foreign: 1}, "missing": {Missing: 1}, "invalid": {Invalid: 1},
		"failure": {Failure: "it broke"},
	} {
		if r.OK() {
			t.Errorf("%s: a run that failed is taken for good", name)
		}
	}
	if r := (Report{Emitted: 5, Webhooks: 9, Repeated: 2}); !r.OK() {
		t.Error("a good run is taken for failed")
	}
}
