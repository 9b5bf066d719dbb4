package bus

import "time"

// SetQuiet sets after what silence a request is taken for lost.
func (p *Pull) SetQuiet(d time.Duration) { p.quiet = d }
