package records

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"time"
)

// Reader answers questions from the file of records while the station writes
// it. It cannot change the file. Its methods may be called from any goroutine.
type Reader struct {
	db   *sql.DB
	path string
}

// OpenReadOnly opens the records at path for questions. It takes no lock that
// a station would notice and works on an archive in a read-only folder too.
func OpenReadOnly(ctx context.Context, path string) (*Reader, error) {
	file, err := resolve(path)
	if err != nil {
		return nil, storeError(path, err)
	}
	info, err := os.Stat(file)
	if err == nil && info.IsDir() {
		err = &StoreError{Kind: NotRecords, Path: file, hint: sentence(NotRecords, file)}
	}
	if err != nil {
		return nil, storeError(file, err)
	}
	const busy = 10 * time.Second
	r, err := openReader(ctx, file, busy, false)
	if kind := Kind(""); errors.As(err, &kind) && (kind == Failed || kind == ReadOnly) {
		// In a folder that cannot be written SQLite cannot make the files it
		// shares with a writer. Without a log there is no writer either, and
		// the file alone is complete.
		if _, errWAL := os.Stat(file + "-wal"); errors.Is(errWAL, os.ErrNotExist) {
			if archive, errArchive := openReader(ctx, file, busy, true); errArchive == nil {
				return archive, nil
			}
		}
	}
	return r, err
}

func openReader(ctx context.Context, file string, busy time.Duration, immutable bool) (_ *Reader, err error) {
	db, err := sql.Open("sqlite3", readerDSN(file, busy, immutable))
	if err != nil {
		return nil, err
	}
	// A page open and a question from the line at once; more would only queue
	// for the same two cores.
	db.SetMaxOpenConns(4)
	defer func() {
		if err != nil {
			db.Close()
			err = storeError(file, err)
		}
	}()
	texts, err := migrations(migrationFiles)
	if err != nil {
		return nil, err
	}
	version, err := checkVersion(ctx, db, file, len(texts))
	if err != nil {
		return nil, err
	}
	if version < len(texts) {
		return nil, &StoreError{Kind: Older, Path: file, hint: fmt.Sprintf(
			"The records in %s were written by an older version of this program (version %d of the file, this program reads %d); start the station on the file, or on a copy of it, to bring it up to date.",
			file, version, len(texts))}
	}
	return &Reader{db: db, path: file}, nil
}

// Path returns the resolved name of the file.
func (r *Reader) Path() string { return r.path }

// Close ends the questions. On a [Store] use the Close of the store.
func (r *Reader) Close() error { return r.db.Close() }

// Filter chooses attempts; the zero Filter chooses all, oldest first.
type Filter struct {
	Order     string
	Serial    string
	ImageHash string    // as in Attempt.ImageHash or the Hash of a further image: which units were given this image
	Outcome   Outcome   // Running included
	Site      int       // 0 for all
	Since     time.Time // started at or after
	Until     time.Time // started before
	Newest    bool      // newest first instead of oldest first
	Limit     int       // at most so many; 0 for all
}

// pageSize is how many records are held in memory at a time.
const pageSize = 500

// Attempts yields the attempts that match, in the order they were begun. They
// come in pages of one question each, so that a slow reader of millions of
// records neither holds them in memory nor keeps the station's log from being
// folded up. Attempts begun after the first record was asked for are left out;
// one that was RUNNING may be finished by the time it is yielded.
//
// An error is yielded once, last, with a zero Record.
func (r *Reader) Attempts(ctx context.Context, f Filter) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		low, high, err := r.bounds(ctx, f)
		left := f.Limit
		for err == nil && low <= high && (f.Limit == 0 || left > 0) {
			size := pageSize
			if f.Limit > 0 {
				size = min(size, left)
			}
			var page []Record
			var last int64
			if page, last, err = r.page(ctx, f, low, high, size); err != nil {
				break
			}
			for _, rec := range page {
				if !yield(rec, nil) {
					return
				}
			}
			if len(page) < size {
				return
			}
			left -= len(page)
			if f.Newest {
				high = last - 1
			} else {
				low = last + 1
			}
		}
		if err != nil {
			yield(Record{}, storeError(r.path, err))
		}
	}
}

