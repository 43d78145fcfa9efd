package line

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"periph.io/x/conn/v3/gpio"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/fixtures/sim"
	"flashline/records"
)

// labels makes n serials.
func labels(n int) (out []string) {
	for i := 1; i <= n; i++ {
		out = append(out, fmt.Sprintf("FL-%06d", i))
	}
	return out
}

func TestRunOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3, nil, nil)
		// What promise 2 says: the row first, then the power.
		r.records.onBegin = func(a records.Attempt) error {
			if s := r.boards[a.Site-1].State(); s != sim.StateOff {
				t.Errorf("the row of %s comes when the board is already %s", a.UnitSerial, s)
			}
			return nil
		}
		sum, err := r.line(7).Run(t.Context(), scans(t, labels(9)...))
		if err != nil || sum.Passed != 7 || len(sum.Units) != 7 {
			t.Errorf("%+v, %v", sum, err)
		}
		if n := len(r.records.attempts); n != 7 {
			t.Errorf("%d attempts for 7 units", n)
		}
		for _, a := range r.records.attempts {
			if a.Order != "WO" || a.CycleID == "" || a.CycleTry != 1 || a.Operator != "op" || a.ImageHash == "" || a.Fixture != "FX" || a.Purpose != records.Production {
				t.Errorf("row %+v", a)
			}
		}
		// The first start is over all three sites: one cycle.
		if c := r.records.attempts; c[0].CycleID != c[1].CycleID || c[1].CycleID != c[2].CycleID || c[3].CycleID == c[0].CycleID {
			t.Error("cycles do not follow the starts")
		}
		r.safe()
	})
}

// Nobody is told the end of an attempt before its record is on the disk.
func TestRecordedAfterFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil, nil)
		finished := false
		r.records.onFinish = func(string, records.Result) error {
			if len(r.of(Recorded)) > 0 {
				t.Error("the screen knew before the records")
			}
			time.Sleep(time.Second) // a slow disk
			finished = true
			return nil
		}
		if _, err := r.line(1).Run(t.Context(), scans(t, "FL-000001")); err != nil {
			t.Fatal(err)
		}
		if e := r.of(Recorded); len(e) != 1 || !finished || e[0].Result.Outcome != records.Pass {
			t.Errorf("%+v", e)
		}
	})
}

// A record that cannot be written stops the line, and no PASS is shown.
func TestRecordsFail(t *testing.T) {
	for _, when := range []string{"begin", "finish"} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 2, nil, nil)
			full := errors.New("the disk is full; free some space")
			if when == "begin" {
				r.records.onBegin = func(records.Attempt) error { return full }
			} else {
				r.records.onFinish = func(string, records.Result) error { return full }
			}
			sum, err := r.line(10).Run(t.Context(), scans(t, labels(10)...))
			fault, ok := errors.AsType[*FaultError](err)
			if !ok || !errors.Is(err, full) || !strings.Contains(fault.Text, "disk is full") {
				t.Errorf("error %v", err)
			}
			if sum.Passed != 0 || len(r.of(Recorded)) != 0 {
				t.Errorf("something passed without a record: %+v", sum)
			}
			if n := len(r.records.attempts); n > 2 {
				t.Errorf("%d attempts were begun after the fault", n)
			}
			for i, b := range r.boards {
				if when == "begin" && slices.ContainsFunc(b.Power().History(), func(e sim.PinEvent) bool { return e.Output && e.Level == gpio.High }) {
					t.Errorf("board %d was powered without a row", i+1)
				}
			}
			r.safe()
		})
	}
}

