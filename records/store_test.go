package records

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func kindExit(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ReadOnly):
		return 10
	}
	return 1
}

// child runs this test binary as runChild does.
func child(t *testing.T, what, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", path)
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	return cmd
}

// plain checks that an operator can read the sentence of err, and that it
// names what it is about.
func plain(t *testing.T, err error, kind Kind, names ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want one that is %q", err, kind)
	}
	var h interface{ Hint() string }
	if !errors.As(err, &h) {
		t.Fatalf("%v has no hint", err)
	}
	hint := h.Hint()
	for _, name := range names {
		if !strings.Contains(hint, name) {
			t.Errorf("hint %q does not name %q", hint, name)
		}
	}
	if strings.Contains(strings.ToLower(hint), "sqlite") || strings.Contains(hint, "\n") {
		t.Errorf("hint %q is not for an operator", hint)
	}
	if !strings.Contains(err.Error(), hint) {
		t.Errorf("error %q does not carry its hint", err)
	}
}

func TestOddPaths(t *testing.T) {
	for _, name := range []string{
		"plain.db", "with space.db", "what?.db", "a#b.db", "100%.db", "%41.db", "a%00b.db", "?mode=memory&x=y.db",
		":memory:", "file:x.db", "naïve-ü-記録.db", "a\\b.db", "a'b\";.db", "a&b=c+d.db", "\xff.db",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			s := openAt(t, path, Options{})
			if err := put(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			begin(t, s, newAttempt("SN1"))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(filepath.Dir(path))
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) != 2 || entries[0].Name() != name || entries[1].Name() != name+".lock" {
				t.Fatalf("folder holds %v, want %q and its lock only", entries, name)
			}
			r, err := OpenReadOnly(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if n := len(all(t, r, Filter{})); n != 1 {
				t.Errorf("%d records, want 1", n)
			}
		})
	}
}

func TestRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	s := openAt(t, "r.db", Options{})
	if want, _ := filepath.Abs("r.db"); s.Path() != want {
		t.Errorf("path %s, want %s", s.Path(), want)
	}
	if _, err := Open(t.Context(), "", Options{Station: "st1"}); err == nil {
		t.Error("an empty path was opened")
	}
	if _, err := Open(t.Context(), "x.db", Options{}); err == nil {
		t.Error("a station without a name was taken")
	}
}

func TestSecondWriterRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.db")
	s := openAt(t, path, Options{})
	link := filepath.Join(dir, "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, link} {
		_, err := Open(t.Context(), name, Options{Station: "st2"})
		plain(t, err, InUse, path, strconv.Itoa(os.Getpid()))
	}
	r, err := OpenReadOnly(t.Context(), path)
	if err != nil {
		t.Fatalf("a reader needs no lock: %v", err)
	}
	r.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, link, Options{Station: "st2"})
}

