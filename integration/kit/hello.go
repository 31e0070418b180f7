package kit

// HelloFiles is a Go program without dependencies and its Dockerfile, as a team would write them: the version, commit
// and date come in by -ldflags from the build arg LDFLAGS. Its image prints them in one line.
func HelloFiles() map[string]string {
	return map[string]string{
		"go.mod": "module example.com/hello\n\ngo 1.26\n",
		"main.go": `package main

import "fmt"

var version, commit, date = "unset", "unset", "unset"

func main() {
	fmt.Printf("hello %s, commit %s of %s\n", version, commit, date)
}
`,
		// The cache mount keeps the compiled standard library, so that only the first build on a machine is slow.
		"Dockerfile": `FROM golang:1.26-alpine AS build
WORKDIR /src
COPY . .
ARG LDFLAGS
RUN --mount=type=cache,target=/cache GOCACHE=/cache CGO_ENABLED=0 go build -ldflags "$LDFLAGS" -o /hello .

FROM scratch
COPY --from=build /hello /hello
ENTRYPOINT ["/hello"]
`,
	}
}
