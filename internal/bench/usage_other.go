//go:build !unix

package bench

import "errors"

func measureUsage() (usage, error) {
	return usage{RSS: heldByGo()}, errors.New("processor time cannot be told on this system")
}
