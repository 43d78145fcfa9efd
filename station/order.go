package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"periph.io/x/conn/v3/gpio"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/smp/mcuboot"
	"flashline/station/line"
)

// order is one run of one work order on one station: what run and demo share.
type order struct {
	config   string // the station file
	recipe   string // overrides the station's
	db       string // overrides the station's
	id       string
	quantity int
	operator string

	whole bool // anything less than the whole order counts as failed

	scans    io.Reader
	attended bool // scans come from a person at a terminal
	out      io.Writer
	// boards changes how a board of software is made, which the station's
	// [simulator] describes in part only; nil leaves it as described.
	boards func(n int, o *sim.Options)
	// simulated is called with the boards of software, if the station has
	// any, before anything runs.
	simulated func(*sim.Bench)
	// watch gets every event besides the screen.
	watch func(line.Event)
}

// files is what an order's files hold.
type files struct {
	station *configs.Station
	recipe  *configs.Recipe
	job     *line.Job
}

// load reads and checks station, recipe and image, and touches nothing else.
func load(config, recipe string) (*files, error) {
	st, err := configs.LoadStation(config)
	if err != nil {
		return nil, err
	}
	if recipe == "" {
		recipe = st.Recipe.Abs
	}
	rc, err := configs.LoadRecipe(recipe)
	if err != nil {
		return nil, err
	}
	job, err := line.NewJob(rc)
	if err != nil {
		return nil, err
	}
	if err := st.CheckRecipe(rc); err != nil {
		return nil, err
	}
	st.Fit(rc)
	return &files{st, rc, job}, nil
}

// run works the order. Its error carries the exit code.
func (o *order) run(ctx context.Context) error {
	f, err := load(o.config, o.recipe)
	if err != nil {
		return inputError(err)
	}
	if o.db == "" {
		o.db = f.station.Records.Abs
	}

	// Pins first: whatever a crash left asserted is safe before anything
	// else can fail.
	fixture, closeHardware, err := o.open(f.station)
	if err != nil {
		return stationFault(err)
	}
	defer closeHardware()

	store, err := records.Open(ctx, o.db, records.Options{Station: f.station.Name})
	if err != nil {
		return stationFault(err)
	}
	defer store.Close()

	screen := newScreen(o.out)
	defer screen.Close()
	defer fixture.Safe() // on a panic too, and before a terminal can hold anything up
	if err := o.settle(ctx, store, screen); err != nil {
		return err
	}
	ord, err := o.put(ctx, store, f)
	if err != nil {
		return inputError(err)
	}

	l := line.New(line.Options{
		Fixture: fixture, Station: f.station, Recipe: f.recipe, Job: f.job, Records: store,
		Order: ord, Operator: o.operator, Software: version(), Attended: o.attended,
		Notify: func(e line.Event) {
			screen.Event(e)
			if o.watch != nil {
				o.watch(e)
			}
		},
	})
	actx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	var stopped atomic.Bool
	defer onSignals(
		func() { stopped.Store(true); l.Stop() },
		func() { stopped.Store(true); abort(line.ErrAborted) },
	)()

	for i, fw := range f.job.Images {
		which := "image"
		if i > 0 {
			which = fmt.Sprintf("image %d", fw.Number)
		}
		screen.Printf("Order %s: %s revision %s, %s %s, hash %x…", ord.ID, ord.Product, ord.RecipeRevision, which, fw.Version, fw.Hash[:8])
	}
	start := time.Now()
	summary, fault := l.Run(actx, scan(actx, o.scans, o.attended))
	took := time.Since(start)
	closeErr := fixture.Close()
	screen.Close()
	printSummary(o.out, ord, summary, took)
	missing := 0
	if counts, err := store.OrderCounts(context.WithoutCancel(ctx), ord.ID); err == nil && counts.Passed < ord.Quantity {
		missing = ord.Quantity - counts.Passed
		fmt.Fprintf(o.out, "The order is not complete: %d of %d units have passed.\n", counts.Passed, ord.Quantity)
	}
	fmt.Fprintf(o.out, "Records: %s\nTo see them: station records list --db %s --order %s\n", o.db, shellQuote(o.db), shellQuote(ord.ID))
	switch {
	case fault != nil:
		return &exitError{code: exitFault} // it has been shown
	case closeErr != nil:
		return stationFault(closeErr)
	case summary.Errors > 0:
		return &exitError{code: exitFault}
	case summary.Failed+summary.Aborted+summary.NotStarted > 0, missing > 0 && (o.whole || stopped.Load()):
		return &exitError{code: exitFailed}
	}
	return nil
}

