package lease

// First is who should hold a name.
func First(name string, replicas []string) string { return first(name, replicas) }
