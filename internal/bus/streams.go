package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Every name that the relay has in JetStream.
const (
	StreamNex      = "NEX"
	StreamRetry    = "RELAY_RETRY"
	StreamDead     = "RELAY_DEAD"
	StreamAttempts = "RELAY_ATTEMPTS"

	BucketEndpoints = "RELAY_ENDPOINTS"
	BucketLeases    = "RELAY_LEASES"
	BucketOrder     = "RELAY_ORDER"
	BucketRequests  = "RELAY_REQUESTS"

	ConsumerFanout = "relay-fanout"
	ConsumerRetry  = "relay-retry"
)

// Subjects outside the log. An endpoint's id is one token (see package endpoint). The last token of those that hold several
// deliveries in one message is how many.
const (
	retryWait    = "relay.retry.wait."    // .<endpoint>.<sequence>: a schedule of one; a later one on the subject replaces it
	retryBatch   = "relay.retry.batch."   // .<endpoint>.<nonce>.<n>: a schedule of several
	retryDue     = "relay.retry.due."     // .<endpoint>.<n>: what a schedule becomes
	retryBacklog = "relay.retry.backlog." // .<endpoint>.<n>: without a time, first in first out
)

// RetryWaitSubject is where a delivery waits for its time. It is one per delivery, so that a delivery waits once however
// often it was put there.
func RetryWaitSubject(endpoint string, sequence uint64) string {
	return fmt.Sprintf("%s%s.%d", retryWait, endpoint, sequence)
}

// RetryBatchSubject is where n deliveries wait for their time together.
func RetryBatchSubject(endpoint, nonce string, n int) string {
	return fmt.Sprintf("%s%s.%s.%d", retryBatch, endpoint, nonce, n)
}

// RetryDueSubject is where n deliveries turn up when their time has come.
func RetryDueSubject(endpoint string, n int) string {
	return fmt.Sprintf("%s%s.%d", retryDue, endpoint, n)
}

// RetryBacklogSubject is where n deliveries wait until their endpoint can take them.
func RetryBacklogSubject(endpoint string, n int) string {
	return fmt.Sprintf("%s%s.%d", retryBacklog, endpoint, n)
}

// RetryHasTime tells whether what waits on a subject waits for its time.
func RetryHasTime(subject string) bool {
	return strings.HasPrefix(subject, retryWait) || strings.HasPrefix(subject, retryBatch)
}

// RetrySubjects are the filters for all that waits for an endpoint.
func RetrySubjects(endpoint string) []string {
	return []string{retryBacklog + endpoint + ".*", retryDue + endpoint + ".*", retryWait + endpoint + ".*", retryBatch + endpoint + ".*.*"}
}

// RetryPending counts the deliveries of RELAY_RETRY: of each endpoint those without a time, and all together.
func (b *Bus) RetryPending(ctx context.Context) (backlog map[string]uint64, all uint64, err error) {
	s, err := b.js.Stream(ctx, StreamRetry)
	if err != nil {
		return nil, 0, fmt.Errorf("count waiting deliveries: %w", err)
	}
	backlog, all = map[string]uint64{}, s.CachedInfo().State.Msgs
	for _, prefix := range []string{retryBacklog, retryBatch, retryDue} {
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
		if err != nil {
			return nil, 0, fmt.Errorf("count waiting deliveries: %w", err)
		}
		for subject, messages := range info.State.Subjects {
			endpoint, rest, _ := strings.Cut(strings.TrimPrefix(subject, prefix), ".")
			n, err := strconv.ParseUint(rest[strings.LastIndexByte(rest, '.')+1:], 10, 32)
			if err != nil || n == 0 {
				continue // nothing that the relay put there
			}
			all += (n - 1) * messages
			if prefix == retryBacklog {
				backlog[endpoint] += n * messages
			}
		}
	}
	return backlog, all, nil
}

// AttemptSubject holds an endpoint's attempts of one outcome.
func AttemptSubject(endpoint, outcome string) string {
	return "relay.attempts." + endpoint + "." + outcome
}

