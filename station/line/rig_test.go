package line

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"periph.io/x/conn/v3/gpio"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/smp/mcuboot"
)

// adapter is a serial adapter without a kernel: the board's wire stays in it,
// while ports are opened and closed on its other side. What comes while no
// port is open is dropped, as an adapter does.
type adapter struct {
	host net.Conn
	wg   sync.WaitGroup

	mu   sync.Mutex
	open *port
}

type port struct {
	a      *adapter
	in     chan []byte
	rest   []byte
	closed chan struct{}
	once   sync.Once
}

func newAdapter(host net.Conn) *adapter {
	a := &adapter{host: host}
	a.wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := host.Read(buf)
			if err != nil {
				return
			}
			a.mu.Lock()
			p := a.open
			a.mu.Unlock()
			if p != nil {
				select {
				case p.in <- append([]byte(nil), buf[:n]...):
				case <-p.closed:
				}
			}
		}
	})
	return a
}

// follow closes the ports of a board's own USB port when it goes.
func (a *adapter) follow(b *sim.Board, done <-chan struct{}) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if _, _, present := b.USB(); !present {
			a.mu.Lock()
			p := a.open
			a.open = nil
			a.mu.Unlock()
			if p != nil {
				p.Close()
			}
		}
	}
}

func (a *adapter) dial() *port {
	p := &port{a: a, in: make(chan []byte, 64), closed: make(chan struct{})}
	a.mu.Lock()
	a.open = p
	a.mu.Unlock()
	return p
}

func (p *port) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		select {
		case p.rest = <-p.in:
		case <-p.closed:
			return 0, os.ErrClosed
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *port) Write(b []byte) (int, error) {
	select {
	case <-p.closed:
		return 0, os.ErrClosed
	default:
		return p.a.host.Write(b)
	}
}

func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// rig is a station with simulated boards in virtual time.
type rig struct {
	t       *testing.T
	boards  []*sim.Board
	fixture *fixtures.Fixture
	station *configs.Station
	recipe  *configs.Recipe
	job     *Job
	records *evidence

	dial func(site int) (io.ReadWriteCloser, error) // tests may replace it
	pin  func(name string) gpio.PinIO

	mu     sync.Mutex
	events []Event
}

// newRig makes a rig with n sites; each says how a site's board differs. It
// must be called in a synctest bubble.
func newRig(t *testing.T, n int, each func(site int, o *sim.Options), edit func(*rig)) *rig {
	t.Helper()
	recipe, err := configs.LoadRecipe("../../configs/sim-recipe.toml")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, recipe: recipe, records: &evidence{passed: map[string]bool{}}}
	key := boardKey(t)
	r.station = &configs.Station{
		Name: "test", Fixture: "FX", Start: configs.Start{Trigger: configs.LastScan},
		Timings: configs.Timings{
			PowerOff: configs.Duration(time.Second), Enumeration: configs.Duration(5 * time.Second), ResetPulse: configs.Duration(50 * time.Millisecond), Settle: configs.Duration(50 * time.Millisecond),
			HoldCap: configs.Duration(5 * time.Second), ProbeEvery: configs.Duration(100 * time.Millisecond),
			Stagger: configs.Duration(200 * time.Millisecond),
		},
	}
	var adapters []*adapter
	unplugged := make(chan struct{})
	for i := 1; i <= n; i++ {
		host, far := net.Pipe()
		o := sim.Options{Name: fmt.Sprintf("S%d", i), Key: key, Line: far, Seed: uint64(i)}
		if each != nil {
			each(i, &o)
		}
		b, err := sim.New(o)
		if err != nil {
			t.Fatal(err)
		}
		r.boards = append(r.boards, b)
		a := newAdapter(host)
		adapters = append(adapters, a)
		if o.USB != nil {
			a.wg.Go(func() { a.follow(b, unplugged) })
		}
		r.station.Sites = append(r.station.Sites, configs.Site{
			Number: i, Port: fmt.Sprintf("sim:%d", i), Baud: 115200, USB: o.USB != nil,
			Reset:    &configs.Output{Pin: fmt.Sprintf("S%d_RESET", i), ActiveLow: true, OpenDrain: true},
			Power:    configs.Output{Pin: fmt.Sprintf("S%d_POWER", i)},
			Recovery: configs.Output{Pin: fmt.Sprintf("S%d_RECOVERY", i), ActiveLow: true, OpenDrain: true},
		})
	}
	r.dial = func(site int) (io.ReadWriteCloser, error) {
		if !r.present(site) {
			return nil, &fixtures.PortError{Path: fmt.Sprintf("sim:%d", site), Err: fs.ErrNotExist, Hint: "Plug it in."}
		}
		return adapters[site-1].dial(), nil
	}
	if edit != nil {
		edit(r)
	}
	if r.job, err = NewJob(r.recipe); err != nil {
		t.Fatal(err)
	}
	r.fixture, err = fixtures.Open(r.station, fixtures.Hardware{
		Pin: func(name string) (gpio.PinIO, error) {
			if r.pin != nil {
				if p := r.pin(name); p != nil {
					return p, nil
				}
			}
			for _, b := range r.boards {
				for _, p := range b.Pins() {
					if p.Name() == name {
						return p, nil
					}
				}
			}
			return nil, errors.New("no such pin")
		},
		Dial: func(path string, _ fixtures.Mode) (io.ReadWriteCloser, error) {
			var site int
			fmt.Sscanf(path, "sim:%d", &site)
			return r.dial(site)
		},
		Present: func(path string) bool {
			var site int
			fmt.Sscanf(path, "sim:%d", &site)
			return r.present(site)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.fixture.Close()
		close(unplugged)
		for i, b := range r.boards {
			if v := b.Violations(); len(v) > 0 {
				t.Errorf("board %d suffered: %v", i+1, v)
			}
			b.Close()
			adapters[i].host.Close()
			adapters[i].wg.Wait()
		}
	})
	return r
}

