package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imgd/imgd/internal/httpapi"
)

// A batchLine is one image of a batch, as the flags say one.
type batchLine struct {
	Image string `json:"image"`
	Tag   string `json:"tag"`
	httpapi.Publish
}

// A batchResult is what came of one line: the record, or the error.
type batchResult struct {
	Line int `json:"line"` // of the file, from 1
	*httpapi.Recorded
	Failed *failedLine `json:"error,omitempty"`
}

// A failedLine says why there is no record.
type failedLine struct {
	Image   string        `json:"image,omitempty"`
	Tag     string        `json:"tag,omitempty"`
	Code    httpapi.Code  `json:"code"` // as the exit code is called
	Exit    int           `json:"exit"`
	Message string        `json:"message"`
	Wanted  digest.Digest `json:"wanted,omitempty"` // with differs and conflict
	Found   digest.Digest `json:"found,omitempty"`
}

// perImage are the flags that each line of a batch says for itself.
var perImage = []string{"image", "tag", "digest", "source", "platform", "label", "ttl", "registry", "no-verify", "moving", "force", "reason", "output"}

// runBatch records each line of the file, in order, and tells what came of each.
func (p *publish) runBatch(cmd *cobra.Command) (err error) {
	for _, flag := range perImage {
		if cmd.Flags().Changed(flag) {
			return Usage("--batch and --%s exclude each other: each line says it for itself", flag)
		}
	}
	if p.index != "" && p.Find.Server != "" {
		return Usage("--server and --index exclude each other: a daemon has its own index")
	}
	text, err := os.ReadFile(p.batch)
	if err != nil {
		return Usage("--batch: %v", err)
	}
	lines := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	ctx, cancel := p.Within(cmd, len(lines))
	defer cancel()
	defer func() { err = errors.Join(err, p.route.close()) }()
	out := json.NewEncoder(p.Stdout)
	out.SetEscapeHTML(false)
	worst, failed := 0, 0
	for i, line := range lines {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		result := p.recordLine(ctx, line)
		result.Line = i + 1
		if result.Failed != nil {
			worst, failed = max(worst, result.Failed.Exit), failed+1
		}
		if err := out.Encode(result); err != nil {
			return err
		}
	}
	if failed > 0 {
		return &ExitError{Code: exits[worst], Message: fmt.Sprintf("%d of the lines of %s failed: stdout says why", failed, p.batch)}
	}
	return nil
}

// recordLine records one line, unless the time is up.
func (p *publish) recordLine(ctx context.Context, text []byte) batchResult {
	line, err := readLine(text)
	one := *p
	one.image, one.tag, one.digest, one.body, one.format = line.Image, line.Tag, line.Digest.String(), line.Publish, "json"
	if err == nil {
		err = one.check()
	}
	switch cause := context.Cause(ctx); {
	case err != nil:
	case cause != nil:
		err = fmt.Errorf("not tried any more: %w", cause)
	default:
		var recorded httpapi.Recorded
		if recorded, err = one.record(ctx); err == nil {
			return batchResult{Recorded: &recorded}
		}
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w; it may be recorded or not: the same again finds out", cause, err)
		}
	}
	failed := &failedLine{Image: line.Image, Tag: line.Tag, Code: CodeOf(err), Exit: ExitCode(err), Message: err.Error()}
	var problem *httpapi.Problem
	if errors.As(err, &problem) {
		failed.Wanted, failed.Found = problem.Wanted, problem.Found
	}
	return batchResult{Failed: failed}
}

// readLine refuses names that are not known: they would be overlooked.
func readLine(text []byte) (line batchLine, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&line); err != nil {
		return line, Usage("it is no image in JSON: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return line, Usage("it has more than one image in JSON")
	}
	return line, nil
}