// EndpointOf is the endpoint of an attempt's or a dead letter's subject.
func EndpointOf(subject string) string {
	for _, prefix := range [...]string{"relay.attempts.", deadPrefix} {
		if rest, ok := strings.CutPrefix(subject, prefix); ok {
			id, _, _ := strings.Cut(rest, ".")
			return id
		}
	}
	return ""
}

// streams are all streams as values; the owner of a limit is this list alone.
func (b *Bus) streams() []jetstream.StreamConfig {
	replicas := max(b.cfg.Replicas, 1)
	if b.embedded != nil {
		replicas = 1
	}
	maxBytes := b.cfg.Stream.MaxBytes
	if maxBytes == 0 {
		maxBytes = -1
	}
	list := []jetstream.StreamConfig{
		{
			Name:        StreamNex,
			Description: "The log: one CloudEvent per insight, and the relay's own news",
			Subjects:    []string{"nex.>"},
			Retention:   jetstream.LimitsPolicy,
			MaxAge:      b.cfg.Stream.MaxAge,
			MaxBytes:    maxBytes,
			Duplicates:  b.cfg.Stream.DuplicateWindow,
			Compression: jetstream.S2Compression,
			AllowDirect: true,
		},
		{
			Name:              StreamRetry,
			Description:       "Deliveries waiting for their next attempt",
			Subjects:          []string{"relay.retry.>"},
			Retention:         jetstream.WorkQueuePolicy,
			AllowMsgSchedules: true,
			AllowMsgTTL:       true,
			AllowDirect:       true,
		},
		{
			Name:        StreamDead,
			Description: "Dead letters: retries used up, or refused for good",
			Subjects:    []string{"relay.dead.>"},
			Retention:   jetstream.LimitsPolicy,
			Compression: jetstream.S2Compression,
			AllowDirect: true,
		},
		{
			Name:        StreamAttempts,
			Description: "One record per delivery attempt",
			Subjects:    []string{"relay.attempts.>"},
			Retention:   jetstream.LimitsPolicy,
			MaxAge:      3 * 24 * time.Hour,
			MaxBytes:    1 << 30,
			// Not compressed: the attempts of one endpoint are spread over all blocks, and each would be decompressed for a page.
			AllowDirect: true,
		},
	}
	for i := range list {
		list[i].Storage = jetstream.FileStorage
		list[i].Discard = jetstream.DiscardOld
		list[i].Replicas = replicas
	}
	return list
}

// FanoutConsumer is the one durable through which every replica reads the log.
func FanoutConsumer(ackWait time.Duration, maxPending int) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       ConsumerFanout,
		Description:   "Fanout to webhooks, shared by all replicas",
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxAckPending: maxPending,
		MaxDeliver:    -1,
	}
}

// RetryConsumer is the durable through which due deliveries come back.
func RetryConsumer(ackWait time.Duration, maxPending int) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       ConsumerRetry,
		Description:   "Deliveries whose next attempt is due, shared by all replicas",
		FilterSubject: retryDue + ">",
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxAckPending: maxPending,
		MaxDeliver:    -1,
	}
}

// BacklogConsumer is through which an endpoint's deliveries without a time come back, to all replicas together. Its state
// is in memory: there may be one for each endpoint, and what it forgets is only what was on its way. It has as many replicas
// as the stream, because a work queue takes no others.
func BacklogConsumer(endpoint string, ackWait time.Duration) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:           "relay-backlog-" + endpoint,
		Description:       "What waits until an endpoint can take it, shared by all replicas",
		FilterSubject:     retryBacklog + endpoint + ".*",
		AckPolicy:         jetstream.AckExplicitPolicy,
		AckWait:           ackWait,
		MaxAckPending:     64,
		MaxDeliver:        -1,
		MemoryStorage:     true,
		InactiveThreshold: time.Minute,
	}
}

