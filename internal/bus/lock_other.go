//go:build !unix

package bus

// lockDir does nothing where there is no flock: there the operator keeps two relays off one directory.
func lockDir(string) (unlock func() error, err error) {
	return func() error { return nil }, nil
}
