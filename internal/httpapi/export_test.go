package httpapi

// SplitImage is for the fuzz test.
var SplitImage = splitImage

// LookAt is what a check answers, for a test that has its own time.
var LookAt = checkup
