package httpapi

// SplitImage is for the fuzz test.
var SplitImage = splitImage

// LookAt is what a check answers, for a test that has its own time.
var LookAt = checkup

// Routes are the mux's own, each with its methods, but for those to other
// handlers: for the test of docs/openapi.yaml.
func Routes() map[string][]string {
	all := map[string][]string{hooksRoute: {"POST"}, "/livez": {"GET"}, "/readyz": {"GET"}}
	for path, methods := range New(Config{}).table() {
		for name := range methods {
			all[path] = append(all[path], name)
		}
	}
	return all
}
