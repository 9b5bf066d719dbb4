package nex

import (
	"bufio"
	"bytes"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tmaxmax/go-sse"
)

// Frame is one event of the stream (WHATWG HTML, section 9.2).
type Frame struct {
	Event string // the event field; empty if there was none
	Data  []byte // the data fields, joined by line feeds; valid UTF-8
	// TooLarge marks an event over the size limit: Data holds the beginning of its data, or of all of it where no data field
	// came before the cut; Size says how large all of it was.
	TooLarge bool
	Size     int
}

const (
	readBuffer = 4 << 10
	// keepBuffer is how large a buffer may be to be used again.
	keepBuffer = 64 << 10
	// cutSize is how much of an event that is too large is kept to show.
	cutSize = 64 << 10
	// retryLimit bounds the retry field: a server does not decide that we stay away for hours.
	retryLimit = 10 * time.Minute
)

// buffers are for the event that is being read. A stream has one only in the middle of an event: thousands of quiet streams
// must not keep what their largest event needed.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// readBuffers are for what was read and is not taken apart yet.
var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// framer cuts a stream into events and hands each whole event to go-sse for its fields. go-sse alone would scan a large
// event again with every read, end the stream at one that is too large, wait for one byte more after a CR, and show
// neither comments nor the retry field.
type framer struct {
	r   io.Reader
	max int

	read  []byte // what was read and not fed yet
	err   error  // what comes after it
	first [1]byte
	buf   *[readBuffer]byte // nil while the first byte of what comes is waited for
	more  bool              // what follows that byte, or what filled buf, is probably there

	event   []byte // the lines of the event so far, each ended by LF, and the current line
	line    int    // where the current line begins in event
	lineLen int    // its length, kept or not
	size    int    // bytes of the event so far, kept or not
	skip    bool   // the event is too large: its bytes are counted, not kept
	started bool   // the first line, which may begin with a BOM, is over
	afterCR bool   // a LF now belongs to the line end before it

	comment func(string)        // called for a comment line, without its colon
	retry   func(time.Duration) // called for a retry field
}

func newFramer(r io.Reader, maxEvent int) *framer {
	return &framer{r: r, max: maxEvent, comment: func(string) {}, retry: func(time.Duration) {}}
}

// next reads one event. What is left unfinished when the stream ends is dropped, as the format demands.
func (f *framer) next() (Frame, error) {
	for {
		if err := f.wait(); err != nil {
			return Frame{}, err
		}
		if frame, ok := f.take(); ok {
			return frame, nil
		}
	}
}

// wait returns when there is something to take, or with what has ended the stream. It waits without a buffer for more than the
// first byte, and with little on the stack.
func (f *framer) wait() error {
	if f.buf != nil && len(f.read) == 0 {
		readBuffers.Put(f.buf)
		f.buf = nil
	}
	for len(f.read) == 0 {
		if f.err != nil {
			return f.err
		}
		var n int
		n, f.err = f.r.Read(f.first[:])
		f.read, f.more = f.first[:n], n > 0
	}
	return nil
}

// take is the next event of what has come; ok if there is one.
func (f *framer) take() (frame Frame, ok bool) {
	for {
		for len(f.read) > 0 {
			frame, n, ok := f.feed(f.read)
			f.read = f.read[n:]
			if ok {
				f.more = f.more && len(f.read) > 0
				return frame, true
			}
		}
		if !f.more || f.err != nil {
			return Frame{}, false
		}
		f.fill()
	}
}

// fill reads what came with the first byte, or after what has filled the buffer.
func (f *framer) fill() {
	if f.buf == nil {
		f.buf = readBuffers.Get().(*[readBuffer]byte)
	}
	var n int
	n, f.err = f.r.Read(f.buf[:])
	f.read, f.more = f.buf[:n], n == len(f.buf)
}

