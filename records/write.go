package records

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// PutOrder keeps an order. Putting the same one again does nothing; another
// content under the same ID fails with [Conflict].
func (s *Store) PutOrder(ctx context.Context, o Order) error {
	what := fmt.Sprintf("order %q", o.ID)
	return s.writer.do(ctx, func(tx *sql.Tx) error {
		old, err := selectOrder(ctx, tx, o.ID)
		if err == nil {
			old.CreatedAt = o.CreatedAt
			if old != o {
				return refused(Conflict, what, "this order is on file with another product, recipe revision or quantity; give the changed order a number of its own")
			}
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		created := o.CreatedAt
		if created.IsZero() {
			created = s.opts.Now()
		}
		_, err = tx.Exec(`INSERT INTO orders VALUES (?, ?, ?, ?, ?)`,
			o.ID, o.Product, o.RecipeRevision, o.Quantity, formatTime(created))
		return rowError(what, err)
	})
}

// PutRecipe keeps the text of a recipe. Putting the same one again does
// nothing. A text that does not have the hash it claims is [Refused]; a second
// text for the same product and revision fails with [Conflict], because a
// revision that can change proves nothing.
func (s *Store) PutRecipe(ctx context.Context, r Recipe) error {
	what := fmt.Sprintf("recipe %s revision %s", r.Product, r.Revision)
	if sum := sha256.Sum256([]byte(r.Text)); hex.EncodeToString(sum[:]) != r.SHA256 {
		return refused(Refused, what, fmt.Sprintf("its text has the SHA-256 %x, not %s", sum, r.SHA256))
	}
	return s.writer.do(ctx, func(tx *sql.Tx) error {
		old, err := scanRecipe(tx.QueryRow(selectRecipes+` WHERE recipe_sha256 = ? OR (product = ? AND revision = ?)`,
			r.SHA256, r.Product, r.Revision))
		if err == nil {
			if old != r {
				return refused(Conflict, what, "another text of this recipe is on file; give the changed recipe a new revision")
			}
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, err = tx.Exec(`INSERT INTO recipes VALUES (?, ?, ?, ?)`, r.SHA256, r.Product, r.Revision, r.Text)
		return rowError(what, err)
	})
}

// PutImage keeps what is known about an image file and, unless data is nil,
// the file itself. Putting the same again does nothing, and may add data that
// was not kept before. The name of a file is no part of what it is: the first
// one stays. Another hash, version or size for the same file fails with
// [Conflict], data that is not that file with [Refused].
func (s *Store) PutImage(ctx context.Context, img Image, data []byte) error {
	what := "image " + cmp.Or(img.Name, img.FileSHA256)
	if data != nil {
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != img.FileSHA256 || int64(len(data)) != img.Size {
			return refused(Refused, what, fmt.Sprintf("its file has %d bytes and the SHA-256 %x, not %d and %s", len(data), sum, img.Size, img.FileSHA256))
		}
	}
	return s.writer.do(ctx, func(tx *sql.Tx) error {
		old, err := scanImage(tx.QueryRow(selectImages, img.FileSHA256))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			_, err = tx.Exec(`INSERT INTO images VALUES (?, ?, ?, ?, ?)`,
				img.FileSHA256, img.Hash, img.Version, img.Size, img.Name)
			if err != nil {
				return rowError(what, err)
			}
		case err != nil:
			return err
		default:
			old.Name = img.Name
			if old != img {
				return refused(Conflict, what, "this file is on record with another hash, version or size; check which program read the file wrongly")
			}
		}
		if data == nil {
			return nil
		}
		_, err = tx.Exec(`INSERT INTO image_bytes SELECT ?1, ?2
			WHERE NOT EXISTS (SELECT 1 FROM image_bytes WHERE file_sha256 = ?1)`, img.FileSHA256, data)
		return rowError(what, err)
	})
}

// Begin records that an attempt starts, and must have returned before the
// board is touched. It returns the attempt with ID, Seq, Station, Host,
// BootID, AttemptNo and StartedAt filled in. An attempt that names an order,
// recipe or image that was not put, or breaks a rule of the database, such as
// two further images of one number, is [Refused].
func (s *Store) Begin(ctx context.Context, a Attempt) (Attempt, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Attempt{}, err
	}
	a.ID = id.String()
	a.Station, a.Host, a.BootID = s.opts.Station, s.opts.Host, s.opts.BootID
	err = s.writer.do(ctx, func(tx *sql.Tx) error {
		return s.insertAttempt(tx, &a)
	})
	if err != nil {
		return Attempt{}, err
	}
	return a, nil
}

