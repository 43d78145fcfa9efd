package records

import (
	"database/sql"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// BenchmarkDurableResults measures whole records, Begin and Finish with three
// steps: two synced commits each when one site runs alone.
func BenchmarkDurableResults(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := openNew(b)
			work := make(chan int)
			var wg sync.WaitGroup
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for i := range work {
						a, err := s.Begin(b.Context(), newAttempt("SN"+strconv.Itoa(i)))
						if err == nil {
							err = s.Finish(b.Context(), a.ID, passed())
						}
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := range b.N {
				work <- i
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "results/s")
		})
	}
}

// large opens a store with many finished attempts in one order. They are
// written without waiting for the disk, which is not what is measured.
func large(b *testing.B, n int) *Store {
	b.Helper()
	s := openAt(b, filepath.Join(b.TempDir(), "r.db"), Options{})
	if err := put(b.Context(), s); err != nil {
		b.Fatal(err)
	}
	for done := 0; done < n; {
		err := s.writer.do(b.Context(), func(tx *sql.Tx) error {
			for range 10_000 {
				done++
				a := newAttempt("SN" + strconv.Itoa(done))
				a.ID, a.Station, a.Host, a.BootID = strconv.Itoa(done), "st1", "pc1", "boot"
				if err := s.insertAttempt(tx, &a); err != nil {
					return err
				}
				r := passed()
				if err := s.insertResult(tx, "result", int64(done), sql.NullInt64{Int64: 1, Valid: true}, r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return s
}

func BenchmarkLarge(b *testing.B) {
	const n = 100_000
	s := large(b, n)
	b.Run("OrderCounts", func(b *testing.B) {
		for b.Loop() {
			if c, err := s.OrderCounts(b.Context(), testOrder.ID); err != nil || c.Passed != n {
				b.Fatal(c, err)
			}
		}
	})
	b.Run("Interrupt", func(b *testing.B) {
		for b.Loop() {
			if left, err := s.Interrupt(b.Context()); err != nil || len(left) != 0 {
				b.Fatal(left, err)
			}
		}
	})
	b.Run("UnitPassed", func(b *testing.B) {
		for b.Loop() {
			if ok, err := s.UnitPassed(b.Context(), testOrder.ID, "SN77777"); err != nil || !ok {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("Newest20", func(b *testing.B) {
		for b.Loop() {
			for _, err := range s.Attempts(b.Context(), Filter{Order: testOrder.ID, Newest: true, Limit: 20}) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("ExportJSON", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := WriteJSON(io.Discard, s.Attempts(b.Context(), Filter{})); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "records/s")
	})
}
