package line_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"periph.io/x/conn/v3/gpio"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/station/line"
)

// BenchmarkLine works orders of as many units as there are sites, over real
// pseudo-terminals and with records on the disk, from the press of start to the
// last PASS. The boards are nRF52840 at 1 Mbaud, in this process: CPU seconds
// are theirs too. The command bench has them in a process of their own, and
// larger images.
func BenchmarkLine(b *testing.B) {
	one := 0.0 // bytes a second in the upload of one board
	for _, sites := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("sites=%d", sites), func(b *testing.B) {
			w := newWorkshop(b, sites)
			var rate, cpu float64
			for b.Loop() {
				before := processTime(b)
				rate += w.work()
				cpu += (processTime(b) - before).Seconds()
			}
			n := float64(b.N)
			rate /= n
			if sites == 1 {
				one = rate
			}
			b.ReportMetric(rate, "B/s")
			b.ReportMetric(float64(sites)*n/b.Elapsed().Seconds(), "sites/s")
			b.ReportMetric(cpu/b.Elapsed().Seconds(), "cores")
			if one > 0 { // -bench may have chosen otherwise
				b.ReportMetric(100*rate/(one*float64(sites)), "%of-n*one")
			}
		})
	}
}

// workshop is a station with simulated boards on real pseudo-terminals.
type workshop struct {
	b       *testing.B
	sites   int
	orders  int
	bench   *sim.Bench
	station *configs.Station
	recipe  *configs.Recipe
	job     *line.Job
	fixture *fixtures.Fixture
	store   *records.Store
}

func newWorkshop(b *testing.B, sites int) *workshop {
	b.Helper()
	w := &workshop{b: b, sites: sites}
	var err error
	fail := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	w.recipe, err = configs.LoadRecipe("../../configs/sim-recipe.toml")
	fail(err)
	w.job, err = line.NewJob(w.recipe)
	fail(err)
	w.bench, err = sim.NewBench("", sites, func(int) sim.Options { return sim.Options{Baud: 1_000_000} })
	fail(err)
	b.Cleanup(func() { w.bench.Close() })
	w.station = &configs.Station{
		Name: "bench", Fixture: "FX", Start: configs.Start{Trigger: configs.LastScan},
		Timings: configs.Timings{
			PowerOff: configs.Duration(50 * time.Millisecond), Settle: configs.Duration(10 * time.Millisecond),
			HoldCap: configs.Duration(5 * time.Second), ProbeEvery: configs.Duration(50 * time.Millisecond),
			Stagger: configs.Duration(10 * time.Millisecond),
		},
	}
	for n := 1; n <= sites; n++ {
		board := w.bench.Board(n)
		w.station.Sites = append(w.station.Sites, configs.Site{
			Number: n, Port: board.Port(), Baud: 1_000_000,
			Power:    configs.Output{Pin: board.Power().Name()},
			Recovery: configs.Output{Pin: board.Recovery().Name(), ActiveLow: true, OpenDrain: true},
		})
	}
	w.fixture, err = fixtures.Open(w.station, fixtures.Hardware{Pin: func(name string) (gpio.PinIO, error) {
		if p := w.bench.Pin(name); p != nil {
			return p, nil
		}
		return nil, errors.New("no such pin")
	}})
	fail(err)
	b.Cleanup(func() { w.fixture.Close() })
	ctx := context.Background()
	w.store, err = records.Open(ctx, filepath.Join(b.TempDir(), "bench.db"), records.Options{Station: "bench"})
	fail(err)
	b.Cleanup(func() { w.store.Close() })
	r := w.recipe
	fail(w.store.PutRecipe(ctx, records.Recipe{SHA256: r.SHA256, Product: r.Product, Revision: r.Revision, Text: r.Text}))
	fw := w.job.Images[0]
	fail(w.store.PutImage(ctx, records.Image{FileSHA256: fw.FileSHA256, Hash: fmt.Sprintf("%x", fw.Hash),
		Version: fw.Version.String(), Size: int64(len(fw.File)), Name: fw.Name}, fw.File))
	return w
}

// work flashes a new board at every site and returns the sum of the rates of
// their uploads in bytes a second.
func (w *workshop) work() (rate float64) {
	w.b.Helper()
	for n := 1; n <= w.sites; n++ {
		if err := w.bench.Replace(n, nil); err != nil {
			w.b.Fatal(err)
		}
	}
	w.orders++
	order := records.Order{ID: fmt.Sprintf("WO-%d", w.orders), Product: w.recipe.Product, RecipeRevision: w.recipe.Revision, Quantity: w.sites}
	if err := w.store.PutOrder(context.Background(), order); err != nil {
		w.b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	scans := make(chan line.Scan)
	var typing sync.WaitGroup
	typing.Go(func() {
		defer close(scans)
		for n := range w.sites {
			select {
			case scans <- line.Scan{Text: fmt.Sprintf("FL-%06d", w.orders*1000+n), Source: records.SerialScan}:
			case <-ctx.Done():
				return
			}
		}
	})
	summary, err := line.New(line.Options{
		Fixture: w.fixture, Station: w.station, Recipe: w.recipe, Job: w.job, Records: w.store,
		Order: order, Operator: "bench", Software: "bench", Notify: func(line.Event) {},
	}).Run(ctx, scans)
	typing.Wait()
	if err != nil || summary.Passed != w.sites {
		w.b.Fatalf("%d of %d passed, %v: %+v", summary.Passed, w.sites, err, summary.Units)
	}
	for _, u := range summary.Units {
		for _, s := range u.Result.Steps {
			if s.Name == line.StepUpload {
				rate += float64(s.Bytes) / s.Duration.Seconds()
			}
		}
	}
	return rate
}

// processTime is what this process has used, user and system.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
