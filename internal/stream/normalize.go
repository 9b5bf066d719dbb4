package stream

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
)

// maxSubject bounds the CloudEvents subject, in characters.
const maxSubject = 256

// Normalize turns an insight into its event. workspace is the workspace's token, arrived the time to take where Nex gave
// none. It depends on nothing else, so that every replica makes the same event of the same insight.
func Normalize(workspace string, in nex.Insight, arrived time.Time) *event.Event {
	kind := event.Token(in.Type)
	e := &event.Event{
		Workspace:   workspace,
		ID:          event.InsightID(workspace, in.ID, kind, in.Content, in.Time),
		Type:        event.InsightPrefix + kind,
		Subject:     subject(in.TargetKind, in.TargetName),
		Time:        in.Time,
		Data:        data(in),
		Fingerprint: event.Fingerprint(workspace, kind, in.Content),
		Emitted:     in.Time,
		Traceparent: event.NewTraceparent(),
	}
	if e.Time.IsZero() {
		e.Time = arrived
	}
	return e
}

func subject(kind, name string) string {
	if name == "" {
		return ""
	}
	if kind != "" {
		name = kind + "/" + name
	}
	name = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, name))
	if runes := []rune(name); len(runes) > maxSubject {
		name = string(runes[:maxSubject])
	}
	return name
}

// data is the insight as Nex sent it, byte for byte, with what Nex sent around it spliced in before the closing brace.
func data(in nex.Insight) json.RawMessage {
	end := bytes.LastIndexByte(in.Raw, '}')
	if end < 0 || in.Workspace == nil && in.Batch == nil {
		return in.Raw
	}
	own := topLevel(in.Raw)
	out := make([]byte, 0, len(in.Raw)+len(in.Workspace)+96)
	out = append(out, in.Raw[:end]...)
	if in.Workspace != nil && !own["workspace"] {
		out = append(out, `,"workspace":`...)
		out = append(out, in.Workspace...)
	}
	if in.Batch != nil && !own["batch"] {
		out = append(out, `,"batch":{`...)
		if in.Batch.OperationID != nil {
			out = append(out, `"operation_id":`...)
			out = append(out, in.Batch.OperationID...)
			out = append(out, ',')
		}
		out = append(out, `"index":`...)
		out = strconv.AppendInt(out, int64(in.Batch.Index), 10)
		out = append(out, `,"count":`...)
		out = strconv.AppendInt(out, int64(in.Batch.Count), 10)
		out = append(out, '}')
	}
	return append(out, in.Raw[end:]...)
}

// topLevel tells which of the keys that we add the insight has itself.
func topLevel(raw json.RawMessage) map[string]bool {
	if !bytes.Contains(raw, []byte(`"workspace"`)) && !bytes.Contains(raw, []byte(`"batch"`)) && !bytes.ContainsRune(raw, '\\') {
		return nil // the usual case, without decoding
	}
	var members map[string]json.RawMessage
	_ = json.Unmarshal(raw, &members) // valid: it was parsed before
	own := make(map[string]bool, 2)
	for _, key := range []string{"workspace", "batch"} {
		_, own[key] = members[key]
	}
	return own
}
