package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run found.
type Report struct {
	Machine  Machine   `json:"machine"`
	At       time.Time `json:"at"`
	Scale    string    `json:"scale"`
	Size     int       `json:"insight_bytes"`
	Seconds  float64   `json:"seconds"` // the run took
	Figures  []Figure  `json:"figures"`
	Failures []string  `json:"failures,omitempty"` // scenarios that could not be measured, and why
	Warnings []string  `json:"warnings,omitempty"` // what the relays logged
}

// Machine is where it was.
type Machine struct {
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	Go         string `json:"go"`
	Processor  string `json:"processor"`
	Processors int    `json:"processors"`
	// GOGC and MemoryLimit are GOGC and GOMEMLIMIT in the environment, which all parts hear.
	GOGC        string `json:"gogc,omitempty"`
	MemoryLimit string `json:"gomemlimit,omitempty"`
}

// Figure is one line of the table.
type Figure struct {
	Scenario string  `json:"scenario"`
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Value    float64 `json:"value"`
	// Bound was measured in the same run; BoundOf says what it is. Both are missing where there is none.
	Bound   *float64 `json:"bound,omitempty"`
	BoundOf string   `json:"bound_of,omitempty"`
	// Compared is the value beside its bound as the reach is meant: a ratio, a difference, or the value itself.
	Compared float64 `json:"compared"`
	Reach    Reach   `json:"reach"`
	Met      bool    `json:"met"`  // true also where there is no reach
	Size     string  `json:"size"` // how much of it was measured
	// CPU is the relay's processor time for each event or webhook, in microseconds, its server inside included; 0 where it was not
	// measured.
	CPU float64 `json:"cpu_us_each,omitempty"`
	// BoundCPU is the same of the loop that made the bound, without the receiver that both share.
	BoundCPU float64 `json:"bound_cpu_us_each,omitempty"`
	Note     string  `json:"note,omitempty"`
	// RecordsLost counts the attempts that left no record: a figure that was come to so has not reached anything.
	RecordsLost int `json:"records_lost,omitempty"`
	// Doubled counts the webhooks that came more than once, which a throughput must not be made of.
	Doubled int `json:"doubled,omitempty"`
	// ReachFor is what the reach is set for, where something else was measured, and how to measure that: what is met is met at this size.
	ReachFor string `json:"reach_for,omitempty"`
}

// Reach is what a figure should come to.
type Reach struct {
	Kind  ReachKind `json:"kind"`
	Value float64   `json:"value"`
}

// ReachKind says how a figure is compared.
type ReachKind string

// The kinds: a share of the bound at least, a multiple of it at most, so much more than it at most, so much at most, and none: that
// is compared as a share.
const (
	ShareAtLeast ReachKind = "share_at_least"
	TimesAtMost  ReachKind = "times_at_most"
	MoreAtMost   ReachKind = "more_at_most"
	AtMost       ReachKind = "at_most"
	NoReach      ReachKind = "none"
)

// reachFor is what a reach is set for, and the smallest scale that has as much of it, where less was measured.
func (s *stage) reachFor(needed int, what string, of func(Scale) int) string {
	if of(s.opts.Scale) >= needed {
		return ""
	}
	for _, scale := range []Scale{Quick, Standard} {
		if of(scale) >= needed {
			return fmt.Sprintf("%d %s (--scale %s)", needed, what, scale.Name)
		}
	}
	return fmt.Sprintf("%d %s (--scale %s)", needed, what, Full.Name)
}

// usualReach is what every reach is set for: insights of the usual size, and enough of everything to be measured.
func (s *stage) usualReach(f Figure) string {
	var all []string
	if f.ReachFor != "" {
		all = append(all, f.ReachFor)
	} else if s.opts.Scale.Name == Quick.Name {
		all = append(all, "more than that (--scale "+Standard.Name+")")
	}
	if s.opts.Size != UsualSize {
		all = append(all, fmt.Sprintf("insights of %d bytes (--size %d)", UsualSize, UsualSize))
	}
	return strings.Join(all, ", ")
}

