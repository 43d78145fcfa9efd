package records

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// sample are records as they may come out of a store: one of each kind, with
// text nobody asked for.
func sample() []Record {
	at := time.Date(2026, 11, 22, 8, 0, 0, 0, time.FixedZone("CET", 3600))
	one := func(seq int64, serial string, r *Result) Record {
		a := newAttempt(serial)
		a.ID = "01934f9c-5a00-7000-8000-00000000000" + string('0'+rune(seq))
		a.Seq, a.Station, a.Host, a.BootID, a.AttemptNo = seq, "st1", "pc1", "boot-1", 1
		a.StartedAt = at.Add(time.Duration(seq) * time.Minute)
		if r != nil {
			r.EndedAt = a.StartedAt.Add(r.Duration)
		}
		return Record{Attempt: a, Result: r}
	}
	pass, fail := passed(), failed()
	two, half := passedTwoMore(), failed()
	half.Further = two.Further[:1:1]
	several := []Record{one(6, "SN6", &two), one(7, "SN7", &half), one(8, "SN8", nil)}
	for i := range several {
		several[i].Further = twoMore("").Further
	}
	several[1].Further[1].Name, several[2].Further[1].Version = "radio | \"=1\" \x1b[2J.bin", "-"
	pass.PrevHash = strings.Repeat("01", 32)
	gone := Result{Outcome: Interrupted, FailureCode: FailureStationStopped, Detail: "The station stopped.", NextStep: "Flash the unit again."}
	odd := one(4, "=HYPERLINK(\"http://x\")", nil)
	odd.Operator, odd.Port, odd.Purpose, odd.Order = "-1+1", "+\x1b[31m", Debug, ""
	unknown := one(5, "", &gone)
	unknown.SerialSource = ""
	return append([]Record{one(1, "SN0000001", &pass), one(2, "SN2", &fail), one(3, "SN3, \"the third\"\x1b[2J", nil), odd, unknown}, several...)
}

func seq(recs []Record, err error) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, rec := range recs {
			if !yield(rec, nil) {
				return
			}
		}
		if err != nil {
			yield(Record{}, err)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not\n%s\nbut\n%s", name, want, got)
	}
}

func TestExportGoldens(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(io.Writer, iter.Seq2[Record, error]) error
	}{
		{"records.txt", WriteTable}, {"records.json", WriteJSON}, {"records.csv", WriteCSV},
		{"attempts.txt", func(w io.Writer, recs iter.Seq2[Record, error]) error {
			for rec := range recs {
				if err := WriteAttempt(w, rec); err != nil {
					return err
				}
				io.WriteString(w, strings.Repeat("=", 72)+"\n")
			}
			return nil
		}},
	} {
		var b bytes.Buffer
		if err := c.write(&b, seq(sample(), nil)); err != nil {
			t.Fatal(err)
		}
		golden(t, c.name, b.Bytes())
	}
}

func TestExportOfNothing(t *testing.T) {
	for want, write := range map[string]func(io.Writer, iter.Seq2[Record, error]) error{
		"[]\n": WriteJSON, "No attempts match.\n": WriteTable, strings.Join(csvColumns(), ",") + "\n": WriteCSV,
	} {
		var b strings.Builder
		if err := write(&b, seq(nil, nil)); err != nil || b.String() != want {
			t.Errorf("%q, %v, want %q", b.String(), err, want)
		}
	}
}