// present tells whether a site's port is there: one of an adapter always is.
func (r *rig) present(site int) bool {
	if !r.station.Sites[site-1].USB {
		return true
	}
	_, _, present := r.boards[site-1].USB()
	return present
}

func boardKey(t *testing.T) crypto.PublicKey {
	t.Helper()
	pem, err := configs.Examples.ReadFile("blinky.pub.pem")
	if err != nil {
		t.Fatal(err)
	}
	k, err := mcuboot.LoadPublicKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

// line makes a line for an order of quantity units.
func (r *rig) line(quantity int) *Line {
	return New(Options{
		Fixture: r.fixture, Station: r.station, Recipe: r.recipe, Job: r.job, Records: r.records,
		Order: records.Order{ID: "WO", Quantity: quantity}, Operator: "op", Software: "test",
		Notify: func(e Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, e)
		},
	})
}

// of returns the events of a kind.
func (r *rig) of(kind EventKind) (out []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

// safe fails the test unless every board is off and let go.
func (r *rig) safe() {
	r.t.Helper()
	for i, b := range r.boards {
		if s := b.State(); s != sim.StateOff {
			r.t.Errorf("board %d is left %s", i+1, s)
		}
		h := b.Recovery().History()
		if len(h) > 0 && h[len(h)-1].Output {
			r.t.Errorf("the recovery line of board %d is still driven", i+1)
		}
	}
}

// scans feeds labels, as fast as they are taken, and closes.
func scans(t *testing.T, labels ...string) <-chan Scan {
	ch := make(chan Scan)
	go func() {
		defer close(ch)
		for _, l := range labels {
			select {
			case ch <- Scan{Text: l, Source: records.SerialScan}:
			case <-t.Context().Done():
				return
			}
		}
	}()
	return ch
}

// evidence is the records in memory, which can be made to fail.
type evidence struct {
	mu       sync.Mutex
	attempts []records.Attempt
	results  map[string]records.Result
	passed   map[string]bool
	onBegin  func(records.Attempt) error
	onFinish func(string, records.Result) error
}

func (e *evidence) Begin(ctx context.Context, a records.Attempt) (records.Attempt, error) {
	if err := ctx.Err(); err != nil {
		return a, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.onBegin != nil {
		if err := e.onBegin(a); err != nil {
			return a, err
		}
	}
	a.Seq = int64(len(e.attempts) + 1)
	a.ID = fmt.Sprintf("attempt-%d", a.Seq)
	a.StartedAt = time.Now()
	e.attempts = append(e.attempts, a)
	return a, nil
}

func (e *evidence) Finish(ctx context.Context, id string, r records.Result) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if e.onFinish != nil {
		if err := e.onFinish(id, r); err != nil {
			return err
		}
	}
	if e.results == nil {
		e.results = map[string]records.Result{}
	}
	e.results[id] = r
	return nil
}

func (e *evidence) UnitPassed(ctx context.Context, _, serial string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.passed[serial], nil
}

func (e *evidence) OrderCounts(ctx context.Context, _ string) (records.Counts, error) {
	if err := ctx.Err(); err != nil {
		return records.Counts{}, err
	}
	return records.Counts{Passed: len(e.passed)}, nil
}

// codes are the outcome and failure code of each attempt of a unit, in order.
func (e *evidence) codes(serial string) (out []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.attempts {
		if a.UnitSerial != serial {
			continue
		}
		r, ok := e.results[a.ID]
		if !ok {
			out = append(out, "RUNNING")
			continue
		}
		out = append(out, string(r.Outcome)+r.FailureCode)
	}
	return out
}

func stepNames(r records.Result) (out []string) {
	for _, s := range r.Steps {
		out = append(out, s.Name)
	}
	return out
}

func copyFile(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := configs.Examples.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

var allSteps = []string{StepPowerOff, StepRecovery, StepIdentify, StepUpload, StepVerify, StepRelease, StepBoot, StepCheck, StepProve, StepPowerDown}
