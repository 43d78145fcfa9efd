package records

import (
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Rows once written cannot be changed, not even by another program that knows
// nothing of this one.
func TestAppendOnly(t *testing.T) {
	s := openNew(t)
	finish(t, s, begin(t, s, twoMore("SN1")).ID, passedTwoMore())
	running := begin(t, s, twoMore("SN2"))
	s.Close()
	db := raw(t, s.Path())
	// The device of the running attempt has reported, the result is not there yet.
	if _, err := db.Exec("INSERT INTO further_results VALUES (2, 1, '', '', '')"); err != nil {
		t.Fatal(err)
	}
	dump := func() string { return dumpRows(t, db) }
	before := dump()
	for _, stmt := range []string{
		"UPDATE results SET outcome = 'FAIL', failure_code = 'X', detail = 'x'",
		"UPDATE results SET detail = detail",
		"UPDATE OR REPLACE results SET finish_no = 7",
		"DELETE FROM results",
		"INSERT OR REPLACE INTO results SELECT finish_no, attempt, 'FAIL', 'X', '', 'x', '', '', '', '', '', 0, 0, 0, 0, ended_at, 0, '', '', '', '', '', 0, 0 FROM results",
		"INSERT OR REPLACE INTO results SELECT 2, attempt, 'FAIL', 'X', '', 'x', '', '', '', '', '', 0, 0, 0, 0, ended_at, 0, '', '', '', '', '', 0, 0 FROM results",
		"UPDATE results SET policy_why = 'because'",
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
		"UPDATE further_images SET hash = '" + testImage.Hash + "'",
		"UPDATE OR REPLACE further_images SET number = 2 WHERE number = 1",
		"DELETE FROM further_images WHERE attempt = 2",
		"REPLACE INTO further_images SELECT attempt, number, name, version, file_sha256, '" + testImage.Hash + "', size FROM further_images WHERE attempt = 2",
		"INSERT INTO further_images SELECT attempt, number, name, version, file_sha256, hash, size FROM further_images WHERE attempt = 2 ON CONFLICT DO UPDATE SET hash = '" + testImage.Hash + "'",
		"UPDATE further_results SET device_hash = ''",
		"DELETE FROM further_results",
		"REPLACE INTO further_results SELECT attempt, number, '', '', '' FROM further_results WHERE attempt = 2",
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
		{name: "further image below 0", attempt: func(a *Attempt) { a.Further[0].Number = -1 }, want: "count from 0"},
		{name: "two further images of one number", attempt: func(a *Attempt) { a.Further[1].Number = 1 }, want: "an image of this number already"},
		{name: "further image without a hash", attempt: func(a *Attempt) { a.Further[1].Hash = "" }, want: "hash an attempt must prove"},
		{name: "further image with junk for a hash", attempt: func(a *Attempt) { a.Further[1].Hash = strings.Repeat("x", 64) }, want: "hash an attempt must prove"},
		{name: "further image with a hash in upper case", attempt: func(a *Attempt) { a.Further[1].Hash = strings.Repeat("AB", 32) }, want: "hash an attempt must prove"},
		{name: "further image of negative size", attempt: func(a *Attempt) { a.Further[1].Size = -1 }, want: "size of an image is not negative"},
		{name: "unknown further image", attempt: func(a *Attempt) { a.Further[1].FileSHA256 = strings.Repeat("1", 64) }, want: "image file radio.bin with SHA-256 1111"},

		{name: "PASS without further reports", result: func(r *Result) { r.Further = nil }, want: "hash of every further image"},
		{name: "PASS with one further report missing", result: func(r *Result) { r.Further = r.Further[:1] }, want: "hash of every further image"},
		{name: "PASS with another further hash", result: func(r *Result) { r.Further[1].DeviceHash = strings.Repeat("ef", 32) }, want: "hash of every further image"},
		{name: "PASS with an empty further hash", result: func(r *Result) { r.Further[1].DeviceHash = "" }, want: "hash of every further image"},
		{name: "PASS with half the further hash", result: func(r *Result) { r.Further[0].DeviceHash = hash[:32] }, want: "hash of every further image"},
		{name: "PASS with the further hashes swapped", result: func(r *Result) {
			r.Further[0].DeviceHash, r.Further[1].DeviceHash = r.Further[1].DeviceHash, r.Further[0].DeviceHash
		}, want: "hash of every further image"},
		{name: "PASS with the further hashes only", result: func(r *Result) { r.DeviceHash = "" }, want: "exactly the hash of the image"},
		{name: "report on an image nobody asked for", result: func(r *Result) { r.Further[1].Number = 9 }, want: "no further image of this number"},
		{name: "two reports on one image", result: func(r *Result) { r.Further[1].Number = 1 }, want: "reported on this image already"},
		{name: "further hash in upper case", result: func(r *Result) { r.Further[0].DeviceHash = strings.ToUpper(hash) }, want: "lower-case hex"},
		{name: "further previous hash of junk", result: func(r *Result) { r.Further[0].PrevHash = "none" }, want: "lower-case hex"},
		{name: "FAIL with a report on an image nobody asked for", result: func(r *Result) { *r = failed(); r.Further = []FurtherResult{{Number: 0}} }, want: "no further image of this number"},

		{name: "image with another hash", attempt: func(a *Attempt) { a.ImageHash = strings.Repeat("1", 64) }, want: "image app.bin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openNew(t)
			a := twoMore("SN1")
			if c.attempt != nil {
				c.attempt(&a)
			}
			a, err := s.Begin(t.Context(), a)
			r := passedTwoMore()
			if c.result != nil {
				if err != nil {
					t.Fatal(err)
				}
				c.result(&r)
				err = s.Finish(t.Context(), a.ID, r)
			}
			plain(t, err, Refused, c.want)
			if c.result == nil {
				if dump := dumpRows(t, s.db); strings.Contains(dump, "attempts n=") || strings.Contains(dump, "further_images attempt=") {
					t.Errorf("left of a refused attempt:\n%s", dump)
				}
				return
			}
			// The attempt is still open, and a truthful result is taken.
			if rec, err := s.Attempt(t.Context(), a.ID); err != nil || rec.Outcome() != Running {
				t.Errorf("after the refusal: %s, %v", rec.Outcome(), err)
			}
			finish(t, s, a.ID, passedTwoMore())
		})
	}
}

