package nex

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tmaxmax/go-sse"
)

// chunks is a reader that gives its parts one by one, as a network does.
type chunks [][]byte

func (c *chunks) Read(p []byte) (int, error) {
	for len(*c) > 0 && len((*c)[0]) == 0 {
		*c = (*c)[1:]
	}
	if len(*c) == 0 {
		return 0, io.EOF
	}
	n := copy(p, (*c)[0])
	(*c)[0] = (*c)[0][n:]
	return n, nil
}

// seen is everything that a stream said.
type seen struct {
	Frames   []Frame
	Comments []string
	Retries  []time.Duration
}

// readAll reads a stream to its end, which must be io.EOF.
func readAll(t testing.TB, r io.Reader, maxEvent int) seen {
	t.Helper()
	var out seen
	f := newFramer(r, maxEvent)
	f.comment = func(text string) { out.Comments = append(out.Comments, text) }
	f.retry = func(d time.Duration) { out.Retries = append(out.Retries, d) }
	for {
		frame, err := f.next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("next: %v", err)
		}
		out.Frames = append(out.Frames, frame)
	}
}

// splittings is every way of cutting a text in two, all at once, and a byte at a time.
func splittings(text string) []chunks {
	b := []byte(text)
	out := []chunks{{b}}
	single := chunks{}
	for i := range b {
		out = append(out, chunks{b[:i:i], b[i:]})
		single = append(single, b[i:i+1:i+1])
	}
	return append(out, single)
}

func data(texts ...string) []Frame {
	var out []Frame
	for _, s := range texts {
		out = append(out, Frame{Data: []byte(s)})
	}
	return out
}

func TestFramerFormat(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in       string
		want     []Frame
		comments []string
		retries  []time.Duration
	}{
		"one event":       {in: "event: a\ndata: x\n\n", want: []Frame{{Event: "a", Data: []byte("x")}}},
		"no event field":  {in: "data: x\n\n", want: data("x")},
		"CR":              {in: "data: x\r\rdata: y\r\r", want: data("x", "y")},
		"CRLF":            {in: "data: x\r\n\r\ndata: y\r\n\r\n", want: data("x", "y")},
		"mixed line ends": {in: "data: x\r\n\ndata: y\r\r\ndata: z\n\r", want: data("x", "y", "z")},
		"BOM":             {in: "\ufeffdata: x\n\n", want: data("x")},
		// The format makes an unknown field of it; what is glued together by a proxy is an event all the same.
		"BOM in the middle":    {in: "data: x\n\n\ufeffdata: y\n\ndata: z\n\n", want: data("x", "y", "z")},
		"BOM in data":          {in: "data: \ufeffx\n\n", want: data("\ufeffx")},
		"several data fields":  {in: "data: x\ndata\ndata:y\n\n", want: data("x\n\ny")},
		"one space cut":        {in: "data:  x \n\n", want: data(" x ")},
		"no colon":             {in: "data\ndata\n\n", want: data("\n")},
		"unknown fields":       {in: "id: 7\nfoo: bar\ndata: x\nDATA: y\n\n", want: data("x")},
		"the last event field": {in: "event: a\nevent: b\ndata: x\n\n", want: []Frame{{Event: "b", Data: []byte("x")}}},
		"no data":              {in: "event: a\n\ndata: x\n\n", want: data("x")},
		"unfinished":           {in: "data: x\n\ndata: y\n", want: data("x")},
		"unfinished line":      {in: "data: x\n\ndata: y", want: data("x")},
		"nothing":              {in: ""},
		"blank lines":          {in: "\n\r\n\r\n\n"},
		"UTF-8":                {in: "data: größe – 😀\n\n", want: data("größe – 😀")},
		"no UTF-8":             {in: "data: a\xffb\xf0\x9f\n\n", want: data("a\ufffdb\ufffd")},
		"NUL":                  {in: "data: a\x00b\n\n", want: data("a\x00b")},
		"comments": {
			in:   ": connected\n:\n:keepalive\ndata: x\n: within\ndata: y\n\n",
			want: data("x\ny"), comments: []string{"connected", "", "keepalive", "within"},
		},
		"retry": {
			in: "retry: 3000\n\nretry:15\ndata: x\n\nretry: soon\nretry: -1\nretry: 99999999999\n\n", want: data("x"),
			retries: []time.Duration{3 * time.Second, 15 * time.Millisecond, retryLimit},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, parts := range splittings(c.in) {
				shown := slices.Clone(parts)
				got := readAll(t, &parts, 1000)
				for i := range got.Frames {
					got.Frames[i].Size = 0
				}
				if want := (seen{c.want, c.comments, c.retries}); !reflect.DeepEqual(got, want) {
					t.Fatalf("cut as %q:\ngot  %+v\nwant %+v", shown, got, want)
				}
			}
		})
	}
}