func TestRetries(t *testing.T) {
	tests := []struct {
		fault string
		codes []string
	}{
		{"silent", []string{"FAILNO_RECOVERY", "FAILNO_RECOVERY"}},
		{"dies", []string{"FAILBOARD_SILENT", "FAILNO_RECOVERY"}},
		{"reset-mid-upload", []string{"FAILBOARD_SILENT", "PASS"}},
		{"wrong-key", []string{"FAILIMAGE_NOT_LISTED"}}, // trying again helps nothing
	}
	for _, tt := range tests {
		t.Run(tt.fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 2, func(site int, o *sim.Options) {
					if site == 2 {
						o.Fault, _ = sim.ParseFault(tt.fault)
					}
				}, nil)
				sum, err := r.line(0).Run(t.Context(), scans(t, "FL-000001", "FL-000002"))
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(tt.codes, r.records.codes("FL-000002")); d != "" {
					t.Errorf("attempts (-want +got):\n%s", d)
				}
				if d := cmp.Diff([]string{"PASS"}, r.records.codes("FL-000001")); d != "" {
					t.Errorf("the neighbour (-want +got):\n%s", d)
				}
				last := tt.codes[len(tt.codes)-1]
				if (last == "PASS") != (sum.Passed == 2) || sum.Passed+sum.Failed != 2 {
					t.Errorf("summary %+v", sum)
				}
				tries := r.of(Recorded)
				for _, e := range tries {
					if e.Serial == "FL-000002" && e.Retry != (e.Try < len(tt.codes)) {
						t.Errorf("attempt %d says retry %v", e.Try, e.Retry)
					}
				}
				r.safe()
			})
		})
	}
}

// Promise 4, to the nanosecond of virtual time: what the neighbours do, and
// however they break, changes nothing for a site.
func TestIsolation(t *testing.T) {
	timing := func(fault string, edit func(*rig)) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 3, func(site int, o *sim.Options) {
				if site == 2 {
					o.Fault, _ = sim.ParseFault(fault)
				}
			}, func(r *rig) {
				r.station.Timings.Stagger = 0 // whose turn is first is chance
				if edit != nil {
					edit(r)
				}
			})
			if _, err := r.line(0).Run(t.Context(), scans(t, labels(3)...)); err != nil {
				t.Fatal(err)
			}
			for _, e := range r.of(Recorded) {
				if e.Site == 3 {
					took = e.Result.Duration
					if e.Result.Outcome != records.Pass {
						t.Errorf("with a neighbour that is %q, site 3 ended %s", fault, e.Result.FailureCode)
					}
				}
			}
		})
		return took
	}
	alone := timing("", nil)
	for _, fault := range []string{"silent", "corrupt", "dies", "wrong-key", "slow-erase", "boot-loop"} {
		if got := timing(fault, nil); got != alone {
			t.Errorf("a neighbour with fault %q changes site 3 from %s to %s", fault, alone, got)
		}
	}
	hung := func(r *rig) {
		dial := r.dial
		r.dial = func(n int) (io.ReadWriteCloser, error) {
			if n == 2 {
				return hungPort{make(chan struct{})}, nil
			}
			return dial(n)
		}
	}
	if got := timing("", hung); got != alone {
		t.Errorf("a neighbour whose port hangs changes site 3 from %s to %s", alone, got)
	}
	noPin := func(r *rig) { r.station.Sites[1].Power.Pin = "NOWHERE" }
	if got := timing("", noPin); got == 0 {
		t.Error("a neighbour with an unknown pin kept site 3 from passing")
	}
}

// hungPort takes nothing and gives nothing.
type hungPort struct{ closed chan struct{} }

func (h hungPort) Read([]byte) (int, error)  { <-h.closed; return 0, os.ErrClosed }
func (h hungPort) Write([]byte) (int, error) { <-h.closed; return 0, os.ErrClosed }
func (h hungPort) Close() error              { close(h.closed); return nil }

// slowAdapter is a port whose adapter keeps bytes back.
type slowAdapter struct{ io.ReadWriteCloser }

func (slowAdapter) Advice() string { return "Shorten its timer." }

// What could make adapters faster is told once in a run, however many there are.
func TestAdviceOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, nil, func(r *rig) {
			dial := r.dial
			r.dial = func(n int) (io.ReadWriteCloser, error) {
				line, err := dial(n)
				return slowAdapter{line}, err
			}
		})
		if sum, err := r.line(4).Run(t.Context(), scans(t, labels(4)...)); err != nil || sum.Passed != 4 {
			t.Fatalf("%+v, %v", sum, err)
		}
		if told := r.of(Advice); len(told) != 1 || told[0].Site == 0 || told[0].Text != "Shorten its timer." {
			t.Errorf("told %+v", told)
		}
	})
}

