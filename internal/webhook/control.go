package webhook

import (
	"net/http"
	"strings"
)

// HeaderDelivery is the header of an answer by which a receiver steers deliveries, in the canonical form of [http.Header].
const HeaderDelivery = "Webhook-Delivery"

// Control is what a receiver asks for in its answer, whatever its status (Svix, "Delivery Control"). It is a wish: nothing is
// done about it here.
type Control string

const (
	ControlNone    Control = ""              // nothing
	ControlDisable Control = "disable"       // no further messages at all
	ControlAbort   Control = "abort-message" // no further attempt of this message; without effect if it was delivered
)

// controlOf reads the webhook-delivery header: a list of words in any case, of which unknown ones are ignored. Disable is the
// stronger wish where both are there.
func controlOf(h http.Header) Control {
	wish := ControlNone
	for _, value := range h[HeaderDelivery] {
		for word := range strings.SplitSeq(value, ",") {
			switch Control(strings.ToLower(strings.Trim(word, " \t"))) {
			case ControlDisable:
				return ControlDisable
			case ControlAbort:
				wish = ControlAbort
			}
		}
	}
	return wish
}