func TestFramerTooLarge(t *testing.T) {
	t.Parallel()
	const limit = 1000
	for _, size := range []int{limit - 1, limit, limit + 1, 10 * limit, 300_000} {
		line := "data: " + strings.Repeat("x", size-len("data: ")-1) // size bytes with its line end
		in := "data: before\n\n" + line + "\n\ndata: after\n\n"
		got := readAll(t, strings.NewReader(in), limit)
		if len(got.Frames) != 3 || string(got.Frames[0].Data) != "before" || string(got.Frames[2].Data) != "after" {
			t.Fatalf("size %d: %d events", size, len(got.Frames))
		}
		f := got.Frames[1]
		if f.TooLarge != (size > limit) {
			t.Errorf("size %d with limit %d: too large %v", size, limit, f.TooLarge)
		}
		if f.TooLarge && (len(f.Data) > cutSize || f.Size < size-1 || f.Size > size) || !f.TooLarge && string(f.Data) != line[6:] {
			t.Errorf("size %d: said to be %d, %d kept", size, f.Size, len(f.Data))
		}
		if !bytes.HasPrefix([]byte(line[6:]), f.Data) {
			t.Errorf("size %d: what is kept is not its beginning", size)
		}
	}
}

func TestFramerTooLargeBeforeItsData(t *testing.T) {
	t.Parallel()
	got := readAll(t, strings.NewReader(strings.Repeat("\xffx", 1000)+"\ndata: x\n\n"), 1000)
	if f := got.Frames; len(f) != 1 || !f[0].TooLarge || !strings.HasPrefix(string(f[0].Data), "\ufffdx\ufffdx") {
		t.Errorf("%+v", got)
	}
}

func TestFramerTooLargeHoweverItIsCut(t *testing.T) {
	t.Parallel()
	in := "data: " + strings.Repeat("x", 90) + "\ndata: y\n: a comment over the limit\ndata: z\n\n"
	want := readAll(t, strings.NewReader(in), 100)
	if f := want.Frames; len(f) != 1 || !f[0].TooLarge || len(f[0].Data) > 100 {
		t.Fatalf("%+v", want)
	}
	for n := 1; n < len(in); n++ {
		parts := chunks(slices.Collect(slices.Chunk([]byte(in), n)))
		if got := readAll(t, &parts, 100); !reflect.DeepEqual(got, want) {
			t.Fatalf("cut by %d:\ngot  %+v\nwant %+v", n, got, want)
		}
	}
}

// One large event, one endless comment and one endless line must not cost memory for as long as the stream lives.
func TestFramerMemory(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 1<<20)
	for name, in := range map[string]string{
		"large event":             "data: " + large + "\n\n",
		"large comment":           ": " + large + "\n",
		"over limit":              "data: " + strings.Repeat(large, 5) + "\n\n",
		"long comment over limit": ": " + strings.Repeat(large, 5) + "\n\n",
	} {
		f := newFramer(strings.NewReader(in+"data: x\n\n"), 4<<20)
		most := 0
		for {
			frame, err := f.next()
			most = max(most, cap(f.event))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if string(frame.Data) == "x" {
				break
			}
		}
		if cap(f.event) > keepBuffer {
			t.Errorf("%s: %d bytes stay allocated", name, cap(f.event))
		}
	}
	f := newFramer(io.LimitReader(endless('x'), 64<<20), 1<<20)
	if _, err := f.next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if cap(f.event) > 1<<20 {
		t.Errorf("an endless line costs %d bytes", cap(f.event))
	}
}

type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func TestFramerPassesErrorsOn(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	f := newFramer(io.MultiReader(strings.NewReader("data: x\n\ndata: y"), failing{broken}), 1000)
	if frame, err := f.next(); err != nil || string(frame.Data) != "x" {
		t.Fatalf("%q, %v", frame.Data, err)
	}
	if _, err := f.next(); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// FuzzFramer: how the bytes are cut makes no difference, and what go-sse itself reads of a whole stream is the same.
func FuzzFramer(f *testing.F) {
	for _, s := range []string{
		"event: a\ndata: x\n\n", "\ufeffdata: x\r\rdata: y\r\n\r\n", ": c\nretry: 5\ndata\n\n", "data: \xff\n\n", "id: 1\nevent: e\n\ndata: z\n\n",
	} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		const limit = 4096
		whole := readAll(t, bytes.NewReader(in), limit)
		parts := chunks{}
		for rest := in; len(rest) > 0; {
			n := min(int(step)%7+1, len(rest))
			parts = append(parts, rest[:n:n])
			rest = rest[n:]
		}
		if got := readAll(t, &parts, limit); !reflect.DeepEqual(got, whole) {
			t.Fatalf("cut by %d:\ngot  %+v\nwant %+v", step%7+1, got, whole)
		}
		if len(in) > limit || !bytes.HasSuffix(in, []byte("\n\n")) || bytes.ContainsAny(in, "\r\x00") || bytes.Contains(in, []byte("\ufeff")) {
			return // go-sse differs on purpose: see framer
		}
		var want []string
		for e, err := range sse.Read(bytes.NewReader(in), nil) {
			if err != nil {
				return
			}
			if e.Data != "" {
				want = append(want, strings.ToValidUTF8(e.Type, "\ufffd")+"|"+strings.ToValidUTF8(e.Data, "\ufffd"))
			}
		}
		var got []string
		for _, frame := range whole.Frames {
			got = append(got, frame.Event+"|"+string(frame.Data))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("of %q\ngot  %q\nwant %q", in, got, want)
		}
	})
}

