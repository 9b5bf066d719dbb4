package webhook_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

func TestControl(t *testing.T) {
	t.Parallel()
	tests := []struct {
		values []string
		want   webhook.Control
	}{
		{nil, webhook.ControlNone},
		{[]string{""}, webhook.ControlNone},
		{[]string{"disable"}, webhook.ControlDisable},
		{[]string{"abort-message"}, webhook.ControlAbort},
		{[]string{" \tDisable\t "}, webhook.ControlDisable},
		{[]string{"ABORT-MESSAGE"}, webhook.ControlAbort},
		{[]string{"abort-message, disable"}, webhook.ControlDisable},
		{[]string{"disable,abort-message"}, webhook.ControlDisable},
		{[]string{"abort-message", "disable"}, webhook.ControlDisable},
		{[]string{"later, abort-message;x=1,, abort-message"}, webhook.ControlAbort},
		{[]string{"later"}, webhook.ControlNone},
		{[]string{"disabled"}, webhook.ControlNone},
		{[]string{"abort message"}, webhook.ControlNone},
		{[]string{"disable;now"}, webhook.ControlNone},
	}
	for _, tt := range tests {
		if got := webhook.Classify(200, http.Header{"Webhook-Delivery": tt.values}, time.Now()).Control; got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.values, got, tt.want)
		}
	}
}

// TestSendRetryAfterOfABrokenAnswer: the wish was heard, though the answer was not.
func TestSendRetryAfterOfABrokenAnswer(t *testing.T) {
	t.Parallel()
	url := serveRaw(t, func(_ context.Context, c net.Conn) {
		readHead(c)
		_, _ = io.WriteString(c, "HTTP/1.1 500 No\r\nRetry-After: 60\r\nContent-Length: 9\r\n\r\nx")
	})
	got := newSender(t, nil).Send(t.Context(), request(t, url))
	if got.Outcome != webhook.ConnectionError || !got.PutOff() || got.RetryAfter != time.Minute {
		t.Errorf("got %+v", got)
	}
}

// TestSendControl: the wish arrives over the wire, in any case, whatever the status, and when the answer breaks off.
func TestSendControl(t *testing.T) {
	t.Parallel()
	tests := []struct {
		answer     string
		want       webhook.Outcome
		control    webhook.Control
		overloaded bool
	}{
		{"HTTP/1.1 200 OK\r\nwebhook-delivery: disable\r\nContent-Length: 0\r\n\r\n", webhook.Delivered, webhook.ControlDisable, false},
		{"HTTP/1.1 400 No\r\nWEBHOOK-DELIVERY:abort-message\r\nContent-Length: 0\r\n\r\n", webhook.ClientError, webhook.ControlAbort, false},
		{"HTTP/1.1 302 No\r\nWebhook-Delivery: x\r\nWebhook-Delivery: Disable\r\nContent-Length: 0\r\n\r\n", webhook.Redirect, webhook.ControlDisable, false},
		{"HTTP/1.1 502 No\r\nWebhook-Delivery: abort-message\r\nContent-Length: 9\r\n\r\nx", webhook.ConnectionError, webhook.ControlAbort, true},
		{"HTTP/1.1 100 Continue\r\nWebhook-Delivery: disable\r\n\r\nHTTP/1.1 204 OK\r\n\r\n", webhook.Delivered, webhook.ControlNone, false},
	}
	for _, tt := range tests {
		url := serveRaw(t, func(_ context.Context, c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, tt.answer)
		})
		got := newSender(t, nil).Send(t.Context(), request(t, url))
		if got.Outcome != tt.want || got.Control != tt.control || got.Overloaded != tt.overloaded {
			t.Errorf("%q: got %+v", tt.answer, got)
		}
	}
}
