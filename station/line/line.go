package line

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/records"
)

// Evidence is what the line needs of the records; *records.Store is one.
type Evidence interface {
	// Begin returns when the attempt's row is on the disk.
	Begin(ctx context.Context, a records.Attempt) (records.Attempt, error)
	// Finish returns when the result is on the disk.
	Finish(ctx context.Context, id string, r records.Result) error
	UnitPassed(ctx context.Context, order, serial string) (bool, error)
	OrderCounts(ctx context.Context, order string) (records.Counts, error)
}

// Scan is one line from the scanner; an empty one is the start key.
type Scan struct {
	Text   string
	Source records.SerialSource
}

// Options make a line.
type Options struct {
	Fixture  *fixtures.Fixture
	Station  *configs.Station
	Recipe   *configs.Recipe
	Job      *Job
	Records  Evidence
	Order    records.Order // already put; Quantity 0 means as many as are scanned
	Operator string
	Software string // version of this program
	// Attended says that a person scans. Scans that come while no site is
	// free are then refused; otherwise, from a pipe, they wait.
	Attended bool
	// Notify gets every event, from several goroutines, and must not block.
	Notify func(Event)
}

// Summary is how a run ended, by unit: the last attempt counts.
type Summary struct {
	Passed, Failed, Errors, Aborted int
	Units                           []Unit // in the order in which they ended
}

// Unit is the verdict on one unit of a run.
type Unit struct {
	Serial   string
	Site     int
	Attempts int
	Result   records.Result
}

// FaultError says that the station cannot go on: nothing more is started.
type FaultError struct {
	Text string // a sentence for the operator
	Err  error
}

func (e *FaultError) Error() string { return e.Text }

func (e *FaultError) Unwrap() error { return e.Err }

// Line runs one order.
type Line struct {
	opts Options
	stop chan struct{}
	once sync.Once
}

// New returns a line that is ready to run.
func New(opts Options) *Line {
	if opts.Notify == nil {
		opts.Notify = func(Event) {}
	}
	return &Line{opts: opts, stop: make(chan struct{})}
}

// Stop takes no new units and lets the running ones finish.
func (l *Line) Stop() { l.once.Do(func() { close(l.stop) }) }

// position is a site as the dispatcher sees it.
type position struct {
	site    *fixtures.Site
	unit    *Scan // loaded and not yet started
	running string
	work    chan start // to the site's goroutine
}

type start struct {
	serial Scan
	cycle  string
}

// done is what a site's goroutine reports about one unit.
type done struct {
	site  int
	unit  Unit
	fault *FaultError
}

// run is the state of Run; only its goroutine touches it.
type run struct {
	*Line
	sites   []*position
	passed  int // units of the order, earlier runs included
	next    *position
	ended   bool // no more scans will come
	why     string
	fault   *FaultError
	summary Summary
}

// Run works the order until it is complete, scans is closed and everything
// loaded has been flashed, or Stop. Cancelling ctx aborts what runs. The error
// is nil or a *FaultError; failing units are in the summary. When Run returns
// every site is without power.
func (l *Line) Run(ctx context.Context, scans <-chan Scan) (Summary, error) {
	r := &run{Line: l}
	counts, err := l.opts.Records.OrderCounts(ctx, l.opts.Order.ID)
	if err != nil {
		return Summary{}, l.recordsFault(err)
	}
	r.passed = counts.Passed

	// A fault of the station stops the neighbours too, but not in mid-write.
	results := make(chan done)
	var wg sync.WaitGroup
	for _, s := range l.opts.Fixture.Sites() {
		if err := s.Fault(); err != nil {
			l.notify(Event{Kind: Locked, Site: s.Number(), Text: sentence(err)})
			continue
		}
		p := &position{site: s, work: make(chan start)}
		r.sites = append(r.sites, p)
		wg.Go(func() {
			for w := range p.work {
				unit, fault := l.guarded(ctx, p.site, w)
				results <- done{p.site.Number(), unit, fault}
			}
		})
	}
	r.dispatch(ctx, scans, results)
	for _, p := range r.sites {
		close(p.work)
	}
	wg.Wait()
	if r.fault != nil {
		l.notify(Event{Kind: LineFault, Text: r.fault.Text})
		return r.summary, r.fault
	}
	return r.summary, nil
}

