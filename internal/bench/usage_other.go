//go:build !unix

package bench

import "errors"

func measureUsage() (usage, error) {
	return usage{RSS: heldByGo()}, errors.New("processor time cannot be told on this system")
}

// standStill does nothing where there are no signals for it.
func (p *part) standStill() error { return nil }

func (p *part) goOn() error { return nil }
