package records

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mattn/go-sqlite3"
)

// Kind tells apart what a caller may want to branch on. It is an error, so
// that errors.Is(err, records.DiskFull) works on anything this package returns.
type Kind string

// The kinds of [StoreError] and [RefusedError].
const (
	// Of the file: the station cannot record, and must not flash.

	InUse      Kind = "in use by another station"
	Busy       Kind = "locked by another program"
	ReadOnly   Kind = "cannot be written"
	DiskFull   Kind = "disk full"
	NoSuchFile Kind = "does not exist"
	NotRecords Kind = "not a records file"
	Newer      Kind = "written by a newer program"
	Older      Kind = "written by an older program"
	Damaged    Kind = "damaged"
	Failed     Kind = "failed" // the disk or the system; anything not named above
	Closed     Kind = "closed"

	// Of one row: the file is well, the row was not taken.

	Refused         Kind = "refused"          // breaks a rule of the database
	Conflict        Kind = "conflict"         // another content is on file under the same name
	AlreadyFinished Kind = "already finished" // the attempt has its result
	NotFound        Kind = "not found"
)

// Error returns the name of the kind.
func (k Kind) Error() string { return string(k) }

// StoreError says that the file of records cannot be used. Nothing that was
// recorded earlier is affected.
type StoreError struct {
	Kind Kind
	Path string // the file
	hint string
	Err  error // the cause; may be nil
}

// Error returns the operator's sentence and the cause.
func (e *StoreError) Error() string {
	if e.Err == nil {
		return e.hint
	}
	return e.hint + " (" + e.Err.Error() + ")"
}

// Hint returns one plain sentence for the operator: what is wrong, where, and
// what to do.
func (e *StoreError) Hint() string { return e.hint }

// Unwrap returns the kind and the cause.
func (e *StoreError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// RefusedError says that one row was not taken. Other rows are not affected.
type RefusedError struct {
	Kind Kind
	What string // the row, as in "attempt 0190…"
	hint string
	Err  error // the cause; may be nil
}

// Error returns what was refused and why.
func (e *RefusedError) Error() string { return e.What + ": " + e.hint }

// Hint returns why the row was refused and what to do.
func (e *RefusedError) Hint() string { return e.hint }

// Unwrap returns the kind and the cause.
func (e *RefusedError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

func refused(kind Kind, what, hint string) error {
	return &RefusedError{Kind: kind, What: what, hint: hint}
}

// isRefusal reports whether err is about one row, so that the transaction it
// happened in can go on without that row.
func isRefusal(err error) bool {
	var r *RefusedError
	return errors.As(err, &r)
}

// rowError turns an error of SQLite about the row named what into a
// [RefusedError], and leaves every other error alone.
func rowError(what string, err error) error {
	var e sqlite3.Error
	if !errors.As(err, &e) || (e.Code != sqlite3.ErrConstraint && e.Code != sqlite3.ErrMismatch && e.Code != sqlite3.ErrTooBig) {
		return err
	}
	// SQLite puts the name of the constraint or the text of the trigger into
	// its message, and ours are sentences.
	return &RefusedError{Kind: Refused, What: what, hint: strings.TrimPrefix(err.Error(), "CHECK constraint failed: "), Err: err}
}

// storeError gives an error of SQLite or of the file system its kind and its
// sentence. Errors that have both, and those of a context, pass unchanged.
func storeError(path string, err error) error {
	if err == nil || isRefusal(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var s *StoreError
	if errors.As(err, &s) {
		return err
	}
	kind := kindOf(err)
	return &StoreError{Kind: kind, Path: path, hint: sentence(kind, path), Err: err}
}

func kindOf(err error) Kind {
	var e sqlite3.Error
	var errno syscall.Errno
	if errors.As(err, &e) {
		switch e.Code {
		case sqlite3.ErrFull:
			return DiskFull
		case sqlite3.ErrBusy, sqlite3.ErrLocked:
			return Busy
		case sqlite3.ErrNotADB:
			return NotRecords
		case sqlite3.ErrCorrupt:
			return Damaged
		}
		errno = e.SystemErrno
		if errno == 0 {
			switch e.Code {
			case sqlite3.ErrReadonly, sqlite3.ErrPerm, sqlite3.ErrAuth:
				return ReadOnly
			}
			return Failed
		}
	} else if !errors.As(err, &errno) {
		return Failed
	}
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return DiskFull
	case syscall.EROFS, syscall.EACCES, syscall.EPERM:
		return ReadOnly
	case syscall.ENOENT, syscall.ENOTDIR:
		return NoSuchFile
	}
	return Failed
}

// sentence is what an operator reads: what is wrong, where, what to do.
func sentence(kind Kind, path string) string {
	switch kind {
	case Busy:
		return fmt.Sprintf("Another program keeps the records in %s locked; close it (a database browser or a backup, for instance) and try again.", path)
	case ReadOnly:
		return fmt.Sprintf("The records in %s cannot be written or read by this user; ask a technician to give the station's user access to the file and to its folder %s.", path, filepath.Dir(path))
	case DiskFull:
		return fmt.Sprintf("The disk that holds the records in %s is full, so nothing can be recorded; free some space, then start again.", path)
	case NoSuchFile:
		return fmt.Sprintf("There are no records at %s; check the path, and that the folder %s exists.", path, filepath.Dir(path))
	case NotRecords:
		return fmt.Sprintf("%s is not a file of records; check the path, and move the file away if it does not belong there.", path)
	case Damaged:
		return fmt.Sprintf("The records in %s are damaged; stop the station, keep a copy of the file, and restore the last backup.", path)
	case Closed:
		return fmt.Sprintf("The records in %s are closed, because the station is stopping; start it again.", path)
	}
	return fmt.Sprintf("The records in %s could not be used; call a technician, and do not flash until it is repaired.", path)
}
