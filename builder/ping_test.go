package builder_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"google.golang.org/grpc"

	"github.com/imgd/imgd/builder"
)

// control is a buildkitd that only knows its version.
type control struct {
	controlapi.UnimplementedControlServer
	version string
	workers []*apitypes.WorkerRecord
}

func (c control) ListWorkers(context.Context, *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	return &controlapi.ListWorkersResponse{Record: c.workers}, nil
}

func (c control) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{BuildkitVersion: &apitypes.BuildkitVersion{Version: c.version}}, nil
}

func TestPingVersion(t *testing.T) {
	t.Parallel()
	rows := []struct {
		version       string
		workers       int
		err, warnings string
	}{
		{"v0.28.0", 1, "too old", ""},
		{"v0.30.0", 1, "too old", ""},
		{"v0.31.0", 1, "", ""},
		{"v1.0.0", 1, "", ""},
		{"v0.0.0+unknown", 1, "", "does not know its version"},
		{"", 1, "version", ""},
		{"v0.33.1", 0, "no worker", ""},
	}
	for _, row := range rows {
		t.Run(row.version, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := grpc.NewServer()
			controlapi.RegisterControlServer(server, control{version: row.version, workers: make([]*apitypes.WorkerRecord, row.workers)})
			go server.Serve(listener)
			t.Cleanup(server.Stop)
			var warned strings.Builder
			b, err := builder.New(t.Context(), builder.Config{
				Address: "tcp://" + listener.Addr().String(), LogDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&warned, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			err = b.Ping(t.Context())
			if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
				t.Errorf("got %v, want %q", err, row.err)
			}
			if (warned.Len() > 0) != (row.warnings != "") || !strings.Contains(warned.String(), row.warnings) {
				t.Errorf("warned %q, want %q", warned.String(), row.warnings)
			}
		})
	}
}
