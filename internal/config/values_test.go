package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestParseByteSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ByteSize{
		"0": 0, "1": 1, "1024": KiB, "1KiB": KiB, "1 KiB": KiB, "4mib": 4 * MiB, "1.5GiB": 1536 * MiB, "10GB": 10e9, "2tb": 2e12,
		"64kb": 64000, "7B": 7, " 5MiB ": 5 * MiB, "1TiB": TiB, "9007199254740993": 9007199254740993,
	} {
		if got, err := parseByteSize(text); err != nil || got != want {
			t.Errorf("%q: %d, want %d (%v)", text, got, want, err)
		}
	}
	for _, text := range []string{"", "-1", "-1KiB", "KiB", "x", "1XB", "NaN", "inf", "1e400", "0x10", "1_000", "99999999TiB", "1 2"} {
		if got, err := parseByteSize(text); err == nil {
			t.Errorf("%q passes as %d", text, got)
		}
	}
	for size, want := range map[ByteSize]string{0: "0", 1: "1", KiB: "1KiB", 1536 * MiB: "1536MiB", 10 * GiB: "10GiB", 2 * TiB: "2TiB", 1025: "1025"} {
		if got := size.String(); got != want {
			t.Errorf("%d: %q, want %q", int64(size), got, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "5s": 5 * time.Second, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour,
		" 5m ": 5 * time.Minute, "-5s": -5 * time.Second, "1.5s": 1500 * time.Millisecond,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %v, want %v (%v)", text, got, want, err)
		}
	}
	for _, text := range []string{"", "5", "d", "1.5d", "1d-2h", "1d+2h", "soon", "-1d", "99999d300h9999999999h", "1d 2h"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q passes as %v", text, got)
		}
	}
}

func TestParseNetwork(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3/8": "10.0.0.0/8", "127.0.0.1": "127.0.0.1/32", "::1": "::1/128", "fc00::/7": "fc00::/7",
	} {
		if got, err := ParseNetwork(text); err != nil || got.String() != want {
			t.Errorf("%q: %v, want %v (%v)", text, got, want, err)
		}
	}
	for _, text := range []string{"", "10.0.0.0/33", "10.0.0", "localhost", "fe80::1%eth0", "10.0.0.0/8/8", "*"} {
		if got, err := ParseNetwork(text); err == nil {
			t.Errorf("%q passes as %v", text, got)
		}
	}
}

func FuzzParseByteSize(f *testing.F) {
	for _, s := range []string{"4MiB", "1.5GiB", "10 GB", "-1", "", "1e9KB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		size, err := parseByteSize(s)
		if err != nil {
			return
		}
		if size < 0 {
			t.Fatalf("%q is %d", s, size)
		}
		if back, err := parseByteSize(size.String()); err != nil || back != size {
			t.Fatalf("%q is %v, which reads as %v (%v)", s, size, back, err)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"7d", "1d12h", "5s", "-5s", "99999d", "1d2562047h47m16s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			return
		}
		if back, err := ParseDuration(d.String()); err != nil || back != d {
			t.Fatalf("%q is %v, which reads as %v (%v)", s, d, back, err)
		}
	})
}

// Whatever stands in the file: no panic, and an error is a list of problems that is not empty.
func FuzzLoad(f *testing.F) {
	content, err := os.ReadFile(example)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(content), "nats: [", "- a", "a: b\n---\nc: d", "workspaces: [1]", "endpoints: {a: [b]}", "log: {level: [x]}", "x: &a [*a]"} {
		f.Add(s)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content string) {
		file := filepath.Join(dir, "relay.yaml")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(Source{File: file})
		if cfg == nil {
			t.Fatal("no configuration")
		}
		problemsOf(t, err)
	})
}
