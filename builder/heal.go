package builder

import (
	"context"
	"errors"
	"regexp"
	"time"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
)

// gitRepos are the records in which buildkitd keeps the repositories that it
// has fetched (source/git/source.go of BuildKit).
const gitRepos = `description~="^shared git repo for "`

// damaged are the texts of git in a repository that a killed buildkitd left
// behind: a lock nobody holds, or objects that were not written. It fails for
// every build from then on.
var damaged = regexp.MustCompile(`\.lock': File exists|unable to read sha1 file|[Cc]ould not read [0-9a-f]{40}|[Ff]ailed to traverse parents|` +
	`loose object \S+ .*is corrupt|object file \S+ is empty|bad object [0-9a-f]{40}`)

// healTime bounds the removal of a few records.
const healTime = 30 * time.Second

// heal makes buildkitd fetch its repositories anew if err says that one of them
// is damaged, for the next try of the build. A command that failed says in its
// own words what it wants. What other builds use stays. Safe to repeat: it is a
// cache.
func (b *Builder) heal(ctx context.Context, err error) {
	var exit *gateway.ExitError
	if errors.As(err, &exit) || !damaged.MatchString(err.Error()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	pruned := b.client.Prune(ctx, nil, client.WithFilter([]string{gitRepos}), client.PruneAll)
	b.cfg.Log.Warn("buildkitd's copy of a git repository is damaged, having it fetched anew", "error", pruned)
}