func TestRefusedScans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, nil, nil)
		r.records.passed["FL-000009"] = true
		in := scans(t, "FL-000001", "FL-000001", "nonsense", "FL-000009", "FL-000002")
		sum, err := r.line(0).Run(t.Context(), in)
		if err != nil || sum.Passed != 2 {
			t.Errorf("%+v, %v", sum, err)
		}
		want := []string{"already at site 1", "is no serial of blinky", "already passed in order WO"}
		got := r.of(Refused)
		if len(got) != len(want) {
			t.Fatalf("refused: %+v", got)
		}
		for i, w := range want {
			if !strings.Contains(got[i].Text, w) {
				t.Errorf("refusal %q, want it to say %q", got[i].Text, w)
			}
		}
	})
}

// A person who scans while every site is busy is told so; nothing is queued
// that would start a board that is not there yet.
func TestAttendedScansWaitForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil, nil)
		l := r.line(0)
		l.opts.Attended = true
		in := make(chan Scan)
		go func() {
			in <- Scan{Text: "FL-000001", Source: records.SerialScan}
			in <- Scan{Text: "FL-000002", Source: records.SerialScan}
			time.Sleep(time.Minute)
			in <- Scan{Text: "FL-000003", Source: records.SerialScan}
			close(in)
		}()
		sum, err := l.Run(t.Context(), in)
		if err != nil || sum.Passed != 2 {
			t.Errorf("%+v, %v", sum, err)
		}
		if got := r.of(Refused); len(got) != 1 || !strings.Contains(got[0].Text, "no site is free") {
			t.Errorf("refused: %+v", got)
		}
	})
}

func TestTriggers(t *testing.T) {
	t.Run("enter starts what is loaded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 3, nil, func(r *rig) { r.station.Start.Trigger = configs.Enter })
			sum, err := r.line(0).Run(t.Context(), scans(t, "", "FL-000001", "FL-000002", "", "FL-000003"))
			if err != nil || sum.Passed != 2 || sum.NotStarted != 1 || len(r.of(Started)) != 1 {
				t.Errorf("%+v, %v: the third unit was never started by Enter", sum, err)
			}
			if e := r.of(Dropped); len(e) != 1 || e[0].Serial != "FL-000003" {
				t.Errorf("nobody is told of the third unit: %+v", e)
			}
		})
	})
	t.Run("enter with every site loaded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 2, nil, func(r *rig) { r.station.Start.Trigger = configs.Enter })
			sum, err := r.line(0).Run(t.Context(), scans(t, "FL-000001", "FL-000002", "FL-000003", "", "FL-000004", ""))
			if err != nil || sum.Passed != 3 {
				t.Errorf("%+v, %v", sum, err)
			}
			if e := r.of(Refused); len(e) != 1 || !strings.Contains(e[0].Text, "every site is loaded") {
				t.Errorf("refused: %+v", e)
			}
		})
	})
	t.Run("the end of the scans with every site loaded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 2, nil, func(r *rig) { r.station.Start.Trigger = configs.Enter })
			sum, err := r.line(0).Run(t.Context(), scans(t, "FL-000001", "FL-000002"))
			if err != nil || sum.NotStarted != 2 {
				t.Errorf("%+v, %v", sum, err)
			}
		})
	})
	t.Run("the last scan of the order starts a part load", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 3, nil, nil)
			in := make(chan Scan)
			go func() {
				in <- Scan{Text: "FL-000001", Source: records.SerialScan}
				in <- Scan{Text: "FL-000002", Source: records.SerialScan}
			}() // it is never closed
			sum, err := r.line(2).Run(t.Context(), in)
			if err != nil || sum.Passed != 2 {
				t.Errorf("%+v, %v", sum, err)
			}
		})
	})
	t.Run("interlock", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			lid := &lidPin{}
			r := newRig(t, 2, nil, func(r *rig) {
				r.station.Start = configs.Start{Trigger: configs.Interlock, Pin: "LID"}
				r.pin = func(name string) gpio.PinIO {
					if name == "LID" {
						return lid
					}
					return nil
				}
			})
			begin := time.Now()
			lid.closed = func() bool {
				at := time.Since(begin)
				return at < time.Second || at > 5*time.Second && at < 5010*time.Millisecond || at > 10*time.Second
			}
			sum, err := r.line(2).Run(t.Context(), scans(t, "FL-000001", "FL-000002"))
			if err != nil || sum.Passed != 2 {
				t.Errorf("%+v, %v", sum, err)
			}
			// Closed at the start does not count, nor does a bounce.
			if at := r.of(Started)[0].At.Sub(begin); at < 10*time.Second || at > 10200*time.Millisecond {
				t.Errorf("started after %s, the lid was closed after 10 s", at)
			}
		})
	})
}