// largeEvent is an event of 4 MiB in pieces of 1 KiB.
func largeEvent() (whole []byte, pieces chunks) {
	whole = []byte("event: insight.batch.created\ndata: " + strings.Repeat("x", 4<<20-100) + "\n\n")
	return whole, slices.Collect(slices.Chunk(whole, 1<<10))
}

func BenchmarkFramer4MiB(b *testing.B) {
	whole, pieces := largeEvent()
	b.SetBytes(int64(len(whole)))
	b.ReportAllocs()
	for b.Loop() {
		parts := slices.Clone(pieces)
		f := newFramer(&parts, 4<<20)
		if frame, err := f.next(); err != nil || frame.TooLarge {
			b.Fatal(err, frame.TooLarge)
		}
	}
}

// BenchmarkFramer1KiB is what a stream of usual insights costs, by the event.
func BenchmarkFramer1KiB(b *testing.B) {
	const events = 64
	one := "event: insight.batch.created\ndata: " + strings.Repeat("x", 1<<10) + "\n\n"
	whole := []byte(strings.Repeat(one, events))
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	left, f := 0, (*framer)(nil)
	for b.Loop() {
		if left == 0 {
			parts := chunks{whole}
			left, f = events, newFramer(&parts, 4<<20)
		}
		if frame, err := f.next(); err != nil || len(frame.Data) != 1<<10 {
			b.Fatal(err, len(frame.Data))
		}
		left--
	}
}

// BenchmarkFramer4MiBBound only collects the same pieces.
func BenchmarkFramer4MiBBound(b *testing.B) {
	whole, pieces := largeEvent()
	b.SetBytes(int64(len(whole)))
	b.ReportAllocs()
	for b.Loop() {
		parts := slices.Clone(pieces)
		if got, err := io.ReadAll(&parts); err != nil || len(got) != len(whole) {
			b.Fatal(err, len(got))
		}
	}
}

// pieces is a reader that has what comes by and by: each Read gives of one piece, and none of an empty one.
type pieces struct {
	list   []string
	waited int // how often what was not there yet was asked for
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.list) == 0 {
		p.waited++
		return 0, io.EOF
	}
	n := copy(b, p.list[0])
	if p.list[0] = p.list[0][n:]; p.list[0] == "" {
		p.list = p.list[1:]
	}
	return n, nil
}

// TestTake takes what has come and does not wait for more, and waits without a buffer.
func TestTake(t *testing.T) {
	t.Parallel()
	came := &pieces{}
	f := newFramer(came, 1<<20)
	for i, step := range []struct {
		comes string
		data  []string
	}{
		{": keepalive\n\n", nil},
		{"data: a\n\n", []string{"a"}},
		{"data: b\n", nil},
		{"\n", []string{"b"}}, // one byte, after which nothing is there
		{"data: c\n\ndata: d\n\n: x\nda", []string{"c", "d"}},
		{"ta: e\n\n", []string{"e"}},
		{"data: " + strings.Repeat("f", 2*readBuffer) + "\n\n", []string{strings.Repeat("f", 2*readBuffer)}},
	} {
		came.list = append(came.list, step.comes)
		var got []string
		for len(came.list) > 0 || len(f.read) > 0 {
			if err := f.wait(); err != nil {
				t.Fatal(err)
			}
			if f.buf != nil && len(f.read) <= 1 {
				t.Errorf("step %d: it waited with a buffer", i)
			}
			for frame, ok := f.take(); ok; frame, ok = f.take() {
				got = append(got, string(frame.Data))
			}
		}
		if !slices.Equal(got, step.data) || came.waited > 0 {
			t.Errorf("step %d: %d events, waited %d times", i, len(got), came.waited)
		}
	}
	if err := f.wait(); !errors.Is(err, io.EOF) || f.buf != nil {
		t.Errorf("at the end: %v", err)
	}
}