// bounds returns the first and the last number an attempt that matches can
// have. Times are turned into numbers once here, because a clock may have been
// set back: the times within the bounds still need a look each.
func (r *Reader) bounds(ctx context.Context, f Filter) (low, high int64, err error) {
	// Two questions in one: SQLite knows either end of a key at once, but not both.
	query, args := `SELECT (SELECT min(n) FROM attempts), (SELECT max(n) FROM attempts)`, []any(nil)
	if !f.Since.IsZero() || !f.Until.IsZero() {
		var where []string
		where, args = times(f, "started_at")
		query = `SELECT min(n), max(n) FROM attempts WHERE ` + strings.Join(where, " AND ")
	}
	var first, last sql.NullInt64
	if err := r.db.QueryRowContext(ctx, query, args...).Scan(&first, &last); err != nil {
		return 0, 0, err
	}
	if !first.Valid {
		return 1, 0, nil
	}
	return first.Int64, last.Int64, nil
}

func times(f Filter, column string) (where []string, args []any) {
	if !f.Since.IsZero() {
		where, args = append(where, column+" >= ?"), append(args, formatTime(roundUp(f.Since)))
	}
	if !f.Until.IsZero() {
		where, args = append(where, column+" < ?"), append(args, formatTime(roundUp(f.Until)))
	}
	return where, args
}

// roundUp makes a bound comparable with times kept to the millisecond: nothing
// kept lies between t and the millisecond after it.
func roundUp(t time.Time) time.Time {
	if down := t.Truncate(time.Millisecond); !down.Equal(t) {
		return down.Add(time.Millisecond)
	}
	return t
}

// page returns up to size records with numbers from low to high, and the
// number of the last.
func (r *Reader) page(ctx context.Context, f Filter, low, high int64, size int) ([]Record, int64, error) {
	query, args := pageQuery(f, low, high, size)
	rows, err := r.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	var page []Record
	var last int64
	for rows.Next() {
		n, rec, err := scanRecord(rows)
		if err != nil {
			return nil, 0, err
		}
		page, last = append(page, rec), n
	}
	return page, last, rows.Err()
}

// pageQuery writes the question so that one index finds the rows already in
// order, the narrowest that applies. The unary plus keeps SQLite, which has no
// statistics here, from preferring another and sorting millions of rows per
// page.
func pageQuery(f Filter, low, high int64, size int) (string, []any) {
	plus := ""
	if f.Outcome == Running {
		plus = "+" // the few that run are found first, whatever else is asked
	}
	where, args := []string{plus + "a.n BETWEEN ? AND ?"}, []any{low, high}
	for _, c := range []struct{ column, value string }{{"a.unit_serial", f.Serial}, {"a.order_id", f.Order}} {
		if c.value != "" {
			where, args = append(where, plus+c.column+" = ?"), append(args, c.value)
			plus = "+"
		}
	}
	byImage := f.ImageHash != "" && plus == ""
	if f.ImageHash != "" && !byImage {
		where = append(where, "(+a.image_hash = ? OR EXISTS (SELECT 1 FROM further_images WHERE attempt = a.n AND hash = ?))")
		args = append(args, f.ImageHash, f.ImageHash)
	}
	if f.Site != 0 {
		where, args = append(where, "a.site = ?"), append(args, f.Site)
	}
	switch f.Outcome {
	case "":
	case Running:
		where = append(where, "a.n IN (SELECT n FROM running)")
	default:
		where, args = append(where, "r.outcome = ?"), append(args, f.Outcome)
	}
	w, a := times(f, "+a.started_at")
	where, args = append(where, w...), append(args, a...)
	chosen, order := strings.Join(where, " AND "), " ORDER BY 1"
	if f.Newest {
		order += " DESC"
	}
	if !byImage {
		return selectRecords + " WHERE " + chosen + order + " LIMIT ?", append(args, size)
	}
	// Two indexes know the hash. Each yields its numbers in order, and SQLite
	// merges them without sorting as long as it has to merge nothing but
	// numbers; the records of one page of them are looked up then.
	query := selectRecords + ` WHERE a.n IN (
		SELECT a.n FROM attempts a LEFT JOIN results r ON r.attempt = a.n
		WHERE a.image_hash = ? AND ` + chosen + `
		UNION
		SELECT f.attempt FROM further_images f CROSS JOIN attempts a ON a.n = f.attempt LEFT JOIN results r ON r.attempt = a.n
		WHERE f.hash = ? AND f.attempt BETWEEN ? AND ? AND ` + chosen + order + " LIMIT ?)" + order
	return query, slices.Concat([]any{f.ImageHash}, args, []any{f.ImageHash, low, high}, args, []any{size})
}

