package records

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// applicationID marks a SQLite file as ours: "FLSH", set by the first
// migration. https://www.sqlite.org/pragma.html#pragma_application_id
const applicationID = 0x464C5348

// migrations returns the texts of the migrations in order. The nth file
// (0001_….sql first) takes a database from user_version n-1 to n.
func migrations(files fs.FS) ([]string, error) {
	names, err := fs.Glob(files, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	texts := make([]string, 0, len(names))
	for i, name := range names {
		if want := fmt.Sprintf("migrations/%04d_", i+1); len(name) < len(want) || name[:len(want)] != want {
			return nil, fmt.Errorf("migration %s is out of order: want %s….sql", name, want)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	return texts, nil
}

// migrate brings the database to the newest version, each step in a
// transaction of its own: after a power cut it goes on where it was. A database
// that is up to date is written to as well, with the version it has: a station
// must learn here that its disk is full or read-only, not from its first unit.
func migrate(ctx context.Context, db *sql.DB, path string, texts []string) error {
	version, err := checkVersion(ctx, db, path, len(texts))
	if err != nil {
		return err
	}
	if version == len(texts) {
		return migrateOnce(ctx, db, version, "")
	}
	for ; version < len(texts); version++ {
		if err := migrateOnce(ctx, db, version+1, texts[version]); err != nil {
			return fmt.Errorf("bring %s to version %d: %w", path, version+1, err)
		}
	}
	return nil
}

func migrateOnce(ctx context.Context, db *sql.DB, version int, text string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, text); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return err
	}
	return tx.Commit()
}

// checkVersion returns the version of the database. It refuses a file that is
// not ours, and one that a newer program wrote: what that program meant by its
// columns is not known here.
func checkVersion(ctx context.Context, db *sql.DB, path string, newest int) (int, error) {
	var version, app, objects int
	err := db.QueryRowContext(ctx, `SELECT
		(SELECT user_version FROM pragma_user_version),
		(SELECT application_id FROM pragma_application_id),
		(SELECT count(*) FROM sqlite_schema)`).Scan(&version, &app, &objects)
	if err != nil {
		return 0, err
	}
	switch {
	case app == applicationID && version > newest:
		return 0, &StoreError{Kind: Newer, Path: path, hint: fmt.Sprintf(
			"The records in %s were written by a newer version of this program (version %d of the file, this program knows up to %d); install that version on this station, or use another file.",
			path, version, newest)}
	case app == applicationID && version > 0:
		return version, nil
	case app == 0 && version == 0 && objects == 0:
		return 0, nil // an empty file, about to become ours
	}
	return 0, &StoreError{Kind: NotRecords, Path: path, hint: fmt.Sprintf(
		"%s is a database of another program, not a file of records; check the path in the station file.", path)}
}
