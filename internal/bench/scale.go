package bench

import "time"

// Scale says how much of everything a run takes. The figures are rates and shares: a smaller scale makes them less exact, not other
// ones, except where the issue is the size itself (streams, endpoints, parked deliveries, the log); the report names the size.
type Scale struct {
	Name string
	// Ingest is how many events each ingest takes; Deliver how many webhooks each delivery.
	Ingest, Deliver int
	// Endpoints of deliver-10k and endpoints; Streams are the two sizes of streams.
	Endpoints int
	Streams   [2]int
	// Quiet is how many streams and endpoints idle has, IdleFor how long it looks at them: a keepalive comes every 30 s.
	Quiet   int
	IdleFor time.Duration
	// PacedFor is how long latency emits PaceRate events a second.
	PacedFor time.Duration
	PaceRate int
	// Healthy and SickOfAKind are the endpoints of isolation, of three kinds of sickness; Rounds how often it alternates, Burst how many
	// events each of its bursts has, Window how long it looks at the age of webhooks each time.
	Healthy, SickOfAKind, Rounds, Burst int
	Window                              time.Duration
	// Parked deliveries of retries, and Log is how many events the log of restart holds.
	Parked, Log int
	// Settle is how long a relay is left alone before its memory is read, Calm how long after it had much to do (endpoints; retries a quarter
	// more): it gives back what it needed for that when it has been calm for 12 s.
	Settle, Calm time.Duration
	// Patience bounds one scenario.
	Patience time.Duration
}

// The scales. Standard takes less than three minutes on two processors, Full is the sizes that the reaches are set for, and Quick only
// shows that everything works.
var (
	Standard = Scale{
		Name: "standard", Ingest: 30_000, Deliver: 40_000, Endpoints: 10_000, Streams: [2]int{1000, 1500}, Quiet: 1000, IdleFor: 30 * time.Second,
		PacedFor: 4 * time.Second, PaceRate: 200, Healthy: 70, SickOfAKind: 10, Rounds: 6, Burst: 100, Window: 400 * time.Millisecond, Parked: 40_000, Log: 60_000,
		Settle: 2 * time.Second, Calm: 16 * time.Second, Patience: 2 * time.Minute,
	}
	Full = Scale{
		Name: "full", Ingest: 200_000, Deliver: 200_000, Endpoints: 10_000, Streams: [2]int{1000, 10_000}, Quiet: 1000, IdleFor: time.Minute,
		PacedFor: 20 * time.Second, PaceRate: 200, Healthy: 70, SickOfAKind: 10, Rounds: 16, Burst: 300, Window: 5 * time.Second, Parked: 100_000, Log: 1_000_000,
		Settle: 10 * time.Second, Calm: 40 * time.Second, Patience: 10 * time.Minute,
	}
	Quick = Scale{
		Name: "quick", Ingest: 400, Deliver: 400, Endpoints: 200, Streams: [2]int{10, 20}, Quiet: 20, IdleFor: 200 * time.Millisecond,
		PacedFor: 200 * time.Millisecond, PaceRate: 200, Healthy: 7, SickOfAKind: 1, Rounds: 1, Burst: 20, Window: 100 * time.Millisecond, Parked: 500, Log: 1000,
		Patience: 2 * time.Minute,
	}
)

// sized is the scale with as many events as their size allows: above 4 KB the bytes stay the same.
func (s Scale) sized(size int) Scale {
	if size > 4096 {
		for _, n := range []*int{&s.Ingest, &s.Deliver, &s.Parked, &s.Log} {
			*n = max(min(*n, 100), *n*4096/size)
		}
		s.Burst = max(min(s.Burst, 10), s.Burst*4096/size) // all of them are published at once
	}
	return s
}
