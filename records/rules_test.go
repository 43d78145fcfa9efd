package records

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// Rows once written cannot be changed, not even by another program that knows
// nothing of this one.
func TestAppendOnly(t *testing.T) {
	s := openNew(t)
	finish(t, s, begin(t, s, newAttempt("SN1")).ID, passed())
	running := begin(t, s, newAttempt("SN2"))
	s.Close()
	db := raw(t, s.Path())
	dump := func() string { return dumpRows(t, db) }
	before := dump()
	for _, stmt := range []string{
		"UPDATE results SET outcome = 'FAIL', failure_code = 'X', detail = 'x'",
		"UPDATE results SET detail = detail",
		"UPDATE OR REPLACE results SET finish_no = 7",
		"DELETE FROM results",
		"INSERT OR REPLACE INTO results SELECT finish_no, attempt, 'FAIL', 'X', '', 'x', '', '', '', '', '', 0, 0, 0, 0, ended_at, 0 FROM results",
		"INSERT OR REPLACE INTO results SELECT 2, attempt, 'FAIL', 'X', '', 'x', '', '', '', '', '', 0, 0, 0, 0, ended_at, 0 FROM results",
		"UPDATE attempts SET unit_serial = 'SN9'",
		"DELETE FROM attempts WHERE attempt_id = '" + running.ID + "'",
		"INSERT OR REPLACE INTO attempts SELECT * FROM attempts WHERE n = 2",
		"REPLACE INTO attempts SELECT 3, attempt_id, station, 3, host, boot_id, fixture, site, cycle_id, order_id, 'SN9', serial_source, operator, attempt_no, cycle_try, purpose, recipe_sha256, product, recipe_revision, image_name, image_version, image_file_sha256, image_hash, image_size, software_version, config_sha256, port, baud, started_at FROM attempts WHERE n = 2",
		"UPDATE steps SET outcome = 'FAIL'",
		"DELETE FROM steps",
		"INSERT OR REPLACE INTO steps SELECT attempt, ordinal, name, start_ms, duration_ms, 'FAIL', retries, bytes, detail FROM steps",
		"UPDATE orders SET quantity = 1000",
		"DELETE FROM orders",
		"REPLACE INTO orders SELECT order_id, product, recipe_revision, 1000, created_at FROM orders",
		"UPDATE recipes SET body = 'x'",
		"DELETE FROM recipes",
		"REPLACE INTO recipes SELECT recipe_sha256, product, revision, 'x' FROM recipes",
		"REPLACE INTO recipes SELECT '" + strings.Repeat("0", 64) + "', product, revision, 'x' FROM recipes",
		"UPDATE images SET version = 'x'",
		"DELETE FROM images",
		"REPLACE INTO images SELECT file_sha256, image_hash, 'x', size, name FROM images",
		"UPDATE image_bytes SET bytes = x'00'",
		"DELETE FROM image_bytes",
		"REPLACE INTO image_bytes SELECT file_sha256, x'00' FROM image_bytes",
	} {
		if _, err := db.Exec(stmt); err == nil || !strings.Contains(err.Error(), "append-only") && !strings.Contains(err.Error(), "without gaps") {
			t.Errorf("%s\n\tgave %v", stmt, err)
		}
	}
	if after := dump(); after != before {
		t.Errorf("rows changed:\n%s\nwere:\n%s", after, before)
	}
}