// feed takes bytes up to the end of the first event in them, and tells how many.
func (f *framer) feed(chunk []byte) (frame Frame, n int, ok bool) {
	for n < len(chunk) {
		if f.afterCR {
			f.afterCR = false
			if chunk[n] == '\n' {
				n++
				continue
			}
		}
		end := bytes.IndexAny(chunk[n:], "\r\n")
		if end < 0 {
			f.add(chunk[n:])
			return Frame{}, len(chunk), false
		}
		f.add(chunk[n : n+end])
		f.afterCR = chunk[n+end] == '\r'
		n += end + 1
		if frame, ok = f.endLine(); ok {
			return frame, n, true
		}
	}
	return Frame{}, n, false
}

// add appends to the current line.
func (f *framer) add(b []byte) {
	f.lineLen += len(b)
	f.size += len(b)
	if f.skip {
		return
	}
	if f.size <= f.max {
		if f.event == nil {
			f.event = *buffers.Get().(*[]byte)
		}
		f.event = append(f.event, b...)
		return
	}
	f.skip = true
	keep := min(cutSize, f.max) // the same however the bytes are cut
	kept := f.event[:min(len(f.event), keep)]
	f.event = append(bytes.Clone(kept), b[:keep-len(kept)]...)
}

// endLine ends the current line; ok if it was the blank one that ends an event.
func (f *framer) endLine() (frame Frame, ok bool) {
	if !f.started && !f.skip {
		if rest, found := bytes.CutPrefix(f.event, []byte("\ufeff")); found {
			f.event, f.lineLen, f.size = append(f.event[:0], rest...), len(rest), len(rest)
		}
	}
	f.started = true
	if f.lineLen == 0 {
		return f.dispatch()
	}
	f.lineLen = 0
	if f.skip {
		return Frame{}, false
	}
	line := f.event[f.line:]
	if line[0] == ':' {
		f.comment(strings.TrimPrefix(string(line[1:min(len(line), 1024)]), " "))
		f.event, f.size = f.event[:f.line], f.size-len(line) // no part of the event
		if f.size == 0 {
			f.release()
		}
		return Frame{}, false
	}
	if value, found := bytes.CutPrefix(line, []byte("retry:")); found {
		f.noticeRetry(strings.TrimPrefix(string(value[:min(len(value), 32)]), " "))
	}
	f.event = append(f.event, '\n')
	f.size++
	f.line = len(f.event)
	return Frame{}, false
}

func (f *framer) noticeRetry(digits string) {
	if ms, err := strconv.ParseUint(digits, 10, 63); err == nil {
		f.retry(time.Duration(min(ms, uint64(retryLimit/time.Millisecond))) * time.Millisecond)
	}
}

// dispatch ends the event; ok if it has data.
func (f *framer) dispatch() (frame Frame, ok bool) {
	if len(f.event) > 0 {
		frame = parseEvent(append(f.event, '\n', '\n'))
		frame.TooLarge, frame.Size = f.skip, f.size
		if f.skip && len(frame.Data) == 0 { // cut before its first data field
			frame.Data = bytes.ToValidUTF8(bytes.Clone(f.event), []byte("\ufffd"))
		}
		ok = f.skip || len(frame.Data) > 0
	}
	f.line, f.size, f.skip = 0, 0, false
	f.release()
	return frame, ok
}

// release gives the buffer back.
func (f *framer) release() {
	if 0 < cap(f.event) && cap(f.event) <= keepBuffer {
		empty := f.event[:0]
		buffers.Put(&empty)
	}
	f.event = nil
}

// parseEvent reads the fields of one whole event.
func parseEvent(event []byte) Frame {
	for e, err := range sse.Read(bytes.NewReader(event), &sse.ReadConfig{MaxEventSize: len(event) + bufio.MaxScanTokenSize}) {
		if err != nil {
			break
		}
		return Frame{Event: strings.ToValidUTF8(e.Type, "\ufffd"), Data: []byte(strings.ToValidUTF8(e.Data, "\ufffd"))}
	}
	return Frame{}
}
