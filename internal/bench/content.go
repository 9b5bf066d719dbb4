package bench

import (
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nex-crm/relay/internal/event"
)

// UsualSize is how large an insight is, as Nex would send it, unless a run asks for another size, in bytes.
const UsualSize = 1024

// asked is how large this process makes them; Serve sets it. 0 = UsualSize.
var asked atomic.Int64

func insightSize() int {
	if n := asked.Load(); n > 0 {
		return int(n)
	}
	return UsualSize
}

const (
	insightHead = `{"type":"`
	insightMid  = `","type_description":"A potential business opportunity","content":"`
	insightTail = `","confidence":0.85,"confidence_level":"high","target":{"type":"entity","entity_type":"person","hint":"John Smith",` +
		`"signals":[{"type":"email","value":"john@acme.com"}]},"evidence":[{"excerpt":"We should have budget approval by Q2",` +
		`"artifact":{"type":"email","subject":"RE: Proposal"}}]}`
	workspaceHead = `{"name":"Acme Corp","slug":"`
	workspaceTail = `","business_info":{"name":"Acme Corp","domain":"acme.com"}}`
)

// MinSize and MaxSize bound what a run may ask for: what an insight is made of, and what Nex sends at most.
const MinSize, MaxSize = 512, 512 << 10

const filler = "budget approval is expected next quarter "

// appendInsight appends an insight of insightSize() bytes. No two of one workspace say the same.
func appendInsight(dst []byte, kind string, n int) []byte {
	begin := len(dst)
	dst = append(append(append(dst, insightHead...), kind...), insightMid...)
	dst = append(strconv.AppendInt(dst, int64(n), 10), ' ')
	for rest := begin + insightSize() - len(insightTail) - len(dst); rest > 0; rest -= len(filler) {
		dst = append(dst, filler[:min(rest, len(filler))]...)
	}
	return append(dst, insightTail...)
}

// batch is an insight as Nex's stream brings it.
func batch(workspace, kind string, n int, at time.Time) []byte {
	b := make([]byte, 0, insightSize()+320)
	b = append(append(append(append(b, `{"workspace":`...), workspaceHead...), workspace...), workspaceTail...)
	b = appendInsight(append(b, `,"insights":[`...), kind, n)
	b = append(strconv.AppendInt(append(b, `],"operation_id":`...), int64(n), 10), `,"insight_count":1,"emitted_at":"`...)
	return append(at.UTC().AppendFormat(b, time.RFC3339Nano), `"}`...)
}

// newEvent is what the relay makes of it, byte for byte in its data.
func newEvent(workspace, kind string, n int, at time.Time) *event.Event {
	data := make([]byte, 0, insightSize()+256)
	data = appendInsight(data, kind, n)
	data = append(append(append(append(data[:len(data)-1], `,"workspace":`...), workspaceHead...), workspace...), workspaceTail...)
	data = append(strconv.AppendInt(append(data, `,"batch":{"operation_id":`...), int64(n), 10), `,"index":0,"count":1}}`...)
	content := string(data[len(insightHead)+len(kind)+len(insightMid):][:24]) // enough to be its own
	return &event.Event{
		Workspace: workspace, ID: event.InsightID(workspace, "", kind, content, at), Type: event.InsightPrefix + kind, Subject: "person/John Smith",
		Time: at, Data: data, Fingerprint: event.Fingerprint(workspace, kind, content), Emitted: at, Traceparent: event.NewTraceparent(),
	}
}

// emittedAt is when an event says that it happened, from the JSON of an envelope, without decoding all of it.
func emittedAt(envelope string) (time.Time, bool) {
	const key = `,"time":"`
	begin := strings.Index(envelope, key)
	if begin < 0 {
		return time.Time{}, false
	}
	text, _, _ := strings.Cut(envelope[begin+len(key):], `"`)
	at, err := time.Parse(time.RFC3339Nano, text)
	return at, err == nil
}