// The database refuses what is not evidence, whoever asks.
func TestDatabaseRefuses(t *testing.T) {
	hash := testImage.Hash
	for _, c := range []struct {
		name    string
		attempt func(*Attempt)
		result  func(*Result)
		want    string
	}{
		{name: "PASS with another hash", result: func(r *Result) { r.DeviceHash = strings.Repeat("cd", 32) }, want: "exactly the hash"},
		{name: "PASS without a hash", result: func(r *Result) { r.DeviceHash = "" }, want: "exactly the hash"},
		{name: "PASS with half the hash", result: func(r *Result) { r.DeviceHash = hash[:32] }, want: "exactly the hash"},
		{name: "PASS with the hash in upper case", result: func(r *Result) { r.DeviceHash = strings.ToUpper(hash) }, want: "exactly the hash"},
		{name: "PASS with a failure code", result: func(r *Result) { r.FailureCode = "X" }, want: "no failure code"},
		{name: "PASS with a failed step", result: func(r *Result) { r.FailedStep = "upload" }, want: "no failed step"},
		{name: "FAIL without a code", result: func(r *Result) { *r = failed(); r.FailureCode = "" }, want: "has a failure code and a detail"},
		{name: "ERROR without a detail", result: func(r *Result) { *r = failed(); r.Outcome = Error; r.Detail = "" }, want: "has a failure code and a detail"},
		{name: "ABORTED without a cause", result: func(r *Result) { *r = Result{Outcome: Aborted} }, want: "has a failure code and a detail"},
		{name: "RUNNING as a result", result: func(r *Result) { r.Outcome = Running }, want: "PASS, FAIL, ERROR, ABORTED or INTERRUPTED"},
		{name: "no outcome", result: func(r *Result) { r.Outcome = "" }, want: "PASS, FAIL, ERROR, ABORTED or INTERRUPTED"},
		{name: "negative duration", result: func(r *Result) { r.Duration = -1e9 }, want: "has a duration"},
		{name: "negative bytes", result: func(r *Result) { r.BytesSent = -1 }, want: "not negative"},
		{name: "unknown target", result: func(r *Result) { r.Target = "toaster" }, want: "bootloader or application"},
		{name: "previous hash of junk", result: func(r *Result) { r.PrevHash = "none" }, want: "lower-case hex"},
		{name: "nameless step", result: func(r *Result) { r.Steps[1].Name = "" }, want: "a step has a name"},
		{name: "step without outcome", result: func(r *Result) { r.Steps[1].Outcome = Running }, want: "outcome of a step"},
		{name: "step before the start", result: func(r *Result) { r.Steps[1].Start = -1e9 }, want: "not negative"},

		{name: "site 0", attempt: func(a *Attempt) { a.Site = 0 }, want: "sites count from 1"},
		{name: "serial from nowhere", attempt: func(a *Attempt) { a.SerialSource = "" }, want: "where it came from"},
		{name: "unknown source", attempt: func(a *Attempt) { a.SerialSource = "guess" }, want: "where it came from"},
		{name: "no purpose", attempt: func(a *Attempt) { a.Purpose = "" }, want: "production, golden or debug"},
		{name: "no try", attempt: func(a *Attempt) { a.CycleTry = 0 }, want: "cycle_try counts from 1"},
		{name: "no hash to prove", attempt: func(a *Attempt) { a.ImageFileSHA256, a.ImageHash = "", "" }, want: "hash an attempt must prove"},
		{name: "hash of another size", attempt: func(a *Attempt) { a.ImageFileSHA256, a.ImageHash = "", "abcd" }, want: "hash an attempt must prove"},
		{name: "unknown order", attempt: func(a *Attempt) { a.Order = "WO-0" }, want: `order "WO-0" is not on file`},
		{name: "unknown recipe", attempt: func(a *Attempt) { a.RecipeSHA256 = strings.Repeat("1", 64) }, want: "recipe lamp revision C"},
		{name: "recipe of another revision", attempt: func(a *Attempt) { a.RecipeRevision = "D" }, want: "recipe lamp revision D"},
		{name: "unknown image", attempt: func(a *Attempt) { a.ImageFileSHA256 = strings.Repeat("1", 64) }, want: "image app.bin"},
		{name: "image with another hash", attempt: func(a *Attempt) { a.ImageHash = strings.Repeat("1", 64) }, want: "image app.bin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openNew(t)
			a := newAttempt("SN1")
			if c.attempt != nil {
				c.attempt(&a)
			}
			a, err := s.Begin(t.Context(), a)
			r := passed()
			if c.result != nil {
				if err != nil {
					t.Fatal(err)
				}
				c.result(&r)
				err = s.Finish(t.Context(), a.ID, r)
			}
			plain(t, err, Refused, c.want)
			if c.result == nil {
				if n := len(all(t, s.Reader, Filter{})); n != 0 {
					t.Errorf("%d records of a refused attempt", n)
				}
				return
			}
			// The attempt is still open, and a truthful result is taken.
			if rec, err := s.Attempt(t.Context(), a.ID); err != nil || rec.Outcome() != Running {
				t.Errorf("after the refusal: %s, %v", rec.Outcome(), err)
			}
			finish(t, s, a.ID, passed())
		})
	}
}

func TestLongHashes(t *testing.T) {
	for _, size := range []int{32, 48, 64} { // SHA-256, SHA-384, SHA-512
		s := openNew(t)
		a := newAttempt("SN1")
		a.ImageFileSHA256, a.ImageHash = "", strings.Repeat("5e", size)
		a = begin(t, s, a)
		r := passed()
		if err := s.Finish(t.Context(), a.ID, r); !errors.Is(err, Refused) {
			t.Errorf("%d bytes: wrong hash gave %v", size, err)
		}
		r.DeviceHash = a.ImageHash
		finish(t, s, a.ID, r)
	}
}

func TestDoubleFinish(t *testing.T) {
	s := openNew(t)
	a := begin(t, s, newAttempt("SN1"))
	finish(t, s, a.ID, failed())
	plain(t, s.Finish(t.Context(), a.ID, passed()), AlreadyFinished)
	plain(t, s.Finish(t.Context(), "0190-none", passed()), NotFound)
	if rec, err := s.Attempt(t.Context(), a.ID); err != nil || rec.Outcome() != Fail {
		t.Errorf("the first result became %s, %v", rec.Outcome(), err)
	}
	_, err := s.Attempt(t.Context(), "0190-none")
	plain(t, err, NotFound, s.Path())
}