// OrderedConsumer is an endpoint's own way through the log where its order is to be kept: one event at a time, over all
// replicas, from a sequence on. One that nobody reads for a quarter of a year is removed.
func (b *Bus) OrderedConsumer(endpoint string, filters []string, from uint64, ackWait time.Duration) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:           OrderedPrefix + endpoint,
		Description:       "Events for an endpoint in strict order, shared by all replicas",
		FilterSubjects:    filters,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(from, 1),
		AckPolicy:         jetstream.AckExplicitPolicy,
		AckWait:           ackWait,
		MaxAckPending:     1,
		MaxDeliver:        -1,
		InactiveThreshold: max(b.cfg.Stream.MaxAge, 90*24*time.Hour),
	}
}

// OrderedPrefix begins the names of the consumers of ordered endpoints.
const OrderedPrefix = "relay-ordered-"

const (
	// ensureStep bounds one try to find or create all streams. A cluster without a leader does not answer at all.
	ensureStep = 10 * time.Second
	// jetStreamTime is how long a server may say that it has no JetStream: while it starts it says so too.
	jetStreamTime = 5 * time.Second
)

// ensureStreams creates what is missing. What exists in an external NATS belongs to its operator: other limits are
// named in a warning and left alone, only what cannot work is an error. In the embedded server the config file rules. A
// cluster that cannot answer or create yet is waited for until ctx ends.
func (b *Bus) ensureStreams(ctx context.Context) error {
	began, last := time.Now(), ""
	for {
		err := b.ensureOnce(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%w (last error: %w)", context.Cause(ctx), err)
		case notEnabled(err) && time.Since(began) < jetStreamTime && b.embedded == nil:
		case !healable(err):
			return err
		case err.Error() != last:
			last = err.Error()
			b.log.Warn("JetStream is not ready yet, trying on", "error", err)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (b *Bus) ensureOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ensureStep)
	defer cancel()
	for _, want := range b.streams() {
		if err := b.ensureStream(ctx, want); err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, err)
		}
	}
	var err error
	for _, bucket := range b.buckets() {
		if *bucket.kv, err = b.ensureBucket(ctx, bucket.config); err != nil {
			return fmt.Errorf("bucket %s: %w", bucket.config.Bucket, err)
		}
	}
	if b.nex, err = b.js.Stream(ctx, StreamNex); err != nil {
		return fmt.Errorf("stream %s: %w", StreamNex, err)
	}
	return nil
}

func notEnabled(err error) bool {
	return errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount)
}

// bucket is a key-value bucket as a value, and where the bus keeps it.
type bucket struct {
	kv     *jetstream.KeyValue
	config jetstream.KeyValueConfig
}

func (b *Bus) buckets() []bucket {
	replicas := max(b.cfg.Replicas, 1)
	if b.embedded != nil {
		replicas = 1
	}
	return []bucket{
		{&b.endpoints, jetstream.KeyValueConfig{
			Bucket:      BucketEndpoints,
			Description: "Endpoints made over the API, and what the relay decided about those of the config file",
			History:     8, // who changed this, and when
			Replicas:    replicas,
		}},
		{&b.leases, jetstream.KeyValueConfig{
			Bucket:      BucketLeases,
			Description: "Which replica holds which workspace's stream, and which replicas live",
			Replicas:    replicas,
		}},
		{&b.order, jetstream.KeyValueConfig{
			Bucket:      BucketOrder,
			Description: "How far each ordered endpoint has come",
			Replicas:    replicas,
		}},
		{&b.requests, jetstream.KeyValueConfig{
			Bucket:      BucketRequests,
			Description: "Answers to requests with an Idempotency-Key, sealed",
			TTL:         24 * time.Hour,
			Replicas:    replicas,
		}},
	}
}

// ensureBucket finds or makes a bucket.
func (b *Bus) ensureBucket(ctx context.Context, want jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	kv, err := b.js.KeyValue(ctx, want.Bucket)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	kv, err = b.js.CreateKeyValue(ctx, want)
	if errors.Is(err, jetstream.ErrBucketExists) { // another replica was faster
		kv, err = b.js.KeyValue(ctx, want.Bucket)
	}
	return kv, err
}

