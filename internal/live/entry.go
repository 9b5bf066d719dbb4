package live

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// Kind is what an entry is, and the event name of its SSE frame.
type Kind string

// The kinds.
const (
	KindEvent   Kind = "event"   // an event has entered the log
	KindNews    Kind = "news"    // so has one of the relay's own
	KindAttempt Kind = "attempt" // a delivery was attempted
	KindDropped Kind = "dropped" // the reader has missed some
)

// Entry is something that happened.
type Entry struct {
	Kind      Kind
	Workspace string    // a token, or [event.NoWorkspace]
	Endpoint  string    // whose attempt it is, or whom news are about; empty otherwise
	Sequence  uint64    // its place in the log; 0 for an attempt
	At        time.Time // when an attempt was made; zero otherwise

	frame []byte
}

// Event is an event that has entered the log, in short.
type Event struct {
	Sequence  uint64          `json:"sequence" doc:"Its place in the log, and the id of the SSE event."`
	ID        string          `json:"id,omitempty" doc:"The CloudEvent's id."`
	Type      string          `json:"type"`
	Workspace string          `json:"workspace" doc:"_ is the relay itself."`
	Subject   string          `json:"subject,omitempty" doc:"What it is about; of news about an endpoint, the endpoint."`
	Time      *time.Time      `json:"time,omitempty" doc:"When it happened."`
	Stored    time.Time       `json:"stored" doc:"When the log took it."`
	Data      json.RawMessage `json:"data,omitempty" doc:"Of the relay's own events, up to 4 KiB of it; otherwise left out."`
}

// Attempt is a delivery attempt, in short.
type Attempt struct {
	ID         uint64          `json:"id" doc:"Its place among all attempts."`
	EventID    string          `json:"event_id"`
	Sequence   uint64          `json:"sequence" doc:"The event's place in the log; 0 for a test event."`
	Endpoint   string          `json:"endpoint"`
	Workspace  string          `json:"workspace"`
	Type       string          `json:"type"`
	Attempt    int             `json:"attempt"`
	At         time.Time       `json:"at"`
	DurationMS float64         `json:"duration_ms"`
	Outcome    webhook.Outcome `json:"outcome"`
	Status     int             `json:"status,omitempty" doc:"The answer's; left out without an answer."`
	Error      string          `json:"error,omitempty"`
	Verdict    fanout.Verdict  `json:"verdict" doc:"What becomes of the delivery."`
	NextAt     *time.Time      `json:"next_at,omitempty"`
}

// Dropped says that some are missing here.
type Dropped struct {
	Count uint64 `json:"count" doc:"How many; of what was before the stream began, at most."`
}

const (
	maxText = 512     // bytes of what foreign texts are cut to
	maxData = 4 << 10 // bytes of data that are shown
	// maxDataRead is of how large an event the data is looked at.
	maxDataRead = 4 * maxData
)

// OfLog is the entry of what the log holds.
func OfLog(m bus.Stored) *Entry {
	workspace, eventType, _ := event.SplitSubject(m.Subject)
	out := Event{Sequence: m.Sequence, Type: eventType, Workspace: workspace, Stored: m.Time.UTC()}
	e := &Entry{Kind: KindEvent, Workspace: workspace, Sequence: m.Sequence}
	head := readHead(m.Data, event.IsNews(eventType) && len(m.Data) <= maxDataRead)
	out.ID, out.Subject, out.Time = cut(head.id), cut(head.subject), head.time
	if event.IsNews(eventType) {
		e.Kind = KindNews
		if workspace == event.NoWorkspace {
			e.Endpoint = out.Subject
		}
		if len(head.data) <= maxData {
			out.Data = head.data
		}
	}
	e.frame = frame(e.Kind, e.Sequence, out)
	return e
}

// OfAttempt is the entry of an attempt; ok is false for what is none.
func OfAttempt(m bus.Stored) (e *Entry, ok bool) {
	var a Attempt
	if json.Unmarshal(m.Data, &a) != nil {
		return nil, false
	}
	a.ID = m.Sequence
	for _, text := range []*string{&a.EventID, &a.Endpoint, &a.Workspace, &a.Type, &a.Error, (*string)(&a.Outcome), (*string)(&a.Verdict)} {
		*text = cut(*text)
	}
	return &Entry{Kind: KindAttempt, Workspace: a.Workspace, Endpoint: a.Endpoint, At: a.At, frame: frame(KindAttempt, 0, a)}, true
}

// head is what stands in an event before its data.
type head struct {
	id, subject string
	time        *time.Time
	data        json.RawMessage
}

// readHead reads an event up to its data, as the relay writes it, and if so wanted the data too. What cannot be read is left out.
func readHead(text []byte, withData bool) (h head) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return h
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return h
		}
		var into any
		switch name {
		case "id":
			into = &h.id
		case "subject":
			into = &h.subject
		case "time":
			into = &h.time
		case "data":
			if withData && dec.Decode(&h.data) != nil {
				h.data = nil
			}
			return h
		default:
			into = new(json.RawMessage)
		}
		if dec.Decode(into) != nil {
			return h
		}
	}
	return h
}

// cut shortens a text to what an entry has room for.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for end > 0 && s[end]&0xc0 == 0x80 { // not within a character
		end--
	}
	return s[:end] + "…"
}

// frame is an SSE event (WHATWG HTML, section 9.2.5) with a value as JSON, which has no line breaks. An id of 0 is none: the
// receiver keeps the last one that it got.
func frame(kind Kind, id uint64, v any) []byte {
	var b bytes.Buffer
	if id > 0 {
		fmt.Fprintf(&b, "id: %d\n", id)
	}
	fmt.Fprintf(&b, "event: %s\ndata: ", kind)
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // a time outside of RFC 3339 in a foreign record
		return nil
	}
	b.WriteByte('\n')
	return b.Bytes()
}
