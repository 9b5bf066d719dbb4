package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/endpoint"
)

// references reads a message of RELAY_RETRY. One that cannot be read is removed: nothing that the relay put there.
func (f *Fanout) references(m jetstream.Msg) []reference {
	refs, err := parseReferences(m.Data())
	if err != nil {
		f.log.Error("a waiting delivery cannot be read, dropped", "subject", m.Subject(), "error", err)
		_ = m.Term()
	}
	return refs
}

// parseReferences reads one reference or a list, all of one endpoint.
func parseReferences(data []byte) ([]reference, error) {
	refs := make([]reference, 1)
	var err error
	if len(data) > 0 && data[0] == '[' {
		err = json.Unmarshal(data, &refs)
	} else {
		err = json.Unmarshal(data, &refs[0])
	}
	if err != nil {
		return nil, err
	}
	if len(refs) == 0 {
		return nil, errors.New("an empty list")
	}
	for _, ref := range refs {
		if !endpoint.IDForm.MatchString(ref.Endpoint) || ref.Endpoint != refs[0].Endpoint || ref.Sequence == 0 || ref.Attempt < 1 {
			return nil, errors.New("no reference to an event and an endpoint")
		}
	}
	return refs, nil
}

// holdReferences takes responsibility for a message of RELAY_RETRY and answers its deliveries; none where [Fanout.hold] takes it not.
func (f *Fanout) holdReferences(ctx context.Context, m jetstream.Msg, refs []reference) []*delivery {
	shares := make([]share, len(refs))
	for i, r := range refs {
		shares[i].endpoint, shares[i].sequence = r.Endpoint, r.Sequence
	}
	h := f.hold(ctx, m, len(m.Data()), shares)
	if h == nil {
		return nil
	}
	list := make([]*delivery, len(refs))
	for i, r := range refs {
		list[i] = r.delivery()
		list[i].held, list[i].share = h, &shares[i]
	}
	return list
}

func (r reference) delivery() *delivery {
	return &delivery{
		endpoint: r.Endpoint, workspace: r.Workspace, sequence: r.Sequence, id: r.ID, attempt: r.Attempt, since: r.Since, forced: r.Forced, inline: r.Event,
	}
}

// handleDue gives deliveries whose time has come to their lane.
func (f *Fanout) handleDue(ctx context.Context, m jetstream.Msg) {
	refs := f.references(m)
	if len(refs) == 0 {
		return
	}
	e := f.cfg.Endpoints.Snapshot().Get(refs[0].Endpoint)
	for _, d := range f.holdReferences(ctx, m, refs) {
		if e == nil {
			f.backlog(d)
		} else {
			f.hand(ctx, e, d, false)
		}
	}
}

// eventID is the id of a stored event. One that somebody else put into the log may have none: its place serves.
func eventID(h nats.Header, sequence uint64) string {
	if id := h.Get(nats.MsgIdHdr); id != "" {
		return id
	}
	return fmt.Sprintf("seq_%d", sequence)
}