// lidPin is a switch.
type lidPin struct {
	gpio.PinIO
	closed func() bool
}

func (l *lidPin) Name() string                  { return "LID" }
func (l *lidPin) In(gpio.Pull, gpio.Edge) error { return nil }
func (l *lidPin) Read() gpio.Level              { return gpio.Level(l.closed()) }

func TestStopFinishesWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, nil, nil)
		l := r.line(0)
		time.AfterFunc(3*time.Second, l.Stop)
		sum, err := l.Run(t.Context(), scans(t, labels(8)...))
		if err != nil || sum.Passed != 2 || len(sum.Units) != 2 {
			t.Errorf("%+v, %v", sum, err)
		}
		r.safe()
	})
}

func TestAbortClosesEveryRow(t *testing.T) {
	for at := 100 * time.Millisecond; at < 8*time.Second; at += 777 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 3, nil, nil)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(at, func() { cancel(ErrAborted) })
			_, err := r.line(0).Run(ctx, scans(t, labels(6)...))
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range r.records.attempts {
				if c := r.records.codes(a.UnitSerial); slices.Contains(c, "RUNNING") {
					t.Errorf("aborted after %s: %s is left %v", at, a.UnitSerial, c)
				}
			}
			r.safe()
		})
	}
}

// A panic outside of an attempt, here in whoever is told of it, stops the line
// with every board safe.
func TestPanicStopsTheLine(t *testing.T) {
	for _, kind := range []EventKind{Attempt, Step, Upload, Recorded} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 2, nil, nil)
			l := r.line(0)
			notify := l.opts.Notify
			l.opts.Notify = func(e Event) {
				if e.Kind == kind && e.Site == 1 {
					panic("a bug")
				}
				notify(e)
			}
			sum, err := l.Run(t.Context(), scans(t, "FL-000001", "FL-000002"))
			told := ""
			if fault, ok := errors.AsType[*FaultError](err); ok {
				told = fault.Text
			} else if u := sum.Units; len(u) == 2 {
				told = u[0].Result.Detail + u[1].Result.Detail
			}
			if !strings.Contains(told, "a bug") {
				t.Errorf("panic at %q: %+v, %v", kind, sum, err)
			}
			if c := r.records.codes("FL-000002"); len(c) != 1 || c[0] != "PASS" {
				t.Errorf("panic at %q: the neighbour ended %v", kind, c)
			}
			r.safe()
		})
	}
}

// An image exchanged on disk between two cycles is not flashed.
func TestImageChangedBetweenCycles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		copyFile(t, dir, "blinky.pub.pem")
		image := copyFile(t, dir, "blinky-1.0.0.bin")
		recipe := copyFile(t, dir, "sim-recipe.toml")
		r := newRig(t, 1, nil, func(r *rig) {
			var err error
			if r.recipe, err = configs.LoadRecipe(recipe); err != nil {
				t.Fatal(err)
			}
		})
		r.records.onFinish = func(string, records.Result) error {
			return os.WriteFile(image, []byte("another firmware"), 0o644)
		}
		sum, err := r.line(0).Run(t.Context(), scans(t, "FL-000001", "FL-000002"))
		if _, ok := errors.AsType[*configs.StaleError](err); !ok || sum.Passed != 1 || len(r.records.attempts) != 1 {
			t.Errorf("%+v, %v", sum, err)
		}
		if e := r.of(LineFault); len(e) != 1 || !strings.Contains(e[0].Text, filepath.Base(image)) {
			t.Errorf("the operator is told %+v", e)
		}
		r.safe()
	})
}