// An export that breaks off says so and cannot be taken for a whole one.
func TestExportBreaksOff(t *testing.T) {
	broken := errors.New("the disk is gone")
	for name, write := range map[string]func(io.Writer, iter.Seq2[Record, error]) error{
		"json": WriteJSON, "table": WriteTable, "csv": WriteCSV,
	} {
		for _, recs := range [][]Record{nil, sample()} {
			var b bytes.Buffer
			if err := write(&b, seq(recs, broken)); !errors.Is(err, broken) {
				t.Errorf("%s: %v, want the error of the records", name, err)
			}
			if name == "json" && json.Valid(b.Bytes()) {
				t.Errorf("half an export is valid: %s", b.Bytes())
			}
		}
		if err := write(failingWriter{}, seq(sample(), nil)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: %v, want the error of the writer", name, err)
		}
	}
	if err := WriteAttempt(failingWriter{}, sample()[0]); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("one attempt: %v, want the error of the writer", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// The CSV has the columns of the JSON, in its order, with the same values.
func TestCSVMatchesJSON(t *testing.T) {
	names := []string{"schema_version"}
	kind := reflect.TypeFor[exported]()
	for i := range kind.NumField() {
		if name := kind.Field(i).Tag.Get("json"); name != "steps" {
			names = append(names, name)
		}
	}
	if !slices.Equal(names, csvColumns()) {
		t.Fatalf("CSV has %v\nJSON has %v", csvColumns(), names)
	}
	var b, j bytes.Buffer
	if err := WriteCSV(&b, seq(sample(), nil)); err != nil {
		t.Fatal(err)
	}
	if err := WriteJSON(&j, seq(sample(), nil)); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(&j)
	dec.UseNumber()
	var objects []map[string]any
	if err := dec.Decode(&objects); err != nil {
		t.Fatal(err)
	}
	for i, o := range objects {
		o["schema_version"] = json.Number(strconv.Itoa(CSVSchemaVersion))
		for k, name := range names {
			var want string
			switch v := o[name].(type) {
			case nil:
			case string:
				want = v
			case json.Number:
				want = v.String()
			case []any: // further_images: its six words against the keys
				images := readImages(t, rows[i+1][k])
				if len(images) != len(v) {
					t.Errorf("row %d has %d further images in CSV and %d in JSON", i, len(images), len(v))
					continue
				}
				for k, img := range v {
					for j, key := range []string{"number", "name", "version", "hash", "device_hash", "device_version"} {
						if want := fmt.Sprint(img.(map[string]any)[key]); images[k][j] != want {
							t.Errorf("row %d, %s of further image %d is %q in CSV and %q in JSON", i, key, k, images[k][j], want)
						}
					}
				}
				continue
			}
			if got := strings.TrimPrefix(rows[i+1][k], "'"); got != want {
				t.Errorf("row %d, %s is %q in CSV and %q in JSON", i, name, got, want)
			}
		}
	}
}

// readImages reads the column further_images by what WriteCSV says of it.
func readImages(t *testing.T, cell string) (images [][]string) {
	t.Helper()
	for first := true; cell != ""; first = false {
		if !first {
			cell = strings.TrimPrefix(cell, " | ")
		}
		number, rest, ok := strings.Cut(cell, ": ")
		if !ok {
			t.Fatalf("%q has no number", cell)
		}
		cell = rest
		words := []string{number}
		for _, before := range []string{"", " ", " hash ", " device ", " "} {
			if cell, ok = strings.CutPrefix(cell, before); !ok {
				t.Fatalf("%q does not go on with %q", cell, before)
			}
			var value string
			if strings.HasPrefix(cell, `"`) {
				dec := json.NewDecoder(strings.NewReader(cell))
				if err := dec.Decode(&value); err != nil {
					t.Fatalf("%q: %v", cell, err)
				}
				cell = cell[dec.InputOffset():]
			} else {
				n := strings.IndexByte(cell+" ", ' ')
				if value, cell = cell[:n], cell[n:]; value == "-" {
					value = ""
				}
			}
			words = append(words, value)
		}
		images = append(images, words)
	}
	return images
}

// Whatever a file is called, its name comes back out of the column, and with
// it everything after.
func FuzzImagesCell(f *testing.F) {
	for _, s := range []string{"", "-", "net.bin", "a b", `a"b`, " | 2: x", "-1", "=1", "<ü>", "\n", `\`, "\u2028"} {
		f.Add(s, "1.0.0")
	}
	f.Fuzz(func(t *testing.T, name, version string) {
		if !utf8.ValidString(name) || !utf8.ValidString(version) {
			t.Skip("JSON has no text for it")
		}
		one := exportedImage{Number: 1, Name: name, Version: version, Hash: "ab", DeviceHash: "cd", DeviceVersion: name}
		two := exportedImage{Number: 2, Name: "last", Hash: "ef"}
		want := [][]string{{"1", name, version, "ab", "cd", name}, {"2", "last", "", "ef", "", ""}}
		if got := readImages(t, imagesCell([]exportedImage{one, two})); !slices.EqualFunc(got, want, slices.Equal[[]string]) {
			t.Errorf("%q became %q", want, got)
		}
	})
}

// The keys other programs were promised.
func TestJSONKeys(t *testing.T) {
	var b bytes.Buffer
	if err := WriteJSON(&b, seq(sample(), nil)); err != nil {
		t.Fatal(err)
	}
	var objects []map[string]json.RawMessage
	if err := json.Unmarshal(b.Bytes(), &objects); err != nil {
		t.Fatal(err)
	}
	for i, o := range objects {
		for _, key := range strings.Fields("attempt_id seq order unit_serial site outcome failure_code attempt_no image_hash device_hash image_version started_at duration_ms policy policy_row policy_why proof upload_mode upload_rewinds upload_bytes_per_s steps") {
			if _, ok := o[key]; !ok {
				t.Errorf("record %d has no %s", i, key)
			}
		}
		var steps []map[string]json.RawMessage
		if err := json.Unmarshal(o["steps"], &steps); err != nil || steps == nil {
			t.Errorf("record %d: steps %s, %v", i, o["steps"], err)
		}
		var images []map[string]json.RawMessage
		if err := json.Unmarshal(o["further_images"], &images); err != nil || images == nil {
			t.Errorf("record %d: further_images %s, %v", i, o["further_images"], err)
		}
		for _, img := range images {
			for _, key := range strings.Fields("number name version file_sha256 hash size device_hash device_version prev_hash") {
				if _, ok := img[key]; !ok {
					t.Errorf("a further image of record %d has no %s", i, key)
				}
			}
		}
		for _, step := range steps {
			for _, key := range []string{"name", "outcome", "duration_ms"} {
				if _, ok := step[key]; !ok {
					t.Errorf("a step of record %d has no %s", i, key)
				}
			}
		}
	}
}

func TestTableStaysInLineAndInMemory(t *testing.T) {
	rec := sample()[0]
	var lines int
	w := lineCounter{&lines}
	const n = 5000
	err := WriteTable(w, func(yield func(Record, error) bool) {
		for i := range n {
			if i == n-1 && lines < n*9/10 {
				t.Errorf("only %d lines written before the last record", lines)
			}
			if !yield(rec, nil) {
				return
			}
		}
	})
	if err != nil || lines != n+1 {
		t.Errorf("%d lines, %v, want %d", lines, err, n+1)
	}
}

type lineCounter struct{ n *int }

func (c lineCounter) Write(p []byte) (int, error) {
	*c.n += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

// No cell begins a formula, and the original comes back by taking one leading
// apostrophe away.
func FuzzGuard(f *testing.F) {
	for _, s := range []string{"", "SN1", "=1+1", "+1", "-1", "@SUM(A1)", "'", "''=1", "\t=1", "＝1", "＋1", "－1", "＠x", "\xff", " =1", "a=b", "\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g := guard(s)
		if strings.TrimPrefix(g, "'") != s {
			t.Errorf("%q became %q", s, g)
		}
		if first, _ := utf8.DecodeRuneInString(g); strings.ContainsRune("=+-@＝＋－＠\t\r\n", first) {
			t.Errorf("%q begins a formula", g)
		}
	})
}

func FuzzParseSteps(f *testing.F) {
	f.Add(`[]`)
	f.Add(`[{"Name":"upload","StartMS":0,"TookMS":12,"Outcome":"PASS","Retries":1,"Bytes":2,"Detail":"x"}]`)
	f.Add(`[{"Name":1}]`)
	f.Add(`[{"StartMS":1e99},null,[]]`)
	f.Fuzz(func(t *testing.T, text string) {
		steps, err := parseSteps(text)
		if err != nil && steps != nil {
			t.Errorf("%q gave steps and %v", text, err)
		}
	})
}

// Whatever a path contains, the URI made of it is one path for SQLite, and the
// options after it stay options.
func FuzzDSN(f *testing.F) {
	for _, s := range []string{"/a/b.db", "/a?mode=memory", "/a#b", "/100%", "/a%41", "//x/y", "/\xff", "/a b&c=d", "/file::memory:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if !strings.HasPrefix(path, "/") {
			t.Skip("paths are made absolute before")
		}
		text, ok := strings.CutPrefix(dsn(path, time.Second, map[string][]string{}), "file://")
		if !ok {
			t.Fatalf("%q", text)
		}
		file, query, _ := strings.Cut(text, "?")
		if query != "_busy_timeout=1000" {
			t.Errorf("options %q", query)
		}
		if strings.ContainsAny(file, "#") || sqliteUnescape(file) != path {
			t.Errorf("%q became %q", path, file)
		}
	})
}

// sqliteUnescape reads %HH as https://www.sqlite.org/uri.html says.
func sqliteUnescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hex := func(c byte) byte { return byte(strings.IndexByte("0123456789ABCDEF", c)) }
			b.WriteByte(hex(s[i+1])<<4 | hex(s[i+2]))
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
