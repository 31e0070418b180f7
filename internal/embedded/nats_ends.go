package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// endsName is the file in NATS' directory that says where its streams ended.
const endsName = "ends.json"

// ends are the last sequences of streams, by account, name and time of
// creation. While a stream lives they never go back, not even when it is purged.
// But a server that starts after a crash cuts off a file where it finds it
// damaged, for which one flipped bit is enough, or ends where a disk has lost
// what it called synced. It takes what is left for all there was, and tells
// nobody (2.15.2): messages that were acknowledged are gone, those that were
// removed may be back, and sequences are given out twice. So the ends are noted,
// and compared at start. This does not find damage before the last file of a
// stream, nor in what came after the last note, nor after an orderly end, when
// the server trusts its own note and does not look.
type ends map[string]uint64

// ends are those of now. Not of streams that keep nothing, or keep it later than
// they acknowledge it: those may well go back.
func (n *NATS) ends() (ends, error) {
	info, err := n.server.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Config: true})
	if err == nil && info.Disabled {
		err = errors.New("JetStream is off")
	}
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	now := ends{}
	for _, account := range info.AccountDetails {
		for _, s := range account.Streams {
			if s.Config.Storage == server.FileStorage && s.Config.PersistMode != server.AsyncPersistMode {
				now[fmt.Sprintf("%s/%s of %s", account.Name, s.Name, s.Created.UTC().Format(time.RFC3339Nano))] = s.State.LastSeq
			}
		}
	}
	return now, nil
}

func (n *NATS) endsFile() string { return filepath.Join(n.dir, endsName) }

// compareEnds refuses streams that end before the place where they did.
func (n *NATS) compareEnds() error {
	text, err := os.ReadFile(n.endsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	noted := ends{}
	if err == nil {
		err = json.Unmarshal(text, &noted)
	}
	if err != nil {
		return fmt.Errorf("read where the streams ended: %w (without %s nothing is compared)", err, n.endsFile())
	}
	now, err := n.ends()
	if err != nil {
		return err
	}
	for stream, last := range noted {
		if found, ok := now[stream]; !ok || found < last {
			err = errors.Join(err, fmt.Errorf("stream %s has lost messages: it ended with number %d, and ends with number %d", stream, last, found))
		}
	}
	if err != nil {
		return fmt.Errorf("%w: its files are damaged; restore %s from a backup, or remove %s to go on with what is left", err, n.dir, n.endsFile())
	}
	return nil
}

// noteEnds writes where the streams end, if that has changed. A crash leaves the
// old note, which is as true.
func (n *NATS) noteEnds() error {
	now, err := n.ends()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(now, "", " ")
	if err != nil {
		return fmt.Errorf("note where the streams end: %w", err)
	}
	if string(text) == n.noted {
		return nil
	}
	if err := replaceFile(n.endsFile(), text); err != nil {
		return fmt.Errorf("note where the streams end: %w", err)
	}
	n.noted = string(text)
	return nil
}

// replaceFile replaces a file in one step.
func replaceFile(path string, text []byte) error {
	tmp, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