// open makes every site of the station safe and returns the fixture and what
// makes it safe again.
func (o *order) open(st *configs.Station) (*fixtures.Fixture, func(), error) {
	hw, bench, err := openHardware(st, o.boards)
	if err != nil {
		return nil, nil, err
	}
	closeBench := func() {
		if bench != nil {
			bench.Close()
		}
	}
	if bench != nil && o.simulated != nil {
		o.simulated(bench)
	}
	fixture, err := fixtures.Open(st, hw)
	if err != nil {
		closeBench()
		return nil, nil, err
	}
	return fixture, func() {
		fixture.Close()
		closeBench()
	}, nil
}

// openHardware finds the station's pins and ports, real or simulated.
func openHardware(st *configs.Station, boards func(n int, o *sim.Options)) (fixtures.Hardware, *sim.Bench, error) {
	if st.Simulator == nil {
		host, err := fixtures.OpenHost()
		if err != nil {
			return fixtures.Hardware{}, nil, err
		}
		return fixtures.Hardware{Pin: host.Pin}, nil, nil
	}
	bench, err := newBench(st, boards)
	if err != nil {
		return fixtures.Hardware{}, nil, err
	}
	ports := map[string]string{}
	for i, s := range st.Sites {
		ports[s.Port] = bench.Board(i + 1).Port()
	}
	return fixtures.Hardware{
		Pin: func(name string) (gpio.PinIO, error) {
			if p := bench.Pin(name); p != nil {
				return p, nil
			}
			return nil, errors.New("the simulator has no such pin; the board at sim:1 has S1_POWER, S1_RECOVERY, S1_RESET and S1_LED")
		},
		Dial: func(path string, mode fixtures.Mode) (io.ReadWriteCloser, error) {
			return fixtures.OpenPort(ports[path], mode)
		},
		Present: func(path string) bool {
			_, err := os.Stat(ports[path])
			return err == nil
		},
	}, bench, nil
}

// newBench makes the simulated boards of a station, one a site, each with the
// changes made by change.
func newBench(st *configs.Station, change func(n int, o *sim.Options)) (*sim.Bench, error) {
	part, err := sim.PartByName(st.Simulator.Part)
	if err != nil {
		return nil, badInput(fmt.Errorf("%s: %w", st.File, err))
	}
	o := sim.Options{Part: part, Build: sim.BuildOptions{LineBuffers: st.Simulator.LineBufs}}
	if st.Simulator.KeyPEM != nil {
		key, err := mcuboot.LoadPublicKey(st.Simulator.KeyPEM)
		if err != nil {
			return nil, badInput(fmt.Errorf("%s: key %s: %w", st.File, st.Simulator.Key.Written, err))
		}
		o.Key = key.Public()
	}
	return sim.NewBench("", len(st.Sites), func(n int) sim.Options {
		site := st.Sites[n-1]
		b := o
		b.Name = "S" + strings.TrimPrefix(site.Port, "sim:")
		b.Baud = site.Baud
		b.Seed = uint64(st.Simulator.Seed) + uint64(n)
		if change != nil {
			change(n, &b)
		}
		return b
	})
}

// settle closes what an earlier run left open.
func (o *order) settle(ctx context.Context, store *records.Store, screen *screen) error {
	cut, err := store.Interrupt(ctx)
	if err != nil {
		return stationFault(err)
	}
	for _, a := range cut {
		screen.Printf("INTERRUPTED: %s at site %d, started %s: the station stopped in the middle; flash it again.", a.UnitSerial, a.Site, a.StartedAt.Local().Format(time.DateTime))
	}
	return nil
}

