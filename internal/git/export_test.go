package git

import "io"

// Find is find, for the fuzzer.
func Find(answer io.Reader, ref string) (object, target string, err error) {
	found, err := find(answer, ref)
	return found.object, found.target, err
}