// A station that is killed between Begin and Finish leaves a running attempt,
// its lock is gone, and the next start declares the attempt interrupted.
func TestKilledStationIsInterrupted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	cmd := child(t, "begin-and-hang", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line := make([]byte, 36)
	n, err := io.ReadFull(out, line)
	if err != nil {
		t.Fatalf("child said %q, %v", line[:n], err)
	}
	_, err = Open(t.Context(), path, Options{Station: "st1"})
	plain(t, err, InUse, strconv.Itoa(cmd.Process.Pid))
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	id := string(line)

	s := openAt(t, path, Options{})
	if rec, err := s.Attempt(t.Context(), id); err != nil || rec.Outcome() != Running {
		t.Fatalf("before Interrupt: %s, %v", rec.Outcome(), err)
	}
	mine := begin(t, s, newAttempt("SN2"))
	left, err := s.Interrupt(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].ID != id || left[0].UnitSerial != "SN1" {
		t.Fatalf("interrupted %+v, want %s", left, id)
	}
	rec, err := s.Attempt(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if r := rec.Result; rec.Outcome() != Interrupted || r.Detail == "" || r.NextStep == "" || r.FailureCode == "" || r.Duration != 0 {
		t.Errorf("result %+v", r)
	}
	if rec, err := s.Attempt(t.Context(), mine.ID); err != nil || rec.Outcome() != Running {
		t.Errorf("the attempt of this start became %s, %v", rec.Outcome(), err)
	}
	if left, err := s.Interrupt(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("second Interrupt: %v, %v", left, err)
	}
	if next := begin(t, s, newAttempt("SN1")); next.AttemptNo != 2 || next.Seq != 3 {
		t.Errorf("attempt_no %d, seq %d after the interruption, want 2, 3", next.AttemptNo, next.Seq)
	}
}

// An attempt with several images is interrupted like any other.
func TestSeveralImagesInterrupted(t *testing.T) {
	s := openNew(t)
	a := begin(t, s, twoMore("SN1"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, s.Path(), Options{})
	left, err := s.Interrupt(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Attempt{a}, left); diff != "" {
		t.Errorf("interrupted (-want +got):\n%s", diff)
	}
	rec, err := s.Attempt(t.Context(), a.ID)
	if err != nil || rec.Outcome() != Interrupted || rec.Result.Further != nil {
		t.Errorf("%s, %+v, %v", rec.Outcome(), rec.Result, err)
	}
	plain(t, s.Finish(t.Context(), a.ID, passedTwoMore()), AlreadyFinished)
}

// 64 sites begin and finish at once, some of them with rows the database
// refuses: what was promised is there, without gaps, and nothing else.
func TestManySitesAtOnce(t *testing.T) {
	s := openNew(t)
	const sites, rounds = 64, 10
	var mu sync.Mutex
	want := map[string]Outcome{}
	var wg sync.WaitGroup
	for site := 1; site <= sites; site++ {
		wg.Go(func() {
			for round := range rounds {
				a := newAttempt(fmt.Sprintf("SN%d", site))
				a.Site = site
				if (site+round)%5 == 0 {
					a.Order = "no such order"
					if _, err := s.Begin(t.Context(), a); !errors.Is(err, Refused) {
						t.Errorf("an unknown order gave %v", err)
					}
					a.Order = testOrder.ID
				}
				a, err := s.Begin(t.Context(), a)
				if err != nil {
					t.Error(err)
					return
				}
				r := passed()
				switch (site + round) % 4 {
				case 0:
					r.DeviceHash = strings.Repeat("cd", 32)
					if err := s.Finish(t.Context(), a.ID, r); !errors.Is(err, Refused) {
						t.Errorf("a wrong hash gave %v", err)
					}
					r = failed()
				case 1:
					r.Steps[2].Name = "" // refused after rows were already written
					if err := s.Finish(t.Context(), a.ID, r); !errors.Is(err, Refused) {
						t.Errorf("a nameless step gave %v", err)
					}
					r = failed()
				}
				if err := s.Finish(t.Context(), a.ID, r); err != nil {
					t.Error(err)
				}
				mu.Lock()
				want[a.ID] = r.Outcome
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	r, err := OpenReadOnly(t.Context(), s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	recs := all(t, r, Filter{})
	if len(recs) != sites*rounds || len(want) != len(recs) {
		t.Fatalf("%d records, %d promised, want %d", len(recs), len(want), sites*rounds)
	}
	for i, rec := range recs {
		if rec.Seq != int64(i+1) {
			t.Fatalf("record %d has seq %d", i, rec.Seq)
		}
		if rec.Outcome() != want[rec.ID] {
			t.Errorf("record %s is %s, promised %s", rec.ID, rec.Outcome(), want[rec.ID])
		}
		if n := map[Outcome]int{Pass: 3, Fail: 2}[rec.Outcome()]; len(rec.Result.Steps) != n {
			t.Errorf("record %s has %d steps, want %d", rec.ID, len(rec.Result.Steps), n)
		}
	}
}

func TestCancelledCallLeavesNothing(t *testing.T) {
	s := openNew(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Begin(ctx, newAttempt("SN1")); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled before: %v", err)
	}

	// Cancelled while waiting for the writer: it is held up by another call.
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := s.writer.do(t.Context(), func(*sql.Tx) error {
			close(held)
			<-release
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-held
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(5*time.Millisecond, cancel)
	if _, err := s.Begin(ctx, newAttempt("SN1")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while waiting: %v", err)
	}
	close(release)
	wg.Wait()

	// Cancelled while it is being written: the answer must be what happened.
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		before := len(all(t, s.Reader, Filter{}))
		done := make(chan error)
		go func() {
			_, err := s.Begin(ctx, newAttempt("SN2"))
			done <- err
		}()
		time.AfterFunc(100*time.Microsecond, cancel)
		err := <-done
		if after := len(all(t, s.Reader, Filter{})); (after-before == 1) != (err == nil) {
			t.Fatalf("%d new records, but Begin returned %v", after-before, err)
		}
	}
	for i, rec := range all(t, s.Reader, Filter{}) {
		if rec.Seq != int64(i+1) || rec.UnitSerial == "SN1" {
			t.Errorf("record %d: seq %d, unit %s", i, rec.Seq, rec.UnitSerial)
		}
	}
}

func TestClosedStoreRefuses(t *testing.T) {
	s := openNew(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Begin(t.Context(), newAttempt("SN1"))
	plain(t, err, Closed, s.Path())
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// fill writes attempts until that fails, and returns how many were promised.
func fill(t *testing.T, s *Store) (promised int, err error) {
	t.Helper()
	for range 100_000 {
		if _, err = s.Begin(t.Context(), newAttempt("SN1")); err != nil {
			return promised, err
		}
		promised++
	}
	t.Fatal("the disk never filled up")
	return 0, nil
}

func checkNothingLost(t *testing.T, s *Store, promised int) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Logf("close on a full disk: %v", err)
	}
	r, err := OpenReadOnly(t.Context(), s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	recs := all(t, r, Filter{})
	if len(recs) != promised {
		t.Errorf("%d records, %d were promised", len(recs), promised)
	}
	var ok string
	if err := r.db.QueryRow("PRAGMA integrity_check").Scan(&ok); err != nil || ok != "ok" {
		t.Errorf("integrity %q, %v", ok, err)
	}
}

// The database may not grow any further: SQLite's own way to play a full disk.
func TestFullDatabase(t *testing.T) {
	s := openNew(t)
	if _, err := s.db.Exec("PRAGMA max_page_count = 100"); err != nil {
		t.Fatal(err)
	}
	promised, err := fill(t, s)
	plain(t, err, DiskFull, s.Path(), "full")

	// An image that does not fit must not take a neighbour in the same commit
	// with it, and room makes the store usable again without a restart.
	if _, err := s.db.Exec("PRAGMA max_page_count = 110"); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 1<<20)
	img := Image{FileSHA256: sum(big), Hash: testImage.Hash, Version: "9", Size: int64(len(big)), Name: "big.bin"}
	small := &job{done: make(chan struct{}), do: func(tx *sql.Tx) error {
		a := newAttempt("SN1")
		a.ID, a.Station, a.Host, a.BootID = "small", "st1", "pc1", "boot"
		return s.insertAttempt(tx, &a)
	}}
	large := &job{done: make(chan struct{}), do: func(tx *sql.Tx) error {
		if _, err := tx.Exec(`INSERT INTO images VALUES (?, ?, ?, ?, ?)`, img.FileSHA256, img.Hash, img.Version, img.Size, img.Name); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO image_bytes VALUES (?, ?)`, img.FileSHA256, big)
		return err
	}}
	if err := s.writer.do(t.Context(), func(*sql.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	s.writer.stop() // so that this test may take its place
	s.writer.flush([]*job{small, large})
	if small.err != nil {
		t.Errorf("the small record was lost to the image: %v", small.err)
	}
	plain(t, large.err, DiskFull, s.Path())
	checkNothingLost(t, s, promised+1)
}

// A disk that is really full, where the system lets the test have one.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("records", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a small disk here: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	s, err := Open(t.Context(), filepath.Join(dir, "r.db"), Options{Station: "st1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	promised, err := fill(t, s)
	plain(t, err, DiskFull, s.Path(), "full")
	checkNothingLost(t, s, promised)

	// A station that starts on a full disk is told the same.
	if f, err := os.Create(filepath.Join(dir, "ballast")); err == nil {
		f.Write(make([]byte, 2<<20))
		f.Close()
	}
	_, err = Open(t.Context(), filepath.Join(dir, "new.db"), Options{Station: "st1"})
	plain(t, err, DiskFull, "new.db", "full")
}

func TestNoPermission(t *testing.T) {
	archive, err := os.MkdirTemp("", "records-archive") // where another user can reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(archive, 0o755); os.RemoveAll(archive) })
	path := filepath.Join(archive, "r.db")
	s := openAt(t, path, Options{})
	if err := put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	finish(t, s, begin(t, s, newAttempt("SN1")).ID, passed())
	s.Close()
	run := func(t *testing.T, what string) (string, int) {
		cmd := child(t, what, path)
		out, err := cmd.Output()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Skipf("cannot run as another user here: %v", err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	for _, c := range []struct {
		name                   string
		lock, folder, database os.FileMode
	}{
		{"folder read-only", 0o444, 0o555, 0o444},
		{"database read-only", 0o666, 0o777, 0o444},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, mode := range map[string]os.FileMode{path + ".lock": c.lock, path: c.database, archive: c.folder} {
				if err := os.Chmod(name, mode); err != nil {
					t.Fatal(err)
				}
			}
			out, code := run(t, "nobody-open")
			if code != 10 || !strings.Contains(out, path) || !strings.Contains(out, "cannot be written") {
				t.Errorf("open said %q (exit %d)", out, code)
			}
			out, code = run(t, "nobody-read")
			if code != 0 || out != "SN1 PASS <nil>\n" {
				t.Errorf("reading said %q (exit %d)", out, code)
			}
		})
	}
}

func TestNotRecords(t *testing.T) {
	text := filepath.Join(t.TempDir(), "notes.db")
	if err := os.WriteFile(text, bytes.Repeat([]byte("not a database at all\n"), 100), 0o644); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "browser.db")
	if _, err := raw(t, foreign).Exec("CREATE TABLE bookmarks (url TEXT)"); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for _, path := range []string{text, foreign, folder} {
		before, _ := os.ReadFile(path)
		_, err := Open(t.Context(), path, Options{Station: "st1"})
		if path == folder {
			var s *StoreError
			if !errors.As(err, &s) {
				t.Errorf("a folder gave %v", err)
			}
		} else {
			plain(t, err, NotRecords, path)
		}
		_, err = OpenReadOnly(t.Context(), path)
		plain(t, err, NotRecords, path)
		if path == text {
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Errorf("%s was changed", path)
			}
		}
	}
	missing := filepath.Join(t.TempDir(), "none.db")
	_, err := OpenReadOnly(t.Context(), missing)
	plain(t, err, NoSuchFile, missing)
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("asking made a file: %v", err)
	}
	_, err = Open(t.Context(), filepath.Join(missing, "r.db"), Options{Station: "st1"})
	plain(t, err, NoSuchFile, "none.db")
}

func TestLockedByAnotherProgram(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "r.db"), Options{BusyTimeout: 20 * time.Millisecond})
	if err := put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	db := raw(t, s.Path())
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Begin(t.Context(), newAttempt("SN1"))
	plain(t, err, Busy, s.Path())
	if _, err := db.Exec("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if a := begin(t, s, newAttempt("SN1")); a.Seq != 1 {
		t.Errorf("seq %d after a failed Begin, want 1", a.Seq)
	}

	// The other way round: from its first moment a write of ours keeps others
	// out, so that what it reads is still true when it writes.
	other := raw(t, s.Path())
	other.SetMaxOpenConns(1)
	if _, err := other.Exec("PRAGMA busy_timeout = 0"); err != nil {
		t.Fatal(err)
	}
	err = s.writer.do(t.Context(), func(*sql.Tx) error {
		if _, err := other.Exec("BEGIN IMMEDIATE"); kindOf(err) != Busy {
			t.Errorf("another program began to write in the middle: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPragmas(t *testing.T) {
	s := openNew(t)
	if err := checkDurable(t.Context(), s.db); err != nil {
		t.Error(err)
	}
	if _, err := s.db.Exec("PRAGMA synchronous = NORMAL"); err != nil {
		t.Fatal(err)
	}
	if err := checkDurable(t.Context(), s.db); err == nil {
		t.Error("synchronous=NORMAL passed for durable")
	}
	for _, stmt := range []string{"INSERT INTO orders VALUES ('x', '', '', 1, '')", "CREATE TABLE t (x)", "PRAGMA user_version = 9"} {
		if _, err := s.Reader.db.Exec(stmt); err == nil {
			t.Errorf("the reader ran %s", stmt)
		}
	}
}
