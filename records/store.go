package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
)

// Options say who writes.
type Options struct {
	Station string // required; goes into every attempt
	Host    string // the computer; empty means os.Hostname
	BootID  string // this start of the station program; empty means a new UUID

	// Now is the clock of StartedAt and EndedAt; nil means time.Now. It is
	// called from a goroutine of the store.
	Now func() time.Time

	// BusyTimeout bounds the wait for another program (a backup, a database
	// browser) that has the file locked; zero means 10 s.
	BusyTimeout time.Duration
}

// Store is the file of records, opened by the one station that writes it. Its
// methods may be called from any goroutine; calls at the same time share one
// wait for the disk.
//
// Methods that write return after the rows are on the disk. An error means
// that nothing of the call was recorded; only after an error of the disk
// itself ([Failed]) may a later start still find the rows. A ctx that is
// cancelled before the store has begun to write stops the call. After that the
// call waits for its true answer, which takes a commit and at most
// [Options.BusyTimeout].
type Store struct {
	*Reader
	opts   Options
	writer *writer
	db     *sql.DB // the one connection of writer
	lock   *os.File
}

// Open opens the records at path for the one station that writes them, and
// makes or updates the file as needed; the folder must exist. It fails with a
// [StoreError] when the station must not flash: another station writes the
// file, the disk is full or read-only, the file is something else.
//
// The caller closes the store after the last attempt has been finished, and
// normally calls [Store.Interrupt] first of all.
func Open(ctx context.Context, path string, opts Options) (_ *Store, err error) {
	if opts.Station == "" {
		return nil, errors.New("open records: the station has no name")
	}
	if opts.Host == "" {
		if opts.Host, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("open records: %w", err)
		}
	}
	if opts.BootID == "" {
		opts.BootID = uuid.NewString()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.BusyTimeout == 0 {
		opts.BusyTimeout = 10 * time.Second
	}
	file, err := resolve(path)
	if err != nil {
		return nil, storeError(path, err)
	}
	texts, err := migrations(migrationFiles)
	if err != nil {
		return nil, err
	}

	s := &Store{opts: opts}
	defer func() {
		if err != nil {
			err = storeError(file, err)
			s.Close()
		}
	}()
	if s.lock, err = lockFile(file); err != nil {
		return nil, err
	}
	if s.db, err = sql.Open("sqlite3", writerDSN(file, opts.BusyTimeout)); err != nil {
		return nil, err
	}
	// One connection is what makes the pragmas of the DSN hold everywhere, and
	// it is faster than several that wait for each other.
	s.db.SetMaxOpenConns(1)
	if err := checkDurable(ctx, s.db); err != nil {
		return nil, err
	}
	if err := migrate(ctx, s.db, file, texts); err != nil {
		return nil, err
	}
	if s.Reader, err = openReader(ctx, file, opts.BusyTimeout, false); err != nil {
		return nil, err
	}
	s.writer = startWriter(s.db, file)
	return s, nil
}

// BootID returns the identity of this start of the station program, which
// every attempt it begins carries.
func (s *Store) BootID() string { return s.opts.BootID }

// Close waits for the writes that are under way, refuses later ones with
// [Closed], and gives the file free for another station.
func (s *Store) Close() error {
	var errs []error
	if s.writer != nil {
		s.writer.stop()
	}
	if s.Reader != nil {
		errs = append(errs, s.Reader.Close())
	}
	// Last of all connections, so that it folds the write-ahead log into the
	// file: what then lies there is complete in itself.
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.lock != nil {
		if err := s.lock.Close(); !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// writerDSN holds the pragmas, because those given by a statement reach only
// the connection that happens to run it.
func writerDSN(path string, busy time.Duration) string {
	return dsn(path, busy, url.Values{
		"mode":             {"rwc"},
		"_journal_mode":    {"WAL"},
		"_synchronous":     {"FULL"},
		"_txlock":          {"immediate"}, // a transaction that reads first cannot lose its place to write
		"_foreign_keys":    {"on"},
		"_stmt_cache_size": {"64"},
	})
}

// readerDSN opens for questions. With immutable, SQLite takes no locks and
// makes no files.
func readerDSN(path string, busy time.Duration, immutable bool) string {
	v := url.Values{
		"mode":             {"ro"},
		"_query_only":      {"true"},
		"_stmt_cache_size": {"64"},
	}
	if immutable {
		v.Set("immutable", "1")
	}
	return dsn(path, busy, v)
}

// dsn writes path as a URI, where ?, # and % are ordinary characters of a file
// name once escaped. https://www.sqlite.org/uri.html
func dsn(path string, busy time.Duration, v url.Values) string {
	v.Set("_busy_timeout", strconv.FormatInt(busy.Milliseconds(), 10))
	u := url.URL{Scheme: "file", Path: path, RawQuery: v.Encode()}
	return u.String()
}

// checkDurable makes sure that the connection keeps what the package promises:
// SQLite falls back in silence where a file system lacks what the log needs.
func checkDurable(ctx context.Context, db *sql.DB) error {
	var journal string
	var synchronous, foreignKeys int
	err := db.QueryRowContext(ctx, `SELECT
		(SELECT journal_mode FROM pragma_journal_mode),
		(SELECT synchronous FROM pragma_synchronous),
		(SELECT foreign_keys FROM pragma_foreign_keys)`).Scan(&journal, &synchronous, &foreignKeys)
	if err != nil {
		return err
	}
	const full = 2 // https://www.sqlite.org/pragma.html#pragma_synchronous
	if journal != "wal" || synchronous != full || foreignKeys != 1 {
		return fmt.Errorf("sqlite runs with journal_mode=%s synchronous=%d foreign_keys=%d on this disk, want wal, %d, 1", journal, synchronous, foreignKeys, full)
	}
	return nil
}