// dispatch gives units to sites until there is nothing more to do and nothing
// runs.
func (r *run) dispatch(ctx context.Context, scans <-chan Scan, results <-chan done) {
	stop, abort := r.stop, ctx.Done()
	ticker := time.NewTicker(interlockEvery)
	defer ticker.Stop()
	var closed interlock
	for {
		r.await()
		if r.idle() {
			return
		}
		// Scans from a pipe wait until there is a place for them.
		in := scans
		if r.ended || r.next == nil && !r.opts.Attended {
			in = nil
		}
		select {
		case s, ok := <-in:
			switch {
			case !ok:
				r.end("")
				if r.opts.Station.Start.Trigger == configs.LastScan {
					r.start(ctx)
				}
			case s.Text == "":
				r.start(ctx)
			default:
				r.scan(ctx, s)
				if r.opts.Station.Start.Trigger == configs.LastScan && r.full() {
					r.start(ctx)
				}
			}
		case d := <-results:
			r.finished(d)
		case <-ticker.C:
			if active, ok := r.opts.Fixture.Started(); ok && closed.edge(active) {
				r.start(ctx)
			}
		case <-stop:
			stop = nil
			r.end("Stopping: no new units are started; those that run are finished.")
		case <-abort:
			abort = nil
			r.end("Aborting: every site is switched off.")
		}
	}
}

const interlockEvery = 50 * time.Millisecond

// interlock is the start input, debounced: it must read the same twice, and
// it must have been open before it counts as closed.
type interlock struct{ last, stable, opened bool }

func (i *interlock) edge(active bool) bool {
	steady := active == i.last
	i.last = active
	if !steady || active == i.stable && i.opened {
		return false
	}
	i.stable = active
	if !active {
		i.opened = true
		return false
	}
	fire := i.opened
	i.opened = false
	return fire
}

// end takes no more scans. What is loaded and not started stays so, unless
// the scans simply ran out.
func (r *run) end(why string) {
	r.ended = true
	if why != "" {
		r.why = why
		for _, p := range r.sites {
			p.unit = nil
		}
		r.notify(Event{Kind: Stopping, Text: why})
	}
}

// await tells once where the next unit goes. The choice stays until the scan
// comes, so that what was said stays true.
func (r *run) await() {
	if r.next != nil && (r.ended || r.missing() == 0) {
		r.next = nil
	}
	if r.next != nil || r.ended || r.missing() == 0 {
		return
	}
	for _, p := range r.sites {
		if p.unit == nil && p.running == "" {
			r.next = p
			r.notify(Event{Kind: Awaiting, Site: p.site.Number()})
			return
		}
	}
}

// missing is how many more units the order can take, at least one if it has
// no quantity.
func (r *run) missing() int {
	if r.opts.Order.Quantity <= 0 {
		return 1
	}
	n := r.opts.Order.Quantity - r.passed
	for _, p := range r.sites {
		if p.unit != nil || p.running != "" {
			n--
		}
	}
	return max(n, 0)
}

// full reports whether nothing more can be loaded now.
func (r *run) full() bool {
	return r.missing() == 0 || !slices.ContainsFunc(r.sites, func(p *position) bool { return p.unit == nil && p.running == "" })
}

// idle reports whether there is nothing left to do.
func (r *run) idle() bool {
	loaded := false
	for _, p := range r.sites {
		if p.running != "" {
			return false
		}
		loaded = loaded || p.unit != nil
	}
	if loaded && r.ended && r.opts.Station.Start.Trigger == configs.Interlock {
		return false // the lid may still be closed
	}
	return r.ended || !loaded && r.missing() == 0 || len(r.sites) == 0
}