func (b *Bus) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	s, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = b.js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another replica was faster
			_, err = b.js.Stream(ctx, want.Name)
		}
		return err
	}
	if notEnabled(err) {
		return fmt.Errorf("%w: enable JetStream on the server and for this account", err)
	}
	if err != nil {
		return err
	}
	have := s.CachedInfo().Config
	diffs := differences(have, want)
	if len(diffs) == 0 {
		return nil
	}
	if b.embedded != nil {
		if _, err := b.js.UpdateStream(ctx, want); err != nil {
			return fmt.Errorf("apply %s: %w", strings.Join(diffs, ", "), err)
		}
		b.log.Info("stream limits changed", "stream", want.Name, "changes", diffs)
		return nil
	}
	if err := usable(have, want); err != nil {
		return err
	}
	b.log.Warn("stream exists with other limits, left as it is", "stream", want.Name, "differences", diffs)
	return nil
}

// differences names what an existing stream has otherwise than we would make it.
func differences(have, want jetstream.StreamConfig) []string {
	var out []string
	add := func(what string, h, w any) {
		if fmt.Sprint(h) != fmt.Sprint(w) {
			out = append(out, fmt.Sprintf("%s is %v, not %v", what, h, w))
		}
	}
	add("subjects", have.Subjects, want.Subjects)
	add("retention", have.Retention, want.Retention)
	add("storage", have.Storage, want.Storage)
	add("discard", have.Discard, want.Discard)
	add("max_age", have.MaxAge, want.MaxAge)
	add("max_bytes", unlimited(have.MaxBytes), unlimited(want.MaxBytes))
	add("max_msgs", unlimited(have.MaxMsgs), unlimited(want.MaxMsgs))
	add("max_msg_size", unlimited(int64(have.MaxMsgSize)), unlimited(int64(want.MaxMsgSize)))
	add("max_msgs_per_subject", unlimited(have.MaxMsgsPerSubject), unlimited(want.MaxMsgsPerSubject))
	add("discard_new_per_subject", have.DiscardNewPerSubject, want.DiscardNewPerSubject)
	if want.Duplicates != 0 {
		add("duplicate_window", have.Duplicates, want.Duplicates)
	}
	add("compression", have.Compression, want.Compression)
	add("replicas", have.Replicas, want.Replicas)
	add("allow_direct", have.AllowDirect, want.AllowDirect)
	add("allow_msg_schedules", have.AllowMsgSchedules, want.AllowMsgSchedules)
	add("allow_msg_ttl", have.AllowMsgTTL, want.AllowMsgTTL)
	return out
}

func unlimited(n int64) int64 {
	if n <= 0 {
		return -1
	}
	return n
}

// leastPerSubject is the least that the log must keep of each subject: ten pages of Nex's.
const leastPerSubject = 1000

// usable refuses a stream on which the relay could not keep its promises.
func usable(have, want jetstream.StreamConfig) error {
	remedy := "change the stream, or remove it and let the relay create it"
	if want.AllowMsgSchedules && !have.AllowMsgSchedules {
		return fmt.Errorf("exists without message schedules: %s", remedy)
	}
	if want.Retention != have.Retention {
		return fmt.Errorf("exists with retention %v, %v is needed: %s", have.Retention, want.Retention, remedy)
	}
	for _, subject := range want.Subjects {
		if !contains(have.Subjects, subject) {
			return fmt.Errorf("exists without the subject %s: %s", subject, remedy)
		}
	}
	// A limit on each subject is one on each workspace's insights of one type. The log would forget what it has while Nex
	// still gives it, and take it for new: with one message per subject each restart writes everything again.
	if most := unlimited(have.MaxMsgsPerSubject); want.Name == StreamNex && most > 0 && most < leastPerSubject {
		return fmt.Errorf("exists with max_msgs_per_subject %d, at least %d or none is needed, or insights are forgotten and written again: %s",
			most, leastPerSubject, remedy)
	}
	if have.Mirror != nil || have.Sealed {
		return fmt.Errorf("exists as a mirror or sealed and takes no messages: %s", remedy)
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s || v == ">" {
			return true
		}
	}
	return false
}