// add judges a figure and reports it.
func (s *stage) add(f Figure) {
	f.Scenario = s.scenario
	bound := 0.0
	if f.Bound != nil {
		bound = *f.Bound
	}
	switch f.Reach.Kind {
	case ShareAtLeast, TimesAtMost, NoReach:
		if bound > 0 {
			f.Compared = f.Value / bound
		}
	case MoreAtMost:
		f.Compared = f.Value - bound
	case AtMost:
		f.Compared = f.Value
	}
	switch f.Reach.Kind {
	case ShareAtLeast:
		f.Met = f.Compared >= f.Reach.Value
	case NoReach:
		f.Met = true
	default:
		f.Met = f.Compared <= f.Reach.Value
	}
	if f.RecordsLost > 0 {
		f.Met = false
		f.Note = strings.TrimPrefix(fmt.Sprintf("%s; %d attempt records were lost", f.Note, f.RecordsLost), "; ")
	}
	if f.Doubled > 0 {
		f.Met = false
		f.Note = strings.TrimPrefix(fmt.Sprintf("%s; %d webhooks came more than once", f.Note, f.Doubled), "; ")
	}
	if f.Reach.Kind != NoReach {
		f.ReachFor = s.usualReach(f)
	}
	if f.ReachFor != "" {
		f.Note = strings.TrimPrefix(fmt.Sprintf("%s; the reach is set for %s", f.Note, f.ReachFor), "; ")
	}
	s.report.Figures = append(s.report.Figures, f)
}

// JSON writes the report as one object.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "%s, %d processors, %s/%s, %s%s; scale %s, insights of %d bytes; %.0f s\n\n",
		m.Processor, m.Processors, m.OS, m.Arch, m.Go, m.environment(), r.Scale, r.Size, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SCENARIO\tFIGURE\tRELAY\tBOUND\tBESIDE IT\tREACH\tREACHED\tCPU EACH\tMEASURED")
	for _, f := range r.Figures {
		bound := "-"
		if f.Bound != nil {
			bound = number(*f.Bound)
		}
		cpu := "-"
		if f.CPU > 0 {
			cpu = fmt.Sprintf("%.0f µs", f.CPU)
		}
		if f.BoundCPU > 0 {
			cpu += fmt.Sprintf(" (bound %.0f)", f.BoundCPU)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Scenario, f.Name+", "+f.Unit, number(f.Value), bound,
			f.beside(), f.Reach.text(f.Unit), f.reached(), cpu, f.Size)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, f := range r.Figures {
		if f.Note != "" {
			fmt.Fprintf(w, "\n%s, %s: %s", f.Scenario, f.Name, f.Note)
		}
	}
	for _, failure := range r.Failures {
		fmt.Fprintf(w, "\nnot measured: %s\n", failure)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(w, "\nthe relay logged in %s", warning)
	}
	_, err := fmt.Fprintln(w)
	return err
}

func (f *Figure) beside() string {
	switch f.Reach.Kind {
	case NoReach:
		if f.Bound == nil {
			return "-"
		}
		fallthrough
	case ShareAtLeast, TimesAtMost:
		return fmt.Sprintf("%.2f x", f.Compared)
	case MoreAtMost:
		return fmt.Sprintf("%+.2f %s", f.Compared, f.Unit)
	}
	return fmt.Sprintf("%s %s", number(f.Compared), f.Unit)
}

func (f *Figure) reached() string {
	switch {
	case !f.Met:
		return "NO"
	case f.Reach.Kind == NoReach:
		return "-"
	case f.ReachFor != "":
		return "at this size"
	}
	return "yes"
}

func (r Reach) text(unit string) string {
	sign := "<="
	if r.Kind == ShareAtLeast {
		sign = ">="
	}
	switch r.Kind {
	case ShareAtLeast, TimesAtMost:
		return fmt.Sprintf("%s %g x", sign, r.Value)
	case MoreAtMost:
		return fmt.Sprintf("%s +%g %s", sign, r.Value, unit)
	case NoReach:
		return "-"
	}
	return fmt.Sprintf("%s %g %s", sign, r.Value, unit)
}

// number has three digits at least, and as many as a whole number needs.
func number(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10 || v <= -10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// environment is what of the environment has its way with the figures.
func (m Machine) environment() (text string) {
	if m.GOGC != "" {
		text += ", GOGC=" + m.GOGC
	}
	if m.MemoryLimit != "" {
		text += ", GOMEMLIMIT=" + m.MemoryLimit
	}
	return text
}

func thisMachine() Machine {
	m := Machine{
		OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version(), Processors: runtime.GOMAXPROCS(0), Processor: "unknown processor",
		GOGC: os.Getenv("GOGC"), MemoryLimit: os.Getenv("GOMEMLIMIT"),
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.Processor = strings.TrimSpace(value)
			break
		}
	}
	return m
}