// Attempt returns the attempt with this ID, or an error that is [NotFound].
func (r *Reader) Attempt(ctx context.Context, id string) (Record, error) {
	_, rec, err := scanRecord(r.db.QueryRowContext(ctx, selectRecords+" WHERE a.attempt_id = ?", id))
	return rec, r.missing(err, fmt.Sprintf("attempt %q", id))
}

// UnitPassed reports whether the unit is done: whether its latest production
// attempt in this order ended in PASS. A unit that passed and was then flashed
// again with another outcome is not.
func (r *Reader) UnitPassed(ctx context.Context, order, serial string) (bool, error) {
	var passed bool
	err := r.db.QueryRowContext(ctx, `SELECT coalesce((
		SELECT coalesce(r.outcome = 'PASS', 0) FROM attempts a LEFT JOIN results r ON r.attempt = a.n
		WHERE a.unit_serial = ? AND +a.order_id = ? AND a.purpose = 'production'
		ORDER BY a.n DESC LIMIT 1), 0)`, serial, order).Scan(&passed)
	return passed, storeError(r.path, err)
}

// Counts sums up the production attempts of an order. Units are told apart by
// serial; each attempt on an unknown serial counts as a unit of its own.
// Units = Passed + Failed + Running.
type Counts struct {
	Units       int // with at least one attempt
	Passed      int // whose latest attempt is PASS
	Failed      int // whose latest attempt ended otherwise
	Running     int // whose latest attempt is RUNNING
	FirstPassed int // whose first attempt ever in the order is PASS: over Units, the first-pass yield
	Attempts    int
}

// OrderCounts counts the units of an order. An unknown order has no units.
func (r *Reader) OrderCounts(ctx context.Context, order string) (Counts, error) {
	var c Counts
	err := r.db.QueryRowContext(ctx, `
		WITH unit AS (
			SELECT min(n) AS first, max(n) AS latest, count(*) AS attempts FROM attempts
			WHERE order_id = ? AND purpose = 'production'
			GROUP BY CASE unit_serial WHEN '' THEN n ELSE unit_serial END)
		SELECT count(*),
			count(*) FILTER (WHERE l.outcome = 'PASS'),
			count(*) FILTER (WHERE l.outcome <> 'PASS'),
			count(*) FILTER (WHERE l.outcome IS NULL),
			count(*) FILTER (WHERE f.outcome = 'PASS'),
			coalesce(sum(unit.attempts), 0)
		FROM unit
		LEFT JOIN results f ON f.attempt = unit.first
		LEFT JOIN results l ON l.attempt = unit.latest`, order).
		Scan(&c.Units, &c.Passed, &c.Failed, &c.Running, &c.FirstPassed, &c.Attempts)
	return c, storeError(r.path, err)
}

// Order returns the order with this ID, or an error that is [NotFound].
func (r *Reader) Order(ctx context.Context, id string) (Order, error) {
	o, err := selectOrder(ctx, r.db, id)
	return o, r.missing(err, fmt.Sprintf("order %q", id))
}

// Recipe returns the recipe with this SHA-256, or an error that is [NotFound].
func (r *Reader) Recipe(ctx context.Context, sha256 string) (Recipe, error) {
	rec, err := scanRecipe(r.db.QueryRowContext(ctx, selectRecipes+" WHERE recipe_sha256 = ?", sha256))
	return rec, r.missing(err, "recipe "+sha256)
}

