package builder

import "context"

// Version is what buildkitd says of itself, after the same look as Ping's, whose
// errors it has. It is not empty where err is nil.
func (b *Builder) Version(ctx context.Context) (string, error) {
	if err := b.Ping(ctx); err != nil {
		return "", err
	}
	return ask(ctx, b.client)
}