// scan takes a unit's label, or says why not.
func (r *run) scan(ctx context.Context, s Scan) {
	refuse := func(format string, args ...any) {
		r.notify(Event{Kind: Refused, Serial: s.Text, Text: fmt.Sprintf(format, args...)})
	}
	if r.next == nil {
		if r.missing() == 0 {
			refuse("%s was not taken: the order has all its units; wait for the last ones to finish.", s.Text)
		} else {
			refuse("%s was not taken: no site is free; wait for one to finish, then scan again.", s.Text)
		}
		return
	}
	if !r.opts.Recipe.SerialOK(s.Text) {
		refuse("%q is no serial of %s (the recipe asks for %s); scan the unit's own label.", s.Text, r.opts.Recipe.Product, r.opts.Recipe.SerialPattern)
		return
	}
	for _, p := range r.sites {
		if p.running == s.Text || p.unit != nil && p.unit.Text == s.Text {
			refuse("%s is already at site %d; scan the label of the other board.", s.Text, p.site.Number())
			return
		}
	}
	passed, err := r.opts.Records.UnitPassed(ctx, r.opts.Order.ID, s.Text)
	if err != nil {
		r.fail(r.recordsFault(err))
		return
	}
	if passed {
		refuse("%s has already passed in order %s; look for a doubled label.", s.Text, r.opts.Order.ID)
		return
	}
	r.next.unit = &s
	r.notify(Event{Kind: Assigned, Site: r.next.site.Number(), Serial: s.Text})
	r.next = nil
}

// start begins a cycle over the sites that are loaded.
func (r *run) start(ctx context.Context) {
	if !slices.ContainsFunc(r.sites, func(p *position) bool { return p.unit != nil }) {
		return
	}
	// Somebody may have exchanged the image since the last cycle.
	if err := r.opts.Recipe.Verify(); err != nil {
		r.fail(&FaultError{Text: err.Error() + ".", Err: err})
		return
	}
	cycle := uuid.Must(uuid.NewV7()).String()
	r.notify(Event{Kind: Started, Text: cycle})
	for _, p := range r.sites {
		if p.unit == nil {
			continue
		}
		p.running = p.unit.Text
		p.work <- start{*p.unit, cycle}
		p.unit = nil
	}
}

func (r *run) finished(d done) {
	for _, p := range r.sites {
		if p.site.Number() == d.site {
			p.running = ""
		}
	}
	if d.fault != nil {
		r.fail(d.fault)
	}
	if d.unit.Attempts == 0 {
		return
	}
	r.summary.Units = append(r.summary.Units, d.unit)
	switch d.unit.Result.Outcome {
	case records.Pass:
		r.summary.Passed++
		r.passed++
	case records.Fail:
		r.summary.Failed++
	case records.Aborted:
		r.summary.Aborted++
	default:
		r.summary.Errors++
	}
}

// fail ends the run: the first fault is the one told.
func (r *run) fail(f *FaultError) {
	if r.fault == nil {
		r.fault = f
	}
	r.end("The station has a fault: no new units are started.")
}

// guarded is unit, but that a panic outside of the attempt itself makes the
// site safe and stops the line instead of the process: an open row is worth
// less than pins left on.
func (l *Line) guarded(ctx context.Context, site *fixtures.Site, w start) (u Unit, fault *FaultError) {
	defer func() {
		if p := recover(); p != nil {
			err := fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			fault = &FaultError{Text: fmt.Sprintf("A fault of the station program at site %d: %v. Call a technician.", site.Number(), p), Err: errors.Join(err, site.Down())}
		}
	}()
	return l.unit(ctx, site, w)
}

