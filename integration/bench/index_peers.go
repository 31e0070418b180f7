package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	_ "github.com/ncruces/go-sqlite3/driver" // SQLite, translated
	_ "github.com/ncruces/go-sqlite3/embed"
	"go.etcd.io/bbolt"

	"github.com/imgd/imgd/index"
)

// A store makes one entry durable at a time for each writer. The peers keep the same bytes under the same key.
type store interface {
	put(ctx context.Context, key string, value []byte) error
	close() error
}

// boltStore is bbolt; batch says that writers share its transactions.
type boltStore struct {
	db    *bbolt.DB
	batch bool
}

var bucket = []byte("entries")

func openBolt(dir string, batch bool) (*boltStore, error) {
	db, err := bbolt.Open(filepath.Join(dir, "bolt.db"), 0o600, nil)
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucketIfNotExists(bucket); return err })
	return &boltStore{db, batch}, err
}

func (s *boltStore) put(_ context.Context, key string, value []byte) error {
	write := s.db.Update
	if s.batch {
		write = s.db.Batch
	}
	return write(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put([]byte(key), value) })
}

func (s *boltStore) close() error { return s.db.Close() }

// groupStore is bbolt with a group commit of its own: whatever has come while a transaction was written goes into the next.
type groupStore struct {
	*boltStore
	mu      sync.Mutex // guards waiting and running
	waiting []groupPut
	running bool
}

type groupPut struct {
	key   string
	value []byte
	done  chan error
}

func (s *groupStore) put(_ context.Context, key string, value []byte) error {
	p := groupPut{key, value, make(chan error, 1)}
	s.mu.Lock()
	s.waiting = append(s.waiting, p)
	if !s.running {
		s.running = true
		go s.run()
	}
	s.mu.Unlock()
	return <-p.done
}

func (s *groupStore) run() {
	for {
		s.mu.Lock()
		puts := s.waiting
		s.waiting = nil
		if len(puts) == 0 {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := s.db.Update(func(tx *bbolt.Tx) error {
			var errs []error
			for _, p := range puts {
				errs = append(errs, tx.Bucket(bucket).Put([]byte(p.key), p.value))
			}
			return errors.Join(errs...)
		})
		for _, p := range puts {
			p.done <- err
		}
	}
}

// sqliteStore is SQLite with a write-ahead log, synced at each commit. It has one writer at a time.
type sqliteStore struct {
	db *sql.DB
	mu sync.Mutex
}

func openSQLite(ctx context.Context, dir string) (*sqliteStore, error) {
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, "sqlite.db")+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	_, err = db.ExecContext(ctx, "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
	return &sqliteStore{db: db}, err
}

func (s *sqliteStore) put(ctx context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.db.ExecContext(ctx, "INSERT INTO entries VALUES (?, ?)", key, value)
	return err
}

func (s *sqliteStore) close() error { return s.db.Close() }

// errNoRelease says that the index has lost what it had admitted.
var errNoRelease = fmt.Errorf("the release was not admitted")

// indexStore is imgd's index. What is put is published; it was admitted before.
type indexStore struct{ *index.Index }

func (s indexStore) put(ctx context.Context, key string, _ []byte) error {
	rel, err := s.Publish(ctx, key)
	if err == nil && rel.ID != key {
		err = errNoRelease
	}
	return err
}

func (s indexStore) close() error { return s.Close() }

// wholeStore rewrites one file with all records at each put, and syncs it and the rename.
type wholeStore struct {
	dir   string
	mu    sync.Mutex
	lines [][]byte
}

// wholeRecords are those that it begins with.
const wholeRecords = 1_000

func openWhole(dir string) (*wholeStore, error) {
	s := &wholeStore{dir: dir}
	for i := range wholeRecords {
		s.lines = append(s.lines, recordLine(madeRelease(i)))
	}
	return s, nil
}

func (s *wholeStore) put(_ context.Context, _ string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, value)
	if err := s.write(filepath.Join(s.dir, "tmp")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(s.dir, "tmp"), filepath.Join(s.dir, "all")); err != nil {
		return err
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return firstOf(dir.Sync(), dir.Close())
}

func (s *wholeStore) write(name string) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = file.Write(bytes.Join(s.lines, []byte("\n")))
	return firstOf(err, file.Sync(), file.Close())
}

func (s *wholeStore) close() error { return nil }