func (s *Store) insertAttempt(tx *sql.Tx, a *Attempt) error {
	what := fmt.Sprintf("attempt on unit %q at site %d", a.UnitSerial, a.Site)
	if err := checkNamed(tx, what, a); err != nil {
		return err
	}
	// Purposes count apart: a golden unit or a debug run must neither spend a
	// unit's retests nor turn its first pass into a second.
	var n int64
	err := tx.QueryRow(`SELECT
		(SELECT coalesce(max(n), 0) + 1 FROM attempts),
		(SELECT coalesce(max(seq), 0) + 1 FROM attempts WHERE station = ?1),
		(SELECT count(*) + 1 FROM attempts WHERE ?2 <> '' AND unit_serial = ?2
			AND coalesce(order_id, '') = ?3 AND purpose = ?4)`,
		a.Station, a.UnitSerial, a.Order, a.Purpose).Scan(&n, &a.Seq, &a.AttemptNo)
	if err != nil {
		return err
	}
	// Here and not in Begin, so that times run in the order of seq.
	a.StartedAt = s.opts.Now().UTC().Truncate(time.Millisecond)
	_, err = tx.Exec(`INSERT INTO attempts (
			n, attempt_id, station, seq, host, boot_id, fixture, site, cycle_id, order_id,
			unit_serial, serial_source, operator, attempt_no, cycle_try, purpose,
			recipe_sha256, product, recipe_revision,
			image_name, image_version, image_file_sha256, image_hash, image_size,
			software_version, config_sha256, port, baud, started_at
		) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''), ?, ?, ?, ?, ?, ?, nullif(?, ''), ?, ?, ?, ?, nullif(?, ''), ?, ?, ?, ?, ?, ?, ?)`,
		n, a.ID, a.Station, a.Seq, a.Host, a.BootID, a.Fixture, a.Site, a.CycleID, a.Order,
		a.UnitSerial, a.SerialSource, a.Operator, a.AttemptNo, a.CycleTry, a.Purpose,
		a.RecipeSHA256, a.Product, a.RecipeRevision,
		a.ImageName, a.ImageVersion, a.ImageFileSHA256, a.ImageHash, a.ImageSize,
		a.SoftwareVersion, a.ConfigSHA256, a.Port, a.Baud, formatTime(a.StartedAt))
	if err != nil {
		return rowError(what, err)
	}
	for _, img := range a.Further {
		if err := insertFurtherImage(tx, fmt.Sprintf("%s, further image %d", what, img.Number), n, img); err != nil {
			return err
		}
	}
	return nil
}

