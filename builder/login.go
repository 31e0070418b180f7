package builder

import (
	"cmp"
	"context"

	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A login tells buildkitd how to log in to registries, to pull and to push, for
// as long as one build. What it does not implement makes buildkitd fetch tokens
// by itself.
type login struct {
	auth.UnimplementedAuthServer
	ask       func(ctx context.Context, host string) (user, secret string, err error)
	own, seen string // the registry's host, and what buildkitd calls it, if that is another
}

// Register implements session.Attachable.
func (l *login) Register(server *grpc.Server) { auth.RegisterAuthServer(server, l) }

// Credentials implements auth.AuthServer.
func (l *login) Credentials(ctx context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	host := req.Host
	if l.seen != "" && host == l.seen {
		host = cmp.Or(l.own, host)
	}
	user, secret, err := l.ask(ctx, host)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &auth.CredentialsResponse{Username: user, Secret: secret}, nil
}
