package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

type tailCmd struct {
	Subject string `arg:"" optional:"" default:"nex.>" help:"Subject, wildcards allowed: nex.acme.insight.>, nex.*.insight.risk, nex.*.relay.>."`
	NATS    string `name:"nats" env:"RELAY_TAIL_NATS" default:"nats://127.0.0.1:4222" help:"NATS URL; the default is a relay's embedded server."`
	Creds   string `type:"path" help:"NATS credentials file."`
	Token   string `env:"RELAY_TAIL_TOKEN" help:"NATS token; better given as RELAY_TAIL_TOKEN."`
	Since   age    `help:"Begin with what is already in the log and not older than this, e.g. 1h or 7d."`
	Last    bool   `help:"Begin with the last event of each subject."`
	JSON    bool   `name:"json" help:"Print each event as its JSON, one a line."`
	Count   int    `short:"n" help:"End after this many events."`
}

func (c *tailCmd) Run(ctx context.Context, e env) error {
	if c.Since < 0 || c.Since > 0 && c.Last {
		return usageError{fmt.Errorf("--since takes a positive duration, and not together with --last")}
	}
	opts := []nats.Option{nats.Name("relay tail"), nats.MaxReconnects(-1)}
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	}
	if c.Token != "" {
		opts = append(opts, nats.Token(c.Token))
	}
	nc, err := nats.Connect(c.NATS, opts...)
	if err != nil {
		return fmt.Errorf("connect to NATS at %s: %w; is a relay running there, with nats.embedded.listen set?", redactedURL(c.NATS), err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{c.Subject}, DeliverPolicy: jetstream.DeliverNewPolicy}
	if c.Since > 0 {
		start := time.Now().Add(-time.Duration(c.Since))
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &start
	}
	if c.Last {
		cfg.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
	}
	consumer, err := js.OrderedConsumer(ctx, "NEX", cfg)
	if err != nil {
		return fmt.Errorf("read stream NEX: %w", err)
	}
	iter, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read stream NEX: %w", err)
	}
	defer iter.Stop()
	for n := 0; c.Count == 0 || n < c.Count; n++ {
		m, err := iter.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("next: %w", err)
		}
		c.print(e.stdout, m)
	}
	return nil
}

func (c *tailCmd) print(out io.Writer, m jetstream.Msg) {
	if c.JSON {
		fmt.Fprintf(out, "%s\n", tame(m.Data()))
		return
	}
	var event struct {
		Subject string          `json:"subject"`
		Time    time.Time       `json:"time"`
		Data    json.RawMessage `json:"data"`
	}
	_ = json.Unmarshal(m.Data(), &event)
	var insight struct {
		Content string `json:"content"`
	}
	_ = json.Unmarshal(event.Data, &insight)
	text := insight.Content
	if text == "" {
		text = string(event.Data)
	}
	fmt.Fprintf(out, "%s  %-34s  %-24s  %s\n", event.Time.Local().Format("15:04:05.000"), m.Subject(), printable(event.Subject, 24), printable(text, 120))
}