func insertFurtherImage(tx *sql.Tx, what string, attempt int64, img FurtherImage) error {
	if img.FileSHA256 != "" {
		// As in checkNamed: the foreign key would not say which.
		var known bool
		err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM images WHERE file_sha256 = ?)`, img.FileSHA256).Scan(&known)
		if err != nil {
			return err
		}
		if !known {
			return refused(Refused, what, fmt.Sprintf("image file %s with SHA-256 %s is not on file; load the image first", dash(img.Name), img.FileSHA256))
		}
	}
	_, err := tx.Exec(`INSERT INTO further_images (attempt, number, name, version, file_sha256, hash, size)
		VALUES (?, ?, ?, ?, nullif(?, ''), ?, ?)`,
		attempt, img.Number, img.Name, img.Version, img.FileSHA256, img.Hash, img.Size)
	return rowError(what, err)
}

// checkNamed says which of the things an attempt names is not on file. The
// foreign keys would refuse it too, but not say which.
func checkNamed(tx *sql.Tx, what string, a *Attempt) error {
	var order, recipe, image bool
	err := tx.QueryRow(`SELECT
		?1 = '' OR EXISTS (SELECT 1 FROM orders WHERE order_id = ?1),
		?2 = '' OR EXISTS (SELECT 1 FROM recipes WHERE recipe_sha256 = ?2 AND product = ?3 AND revision = ?4),
		?5 = '' OR EXISTS (SELECT 1 FROM images WHERE file_sha256 = ?5 AND image_hash = ?6)`,
		a.Order, a.RecipeSHA256, a.Product, a.RecipeRevision, a.ImageFileSHA256, a.ImageHash).Scan(&order, &recipe, &image)
	switch {
	case err != nil:
		return err
	case !order:
		return refused(Refused, what, fmt.Sprintf("order %q is not on file; enter the order first", a.Order))
	case !recipe:
		return refused(Refused, what, fmt.Sprintf("recipe %s revision %s with SHA-256 %s is not on file; load the recipe first", a.Product, a.RecipeRevision, a.RecipeSHA256))
	case !image:
		return refused(Refused, what, fmt.Sprintf("image %s with hash %s is not on file; load the image first", cmp.Or(a.ImageName, a.ImageFileSHA256), a.ImageHash))
	}
	return nil
}

// Finish records how the attempt with this ID ended. Only after it has
// returned nil may anyone be shown the outcome. A second result fails with
// [AlreadyFinished], an unknown ID with [NotFound]. A Pass whose DeviceHash is
// not the attempt's ImageHash, or that lacks the very hash of a further image,
// is [Refused], and so is a report on a further image the attempt does not have.
func (s *Store) Finish(ctx context.Context, id string, r Result) error {
	return s.writer.do(ctx, func(tx *sql.Tx) error {
		what := "result of attempt " + id
		var n int64
		var finished bool
		err := tx.QueryRow(`SELECT n, EXISTS (SELECT 1 FROM results WHERE attempt = n) FROM attempts WHERE attempt_id = ?`, id).Scan(&n, &finished)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return refused(NotFound, what, "there is no such attempt in these records")
		case err != nil:
			return err
		case finished:
			return refused(AlreadyFinished, what, "this attempt has its result already, and a result is never changed; start a new attempt")
		}
		duration := sql.NullInt64{Int64: r.Duration.Milliseconds(), Valid: r.Outcome != Interrupted}
		return s.insertResult(tx, what, n, duration, r)
	})
}

func (s *Store) insertResult(tx *sql.Tx, what string, attempt int64, durationMS sql.NullInt64, r Result) error {
	if r.EndedAt.IsZero() {
		r.EndedAt = s.opts.Now()
	}
	// Before the result, because that is when the database looks at them.
	for _, d := range r.Further {
		_, err := tx.Exec(`INSERT INTO further_results (attempt, number, device_hash, device_version, prev_hash)
			VALUES (?, ?, ?, ?, ?)`, attempt, d.Number, d.DeviceHash, d.DeviceVersion, d.PrevHash)
		if err != nil {
			return rowError(fmt.Sprintf("%s, further image %d", what, d.Number), err)
		}
	}
	_, err := tx.Exec(`INSERT INTO results (
			finish_no, attempt, outcome, failure_code, failed_step, detail, next_step,
			device_hash, device_version, prev_hash, target, chunk_size, message_size,
			bytes_sent, retries, ended_at, duration_ms, policy, policy_row, policy_why, proof,
			upload_mode, upload_rewinds, upload_bytes_per_s
		) VALUES ((SELECT coalesce(max(finish_no), 0) + 1 FROM results), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		attempt, r.Outcome, r.FailureCode, r.FailedStep, r.Detail, r.NextStep,
		r.DeviceHash, r.DeviceVersion, r.PrevHash, r.Target, r.ChunkSize, r.MessageSize,
		r.BytesSent, r.Retries, formatTime(r.EndedAt), durationMS, r.Policy, r.PolicyRow, r.PolicyWhy, r.Proof,
		r.UploadMode, r.UploadRewinds, r.UploadRate)
	if err != nil {
		return rowError(what, err)
	}
	for i, st := range r.Steps {
		_, err := tx.Exec(`INSERT INTO steps (attempt, ordinal, name, start_ms, duration_ms, outcome, retries, bytes, detail)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			attempt, i+1, st.Name, st.Start.Milliseconds(), st.Duration.Milliseconds(), st.Outcome, st.Retries, st.Bytes, st.Detail)
		if err != nil {
			return rowError(fmt.Sprintf("%s, step %d %q", what, i+1, st.Name), err)
		}
	}
	return nil
}

// FailureStationStopped is the failure code that [Store.Interrupt] gives.
const FailureStationStopped = "STATION_STOPPED"

// Interrupt gives every attempt that an earlier start of this station left
// RUNNING the result INTERRUPTED, and returns these attempts, oldest first.
// The station calls it before its first attempt, and tells the operator which
// units to flash again. Attempts of this start are not touched.
func (s *Store) Interrupt(ctx context.Context) ([]Attempt, error) {
	var left []Attempt
	err := s.writer.do(ctx, func(tx *sql.Tx) error {
		left = nil
		rows, err := tx.Query(selectRecords+` WHERE a.n IN (SELECT n FROM running)
			AND +a.station = ? AND a.boot_id <> ? ORDER BY a.n`, s.opts.Station, s.opts.BootID)
		if err != nil {
			return err
		}
		var ns []int64
		for rows.Next() {
			n, rec, err := scanRecord(rows)
			if err != nil {
				rows.Close()
				return err
			}
			ns, left = append(ns, n), append(left, rec.Attempt)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for i, a := range left {
			err := s.insertResult(tx, "result of attempt "+a.ID, ns[i], sql.NullInt64{}, Result{
				Outcome:     Interrupted,
				FailureCode: FailureStationStopped,
				Detail:      "The station stopped before this attempt ended, so it is not known what is on the board.",
				NextStep:    "Flash the unit again.",
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return left, nil
}