// Image returns the image with this file SHA-256, or an error that is
// [NotFound], and the file itself, which is nil if it was not kept.
func (r *Reader) Image(ctx context.Context, fileSHA256 string) (Image, []byte, error) {
	img, err := scanImage(r.db.QueryRowContext(ctx, selectImages, fileSHA256))
	if err != nil {
		return Image{}, nil, r.missing(err, "image "+fileSHA256)
	}
	var data []byte
	err = r.db.QueryRowContext(ctx, `SELECT bytes FROM image_bytes WHERE file_sha256 = ?`, fileSHA256).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		return img, nil, nil
	}
	return img, data, storeError(r.path, err)
}

func (r *Reader) missing(err error, what string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return refused(NotFound, what, "there is no such entry in the records at "+r.path)
	}
	return storeError(r.path, err)
}

// row is a *sql.Row, or *sql.Rows at one row.
type row interface{ Scan(dest ...any) error }

// queryer is a *sql.DB or a *sql.Tx.
type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func selectOrder(ctx context.Context, q queryer, id string) (o Order, err error) {
	var created string
	err = q.QueryRowContext(ctx, `SELECT order_id, product, recipe_revision, quantity, created_at FROM orders WHERE order_id = ?`, id).
		Scan(&o.ID, &o.Product, &o.RecipeRevision, &o.Quantity, &created)
	if err != nil {
		return Order{}, err
	}
	o.CreatedAt, err = time.Parse(timeLayout, created)
	return o, err
}

const selectRecipes = `SELECT recipe_sha256, product, revision, body FROM recipes`

func scanRecipe(r row) (rec Recipe, err error) {
	err = r.Scan(&rec.SHA256, &rec.Product, &rec.Revision, &rec.Text)
	return rec, err
}

const selectImages = `SELECT file_sha256, image_hash, version, size, name FROM images WHERE file_sha256 = ?`

func scanImage(r row) (img Image, err error) {
	err = r.Scan(&img.FileSHA256, &img.Hash, &img.Version, &img.Size, &img.Name)
	return img, err
}

// selectRecords is the question scanRecord understands. What a record has
// several of comes as one JSON text, so that a record is one row, and its
// halves are of one moment.
const selectRecords = `SELECT a.n,
	a.attempt_id, a.station, a.seq, a.host, a.boot_id, a.fixture, a.site, a.cycle_id, coalesce(a.order_id, ''),
	a.unit_serial, a.serial_source, a.operator, a.attempt_no, a.cycle_try, a.purpose,
	coalesce(a.recipe_sha256, ''), a.product, a.recipe_revision,
	a.image_name, a.image_version, coalesce(a.image_file_sha256, ''), a.image_hash, a.image_size,
	a.software_version, a.config_sha256, a.port, a.baud, a.started_at,
	r.attempt IS NOT NULL,
	coalesce(r.outcome, ''), coalesce(r.failure_code, ''), coalesce(r.failed_step, ''), coalesce(r.detail, ''),
	coalesce(r.next_step, ''), coalesce(r.device_hash, ''), coalesce(r.device_version, ''), coalesce(r.prev_hash, ''),
	coalesce(r.target, ''), coalesce(r.chunk_size, 0), coalesce(r.message_size, 0), coalesce(r.bytes_sent, 0),
	coalesce(r.retries, 0), coalesce(r.ended_at, a.started_at), coalesce(r.duration_ms, 0),
	coalesce(r.policy, ''), coalesce(r.policy_row, ''), coalesce(r.policy_why, ''), coalesce(r.proof, ''),
	coalesce(r.upload_mode, ''), coalesce(r.upload_rewinds, 0), coalesce(r.upload_bytes_per_s, 0),
	(SELECT json_group_array(json_object('Name', name, 'StartMS', start_ms, 'TookMS', duration_ms,
		'Outcome', outcome, 'Retries', retries, 'Bytes', bytes, 'Detail', detail) ORDER BY ordinal)
		FROM steps WHERE attempt = a.n),
	(SELECT json_group_array(json_object('Number', number, 'Name', name, 'Version', version,
		'FileSHA256', coalesce(file_sha256, ''), 'Hash', hash, 'Size', size) ORDER BY number)
		FROM further_images WHERE attempt = a.n),
	(SELECT json_group_array(json_object('Number', number, 'DeviceHash', device_hash,
		'DeviceVersion', device_version, 'PrevHash', prev_hash) ORDER BY number)
		FROM further_results WHERE attempt = a.n)
	FROM attempts a LEFT JOIN results r ON r.attempt = a.n`

