package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The filters against a model: the same choice made in Go over all records.
func TestFilters(t *testing.T) {
	// The clock is set back two hours in the middle.
	start := time.Date(2026, 1, 1, 6, 0, 0, 0, time.UTC)
	now := start
	s := openAt(t, filepath.Join(t.TempDir(), "r.db"), Options{Now: func() time.Time { return now }})
	if err := put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := s.PutOrder(t.Context(), Order{ID: "WO-8", Product: "lamp", RecipeRevision: "C", Quantity: 1}); err != nil {
		t.Fatal(err)
	}
	const n = 60
	for i := range n {
		now = now.Add(10 * time.Minute)
		if i == n/2 {
			now = now.Add(-2 * time.Hour)
		}
		a := newAttempt(fmt.Sprintf("SN%d", i%7))
		a.Site = 1 + i%4
		if i%3 == 0 {
			a.Order = "WO-8"
		}
		if i%11 == 0 {
			a.ImageFileSHA256, a.ImageHash = "", strings.Repeat("e", 64)
		}
		for number := range i % 5 { // from 3 on with one hash twice
			hash := strings.Repeat([]string{"e", "d"}[(i+number/2)%2], 64)
			a.Further = append(a.Further, FurtherImage{Number: number + 1, Hash: hash})
		}
		a = begin(t, s, a)
		r := passed()
		r.DeviceHash = a.ImageHash
		for _, img := range a.Further {
			r.Further = append(r.Further, FurtherResult{Number: img.Number, DeviceHash: img.Hash})
		}
		switch i % 6 {
		case 1:
			continue // running
		case 2:
			r = failed()
		case 3:
			r = failed()
			r.Outcome = Aborted
		}
		finish(t, s, a.ID, r)
	}
	whole := all(t, s.Reader, Filter{})
	if len(whole) != n {
		t.Fatalf("%d records, want %d", len(whole), n)
	}

	orders, serials, images := []string{"", "WO-7", "WO-8", "WO-0"}, []string{"", "SN0", "SN5"}, []string{"", strings.Repeat("e", 64), strings.Repeat("d", 64)}
	outcomes := []Outcome{"", Pass, Fail, Aborted, Running, Interrupted}
	times := []time.Time{{}, start.Add(3 * time.Hour), start.Add(4*time.Hour + time.Nanosecond), start.Add(99 * time.Hour)}
	checked := 0
	for _, order := range orders {
		for _, serial := range serials {
			for _, image := range images {
				for _, outcome := range outcomes {
					for _, since := range times {
						for _, until := range times {
							for _, limit := range []int{0, 3} {
								checked++
								f := Filter{
									Order: order, Serial: serial, ImageHash: image, Outcome: outcome, Site: checked % 5,
									Since: since, Until: until, Limit: limit, Newest: checked%3 == 0,
								}
								checkFilter(t, s, whole, f)
							}
						}
					}
				}
			}
		}
	}
}

func checkFilter(t *testing.T, s *Store, whole []Record, f Filter) {
	t.Helper()
	want := []int64{}
	for _, rec := range whole {
		if (f.Order == "" || rec.Order == f.Order) && (f.Serial == "" || rec.UnitSerial == f.Serial) &&
			(f.ImageHash == "" || rec.ImageHash == f.ImageHash || slices.ContainsFunc(rec.Further, func(img FurtherImage) bool { return img.Hash == f.ImageHash })) && (f.Outcome == "" || rec.Outcome() == f.Outcome) &&
			(f.Site == 0 || rec.Site == f.Site) && (f.Since.IsZero() || !rec.StartedAt.Before(f.Since)) &&
			(f.Until.IsZero() || rec.StartedAt.Before(f.Until)) {
			want = append(want, rec.Seq)
		}
	}
	if f.Newest {
		for i, j := 0, len(want)-1; i < j; i, j = i+1, j-1 {
			want[i], want[j] = want[j], want[i]
		}
	}
	if f.Limit > 0 && len(want) > f.Limit {
		want = want[:f.Limit]
	}
	got := []int64{}
	for _, rec := range all(t, s.Reader, f) {
		got = append(got, rec.Seq)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%+v (-want +got):\n%s", f, diff)
	}
}

