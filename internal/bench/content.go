package bench

import (
	"strconv"
	"strings"
	"time"

	"github.com/nex-crm/relay/internal/event"
)

// insightSize is how large an insight is, as Nex would send it, in bytes.
const insightSize = 1024

const (
	insightHead = `{"type":"`
	insightMid  = `","type_description":"A potential business opportunity","content":"`
	insightTail = `","confidence":0.85,"confidence_level":"high","target":{"type":"entity","entity_type":"person","hint":"John Smith",` +
		`"signals":[{"type":"email","value":"john@acme.com"}]},"evidence":[{"excerpt":"We should have budget approval by Q2",` +
		`"artifact":{"type":"email","subject":"RE: Proposal"}}]}`
	workspaceHead = `{"name":"Acme Corp","slug":"`
	workspaceTail = `","business_info":{"name":"Acme Corp","domain":"acme.com"}}`
)

var filler = strings.Repeat("budget approval is expected next quarter ", 1+insightSize/40)

// appendInsight appends an insight of insightSize bytes. No two of one workspace say the same.
func appendInsight(dst []byte, kind string, n int) []byte {
	dst = append(append(append(dst, insightHead...), kind...), insightMid...)
	own := len(dst)
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(dst, ' ')
	rest := insightSize - len(insightHead) - len(kind) - len(insightMid) - (len(dst) - own) - len(insightTail)
	return append(append(dst, filler[:max(0, rest)]...), insightTail...)
}

// batch is an insight as Nex's stream brings it.
func batch(workspace, kind string, n int, at time.Time) []byte {
	b := make([]byte, 0, insightSize+320)
	b = append(append(append(append(b, `{"workspace":`...), workspaceHead...), workspace...), workspaceTail...)
	b = appendInsight(append(b, `,"insights":[`...), kind, n)
	b = append(strconv.AppendInt(append(b, `],"operation_id":`...), int64(n), 10), `,"insight_count":1,"emitted_at":"`...)
	return append(at.UTC().AppendFormat(b, time.RFC3339Nano), `"}`...)
}

// newEvent is what the relay makes of it, byte for byte in its data.
func newEvent(workspace, kind string, n int, at time.Time) *event.Event {
	data := make([]byte, 0, insightSize+256)
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