// unit flashes one unit, again after a power cycle where that may help. Every
// attempt has its row before the power goes on and its result before anybody
// is told.
func (l *Line) unit(ctx context.Context, site *fixtures.Site, w start) (Unit, *FaultError) {
	u := Unit{Serial: w.serial.Text, Site: site.Number()}
	for try := 1; ; try++ {
		rec, err := l.opts.Records.Begin(ctx, l.row(site, w, try))
		if err != nil {
			if ctx.Err() != nil {
				return u, nil // aborted before anything began
			}
			return u, l.recordsFault(err)
		}
		u.Attempts = try
		l.notify(Event{Kind: Attempt, Site: u.Site, Serial: u.Serial, Try: try, Attempt: rec})
		site.Light(fixtures.LampBusy) // a broken lamp is no reason to stop
		res := l.opts.Job.Flash(ctx, site, func(p Progress) {
			kind := Step
			if p.Total > 0 {
				kind = Upload
			}
			l.notify(Event{Kind: kind, Site: u.Site, Serial: u.Serial, Try: try, Progress: p})
		})
		u.Result = res
		if err := l.finish(ctx, rec.ID, res); err != nil {
			// Flashed, perhaps well, but not proven: nobody may see a PASS.
			u.Result.Outcome, u.Result.FailureCode = records.Error, string(StationFault)
			u.Result.Detail = "The record of this attempt could not be written."
			site.Light(fixtures.LampFail)
			return u, l.recordsFault(err)
		}
		retry := try < l.opts.Recipe.Retries.Attempts && ctx.Err() == nil && retryable(res)
		if !retry {
			lamp := fixtures.LampFail
			if res.Outcome == records.Pass {
				lamp = fixtures.LampPass
			}
			site.Light(lamp)
		}
		l.notify(Event{Kind: Recorded, Site: u.Site, Serial: u.Serial, Try: try, Attempt: rec, Result: &res, Retry: retry})
		if !retry {
			return u, nil
		}
	}
}

func retryable(r records.Result) bool {
	f := Failure{Outcome: r.Outcome, Code: Code(r.FailureCode)}
	return f.retryable()
}

// recordTime bounds the last write of an attempt, which also happens after
// Ctrl-C.
const recordTime = 30 * time.Second

func (l *Line) finish(ctx context.Context, id string, r records.Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	return l.opts.Records.Finish(ctx, id, r)
}

func (l *Line) row(site *fixtures.Site, w start, try int) records.Attempt {
	fw, recipe := l.opts.Job.Firmware, l.opts.Recipe
	return records.Attempt{
		Fixture: l.opts.Station.Fixture, Site: site.Number(), CycleID: w.cycle, CycleTry: try,
		Order: l.opts.Order.ID, UnitSerial: w.serial.Text, SerialSource: w.serial.Source,
		Operator: l.opts.Operator, Purpose: records.Production,
		RecipeSHA256: recipe.SHA256, Product: recipe.Product, RecipeRevision: recipe.Revision,
		ImageName: fw.Name, ImageVersion: fw.Version.String(), ImageFileSHA256: fw.FileSHA256,
		ImageHash: fmt.Sprintf("%x", fw.Hash), ImageSize: int64(len(fw.Data)),
		SoftwareVersion: l.opts.Software, ConfigSHA256: l.opts.Station.SHA256,
		Port: site.Port(), Baud: site.Baud(),
	}
}

func (l *Line) recordsFault(err error) *FaultError {
	return &FaultError{Text: sentence(err), Err: err}
}

func (l *Line) notify(e Event) {
	e.At = time.Now()
	l.opts.Notify(e)
}

// sentence is what an operator sees of an error of the station.
func sentence(err error) string {
	text := err.Error()
	if p, ok := errors.AsType[*fixtures.PinError](err); ok {
		text = fmt.Sprintf("Pin %s (%s) cannot be used: %v. %s", p.Pin, p.Role, p.Err, p.Hint)
	}
	return text
}