// More records than a page, read to the end, in part, and with a limit at the
// edge of a page.
func TestPages(t *testing.T) {
	s := openNew(t)
	const n = 2*pageSize + 7
	hash := strings.Repeat("e", 64)
	var with []int64 // the attempts with an image of this hash, first or further or both
	for i := range n {
		a := newAttempt(fmt.Sprintf("SN%d", i))
		if i%3 == 0 {
			a.ImageFileSHA256, a.ImageHash = "", hash
		}
		if i%2 == 0 {
			a.Further = []FurtherImage{{Number: 1, Hash: hash}, {Number: 2, Hash: hash}}
		}
		if i%3 == 0 || i%2 == 0 {
			with = append(with, int64(i+1))
		}
		if err := s.writer.do(t.Context(), func(tx *sql.Tx) error {
			a.ID, a.Station, a.Host, a.BootID = fmt.Sprintf("id-%d", i), "st1", "pc1", "boot"
			return s.insertAttempt(tx, &a)
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{0, 1, pageSize - 1, pageSize, pageSize + 1, 2 * pageSize, n, n + 1} {
		for _, newest := range []bool{false, true} {
			want := n
			if limit > 0 {
				want = min(n, limit)
			}
			recs := all(t, s.Reader, Filter{Limit: limit, Newest: newest})
			if len(recs) != want {
				t.Errorf("limit %d: %d records, want %d", limit, len(recs), want)
			}
			for i, rec := range recs {
				seq := int64(i + 1)
				if newest {
					seq = int64(n - i)
				}
				if rec.Seq != seq {
					t.Fatalf("limit %d, newest %t: record %d has seq %d, want %d", limit, newest, i, rec.Seq, seq)
				}
			}
		}
	}

	for _, limit := range []int{0, 1, pageSize, pageSize + 1} {
		for _, newest := range []bool{false, true} {
			want := slices.Clone(with)
			if newest {
				slices.Reverse(want)
			}
			if limit > 0 {
				want = want[:min(limit, len(want))]
			}
			var got []int64
			for _, rec := range all(t, s.Reader, Filter{ImageHash: hash, Limit: limit, Newest: newest}) {
				got = append(got, rec.Seq)
			}
			if !slices.Equal(got, want) {
				t.Errorf("limit %d, newest %t: the image is in attempts %v, want %v", limit, newest, got, want)
			}
		}
	}

	// Who stops early leaves nothing open, and attempts begun meanwhile do not
	// keep an export from ending.
	seen := 0
	for range s.Attempts(t.Context(), Filter{}) {
		if seen++; seen%100 == 0 {
			begin(t, s, newAttempt("late"))
		}
	}
	if seen != n {
		t.Errorf("%d records while others were begun, want %d", seen, n)
	}
	for range 10 {
		for range s.Attempts(t.Context(), Filter{}) {
			break
		}
	}
	if open := s.Reader.db.Stats().InUse; open != 0 {
		t.Errorf("%d connections still in use", open)
	}
}

func TestAttemptsEndWithTheError(t *testing.T) {
	s := openNew(t)
	begin(t, s, newAttempt("SN1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	n := 0
	for rec, err := range s.Attempts(ctx, Filter{}) {
		n++
		if last = err; rec.ID != "" {
			t.Errorf("a record came with %v", err)
		}
	}
	if n != 1 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d values, %v, want one that is cancelled", n, last)
	}
}

// Every question with one of the filters is answered by an index that has the
// rows in order already; otherwise each page of an export would sort them all.
func TestQuestionsUseIndexes(t *testing.T) {
	s := openNew(t)
	const byNumber = "SEARCH a USING INTEGER PRIMARY KEY (rowid=?)"
	for _, c := range []struct {
		filter Filter
		want   string
		merged []string // what the numbers of the attempts come from, if they are found first
	}{
		{Filter{}, "SEARCH a USING INTEGER PRIMARY KEY", nil},
		{Filter{Order: "x"}, "INDEX attempts_by_order (order_id=? AND n>? AND n<?)", nil},
		{Filter{Serial: "x"}, "INDEX attempts_by_unit (unit_serial=? AND rowid>? AND rowid<?)", nil},
		{Filter{ImageHash: "x"}, byNumber, []string{
			"COVERING INDEX attempts_by_image (image_hash=? AND rowid>? AND rowid<?)",
			"COVERING INDEX further_images_by_hash (hash=? AND attempt>? AND attempt<?)",
		}},
		{Filter{ImageHash: "x", Site: 1, Outcome: Fail, Since: time.Now()}, byNumber, []string{
			"INDEX attempts_by_image (image_hash=? AND rowid>? AND rowid<?)",
			"INDEX further_images_by_hash (hash=? AND attempt>? AND attempt<?)",
		}},
		{Filter{Outcome: Running, ImageHash: "x"}, byNumber, nil},
		{Filter{Order: "x", Serial: "x", ImageHash: "x", Site: 1, Outcome: Fail}, "INDEX attempts_by_unit", nil},
		{Filter{Order: "x", ImageHash: "x"}, "INDEX attempts_by_order", nil},
		{Filter{Outcome: Pass}, "SEARCH a USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)", nil},
		{Filter{Outcome: Running}, byNumber, nil},
		{Filter{Outcome: Running, Order: "x", Serial: "x", Site: 1}, byNumber, nil},
		{Filter{Outcome: Pass, Site: 2, Since: time.Now(), Until: time.Now()}, "SEARCH a USING INTEGER PRIMARY KEY", nil},
	} {
		for _, c.filter.Newest = range []bool{false, true} {
			query, args := pageQuery(c.filter, 1, 1000, pageSize)
			plan := explain(t, s, query, args...)
			outer, _, _ := strings.Cut(plan, "CORRELATED") // the steps and the further images have their own plan
			outer, numbers, _ := strings.Cut(outer, "LIST SUBQUERY")
			for _, want := range c.merged {
				if !strings.Contains(numbers, want) || !strings.Contains(numbers, "MERGE (UNION)") ||
					strings.Contains(numbers, "TEMP B-TREE") || strings.Contains(numbers, "SCAN") {
					t.Errorf("%+v finds attempts by\n%s\nwant %s", c.filter, plan, want)
				}
			}
			if !strings.Contains(outer, c.want) || strings.Contains(outer, "TEMP B-TREE") || strings.Contains(outer, "SCAN") {
				t.Errorf("%+v is answered by\n%s\nwant %s", c.filter, plan, c.want)
			}
			if !strings.Contains(plan, "SEARCH r USING") || !strings.Contains(plan, "SEARCH steps USING PRIMARY KEY") ||
				!strings.Contains(plan, "SEARCH further_images USING PRIMARY KEY") || !strings.Contains(plan, "SEARCH further_results USING PRIMARY KEY") {
				t.Errorf("%+v finds results, steps and further images by\n%s", c.filter, plan)
			}
		}
	}
}

func explain(t *testing.T, s *Store, query string, args ...any) string {
	t.Helper()
	rows, err := s.Reader.db.Query("EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		b.WriteString(detail + "\n")
	}
	return b.String()
}

func TestCounts(t *testing.T) {
	s := openNew(t)
	count := func() Counts {
		t.Helper()
		c, err := s.OrderCounts(t.Context(), testOrder.ID)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	isDone := func(serial string) bool {
		t.Helper()
		done, err := s.UnitPassed(t.Context(), testOrder.ID, serial)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	if c := count(); c != (Counts{}) {
		t.Errorf("before anything: %+v", c)
	}
	flash := func(serial string, purpose Purpose, r *Result) {
		t.Helper()
		a := newAttempt(serial)
		a.Purpose = purpose
		a = begin(t, s, a)
		if r != nil {
			finish(t, s, a.ID, *r)
		}
	}
	pass, fail := passed(), failed()
	aborted := failed()
	aborted.Outcome = Aborted
	for i, c := range []struct {
		serial  string
		purpose Purpose
		result  *Result
		done    bool // the unit, afterwards
		want    Counts
	}{
		{"A", Production, &pass, true, Counts{Units: 1, Passed: 1, FirstPassed: 1, Attempts: 1}},
		{"B", Production, &fail, false, Counts{Units: 2, Passed: 1, Failed: 1, FirstPassed: 1, Attempts: 2}},
		{"B", Production, &pass, true, Counts{Units: 2, Passed: 2, FirstPassed: 1, Attempts: 3}},
		{"C", Production, nil, false, Counts{Units: 3, Passed: 2, Running: 1, FirstPassed: 1, Attempts: 4}},
		{"C", Production, &aborted, false, Counts{Units: 3, Passed: 2, Failed: 1, FirstPassed: 1, Attempts: 5}},
		{"G", Golden, &pass, false, Counts{Units: 3, Passed: 2, Failed: 1, FirstPassed: 1, Attempts: 5}},
		{"A", Debug, &fail, true, Counts{Units: 3, Passed: 2, Failed: 1, FirstPassed: 1, Attempts: 5}},
		{"A", Production, &fail, false, Counts{Units: 3, Passed: 1, Failed: 2, FirstPassed: 1, Attempts: 6}},
		{"", Production, &fail, false, Counts{Units: 4, Passed: 1, Failed: 3, FirstPassed: 1, Attempts: 7}},
		{"", Production, &pass, true, Counts{Units: 5, Passed: 2, Failed: 3, FirstPassed: 2, Attempts: 8}},
	} {
		flash(c.serial, c.purpose, c.result)
		if got := count(); got != c.want {
			t.Errorf("%d: %+v, want %+v", i, got, c.want)
		}
		if got := isDone(c.serial); c.serial != "" && got != c.done {
			t.Errorf("%d: unit %s passed: %t, want %t", i, c.serial, got, c.done)
		}
	}
	if other, err := s.UnitPassed(t.Context(), "WO-8", "B"); err != nil || other {
		t.Errorf("passed in another order: %t, %v", other, err)
	}
}