func scanRecord(row row) (n int64, rec Record, err error) {
	a, r := &rec.Attempt, new(Result)
	var started, ended, steps, images, reports string
	var finished bool
	var durationMS int64
	err = row.Scan(&n,
		&a.ID, &a.Station, &a.Seq, &a.Host, &a.BootID, &a.Fixture, &a.Site, &a.CycleID, &a.Order,
		&a.UnitSerial, &a.SerialSource, &a.Operator, &a.AttemptNo, &a.CycleTry, &a.Purpose,
		&a.RecipeSHA256, &a.Product, &a.RecipeRevision,
		&a.ImageName, &a.ImageVersion, &a.ImageFileSHA256, &a.ImageHash, &a.ImageSize,
		&a.SoftwareVersion, &a.ConfigSHA256, &a.Port, &a.Baud, &started,
		&finished,
		&r.Outcome, &r.FailureCode, &r.FailedStep, &r.Detail,
		&r.NextStep, &r.DeviceHash, &r.DeviceVersion, &r.PrevHash,
		&r.Target, &r.ChunkSize, &r.MessageSize, &r.BytesSent,
		&r.Retries, &ended, &durationMS,
		&r.Policy, &r.PolicyRow, &r.PolicyWhy, &r.Proof,
		&r.UploadMode, &r.UploadRewinds, &r.UploadRate,
		&steps, &images, &reports)
	if err != nil {
		return 0, Record{}, err
	}
	if a.StartedAt, err = time.Parse(timeLayout, started); err != nil {
		return 0, Record{}, err
	}
	if a.Further, err = parseFurther[FurtherImage](images); err != nil {
		return 0, Record{}, err
	}
	if !finished {
		return n, rec, nil
	}
	rec.Result = r
	r.Duration = time.Duration(durationMS) * time.Millisecond
	if r.EndedAt, err = time.Parse(timeLayout, ended); err != nil {
		return 0, Record{}, err
	}
	if r.Further, err = parseFurther[FurtherResult](reports); err != nil {
		return 0, Record{}, err
	}
	r.Steps, err = parseSteps(steps)
	return n, rec, err
}

// parseFurther reads what selectRecords makes of the further images and of
// what was reported of them: objects with the names of the fields here.
func parseFurther[T FurtherImage | FurtherResult](text string) ([]T, error) {
	if text == "[]" {
		return nil, nil // of nearly every record
	}
	var rows []T
	if err := json.Unmarshal([]byte(text), &rows); err != nil {
		return nil, fmt.Errorf("further images: %w", err)
	}
	return rows, nil
}

// parseSteps reads what selectRecords makes of the steps.
func parseSteps(text string) ([]Step, error) {
	var rows []struct {
		Name    string
		StartMS int64
		TookMS  int64
		Outcome Outcome
		Retries int
		Bytes   int64
		Detail  string
	}
	if err := json.Unmarshal([]byte(text), &rows); err != nil {
		return nil, fmt.Errorf("steps: %w", err)
	}
	var steps []Step
	for _, r := range rows {
		steps = append(steps, Step{
			Name: r.Name, Outcome: r.Outcome, Retries: r.Retries, Bytes: r.Bytes, Detail: r.Detail,
			Start:    time.Duration(r.StartMS) * time.Millisecond,
			Duration: time.Duration(r.TookMS) * time.Millisecond,
		})
	}
	return steps, nil
}
