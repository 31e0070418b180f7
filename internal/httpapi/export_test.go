package httpapi

// SplitImage is for the fuzz test.
var SplitImage = splitImage
