package event

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The relay's own news, as types. With a workspace they stand at nex.<workspace>.relay.<what>, the endpoints' at
// nex._.relay.endpoint.<what>.
const (
	StreamConnected    = "nex.relay.stream_connected"
	StreamDisconnected = "nex.relay.stream_disconnected"
	StreamUnauthorized = "nex.relay.stream_unauthorized"
	GapFilled          = "nex.relay.gap_filled"
	GapNotFillable     = "nex.relay.gap_not_fillable"
	Malformed          = "nex.relay.malformed"
	EndpointDisabled   = "nex.relay.endpoint.disabled"
	EndpointFailing    = "nex.relay.endpoint.failing"
	EndpointResumed    = "nex.relay.endpoint.resumed"
	EndpointRecovered  = "nex.relay.endpoint.recovered"
	EndpointDeadLetter = "nex.relay.endpoint.dead_letter"
	// The log will lose events that an endpoint is still to get; and it will not any more.
	EndpointLossAhead   = "nex.relay.endpoint.loss_ahead"
	EndpointLossAverted = "nex.relay.endpoint.loss_averted"
	EndpointTest        = "nex.relay.endpoint.test" // sent on request, and in no log
)

// IsNews tells whether a type is the relay's own. A delivery of news that fails makes no further news: otherwise an
// endpoint that listens for dead letters and fails would feed itself.
func IsNews(eventType string) bool { return strings.HasPrefix(eventType, "nex.relay.") }

// News builds an event of the relay's own. workspace is a token or [NoWorkspace]; subject says what it is about (an
// endpoint id, say) and may be empty; data must be a value that encoding/json takes.
func News(workspace, eventType, subject string, data any, now time.Time) (*Event, error) {
	raw, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", eventType, err)
	}
	return &Event{
		Workspace:   workspace,
		ID:          "news_" + strings.ToLower(rand.Text()),
		Type:        eventType,
		Subject:     subject,
		Time:        now,
		Data:        raw,
		Traceparent: NewTraceparent(),
	}, nil
}
