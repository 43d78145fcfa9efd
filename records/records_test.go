package records

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// childEnv makes the test binary play a station that dies, or one that has no
// permission: what it names is run instead of the tests.
const childEnv = "RECORDS_TEST_CHILD"

func TestMain(m *testing.M) {
	if child := os.Getenv(childEnv); child != "" {
		os.Exit(runChild(child, os.Args[len(os.Args)-1]))
	}
	os.Exit(m.Run())
}

func runChild(what, path string) int {
	ctx := context.Background()
	if strings.HasPrefix(what, "nobody-") && os.Getuid() == 0 {
		// Root may write everything; the test is about who may not.
		if err := syscall.Setgid(65534); err != nil {
			fmt.Println(err)
			return 1
		}
		if err := syscall.Setuid(65534); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	switch what {
	case "begin-and-hang":
		s, err := Open(ctx, path, Options{Station: "st1"})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		put(ctx, s)
		a, err := s.Begin(ctx, newAttempt("SN1"))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(a.ID)
		select {} // until SIGKILL
	case "nobody-open":
		s, err := Open(ctx, path, Options{Station: "st1"})
		if err == nil {
			s.Close()
		}
		fmt.Println(err)
		return kindExit(err)
	case "nobody-read":
		r, err := OpenReadOnly(ctx, path)
		if err != nil {
			fmt.Println(err)
			return kindExit(err)
		}
		defer r.Close()
		for rec, err := range r.Attempts(ctx, Filter{}) {
			fmt.Println(rec.UnitSerial, rec.Outcome(), err)
		}
		return 0
	}
	return 1
}

var (
	testBytes = []byte("an image of twenty-two")
	testImage = Image{
		FileSHA256: sum(testBytes), Hash: strings.Repeat("ab", 32), Version: "1.2.3+4", Size: int64(len(testBytes)), Name: "app.bin",
	}
	testRecipe = Recipe{Product: "lamp", Revision: "C", Text: "steps = []\n", SHA256: sum([]byte("steps = []\n"))}
	testOrder  = Order{ID: "WO-7", Product: "lamp", RecipeRevision: "C", Quantity: 100}
)

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func put(ctx context.Context, s *Store) error {
	if err := s.PutOrder(ctx, testOrder); err != nil {
		return err
	}
	if err := s.PutRecipe(ctx, testRecipe); err != nil {
		return err
	}
	return s.PutImage(ctx, testImage, testBytes)
}

func newAttempt(serial string) Attempt {
	return Attempt{
		Fixture: "fx1", Site: 3, CycleID: "c-1", Order: testOrder.ID, UnitSerial: serial, SerialSource: SerialScan,
		Operator: "op7", CycleTry: 1, Purpose: Production,
		RecipeSHA256: testRecipe.SHA256, Product: testRecipe.Product, RecipeRevision: testRecipe.Revision,
		ImageName: testImage.Name, ImageVersion: testImage.Version, ImageFileSHA256: testImage.FileSHA256,
		ImageHash: testImage.Hash, ImageSize: testImage.Size,
		SoftwareVersion: "v1.0.0", ConfigSHA256: strings.Repeat("c", 64), Port: "usb-1.3", Baud: 1000000,
	}
}

func passed() Result {
	return Result{
		Outcome: Pass, DeviceHash: testImage.Hash, DeviceVersion: testImage.Version, Target: Bootloader,
		ChunkSize: 400, MessageSize: 512, BytesSent: 22, Retries: 1, UploadMode: "overlapped", UploadRewinds: 2, UploadRate: 6512, Duration: 41500 * time.Millisecond,
		Steps: []Step{
			{Name: "enter recovery", Duration: 300 * time.Millisecond, Outcome: Pass},
			{Name: "upload", Start: 300 * time.Millisecond, Duration: 40 * time.Second, Outcome: Pass, Retries: 1, Bytes: 22},
			{Name: "verify", Start: 40300 * time.Millisecond, Duration: 1200 * time.Millisecond, Outcome: Pass, Detail: "hash \"ab…\" <as asked>"},
		},
	}
}

// twoMore is newAttempt with two further images, one of them from the same file.
func twoMore(serial string) Attempt {
	a := newAttempt(serial)
	a.Further = []FurtherImage{
		{Number: 1, Name: "net.bin", Version: "0.9.1+0", FileSHA256: testImage.FileSHA256, Hash: testImage.Hash, Size: 22},
		{Number: 2, Name: "radio.bin", Version: "3.0.0+0", Hash: strings.Repeat("cd", 48), Size: 4096},
	}
	return a
}

// passedTwoMore is the result of twoMore with every image proven.
func passedTwoMore() Result {
	r := passed()
	r.Further = []FurtherResult{
		{Number: 1, DeviceHash: testImage.Hash, DeviceVersion: "0.9.1+0", PrevHash: strings.Repeat("01", 32)},
		{Number: 2, DeviceHash: strings.Repeat("cd", 48), DeviceVersion: "3.0.0+0"},
	}
	r.Policy, r.PolicyRow, r.PolicyWhy = "secondary-confirm", "5", "The recipe wants slot 1, and the bootloader takes uploads for it."
	r.Proof = "After the start the bootloader listed every hash in slot 0."
	return r
}

func failed() Result {
	return Result{
		Outcome: Fail, FailureCode: "NO_ANSWER", FailedStep: "enter recovery",
		Detail: "The board did not answer.", NextStep: "Reseat the board and start again.", Duration: time.Second,
		Steps: []Step{{Name: "enter recovery", Duration: time.Second, Outcome: Fail}, {Name: "upload", Outcome: Skipped}},
	}
}

// openAt opens a store that is closed at the end of the test.
func openAt(t testing.TB, path string, opts Options) *Store {
	t.Helper()
	if opts.Station == "" {
		opts.Station = "st1"
	}
	s, err := Open(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// openNew opens a new store with an order, a recipe and an image on file.
func openNew(t testing.TB) *Store {
	t.Helper()
	s := openAt(t, filepath.Join(t.TempDir(), "records.db"), Options{Host: "pc1"})
	if err := put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

func begin(t testing.TB, s *Store, a Attempt) Attempt {
	t.Helper()
	a, err := s.Begin(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func finish(t testing.TB, s *Store, id string, r Result) {
	t.Helper()
	if err := s.Finish(t.Context(), id, r); err != nil {
		t.Fatal(err)
	}
}

func all(t testing.TB, r *Reader, f Filter) []Record {
	t.Helper()
	var recs []Record
	for rec, err := range r.Attempts(t.Context(), f) {
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	return recs
}

// raw opens the file as another program would: no rules of ours but those in
// the database, and not even foreign keys.
func raw(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", dsn(path, 5*time.Second, map[string][]string{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestRecordComesBackWhole(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 89_999_999, time.FixedZone("CET", 3600))
	s := openAt(t, filepath.Join(t.TempDir(), "r.db"), Options{Station: "st9", Host: "pc9", BootID: "boot9", Now: func() time.Time { return now }})
	if err := put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	want := twoMore("SN1")
	slices.Reverse(want.Further)
	got := begin(t, s, want)
	if got.ID == "" {
		t.Fatal("no ID")
	}
	want.ID, want.Seq, want.Station, want.Host, want.BootID, want.AttemptNo = got.ID, 1, "st9", "pc9", "boot9", 1
	want.StartedAt = time.Date(2026, 3, 4, 4, 6, 7, 89_000_000, time.UTC)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Begin (-want +got):\n%s", diff)
	}

	slices.Reverse(want.Further) // in the order of the numbers
	rec, err := s.Attempt(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Record{Attempt: want}, rec); diff != "" {
		t.Errorf("while running (-want +got):\n%s", diff)
	}
	if rec.Outcome() != Running {
		t.Errorf("outcome %s, want RUNNING", rec.Outcome())
	}

	result := passedTwoMore()
	slices.Reverse(result.Further)
	finish(t, s, got.ID, result)
	slices.Reverse(result.Further)
	result.EndedAt = want.StartedAt
	if rec, err = s.Attempt(t.Context(), got.ID); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Record{Attempt: want, Result: &result}, rec); diff != "" {
		t.Errorf("when finished (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Record{rec}, all(t, s.Reader, Filter{})); diff != "" {
		t.Errorf("among all (-one +all):\n%s", diff)
	}
}

// A result says what was reported, and a report may be missing where the
// attempt did not get that far.
func TestPartOfTheImagesReported(t *testing.T) {
	s := openNew(t)
	a := begin(t, s, twoMore("SN1"))
	want := failed()
	want.Further = []FurtherResult{{Number: 2, PrevHash: strings.Repeat("cd", 48)}}
	finish(t, s, a.ID, want)
	rec, err := s.Attempt(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Further, rec.Result.Further); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAttemptsAreCounted(t *testing.T) {
	s := openNew(t)
	other := Order{ID: "WO-8", Product: "lamp", RecipeRevision: "C", Quantity: 1}
	if err := s.PutOrder(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		serial  string
		order   string
		purpose Purpose
		want    int
	}{
		{"A", testOrder.ID, Production, 1},
		{"A", testOrder.ID, Production, 2},
		{"B", testOrder.ID, Production, 1},
		{"A", other.ID, Production, 1},
		{"A", testOrder.ID, Golden, 1},
		{"A", testOrder.ID, Debug, 1},
		{"A", testOrder.ID, Production, 3},
		{"A", "", Debug, 1},
		{"A", "", Debug, 2},
		{"", testOrder.ID, Production, 1},
		{"", testOrder.ID, Production, 1},
	} {
		a := newAttempt(c.serial)
		a.Order, a.Purpose = c.order, c.purpose
		if a = begin(t, s, a); a.AttemptNo != c.want || a.Seq != int64(i+1) {
			t.Errorf("%d: attempt_no %d, seq %d, want %d, %d", i, a.AttemptNo, a.Seq, c.want, i+1)
		}
	}
}
