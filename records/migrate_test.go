package records

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// dumpRows writes every row of every table, in order.
func dumpRows(t testing.TB, db *sql.DB) string {
	t.Helper()
	var b strings.Builder
	var tables []string
	names, err := db.Query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
	if err != nil {
		t.Fatal(err)
	}
	for names.Next() {
		var name string
		if err := names.Scan(&name); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, name)
	}
	if err := names.Err(); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		rows, err := db.Query("SELECT * FROM " + table + " ORDER BY 1, 2")
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			cells := make([]any, len(columns))
			for i := range cells {
				cells[i] = new(any)
			}
			if err := rows.Scan(cells...); err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(&b, table)
			for i, c := range cells {
				fmt.Fprintf(&b, " %s=%q", columns[i], fmt.Sprint(*c.(*any)))
			}
			b.WriteString("\n")
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// loadDump makes a database from the dump of a released version.
func loadDump(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "old.db")
	db := raw(t, path)
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(string(text)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// What versions 2 and 3 show that is new of a result of the version before.
const (
	newIn2 = ` policy="" policy_row="" policy_why="" proof=""`
	newIn3 = ` upload_mode="" upload_rewinds="0" upload_bytes_per_s="0"`
)

// The columns of the view records in version 1: queries of others rely on their order.
const viewOfV1 = "n attempt_id station seq host boot_id fixture site cycle_id order_id unit_serial serial_source operator " +
	"attempt_no cycle_try purpose recipe_sha256 product recipe_revision image_name image_version image_file_sha256 " +
	"image_hash image_size software_version config_sha256 port baud started_at outcome finish_no failure_code failed_step " +
	"detail next_step device_hash device_version prev_hash target chunk_size message_size bytes_sent retries ended_at duration_ms"

// testdata/v1.sql and v2.sql are databases as those versions left them, with the
// schema as it was then. They are never made anew: files like them lie in factories.
func TestOldDatabaseOpens(t *testing.T) {
	for file, added := range map[string]string{"v1.sql": newIn2 + newIn3, "v2.sql": newIn3} {
		t.Run(file, func(t *testing.T) { oldDatabaseOpens(t, file, added) })
	}
}

func oldDatabaseOpens(t *testing.T, file, added string) {
	path := loadDump(t, filepath.Join("testdata", file))
	_, err := OpenReadOnly(t.Context(), path)
	plain(t, err, Older, path)
	before := dumpRows(t, raw(t, path))

	s := openAt(t, path, Options{})
	var outcomes []string
	for _, rec := range all(t, s.Reader, Filter{}) {
		outcomes = append(outcomes, fmt.Sprintf("%d %s %s", rec.Seq, rec.UnitSerial, rec.Outcome()))
		several := file == "v2.sql" && rec.Seq == 2
		if several != (len(rec.Further) == 2) {
			t.Errorf("record %d has further images %v", rec.Seq, rec.Further)
		}
		if r := rec.Result; r != nil && (len(r.Further) != len(rec.Further) || several != (r.Policy+r.PolicyRow+r.PolicyWhy+r.Proof != "") ||
			r.UploadMode != "" || r.UploadRewinds != 0 || r.UploadRate != 0) {
			t.Errorf("record %d knows what its version did not: %+v", rec.Seq, r)
		}
	}
	if got, want := strings.Join(outcomes, ", "), "1 SN1 FAIL, 2 SN1 PASS, 3 SN2 RUNNING"; got != want {
		t.Errorf("records %s, want %s", got, want)
	}
	// The newer columns are there, empty, and nothing else is different.
	after := dumpRows(t, raw(t, path))
	if !strings.Contains(after, added) || strings.ReplaceAll(after, added, "") != before {
		t.Errorf("rows changed:\n%s\nwere:\n%s", after, before)
	}
	rows, err := s.db.Query("SELECT * FROM records")
	if err != nil {
		t.Fatal(err)
	}
	columns, err := rows.Columns()
	rows.Close()
	if got, want := strings.Join(columns, " "), viewOfV1+" policy policy_row policy_why proof upload_mode upload_rewinds upload_bytes_per_s"; err != nil || got != want {
		t.Errorf("the view has the columns\n%s, %v, want\n%s", got, err, want)
	}

	if left, err := s.Interrupt(t.Context()); err != nil || len(left) != 1 || left[0].UnitSerial != "SN2" {
		t.Errorf("interrupted %v, %v", left, err)
	}
	if err := put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if a := begin(t, s, newAttempt("SN1")); a.Seq != 4 || a.AttemptNo != 3 {
		t.Errorf("the next attempt has seq %d and attempt_no %d, want 4 and 3", a.Seq, a.AttemptNo)
	}

	var ok string
	if err := s.db.QueryRow("PRAGMA integrity_check").Scan(&ok); err != nil || ok != "ok" {
		t.Errorf("integrity %q, %v", ok, err)
	}
	var violations int
	if err := s.db.QueryRow("SELECT count(*) FROM pragma_foreign_key_check").Scan(&violations); err != nil || violations != 0 {
		t.Errorf("%d broken references, %v", violations, err)
	}
}

// A fresh database and an old one brought up to date have the same schema.
func TestSchemaIsTheSameEitherWay(t *testing.T) {
	schema := func(path string) string {
		s := openAt(t, path, Options{})
		rows, err := s.db.Query("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var b strings.Builder
		for rows.Next() {
			var kind, name, text string
			if err := rows.Scan(&kind, &name, &text); err != nil {
				t.Fatal(err)
			}
			b.WriteString(text + "\n")
		}
		return b.String()
	}
	fresh := schema(filepath.Join(t.TempDir(), "r.db"))
	for _, file := range []string{"testdata/v1.sql", "testdata/v2.sql"} {
		if old := schema(loadDump(t, file)); fresh != old {
			t.Errorf("a fresh database has\n%s\none of %s has\n%s", fresh, file, old)
		}
	}
}

func TestMigrateGoesOnWhereItWas(t *testing.T) {
	path := loadDump(t, "testdata/v1.sql")
	db, err := sql.Open("sqlite3", writerDSN(path, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	first, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	base := len(first)
	good := "CREATE TABLE lamps (colour TEXT) STRICT; INSERT INTO lamps VALUES ('green');"
	bad := "CREATE TABLE lids (open INTEGER) STRICT; INSERT INTO nowhere VALUES (1);"

	if err := migrate(t.Context(), db, path, append(first[:base:base], good, bad)); err == nil {
		t.Fatal("a migration that cannot work worked")
	}
	version, err := checkVersion(t.Context(), db, path, base+2)
	if err != nil || version != base+1 {
		t.Fatalf("version %d, %v, want %d: the good step kept, the bad one undone", version, err, base+1)
	}
	var n int
	if err := db.QueryRow("SELECT count(*) FROM sqlite_schema WHERE name = 'lids'").Scan(&n); err != nil || n != 0 {
		t.Errorf("half a migration was kept: %d, %v", n, err)
	}
	if err := migrate(t.Context(), db, path, append(first[:base:base], good, "CREATE TABLE lids (open INTEGER) STRICT")); err != nil {
		t.Errorf("going on: %v", err)
	}
	if err := db.QueryRow("SELECT count(*) FROM lamps").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d lamps, %v, want 1: the good step must not run twice", n, err)
	}
}

func TestNewerDatabaseRefused(t *testing.T) {
	path := loadDump(t, "testdata/v1.sql")
	if _, err := raw(t, path).Exec("PRAGMA user_version = 999"); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), path, Options{Station: "st1"})
	plain(t, err, Newer, path, "999")
	_, err = OpenReadOnly(t.Context(), path)
	plain(t, err, Newer, path, "999")
}

func TestUnmigratedDatabaseNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "empty.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := OpenReadOnly(t.Context(), path)
	plain(t, err, Older, path)
	openAt(t, path, Options{}) // the station makes it a file of records
	r, err := OpenReadOnly(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

func TestMigrationsAreNumbered(t *testing.T) {
	for _, names := range [][]string{
		{"0002_b.sql"}, {"0001_a.sql", "0003_c.sql"}, {"0001_a.sql", "0001_b.sql"}, {"1_a.sql"}, {"0001.sql"},
	} {
		files := fstest.MapFS{}
		for _, name := range names {
			files["migrations/"+name] = &fstest.MapFile{}
		}
		if _, err := migrations(files); err == nil {
			t.Errorf("%v passed for numbered", names)
		}
	}
}