// What was asked of a board and what it reported are complete when the result
// comes, whatever the result is.
func TestNothingIsAddedToAResult(t *testing.T) {
	s := openNew(t)
	r := failed()
	r.Further = passedTwoMore().Further[:1]
	finish(t, s, begin(t, s, twoMore("SN1")).ID, r)
	begin(t, s, newAttempt("SN2"))
	before := dumpRows(t, s.db)
	for stmt, want := range map[string]string{
		"INSERT INTO further_results VALUES (1, 2, '', '', '')":                                                        "no further report",
		"INSERT INTO further_images VALUES (1, 3, '', '', NULL, '" + testImage.Hash + "', 1)":                          "no further image",
		"INSERT INTO further_images VALUES (3, 1, '', '', NULL, '" + testImage.Hash + "', 1)":                          "FOREIGN KEY", // no such attempt
		"INSERT INTO further_images SELECT 2, 1, '', '', '" + strings.Repeat("1", 64) + "', image_hash, 1 FROM images": "FOREIGN KEY", // no such file
		"INSERT INTO further_results VALUES (2, 1, '" + testImage.Hash + "', '', '')":                                  "no further image of this number",
	} {
		if _, err := s.db.Exec(stmt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n\tgave %v, want %q", stmt, err, want)
		}
	}
	if after := dumpRows(t, s.db); after != before {
		t.Errorf("rows changed:\n%s\nwere:\n%s", after, before)
	}
}