func TestLockedSite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, nil, func(r *rig) { r.station.Sites[0].Recovery.Pin = "NOWHERE" })
		sum, err := r.line(3).Run(t.Context(), scans(t, labels(3)...))
		if err != nil || sum.Passed != 3 {
			t.Errorf("%+v, %v", sum, err)
		}
		if e := r.of(Locked); len(e) != 1 || e[0].Site != 1 || !strings.Contains(e[0].Text, "NOWHERE") {
			t.Errorf("locked: %+v", e)
		}
		for _, u := range sum.Units {
			if u.Site != 2 {
				t.Errorf("%s went to site %d", u.Serial, u.Site)
			}
		}
	})
}

// A site whose port is gone fails at once and would be free again first, each
// time: it is locked instead, and the order goes on beside it.
func TestBrokenSiteIsLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3, nil, func(r *rig) {
			dial := r.dial
			r.dial = func(n int) (io.ReadWriteCloser, error) {
				if n == 1 {
					return nil, &fixtures.PortError{Path: "/dev/one", Err: os.ErrNotExist, Hint: "Plug it in."}
				}
				return dial(n)
			}
		})
		sum, err := r.line(0).Run(t.Context(), scans(t, labels(9)...))
		if err != nil || sum.Passed != 8 || sum.Errors != 1 {
			t.Errorf("%+v, %v", sum, err)
		}
		if e := r.of(Locked); len(e) != 1 || e[0].Site != 1 || !strings.Contains(e[0].Text, "/dev/one") {
			t.Errorf("locked: %+v", e)
		}
	})
}

func TestNoSiteLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, nil, func(r *rig) {
			r.dial = func(int) (io.ReadWriteCloser, error) {
				return nil, &fixtures.PortError{Path: "/dev/none", Err: os.ErrNotExist, Hint: "Plug it in."}
			}
		})
		sum, err := r.line(0).Run(t.Context(), scans(t, labels(9)...))
		if _, ok := errors.AsType[*FaultError](err); !ok || sum.Errors != 2 {
			t.Errorf("%+v, %v", sum, err)
		}
	})
}

// The same unit again after a failure counts once, by how it ended last.
func TestSummaryCountsUnits(t *testing.T) {
	var s Summary
	for _, o := range []records.Outcome{records.Fail, records.Error, records.Pass} {
		s.add(Unit{Serial: "A", Attempts: 2, Result: records.Result{Outcome: o}})
	}
	s.add(Unit{Serial: "B", Attempts: 1, Result: records.Result{Outcome: records.Aborted}})
	if s.Passed != 1 || s.Failed != 0 || s.Errors != 0 || s.Aborted != 1 || len(s.Units) != 2 || s.Units[0].Attempts != 6 {
		t.Errorf("%+v", s)
	}
}

// lampPin is a lamp, or the contact of one that cannot be put out.
type lampPin struct {
	gpio.PinIO
	name  string
	mu    sync.Mutex
	lit   bool
	stuck bool
}

func (l *lampPin) Name() string { return l.name }

func (l *lampPin) Out(v gpio.Level) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stuck && l.lit && v == gpio.Low {
		return errors.New("it does not go out")
	}
	l.lit = bool(v)
	return nil
}

func (l *lampPin) on() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lit
}

// lamps gives site 1 its three lamps.
func (r *rig) lamps() (busy, pass, fail *lampPin) {
	busy, pass, fail = &lampPin{name: "BUSY"}, &lampPin{name: "PASS"}, &lampPin{name: "FAIL"}
	s := &r.station.Sites[0]
	s.LampBusy, s.LampPass, s.LampFail = &configs.Output{Pin: "BUSY"}, &configs.Output{Pin: "PASS"}, &configs.Output{Pin: "FAIL"}
	r.pin = func(name string) gpio.PinIO {
		return map[string]gpio.PinIO{"BUSY": busy, "PASS": pass, "FAIL": fail}[name]
	}
	return busy, pass, fail
}

