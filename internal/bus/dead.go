package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

const deadPrefix = "relay.dead." // .<endpoint>.<class>; earlier builds wrote .<endpoint>

// DeadSubject holds an endpoint's dead letters of one class, which is one token.
func DeadSubject(endpoint, class string) string { return deadPrefix + endpoint + "." + class }

// DeadSubjects are the filters for an endpoint's dead letters, those of a class, or both; empty = any. Those that earlier builds
// wrote stand on a subject without a class: an endpoint's are among them where no class is asked for.
func DeadSubjects(endpoint, class string) []string {
	switch {
	case endpoint == "" && class == "":
		return []string{deadPrefix + ">"}
	case endpoint == "":
		return []string{DeadSubject("*", class)}
	case class == "":
		return []string{deadPrefix + endpoint, DeadSubject(endpoint, "*")}
	}
	return []string{DeadSubject(endpoint, class)}
}

// ParseDeadSubject is the endpoint and the class of a dead letter's subject; class is empty where an earlier build wrote it.
func ParseDeadSubject(subject string) (endpoint, class string, ok bool) {
	rest, ok := strings.CutPrefix(subject, deadPrefix)
	endpoint, class, has := strings.Cut(rest, ".")
	ok = ok && endpoint != "" && (!has || class != "") && !strings.Contains(class, ".")
	if !ok {
		return "", "", false
	}
	return endpoint, class, true
}

// GetDead reads one dead letter by its sequence in RELAY_DEAD, [ErrNotInLog] if it is not there. The stream's leader answers.
func (b *Bus) GetDead(ctx context.Context, sequence uint64) (*Stored, error) {
	if sequence == 0 {
		return nil, fmt.Errorf("read dead letter 0: %w", ErrNotInLog)
	}
	m, err := b.askLeader(ctx, StreamDead, map[string]any{"seq": sequence})
	if err != nil {
		return nil, fmt.Errorf("read dead letter %d: %w", sequence, err)
	}
	return m, nil
}

// DeleteDead removes one dead letter by its sequence in RELAY_DEAD, [ErrNotInLog] if it is not there: of two that remove it at one
// time, one does.
func (b *Bus) DeleteDead(ctx context.Context, sequence uint64) error {
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	err := b.call(ctx, "STREAM.MSG.DELETE."+StreamDead, map[string]any{"seq": sequence, "no_erase": true}, &answer)
	if err == nil && answer.Error != nil {
		err = answer.Error
		// The server has one code for all that can be wrong here.
		if _, gone := b.GetDead(ctx, sequence); errors.Is(gone, ErrNotInLog) {
			err = ErrNotInLog
		}
	}
	if err != nil {
		return fmt.Errorf("delete dead letter %d: %w", sequence, err)
	}
	return nil
}

// PurgeDead removes the dead letters that [DeadSubjects] names, as far as they were stored before a sequence of RELAY_DEAD (0 = all
// of them), and answers how many. After an error some may be gone; those that the answer counts are.
func (b *Bus) PurgeDead(ctx context.Context, endpoint, class string, before uint64) (removed uint64, err error) {
	for _, subject := range DeadSubjects(endpoint, class) {
		request := map[string]any{"filter": subject}
		if before > 0 {
			request["seq"] = before
		}
		var answer struct {
			Error  *jetstream.APIError `json:"error"`
			Purged uint64              `json:"purged"`
		}
		err := b.call(ctx, "STREAM.PURGE."+StreamDead, request, &answer)
		if err == nil && answer.Error != nil {
			err = answer.Error
		}
		if err != nil {
			return removed, fmt.Errorf("remove dead letters on %s: %w", subject, err)
		}
		removed += answer.Purged
	}
	return removed, nil
}