// Whatever another program tries, in whatever order, a PASS has every further
// image proven: a model says of each statement whether the database takes it.
func TestEveryImageIsProven(t *testing.T) {
	s := openNew(t)
	db := raw(t, s.Path())
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("PRAGMA synchronous = OFF"); err != nil { // the disk is not what is tested
		t.Fatal(err)
	}
	right, other := testImage.Hash, strings.Repeat("cd", 32)
	passes := 0
	rapid.Check(t, func(rt *rapid.T) {
		a, err := s.Begin(t.Context(), newAttempt("SN1"))
		if err != nil {
			rt.Fatal(err)
		}
		var n int64
		if err := db.QueryRow("SELECT n FROM attempts WHERE attempt_id = ?", a.ID).Scan(&n); err != nil {
			rt.Fatal(err)
		}
		images, reports, done := map[int]string{}, map[int]string{}, false
		try := func(allowed bool, stmt string, args ...any) {
			rt.Helper()
			if _, err := db.Exec(stmt, args...); (err == nil) != allowed {
				rt.Fatalf("%s %v gave %v; with images %v, reports %v and done %t it should work: %t", stmt, args, err, images, reports, done, allowed)
			}
		}
		insert := rapid.SampledFrom([]string{"INSERT", "INSERT", "INSERT", "REPLACE", "INSERT OR IGNORE", "INSERT OR ROLLBACK"})
		number, hash := rapid.IntRange(0, 2), rapid.SampledFrom([]string{right, right, right, other})
		for range rapid.IntRange(1, 12).Draw(rt, "statements") {
			switch rapid.SampledFrom([]string{"image", "image", "report", "report", "report", "pass", "update", "delete"}).Draw(rt, "statement") {
			case "image":
				number, hash := number.Draw(rt, "number"), hash.Draw(rt, "hash")
				allowed := !done && images[number] == ""
				try(allowed, insert.Draw(rt, "insert")+" INTO further_images VALUES (?, ?, '', '', NULL, ?, 1)", n, number, hash)
				if allowed {
					images[number] = hash
				}
			case "report":
				number, hash := number.Draw(rt, "number"), hash.Draw(rt, "hash")
				allowed := !done && images[number] != "" && reports[number] == ""
				try(allowed, insert.Draw(rt, "insert")+" INTO further_results VALUES (?, ?, ?, '', '')", n, number, hash)
				if allowed {
					reports[number] = hash
				}
			case "pass":
				allowed := !done && maps.Equal(images, reports)
				try(allowed, insert.Draw(rt, "insert")+` INTO results SELECT max(finish_no) + 1, ?, 'PASS', '', '', '', '', ?, '', '', '', 0, 0, 0, 0,
					'2026-11-22T08:00:03.702Z', 1, '', '', '', '', '', 0, 0 FROM (SELECT finish_no FROM results UNION SELECT 0)`, n, right)
				if allowed {
					done = true
					passes++
				}
			case "update":
				try(len(images) == 0, "UPDATE OR REPLACE further_images SET hash = ? WHERE attempt = ?", right, n)
				try(len(reports) == 0, "UPDATE OR REPLACE further_results SET device_hash = ? WHERE attempt = ?", right, n)
			case "delete":
				try(len(reports) == 0, "DELETE FROM further_results WHERE attempt = ?", n)
				try(len(images) == 0, "DELETE FROM further_images WHERE attempt = ?", n)
			}
		}
		rec, err := s.Attempt(t.Context(), a.ID)
		if err != nil {
			rt.Fatal(err)
		}
		if (rec.Outcome() == Pass) != done {
			rt.Fatalf("the attempt is %s, done %t", rec.Outcome(), done)
		}
		if !done {
			return
		}
		for _, img := range rec.Further {
			if rec.reported(img.Number).DeviceHash != img.Hash {
				rt.Fatalf("a PASS without proof of image %d: %+v", img.Number, rec)
			}
		}
	})
	if passes == 0 {
		t.Error("nothing ever passed, so nothing was shown")
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