// put files recipe, image and order, and takes the quantity of an order that
// is already known.
func (o *order) put(ctx context.Context, store *records.Store, f *files) (records.Order, error) {
	rc := records.Recipe{SHA256: f.recipe.SHA256, Product: f.recipe.Product, Revision: f.recipe.Revision, Text: f.recipe.Text}
	ord := records.Order{ID: o.id, Product: rc.Product, RecipeRevision: rc.Revision, Quantity: o.quantity}
	if known, err := store.Order(ctx, o.id); err == nil {
		if o.quantity == 0 {
			ord.Quantity = known.Quantity
		}
	} else if !errors.Is(err, records.NotFound) {
		return ord, err
	}
	if err := store.PutRecipe(ctx, rc); err != nil {
		return ord, err
	}
	filed := map[string]bool{} // a package is one file with several images
	for _, fw := range f.job.Images {
		if filed[fw.FileSHA256] {
			continue
		}
		filed[fw.FileSHA256] = true
		img := records.Image{FileSHA256: fw.FileSHA256, Hash: fmt.Sprintf("%x", fw.Hash), Version: fw.Version.String(), Size: int64(len(fw.File)), Name: fw.Name}
		if err := store.PutImage(ctx, img, fw.File); err != nil {
			return ord, err
		}
	}
	return ord, store.PutOrder(ctx, ord)
}

// scan turns lines into scans. A scanner is a keyboard: it types a label and
// presses Enter, so that a label typed by hand cannot be told from a scanned
// one; an empty line is the Enter key of the operator.
func scan(ctx context.Context, r io.Reader, attended bool) <-chan line.Scan {
	out := make(chan line.Scan)
	// Not waited for: a read from a terminal cannot be ended, the process
	// ends it. A pipe ends with its writer.
	go func() {
		defer close(out)
		in := bufio.NewReaderSize(r, maxLabel)
		var labelAt time.Time
		for {
			text, long, err := in.ReadLine()
			s := line.Scan{Text: strings.TrimSpace(string(text)), Source: records.SerialScan}
			for long && err == nil {
				s.Problem = fmt.Sprintf("A scan of more than %d characters was not taken: scan the unit's own label.", maxLabel)
				_, long, err = in.ReadLine()
			}
			switch {
			case err == io.EOF && s.Problem == "":
				return
			case err != nil && err != io.EOF:
				s.Problem, s.Broken = fmt.Sprintf("The scanner's input broke: %v. Check the scanner and run the order again.", err), true
			case s.Text == "" && attended && time.Since(labelAt) < doubleEnter:
				continue
			case s.Text != "":
				labelAt = time.Now()
			}
			select {
			case out <- s:
			case <-ctx.Done():
				return
			}
			if s.Broken {
				return
			}
		}
	}()
	return out
}

const (
	// maxLabel bounds one scanned line; the largest 2D codes hold less.
	maxLabel = 8 << 10
	// doubleEnter is how soon after a label an empty line is no key press: a
	// scanner set to end its labels with CR and LF types Enter twice.
	doubleEnter = 150 * time.Millisecond
)

// onSignals calls stop at the first Ctrl-C, and abort at the second or at a
// request to end. The returned function ends that.
func onSignals(stop, abort func()) func() {
	ch := make(chan os.Signal, 4)
	// A reader of our output that goes away must not take the station with
	// it while boards have power.
	signal.Ignore(syscall.SIGPIPE)
	// Nor must Ctrl-Z leave it standing with boards under power.
	signal.Ignore(syscall.SIGTSTP)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; {
			select {
			case s := <-ch:
				if n++; s == os.Interrupt && n == 1 {
					stop()
				} else {
					abort()
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
		<-ended
	}
}

// shellQuote makes s one word of a shell.
func shellQuote(s string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:+@%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