// Numbers cannot be left out by another program either.
func TestNumbersWithoutGaps(t *testing.T) {
	s := openNew(t)
	begin(t, s, newAttempt("SN1"))
	s.Close()
	db := raw(t, s.Path())
	const insert = `INSERT INTO attempts SELECT ?, 'id', ?, ?, host, boot_id, fixture, site, cycle_id, order_id, unit_serial,
		serial_source, operator, attempt_no, cycle_try, purpose, recipe_sha256, product, recipe_revision, image_name, image_version,
		image_file_sha256, image_hash, image_size, software_version, config_sha256, port, baud, started_at FROM attempts`
	for _, c := range []struct {
		n       any
		station string
		seq     int
	}{{3, "st1", 2}, {2, "st1", 3}, {2, "st1", 1}, {2, "st2", 2}, {nil, "st1", 2}} {
		if _, err := db.Exec(insert, c.n, c.station, c.seq); err == nil || !strings.Contains(err.Error(), "without gaps") {
			t.Errorf("n %v, seq %d of %s gave %v", c.n, c.seq, c.station, err)
		}
	}
	if _, err := db.Exec(insert, 2, "st2", 1); err != nil {
		t.Errorf("another station starts at 1: %v", err)
	}
}

func TestPut(t *testing.T) {
	ctx := t.Context()
	s := openNew(t)
	if err := put(ctx, s); err != nil {
		t.Fatalf("putting the same again: %v", err)
	}

	o := testOrder
	o.Quantity = 101
	plain(t, s.PutOrder(ctx, o), Conflict, "number of its own")
	if got, err := s.Order(ctx, o.ID); err != nil || got.Quantity != 100 || got.CreatedAt.IsZero() {
		t.Errorf("order %+v, %v", got, err)
	}
	plain(t, s.PutOrder(ctx, Order{ID: "WO-9", Quantity: -1}), Refused, "quantity")
	_, err := s.Order(ctx, "WO-0")
	plain(t, err, NotFound)

	r := testRecipe
	r.Text += "\n"
	plain(t, s.PutRecipe(ctx, r), Refused, "SHA-256")
	r.SHA256 = sum([]byte(r.Text))
	plain(t, s.PutRecipe(ctx, r), Conflict, "new revision")
	r.Revision = "D"
	if err := s.PutRecipe(ctx, r); err != nil {
		t.Error(err)
	}
	if got, err := s.Recipe(ctx, testRecipe.SHA256); err != nil || got != testRecipe {
		t.Errorf("recipe %+v, %v", got, err)
	}

	img := testImage
	img.Name = "renamed.bin"
	if err := s.PutImage(ctx, img, testBytes); err != nil {
		t.Errorf("a renamed file: %v", err)
	}
	img.Version = "2.0.0"
	plain(t, s.PutImage(ctx, img, nil), Conflict, "another hash, version or size")
	plain(t, s.PutImage(ctx, testImage, []byte("other")), Refused, "SHA-256")
	got, data, err := s.Image(ctx, testImage.FileSHA256)
	if err != nil || got != testImage || string(data) != string(testBytes) {
		t.Errorf("image %+v, %q, %v", got, data, err)
	}
	late := []byte("bytes that come later")
	img = Image{FileSHA256: sum(late), Hash: testImage.Hash, Version: "3", Size: int64(len(late)), Name: "late.bin"}
	for _, data := range [][]byte{nil, late, nil, late} {
		if err := s.PutImage(ctx, img, data); err != nil {
			t.Fatal(err)
		}
		_, kept, err := s.Image(ctx, img.FileSHA256)
		if err != nil || (data != nil && string(kept) != string(late)) {
			t.Errorf("kept %q, %v", kept, err)
		}
	}
}

// Two stations in one file, one after the other (a station was renamed): each
// counts by itself, and one does not interrupt for the other.
func TestTwoStationsOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	s := openAt(t, path, Options{Station: "st1"})
	if err := put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	begin(t, s, newAttempt("SN1"))
	begin(t, s, newAttempt("SN2"))
	s.Close()
	s = openAt(t, path, Options{Station: "st2"})
	if left, err := s.Interrupt(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("st2 interrupted %v, %v", left, err)
	}
	if a := begin(t, s, newAttempt("SN1")); a.Seq != 1 || a.AttemptNo != 2 {
		t.Errorf("st2 begins with seq %d, attempt_no %d, want 1, 2", a.Seq, a.AttemptNo)
	}
	s.Close()
	s = openAt(t, path, Options{Station: "st1"})
	if left, err := s.Interrupt(t.Context()); err != nil || len(left) != 2 || left[0].Seq != 1 || left[1].Seq != 2 {
		t.Errorf("st1 interrupted %v, %v", left, err)
	}
}
