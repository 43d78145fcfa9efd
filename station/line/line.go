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
	// Problem says why the line cannot be used, a sentence; Broken that no
	// more will come because of it.
	Problem string
	Broken  bool
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
	NotStarted                      int    // units that were loaded and never started
	Units                           []Unit // in the order in which they were first flashed
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
	opts    Options
	stop    chan struct{}
	once    sync.Once
	advised sync.Once // all adapters of a station are mostly of one kind
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
	locked  bool       // out of order: nothing more goes there
	work    chan start // to the site's goroutine
}

// free reports whether a unit may be loaded.
func (p *position) free() bool { return !p.locked && p.unit == nil && p.running == "" }

// start is a unit for a site's goroutine; without a cycle it is only loaded.
type start struct {
	serial Scan
	cycle  string
}

// done is what a site's goroutine reports about one unit.
type done struct {
	site   int
	unit   Unit
	loaded bool   // nothing ran: the site has only been made ready
	lock   string // why the site must not be used any more, a sentence
	fault  *FaultError
}

// run is the state of Run; only its goroutine touches it.
type run struct {
	*Line
	sites   []*position
	passed  int // units of the order, earlier runs included
	next    *position
	held    *Scan // came when no site was free; unattended
	busy    int   // sites being made ready for what was loaded
	ended   bool  // no more scans will come
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
		if ctx.Err() != nil {
			return Summary{}, nil // stopped before anything began
		}
		fault := l.recordsFault(err)
		l.notify(Event{Kind: LineFault, Text: fault.Text})
		return Summary{}, fault
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
		p := &position{site: s, work: make(chan start, 2)} // a load and its start never wait
		r.sites = append(r.sites, p)
		wg.Go(func() {
			for w := range p.work {
				results <- l.guarded(ctx, p.site, w)
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
		if r.held != nil && (r.next != nil || !r.waiting()) {
			s := *r.held
			r.held = nil
			r.take(ctx, s)
			continue
		}
		// From a pipe, one label waits until there is a place for it; Enter
		// and the end are heard at any time.
		in := scans
		if r.ended || r.held != nil {
			in = nil
		}
		select {
		case s, ok := <-in:
			switch {
			case !ok:
				r.ended = true
				// A terminal that is gone is no operator who presses start.
				if r.opts.Station.Start.Trigger == configs.LastScan && !r.opts.Attended && ctx.Err() == nil {
					r.start(ctx)
				}
			case s.Broken:
				r.fail(&FaultError{Text: s.Problem})
			case s.Problem != "":
				r.notify(Event{Kind: Refused, Text: s.Problem})
			case s.Text == "":
				r.start(ctx)
			case r.next == nil && !r.opts.Attended && r.waiting():
				r.held = &s
			default:
				r.take(ctx, s)
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

// end takes no more scans, and starts nothing of what is loaded.
func (r *run) end(why string) {
	r.ended = true
	r.held = nil
	r.notify(Event{Kind: Stopping, Text: why})
	r.drop()
}

// drop tells of every unit that was loaded and will not be started.
func (r *run) drop() {
	for _, p := range r.sites {
		if p.unit != nil {
			r.summary.NotStarted++
			r.notify(Event{Kind: Dropped, Site: p.site.Number(), Serial: p.unit.Text})
			p.unit = nil
		}
	}
}

// waiting reports whether a site may come free by itself.
func (r *run) waiting() bool {
	return slices.ContainsFunc(r.sites, func(p *position) bool { return p.running != "" })
}

// take loads a unit, and starts the cycle if that was the last scan.
func (r *run) take(ctx context.Context, s Scan) {
	r.scan(ctx, s)
	if r.opts.Station.Start.Trigger == configs.LastScan && r.full() {
		r.start(ctx)
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
		if p.free() {
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
	return r.missing() == 0 || !slices.ContainsFunc(r.sites, (*position).free)
}

// idle reports whether there is nothing left to do.
func (r *run) idle() bool {
	loaded, usable := false, false
	for _, p := range r.sites {
		if p.running != "" {
			return false
		}
		loaded = loaded || p.unit != nil
		usable = usable || !p.locked
	}
	switch {
	case r.busy > 0:
		return false
	case !usable && r.fault == nil:
		r.fail(&FaultError{Text: "No site is left to work with: mend what each of them was locked for, then run the order again."})
		return true
	case loaded && r.ended && r.opts.Station.Start.Trigger == configs.Interlock:
		return false // the lid may still be closed
	case r.ended:
		r.drop()
		return true
	}
	return !loaded && r.missing() == 0
}

// scan takes a unit's label, or says why not.
func (r *run) scan(ctx context.Context, s Scan) {
	refuse := func(format string, args ...any) {
		r.notify(Event{Kind: Refused, Serial: s.Text, Text: fmt.Sprintf(format, args...)})
	}
	if r.next == nil {
		switch {
		case r.missing() == 0:
			refuse("%.60q was not taken: the order has all its units; start those that are loaded, or wait for the last ones.", s.Text)
		case r.waiting():
			refuse("%.60q was not taken: no site is free; wait for one to finish, then scan again.", s.Text)
		default:
			refuse("%.60q was not taken: every site is loaded; start them first.", s.Text)
		}
		return
	}
	if !r.opts.Recipe.SerialOK(s.Text) {
		refuse("%.60q is no serial of %s (the recipe asks for %s); scan the unit's own label.", s.Text, r.opts.Recipe.Product, r.opts.Recipe.SerialPattern)
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
		if ctx.Err() == nil {
			r.fail(r.recordsFault(err))
		}
		return
	}
	if passed {
		refuse("%s has already passed in order %s; look for a doubled label.", s.Text, r.opts.Order.ID)
		return
	}
	r.next.unit = &s
	r.busy++
	r.next.work <- start{serial: s}
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
		p.work <- start{serial: *p.unit, cycle: cycle}
		p.unit = nil
	}
}

func (r *run) finished(d done) {
	for _, p := range r.sites {
		if p.site.Number() != d.site {
			continue
		}
		if !d.loaded {
			p.running = ""
		}
		if d.lock != "" && !p.locked {
			// A site that fails by itself would be free again at once, and
			// eat one unit of the order after the other.
			p.locked = true
			if r.next == p {
				r.next = nil
			}
			r.notify(Event{Kind: Locked, Site: d.site, Text: d.lock})
		}
	}
	if d.loaded {
		r.busy--
	}
	if d.fault != nil {
		r.fail(d.fault)
	}
	if d.unit.Attempts > 0 {
		r.summary.add(d.unit)
		if d.unit.Result.Outcome == records.Pass {
			r.passed++
		}
	}
}

// add counts a unit by its last attempt.
func (s *Summary) add(u Unit) {
	count := func(u Unit, n int) {
		switch u.Result.Outcome {
		case records.Pass:
			s.Passed += n
		case records.Fail:
			s.Failed += n
		case records.Aborted:
			s.Aborted += n
		default:
			s.Errors += n
		}
	}
	count(u, 1)
	if i := slices.IndexFunc(s.Units, func(o Unit) bool { return o.Serial == u.Serial }); i >= 0 {
		count(s.Units[i], -1)
		u.Attempts += s.Units[i].Attempts
		s.Units[i] = u
		return
	}
	s.Units = append(s.Units, u)
}

// fail ends the run: the first fault is the one told.
func (r *run) fail(f *FaultError) {
	if r.fault == nil {
		r.fault = f
		r.end("The station has a fault: no new units are started.")
	}
}

// guarded is unit, but that a panic outside of the attempt itself makes the
// site safe and stops the line instead of the process: an open row is worth
// less than pins left on.
func (l *Line) guarded(ctx context.Context, site *fixtures.Site, w start) (d done) {
	d.site, d.loaded = site.Number(), w.cycle == ""
	defer func() {
		if p := recover(); p != nil {
			err := fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			d.fault = &FaultError{Text: fmt.Sprintf("A fault of the station program at site %d: %v. Call a technician.", site.Number(), p), Err: errors.Join(err, site.Down())}
		}
	}()
	if d.loaded {
		// The verdict on the board before goes out: a lamp must never speak
		// of a board that is not there any more.
		if err := site.Light(fixtures.LampNone); err != nil {
			d.lock = lampFault(err)
		}
		return d
	}
	l.unit(ctx, site, w, &d)
	return d
}

func lampFault(err error) string {
	return sentence(err) + " Its lamps cannot be believed."
}

// unit flashes one unit, again after a power cycle where that may help. Every
// attempt has its row before the power goes on and its result before anybody
// is told.
func (l *Line) unit(ctx context.Context, site *fixtures.Site, w start, d *done) {
	u := &d.unit
	u.Serial, u.Site = w.serial.Text, site.Number()
	light := func(lamp fixtures.Lamp) {
		if err := site.Light(lamp); err != nil && d.lock == "" {
			d.lock = lampFault(err)
		}
	}
	for try := 1; ; try++ {
		rec, err := l.opts.Records.Begin(ctx, l.row(site, w, try))
		if err != nil {
			if ctx.Err() == nil { // else aborted before anything began
				d.fault = l.recordsFault(err)
			}
			return
		}
		u.Attempts = try
		l.notify(Event{Kind: Attempt, Site: u.Site, Serial: u.Serial, Try: try, Attempt: rec})
		light(fixtures.LampBusy)
		last := try == l.opts.Recipe.Retries.Attempts
		var board Site = site
		if !last {
			board = hurried{site} // another try says more than a diagnosis
		}
		res := l.opts.Job.Flash(ctx, board, func(p Progress) {
			kind := Step
			if p.Total > 0 {
				kind = Upload
			}
			l.notify(Event{Kind: kind, Site: u.Site, Serial: u.Serial, Try: try, Progress: p})
		})
		u.Result = res
		if text := site.Advice(); text != "" {
			l.advised.Do(func() { l.notify(Event{Kind: Advice, Site: u.Site, Text: text}) })
		}
		if err := l.finish(ctx, rec.ID, res); err != nil {
			// Flashed, perhaps well, but not proven: nobody may see a PASS.
			u.Result.Outcome, u.Result.FailureCode = records.Error, string(StationFault)
			u.Result.Detail = "The record of this attempt could not be written."
			light(fixtures.LampFail)
			d.fault = l.recordsFault(err)
			return
		}
		if d.lock == "" {
			d.lock = siteFault(res)
		}
		retry := !last && ctx.Err() == nil && retryable(res)
		if !retry {
			lamp := fixtures.LampFail
			if res.Outcome == records.Pass {
				lamp = fixtures.LampPass
			}
			light(lamp)
		}
		l.notify(Event{Kind: Recorded, Site: u.Site, Serial: u.Serial, Try: try, Attempt: rec, Result: &res, Retry: retry})
		if !retry {
			return
		}
	}
}

// hurried is a site without Diagnose.
type hurried struct{ Site }

// siteFault is why a site whose attempt ended so cannot be used any more,
// empty if it can.
func siteFault(r records.Result) string {
	switch Code(r.FailureCode) {
	case PinFault, PortFault, PortLost, PortShared, StillPowered:
		return r.Detail + " " + r.NextStep + " Then run the order again."
	}
	return ""
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
	images, recipe := l.opts.Job.Images, l.opts.Recipe
	fw := images[0]
	a := records.Attempt{
		Fixture: l.opts.Station.Fixture, Site: site.Number(), CycleID: w.cycle, CycleTry: try,
		Order: l.opts.Order.ID, UnitSerial: w.serial.Text, SerialSource: w.serial.Source,
		Operator: l.opts.Operator, Purpose: records.Production,
		RecipeSHA256: recipe.SHA256, Product: recipe.Product, RecipeRevision: recipe.Revision,
		ImageName: fw.Name, ImageVersion: fw.Version.String(), ImageFileSHA256: fw.FileSHA256,
		ImageHash: fmt.Sprintf("%x", fw.Hash), ImageSize: int64(len(fw.Data)),
		SoftwareVersion: l.opts.Software, ConfigSHA256: l.opts.Station.SHA256,
		Port: site.Port(), Baud: site.Baud(),
	}
	for _, fw := range images[1:] {
		a.Further = append(a.Further, records.FurtherImage{
			Number: fw.Number, Name: fw.Name, Version: fw.Version.String(), FileSHA256: fw.FileSHA256,
			Hash: fmt.Sprintf("%x", fw.Hash), Size: int64(len(fw.Data)),
		})
	}
	return a
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
