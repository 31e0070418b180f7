package git

// Find is find, for the fuzzer.
var Find = find