// A green lamp is a PASS shown: only after the record, and never over a board
// that is not the one that passed.
func TestLamps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy, pass, fail *lampPin
		r := newRig(t, 1, nil, func(r *rig) {
			r.station.Start.Trigger = configs.Enter
			busy, pass, fail = r.lamps()
		})
		r.records.onFinish = func(string, records.Result) error {
			if !busy.on() || pass.on() || fail.on() {
				t.Errorf("before the record: busy %v, pass %v, fail %v", busy.on(), pass.on(), fail.on())
			}
			return nil
		}
		in := make(chan Scan)
		go func() {
			defer close(in)
			in <- Scan{Text: "FL-000001"}
			in <- Scan{}
			time.Sleep(time.Minute)
			if !pass.on() || busy.on() || fail.on() {
				t.Errorf("after the record: busy %v, pass %v, fail %v", busy.on(), pass.on(), fail.on())
			}
			in <- Scan{Text: "FL-000002"}
			time.Sleep(time.Second)
			if pass.on() {
				t.Error("the green lamp is on over the next board")
			}
		}()
		if _, err := r.line(0).Run(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLampThatStaysGreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, nil, func(r *rig) {
			_, pass, _ := r.lamps()
			pass.stuck = true
		})
		sum, err := r.line(0).Run(t.Context(), scans(t, labels(6)...))
		if err != nil || sum.Passed == 0 {
			t.Errorf("%+v, %v", sum, err)
		}
		if e := r.of(Locked); len(e) != 1 || e[0].Site != 1 {
			t.Errorf("locked: %+v", e)
		}
	})
}

func TestLampAfterLostRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pass, fail *lampPin
		r := newRig(t, 1, nil, func(r *rig) { _, pass, fail = r.lamps() })
		r.records.onFinish = func(string, records.Result) error {
			time.AfterFunc(time.Millisecond, func() {
				if pass.on() || !fail.on() {
					t.Errorf("a record was lost: pass %v, fail %v", pass.on(), fail.on())
				}
			})
			return errors.New("the disk is full")
		}
		l := r.line(0)
		notify := l.opts.Notify
		l.opts.Notify = func(e Event) {
			notify(e)
			if e.Kind == LineFault {
				time.Sleep(10 * time.Millisecond)
			}
		}
		if _, err := l.Run(t.Context(), scans(t, "FL-000001")); err == nil {
			t.Error("no fault")
		}
	})
}

// slowClose is a port that the kernel holds on to when it is closed.
type slowClose struct{ io.ReadWriteCloser }

func (s slowClose) Close() error {
	time.Sleep(30 * time.Second)
	return s.ReadWriteCloser.Close()
}

// The power does not wait for a port that takes half a minute to close.
func TestPowerDoesNotWaitForThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil, func(r *rig) {
			dial := r.dial
			r.dial = func(n int) (io.ReadWriteCloser, error) {
				p, err := dial(n)
				return slowClose{p}, err
			}
		})
		site := r.fixture.Sites()[0]
		if _, _, err := site.Enter(t.Context(), fixtures.Entry{}, nil); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		time.AfterFunc(300*time.Millisecond, func() {
			if s := r.boards[0].State(); s != sim.StateOff {
				t.Errorf("the board is %s while its port closes", s)
			}
		})
		if err := site.Down(); err != nil || time.Since(start) < 30*time.Second {
			t.Errorf("down after %s: %v", time.Since(start), err)
		}
	})
}

// Records that cannot even be asked stop the line, and say so.
func TestRecordsCannotBeAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil, nil)
		l := r.line(0)
		l.opts.Records = deaf{r.records}
		_, err := l.Run(t.Context(), scans(t, "FL-000001"))
		if e := r.of(LineFault); err == nil || len(e) != 1 || !strings.Contains(e[0].Text, "disk is gone") {
			t.Errorf("%v, told %+v", err, e)
		}
	})
}

type deaf struct{ *evidence }

func (deaf) OrderCounts(context.Context, string) (records.Counts, error) {
	return records.Counts{}, errors.New("the disk is gone; look for it")
}

// The order goes on where an earlier run left it.
func TestOrderContinues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, nil, nil)
		for _, s := range labels(3) {
			r.records.passed[s] = true
		}
		sum, err := r.line(5).Run(t.Context(), scans(t, labels(9)...))
		if err != nil || sum.Passed != 2 || len(r.of(Refused)) != 3 {
			t.Errorf("%+v, %v, %d refused", sum, err, len(r.of(Refused)))
		}
	})
}
