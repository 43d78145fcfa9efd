package records

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What waits while one commit is under way goes into the next one, all of it.
func TestWaitingWritesShareACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, callers := range []int{0, 63, maxBatch + 10} {
			w := &writer{jobs: make(chan *job), stopping: make(chan struct{})}
			var waiting sync.WaitGroup
			for range callers {
				waiting.Go(func() {
					select {
					case w.jobs <- &job{}:
					case <-w.stopping:
					}
				})
			}
			synctest.Wait()
			if got, want := len(w.gather(&job{})), min(callers+1, maxBatch); got != want {
				t.Errorf("with %d callers waiting, %d writes share a commit, want %d", callers, got, want)
			}
			close(w.stopping)
			waiting.Wait()
		}
	})
}

// together lets every site of a cycle write at its own moment of the spread,
// and returns how long the slowest of them waited for its row, and when the
// last row was on the disk, counted from the first moment.
func together(t testing.TB, sites int, spread time.Duration, write func(site int) error) (slowest, last time.Duration) {
	t.Helper()
	var (
		mu  sync.Mutex
		all sync.WaitGroup
	)
	began := time.Now()
	for site := range sites {
		at := spread * time.Duration(site) / time.Duration(sites)
		all.Go(func() {
			time.Sleep(time.Until(began.Add(at)))
			asked := time.Now()
			err := write(site)
			took := time.Since(asked)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			slowest, last = max(slowest, took), max(last, time.Since(began))
		})
	}
	all.Wait()
	return slowest, last
}

// cycle runs one start over many sites: all begin at once, and finish within the
// spread.
func cycle(t testing.TB, s *Store, sites, round int, spread time.Duration) (begun, slowest, last time.Duration) {
	t.Helper()
	ids := make([]string, sites)
	_, begun = together(t, sites, 0, func(site int) error {
		a := newAttempt("SN" + strconv.Itoa(round*sites+site))
		a.Site = site + 1
		a, err := s.Begin(t.Context(), a)
		ids[site] = a.ID
		return err
	})
	slowest, last = together(t, sites, spread, func(site int) error {
		return s.Finish(t.Context(), ids[site], passed())
	})
	return begun, slowest, last
}

// A cycle of 64 sites whose attempts end within 100 ms has all its rows on the
// disk 250 ms after the first of them ended. Other programs use the same disk, so
// one round out of five has to show it.
func TestCycleIsRecordedAtOnce(t *testing.T) {
	s := openNew(t)
	const sites, spread, limit = 64, 100 * time.Millisecond, 250 * time.Millisecond
	var last time.Duration
	for round := range 5 {
		if _, _, last = cycle(t, s, sites, round, spread); last <= limit {
			return
		}
	}
	t.Errorf("the last of %d records was on the disk after %v, want %v", sites, last, limit)
}

func BenchmarkCycle(b *testing.B) {
	for _, sites := range []int{1, 8, 64, 128} {
		for _, spread := range []time.Duration{0, 100 * time.Millisecond} {
			b.Run(fmt.Sprintf("sites=%d/spread=%v", sites, spread), func(b *testing.B) {
				s := openNew(b)
				var begun, slowest, last time.Duration
				round := 0
				for b.Loop() {
					one, two, three := cycle(b, s, sites, round, spread)
					begun, slowest, last = max(begun, one), max(slowest, two), max(last, three)
					round++
				}
				ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
				b.ReportMetric(ms(begun), "worst-begun-ms")
				b.ReportMetric(ms(slowest), "worst-wait-ms")
				b.ReportMetric(ms(last), "worst-last-ms")
			})
		}
	}
}
