package builder

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
)

// maxLine bounds a line of a log, in bytes: one status message, which gRPC
// bounds to 16 MiB, and base64.
const maxLine = 32 << 20

// Replay shows a build log, stored or while it is written, as buildctl would:
// mode is auto, plain, tty, quiet or rawjson. It returns when r ends, or ctx
// does and r with it. A last line that is cut off is left out.
func Replay(ctx context.Context, r io.Reader, w io.Writer, mode string) error {
	display, err := progressui.NewDisplay(w, progressui.DisplayMode(mode))
	if err != nil {
		return fmt.Errorf("show build log: %w", err)
	}
	statuses, shown := make(chan *client.SolveStatus), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel() // nobody takes statuses any more
		_, err := display.UpdateFrom(ctx, statuses)
		shown <- err
	}()
	err = decode(ctx, r, statuses)
	close(statuses)
	if showErr := <-shown; showErr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = showErr // decode only saw that nobody takes statuses any more
	}
	if err != nil {
		return fmt.Errorf("show build log: %w", err)
	}
	return nil
}

func decode(ctx context.Context, r io.Reader, statuses chan<- *client.SolveStatus) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	lines.Split(wholeLines)
	for lines.Scan() {
		status := new(client.SolveStatus)
		if err := json.Unmarshal(lines.Bytes(), status); err != nil {
			return fmt.Errorf("read line: %w", err)
		}
		select {
		case statuses <- status:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return lines.Err()
}

// wholeLines is bufio.ScanLines without a last line that does not end.
func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF {
		return len(data), nil, nil
	}
	return 0, nil, nil
}
