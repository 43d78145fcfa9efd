package line

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/records"
	"flashline/smp"
)

// The steps of an attempt, as they stand in the records. Which of them an
// attempt has follows from the slot policy.
const (
	StepPowerOff  = "power off"
	StepRecovery  = "enter recovery"
	StepStart     = "start" // in its place, where whatever answers is taken
	StepDiagnose  = "diagnose"
	StepIdentify  = "identify"
	StepUpload    = "upload"
	StepVerify    = "verify"
	StepLetSwap   = "let swap" // only where a foreign image is in the way
	StepMark      = "mark"     // only where the image does not go to slot 0 of a bootloader
	StepRelease   = "release"
	StepBoot      = "boot"
	StepCheck     = "check"
	StepConfirm   = "confirm" // only after a trial start
	StepProve     = "prove"
	StepExamine   = "examine" // only after a failure to start
	StepPowerDown = "power down"
)

// Site is what an attempt needs of a site's hardware; *fixtures.Site is one.
type Site interface {
	// Off takes the power away and waits until the board is without.
	Off(ctx context.Context) error
	// Enter brings the board to where it answers, and gives text what it
	// prints. Where it can do so once only, the next time is a
	// fixtures.ErrNoPower.
	Enter(ctx context.Context, how fixtures.Entry, text func(line []byte)) (*smp.Client, smp.Target, error)
	// Reconnect returns a client on the port of a board that restarts.
	Reconnect(ctx context.Context, text func(line []byte), within time.Duration) (*smp.Client, error)
	// USB tells whether the port is the board's own and goes when it restarts.
	USB() bool
	// Down ends the work: port closed, lines released, power off.
	Down() error
}

// Diagnoser is a Site that can find out why a board does not answer.
type Diagnoser interface {
	Diagnose(ctx context.Context, how fixtures.Entry) (*fixtures.Silence, error)
}

// Job is what is done to a unit.
type Job struct {
	Images         []*Firmware // at least one, by number
	Entry          configs.Entry
	Framing        configs.Framing
	Policy         configs.SlotPolicy
	AllowDowngrade bool
	Board          string         // what an application must say it runs on, "" to ask nothing
	BootText       *regexp.Regexp // what the application must print, nil for nothing
	BootAsks       string         // the same as the recipe writes it, for people
	TellsVersion   bool           // the boot text contains the version of the image
	Within         time.Duration  // after the boot, to print it
	Proof          configs.Proof
	Resends        int // of one chunk
	Timeouts       configs.Timeouts

	lessons lessons
}

// NewJob makes the job of a recipe.
func NewJob(r *configs.Recipe) (*Job, error) {
	images, err := loadAll(r)
	if err != nil {
		return nil, err
	}
	pattern, err := r.Check.Pattern(images[0].Version.String())
	if err != nil {
		return nil, fmt.Errorf("recipe %s: boot text: %w", r.File, err)
	}
	resends := r.Retries.Chunk
	if resends == 0 {
		resends = -1 // the engine's 0 means its default
	}
	return &Job{
		Images: images, Entry: r.Entry, Framing: cmp.Or(r.Framing, configs.AutoFraming), Policy: r.SlotPolicy, AllowDowngrade: r.AllowDowngrade, Board: r.Board,
		BootText: pattern, BootAsks: strings.ReplaceAll(r.Check.BootText, "{version}", images[0].Version.String()), TellsVersion: strings.Contains(r.Check.BootText, "{version}"), Within: time.Duration(r.Check.Within),
		Proof: r.Check.Proof, Resends: resends, Timeouts: r.Timeouts,
	}, nil
}

// Progress is what a running attempt tells a watcher.
type Progress struct {
	Step        string
	Done        bool // the step has ended
	Outcome     records.Outcome
	Sent, Total int // bytes, during the upload
}

// load is one image of an attempt.
type load struct {
	fw   *Firmware
	slot int // where it goes
	// message is the largest message that may carry it, bytes.
	message int
	lines   smp.Lines // the buffers it has to pass through
	number  int       // the image number that addresses it there
	kept    bool      // the board holds it already, so it is not sent
	there   bool      // it lies in its slot from an earlier try, so it is not sent either
	// What the board reported: before, and at last.
	prev, hash, version string
}

// is reports whether an entry of a list is this image.
func (l *load) is(s smp.ImageSlot) bool {
	return len(s.Hash) > 0 && string(s.Hash) == string(l.fw.Hash)
}

func (l *load) report(s smp.ImageSlot) {
	l.hash, l.version = hex.EncodeToString(s.Hash), s.Version
}

// called names the image where there are several.
func (a *attempt) called(l *load) string {
	if len(a.loads) == 1 {
		return "the image"
	}
	return fmt.Sprintf("image %d (%s)", l.fw.Number, l.fw.Name)
}

// attempt is one flash of one unit; it becomes a records.Result.
type attempt struct {
	job    *Job
	site   Site
	watch  func(Progress)
	start  time.Time
	result records.Result
	how    fixtures.Entry
	client *smp.Client // nil while a USB board has no port
	prints *transcript
	reset  int // the line of the transcript where the restart begins

	facts    Facts
	plan     Decision
	loads    []*load
	pending  bool          // a foreign image is marked to replace what was written
	swapped  bool          // and was let swap
	taken    int           // image bytes that the board has taken
	sending  time.Duration // the uploads alone
	window   int           // requests that an application takes at once, 0 if it does not tell
	unproven *Failure      // why the bootloader's list proves nothing
	once     bool          // the site cannot bring the board into recovery again
	resent   bool          // an image, after what may have been damage on a raw line
	answers  bool          // the application has answered since the restart
	proof    []string
}

type step struct {
	name string
	do   func(context.Context, *records.Step) error
}

// Flash flashes one board and reports how that went; the board is without
// power afterwards, whatever happens. It never fails in Go's sense: what goes
// wrong, a panic included, is in the result. Cancel ctx with ErrAborted to
// stop it. watch must not block.
func (j *Job) Flash(ctx context.Context, site Site, watch func(Progress)) records.Result {
	if total := time.Duration(j.Timeouts.Total); total > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, total, errTotalTime)
		defer cancel()
	}
	a := &attempt{job: j, site: site, watch: watch, start: time.Now(), prints: newTranscript()}
	if a.watch == nil {
		a.watch = func(Progress) {}
	}
	for _, fw := range j.Images {
		a.loads = append(a.loads, &load{fw: fw})
	}
	// Whatever becomes of this function, a panic of a watcher included.
	down := false
	defer func() {
		if !down {
			site.Down() // its error has been recorded, or a panic passes by
		}
	}()
	failure := a.run(ctx)
	// With a context of its own: power off also happens after Ctrl-C.
	if f := a.step(context.WithoutCancel(ctx), step{StepPowerDown, a.powerDown}); f != nil {
		// Worse than whatever went before: the board may still have power.
		if failure != nil {
			f.Detail += " Before that: " + failure.Detail
		}
		failure = f
		a.result.FailedStep = StepPowerDown
	} else {
		down = true
	}
	return a.end(failure)
}

// run is the attempt up to its last step.
func (a *attempt) run(ctx context.Context) *Failure {
	enter := step{StepRecovery, a.enter}
	if a.job.Entry == configs.PowerOn {
		enter.name = StepStart
	}
	if f := a.steps(ctx, step{StepPowerOff, a.powerOff}, enter); f != nil {
		return a.diagnose(ctx, f)
	}
	if f := a.steps(ctx, step{StepIdentify, a.identify}); f != nil {
		return f
	}
	write := []step{{StepUpload, a.upload}, {StepVerify, a.verify}}
	restart := []step{{StepRelease, a.release}, {StepBoot, a.boot}, {StepCheck, a.check}}
	if f := a.steps(ctx, write...); f != nil {
		return f
	}
	if a.pending {
		if f := a.steps(ctx, append([]step{{StepLetSwap, a.letSwap}}, write...)...); f != nil {
			return f
		}
	}
	var rest []step
	switch a.plan.Policy {
	case configs.SecondaryConfirm:
		rest = slices.Concat([]step{{StepMark, a.mark}}, restart)
	case configs.SecondaryTestConfirm:
		rest = slices.Concat([]step{{StepMark, a.mark}}, restart, []step{{StepConfirm, a.confirm}})
	case configs.ApplicationPolicy:
		rest = []step{{StepMark, a.mark}, {StepRelease, a.release}, {StepBoot, a.bootApplication}, {StepCheck, a.check}, {StepConfirm, a.confirm}}
	default:
		rest = restart
	}
	switch {
	case a.started():
		// A restart would take back what is on trial since an attempt that was
		// cut off. What the list has as confirmed is confirmed all the same, see
		// there.
		rest = []step{{StepCheck, a.check}, {StepConfirm, a.confirm}}
		if a.unseen() {
			rest = append(rest, step{StepRelease, a.release}, step{StepBoot, a.bootApplication})
		}
	case a.settled():
		rest = restart // nothing was written, and yet it has to start
	}
	var f *Failure
	if a.doubtful() {
		f = a.steps(ctx, append(restart, step{StepRecovery, a.returnOnce})...)
		if a.once {
			rest = nil
		}
	}
	if f == nil {
		f = a.steps(ctx, append(rest, step{StepProve, a.prove})...)
	}
	switch {
	case f == nil:
		return nil
	case a.unproven != nil && f.Outcome == records.Fail && f != a.unproven:
		// The second thing that went wrong explains the first no more.
		a.unproven.Detail += " " + f.Detail
		return a.unproven
	}
	return a.examine(ctx, f)
}

// settled reports whether every image is where it is to stay.
func (a *attempt) settled() bool {
	for _, l := range a.loads {
		if !l.kept && (l.slot != 0 || a.facts.Target == smp.TargetApplication) {
			return false
		}
	}
	return true
}

// started reports whether an application runs every image already.
func (a *attempt) started() bool {
	for _, l := range a.loads {
		active, ok := a.running(l.fw.Number)
		if a.facts.Target != smp.TargetApplication || !ok || !l.is(active) {
			return false
		}
	}
	return true
}

// unseen reports whether an image beside that of the application itself may run
// on trial without its list showing that, so that only another start does: Zephyr
// confirms no image but its own, and where images run in place and can go back it
// has all as confirmed that run.
func (a *attempt) unseen() bool {
	switch a.facts.Mode {
	case smp.ModeUnknown, smp.ModeDirectXIPRev, smp.ModeRAMLoad, smp.ModeSingleRAMLoad, smp.ModeFirmwareLoader:
		return slices.ContainsFunc(a.loads, func(l *load) bool { return l.fw.Number > 0 })
	}
	return false
}

// doubtful reports whether a board that holds the image already may hold it on
// trial only. A bootloader for images in place does not tell (its flags are those
// of one that swaps) and throws a trial away at the second start, so it takes two
// to see that it stays.
func (a *attempt) doubtful() bool {
	for _, l := range a.loads {
		if l.kept && a.facts.Target == smp.TargetBootloader && !a.facts.single(l.fw.Number) {
			return true
		}
	}
	return false
}

// returnOnce goes back to recovery between two starts, where it can.
func (a *attempt) returnOnce(ctx context.Context, s *records.Step) error {
	err := a.enterAgain(ctx, s)
	if errors.Is(err, fixtures.ErrNoPower) {
		a.once = true
		return skip(s, "the station cannot switch this board's power")
	}
	return err
}

// end makes the result.
func (a *attempt) end(failure *Failure) records.Result {
	r := &a.result
	for i, l := range a.loads {
		if i == 0 {
			r.DeviceHash, r.DeviceVersion, r.PrevHash = l.hash, l.version, l.prev
		} else {
			r.Further = append(r.Further, records.FurtherResult{Number: l.fw.Number, DeviceHash: l.hash, DeviceVersion: l.version, PrevHash: l.prev})
		}
		if failure == nil && l.hash != hex.EncodeToString(l.fw.Hash) {
			// Cannot be; and if it is, it must not pass.
			failure = &Failure{Outcome: records.Error, Code: StationFault, Next: callTech,
				Detail: fmt.Sprintf("A fault of the station program: nothing went wrong, and yet the board has not reported %s.", a.called(l))}
			r.FailedStep = StepProve
		}
	}
	r.Policy, r.PolicyRow, r.PolicyWhy = string(a.plan.Policy), a.plan.Row, a.plan.Why
	if a.sending > 0 {
		r.UploadRate = int64(float64(a.taken) / a.sending.Seconds())
	}
	r.Duration = time.Since(a.start)
	r.Outcome = records.Pass
	if failure == nil {
		r.Proof = strings.Join(a.proof, " ")
		return *r
	}
	r.Outcome = failure.Outcome
	r.FailureCode = string(failure.Code)
	r.Detail = failure.Detail
	r.NextStep = failure.Next
	return *r
}

// steps runs steps in order until one fails.
func (a *attempt) steps(ctx context.Context, steps ...step) *Failure {
	for _, s := range steps {
		if f := a.step(ctx, s); f != nil {
			a.result.FailedStep = s.name
			return f
		}
	}
	return nil
}

// step runs one step and records it. A panic in it is the station's fault and
// ends this attempt only: the neighbours go on.
func (a *attempt) step(ctx context.Context, do step) (failure *Failure) {
	s := records.Step{Name: do.name, Start: time.Since(a.start), Outcome: records.Pass}
	defer func() {
		if p := recover(); p != nil {
			failure = &Failure{Outcome: records.Error, Code: StationFault, Next: callTech,
				Detail: fmt.Sprintf("A fault of the station program at step %q: %v.", do.name, p),
				Err:    fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
		}
		s.Duration = time.Since(a.start) - s.Start
		if failure != nil {
			s.Outcome = failure.Outcome
			if s.Detail == "" {
				s.Detail = failure.Detail
			}
		}
		a.result.Steps = append(a.result.Steps, s)
		a.watch(Progress{Step: do.name, Done: true, Outcome: s.Outcome})
	}()
	a.watch(Progress{Step: do.name})
	if err := ctx.Err(); err != nil {
		return explain(ctx, do.name, err)
	}
	if err := do.do(ctx, &s); err != nil {
		return explain(ctx, do.name, a.listen(ctx, err))
	}
	return nil
}

// skip records that a step was not needed, and why.
func skip(s *records.Step, why string) error {
	s.Outcome, s.Detail = records.Skipped, why
	return nil
}

// listen looks into a silence in recovery. A board that is dead or without
// power stays silent; one that answers a short probe is alive, and it is the
// line that loses what is longer, or the board that does not take it.
func (a *attempt) listen(ctx context.Context, err error) error {
	if _, explained := errors.AsType[*Failure](err); explained || a.client == nil || ctx.Err() != nil {
		return err
	}
	if _, lost := errors.AsType[*smp.PortError](err); lost && a.site.USB() {
		// The board's own port is the board's own fault, not the station's.
		return &Failure{Outcome: records.Fail, Code: USBLost, Err: err,
			Detail: "The board's USB port went away in the middle, as when it resets or loses its supply.",
			Next:   "Reseat the board and check its USB cable and supply contacts; if it fails again, put it aside as bad."}
	}
	silence, silent := errors.AsType[*smp.TimeoutError](err)
	lost, nothing := errors.AsType[*smp.LostError](err)
	if !silent && !nothing {
		return err
	}
	target, probeErr := a.client.AwaitTarget(ctx, probeTime, 10*probeTime)
	if probeErr != nil || target != a.facts.Target {
		return err
	}
	if nothing {
		// The recipe may ask for more than the board takes.
		if most, findErr := a.client.FindMessageSize(ctx, a.loads[0].lines); findErr == nil && most < lost.Size {
			return &Failure{Outcome: records.Fail, Code: MessageTooLong, Err: err,
				Detail: fmt.Sprintf("The board takes messages of up to %d bytes and drops those of %d that the recipe asks for.", most, lost.Size),
				Next:   fmt.Sprintf("Set message_size = 0 in the recipe, or at most %d; the bootloader's limits are CONFIG_BOOT_SERIAL_MAX_RECEIVE_SIZE and CONFIG_BOOT_MAX_LINE_INPUT_LEN. Call a technician.", most)}
		}
		return err
	}
	cuts := silence.Request == smp.MessageSizeProbe && a.cutsLines(ctx)
	if ctx.Err() != nil {
		return err // stopped before it could be known
	}
	if cuts {
		return &Failure{Outcome: records.Fail, Code: MessageTooLong, Err: err,
			Detail: "The board answers what fits a short line, and drops every longer one.",
			Next:   "Build the bootloader with CONFIG_BOOT_MAX_LINE_INPUT_LEN=128 or more; call a technician."}
	}
	s := a.client.Stats()
	return &Failure{Outcome: records.Fail, Code: BadLine, Err: err,
		Detail: fmt.Sprintf("The board is alive, but requests or answers get lost on its line (%d of %d requests unanswered, %d damaged answers).",
			s.Requests-s.Answers, s.Requests, s.Decoder.BadLine+s.Decoder.BadPacket),
		Next: "Reseat the board and check its contacts and ground; if other boards fail at this site too, call a technician for its cable and adapter."}
}

// cutsLines reports whether the board takes short lines always and long ones
// never, as one does that is built with a small line buffer; a bad line does
// neither.
func (a *attempt) cutsLines(ctx context.Context) bool {
	const short, long = 24, 80 // messages, of 43 and 115 characters in a line
	for range 4 {
		one, err := a.client.ProbeSize(ctx, short, probeTime)
		other, err2 := a.client.ProbeSize(ctx, long, probeTime)
		if err != nil || err2 != nil || !one || other {
			return false
		}
	}
	return true
}

func (a *attempt) powerOff(ctx context.Context, _ *records.Step) error { return a.site.Off(ctx) }

func (a *attempt) powerDown(context.Context, *records.Step) error { return a.site.Down() }

// entry is the way in of the recipe.
func (a *attempt) entry() fixtures.Entry {
	e := fixtures.Entry{Method: a.job.Entry, Framing: a.job.Framing}
	if e.Method == configs.PowerOn || e.Method == configs.BootMode {
		e.Within = time.Duration(a.job.Timeouts.Boot) // an application starts first
	}
	return a.job.lessons.entry(e)
}

func (a *attempt) enter(ctx context.Context, s *records.Step) error {
	a.how = a.entry()
	client, target, err := a.site.Enter(ctx, a.how, a.prints.add)
	if _, silent := errors.AsType[*fixtures.NoAnswerError](err); silent {
		a.job.lessons.silent()
	}
	if err != nil {
		return err
	}
	a.adopt(client)
	a.job.lessons.spoke(client.Framing())
	if client.Framing() == smp.FramingRaw {
		note(s, "raw protocol")
	}
	a.facts = Facts{Target: target, Mode: smp.ModeUnknown}
	if target == smp.TargetApplication && a.job.Entry == configs.BootMode {
		if err := a.checkBoard(ctx, s); err != nil {
			return err
		}
		if target, err = a.bootMode(ctx); err != nil {
			return err
		}
		a.facts.Target = target
	}
	if target == smp.TargetBootloader && a.job.Policy == configs.ApplicationPolicy {
		// Perhaps only because it was spoken to while it listened at its start.
		if target, err = a.leaveWindow(ctx); err != nil {
			return err
		}
		a.facts.Target = target
	}
	switch target {
	case smp.TargetBootloader:
		a.result.Target = records.Bootloader
		return nil
	case smp.TargetApplication:
		a.result.Target = records.Application
		if a.job.Entry == configs.PowerOn {
			return nil // which Decide knows what to do with
		}
		_, f := Decide(configs.PrimarySlot, a.facts)
		return f
	}
	return &Failure{Outcome: records.Fail, Code: NotRecovery,
		Detail: "Something answered that is neither MCUboot's recovery nor Zephyr's SMP server.", Next: callTech}
}

// adopt makes a client the attempt's own.
func (a *attempt) adopt(c *smp.Client) {
	a.client = c
	if c != nil {
		c.SetTimeout(time.Duration(a.job.Timeouts.Command))
	}
}

// bootMode asks an application to restart into recovery and waits until it is
// there. A swap that is pending runs first: MCUboot looks at the boot mode only
// after it.
func (a *attempt) bootMode(ctx context.Context) (smp.Target, error) {
	a.client.SetVersion(smp.V2)
	if err := a.restart(ctx, smp.BootBootloader); err != nil {
		return 0, err
	}
	// How long an application may go on answering before it resets, and a
	// bootloader may swap.
	ignored := time.Now().Add(time.Duration(a.job.Timeouts.Boot))
	deadline := ignored.Add(time.Duration(a.job.Timeouts.Swap))
	if err := a.rejoin(ctx, time.Until(deadline)); err != nil {
		return 0, err
	}
	every := probeTime
	if a.job.lessons.restarts() {
		every = entryProbe
	}
	// Which need not be spoken to as the application is.
	mayBeRaw := a.job.Framing == configs.AutoFraming && a.client != nil && a.client.Framing() == smp.FramingConsole
	for {
		until := deadline
		if mayBeRaw {
			until = ignored.Add(4 * probeTime) // time for an application to answer once more
		}
		target, err := a.probeUntil(ctx, until, every)
		if _, silent := errors.AsType[*smp.TimeoutError](err); silent && mayBeRaw && a.client != nil {
			mayBeRaw = false
			a.client.SetFraming(smp.FramingRaw)
			continue
		}
		if err != nil {
			return 0, err
		}
		switch {
		case target == smp.TargetBootloader:
			a.job.lessons.restarted()
			return target, nil
		case time.Now().After(ignored):
			return 0, &Failure{Outcome: records.Fail, Code: NotRecovery,
				Detail: "The application was asked to restart into recovery and came back as the application.",
				Next:   "Build the application with CONFIG_MCUMGR_GRP_OS_RESET_BOOT_MODE=y (Zephyr 4.2 or newer) and MCUboot with CONFIG_BOOT_SERIAL_BOOT_MODE=y and a retention area, or choose another entry; call a technician."}
		}
		if err := pause(ctx, every); err != nil {
			return 0, err
		}
	}
}

// leaveWindow restarts a bootloader into its application, and is silent until
// it cannot listen any more (CONFIG_BOOT_SERIAL_WAIT_FOR_DFU).
func (a *attempt) leaveWindow(ctx context.Context) (smp.Target, error) {
	if err := a.restart(ctx, smp.BootNormal); err != nil {
		return 0, err
	}
	wctx, cancel := context.WithTimeout(ctx, 2*quietTime)
	if _, printed := a.prints.wait(wctx, nil, a.reset, nil); printed {
		a.settle(ctx)
	}
	cancel()
	if err := a.rejoin(ctx, time.Duration(a.job.Timeouts.Boot)); err != nil {
		return 0, err
	}
	return a.probeUntil(ctx, time.Now().Add(time.Duration(a.job.Timeouts.Boot)), probeTime)
}

// settle waits until a board that has begun to print pauses: the first lines may
// be its bootloader's, and a genuine board that was spoken to at that moment has
// been seen to stay deaf (Zephyr on an emulated nRF51).
func (a *attempt) settle(ctx context.Context) {
	for began := time.Now(); time.Since(began) < quietTime; {
		wctx, cancel := context.WithTimeout(ctx, settleTime)
		_, more := a.prints.wait(wctx, a.gone(), a.prints.len(), nil)
		cancel()
		if !more {
			return
		}
	}
}

// probeUntil asks every so often what is there until something answers, and
// follows a USB port. Silence to the end is a *smp.TimeoutError.
func (a *attempt) probeUntil(ctx context.Context, deadline time.Time, every time.Duration) (smp.Target, error) {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return 0, &smp.TimeoutError{Request: "probe"}
		}
		if ok, err := a.follow(ctx, left); err != nil || !ok {
			if err == nil {
				err = &smp.TimeoutError{Request: "probe", After: left}
			}
			return 0, err
		}
		a.client.SetVersion(smp.V1) // which everything understands, and some nothing else
		target, err := a.client.AwaitTarget(ctx, every, min(left, 10*probeTime))
		_, silent := errors.AsType[*smp.TimeoutError](err)
		_, lost := errors.AsType[*smp.PortError](err)
		if err != nil && ctx.Err() == nil && (silent || lost && a.site.USB()) {
			continue
		}
		return target, err
	}
}

// follow makes sure that there is a client on the board's port: one that went
// with a restart comes back by itself. It reports false for a USB port that
// does not.
func (a *attempt) follow(ctx context.Context, within time.Duration) (bool, error) {
	if a.client != nil {
		select {
		case <-a.client.Gone():
		default:
			return true, nil
		}
	}
	if !a.site.USB() {
		return true, nil // the next request tells what is wrong
	}
	if err := a.rejoin(ctx, within); err != nil {
		return false, err
	}
	return a.client != nil, nil
}

// rejoin waits for the USB port of a board that restarts to go and to come
// back; there is no client if it does not. The port of an adapter stays.
func (a *attempt) rejoin(ctx context.Context, within time.Duration) error {
	if !a.site.USB() {
		return nil
	}
	client, err := a.site.Reconnect(ctx, a.prints.add, within)
	if _, gone := errors.AsType[*fixtures.NoPortError](err); gone {
		a.client = nil
		return nil
	}
	if err != nil {
		return err
	}
	a.adopt(client)
	return nil
}

// twice asks again after a silence: one lost answer must not pass for a board
// that does not tell.
func twice[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	v, err := ask(ctx)
	if _, silent := errors.AsType[*smp.TimeoutError](err); silent && ctx.Err() == nil {
		return ask(ctx)
	}
	return v, err
}

// told asks twice what a board may not know how to tell. It reports false if the
// board does not; an error is one that ends the attempt.
func told[T any](ctx context.Context, ask func(context.Context) (T, error)) (v T, ok bool, err error) {
	v, err = twice(ctx, ask)
	if err != nil && soft(err) && ctx.Err() == nil {
		return v, false, nil
	}
	return v, err == nil, err
}

func head(hash []byte) []byte { return hash[:min(len(hash), 8)] }

const (
	// probeTime is how long one look for a bootloader waits.
	probeTime = 300 * time.Millisecond
	// entryProbe is how often a board that restarts into recovery is asked, once
	// others of the job have: soon enough to notice it within 20 ms, its answer
	// included. Before, what restarts may be an application, and one that was
	// spoken to while it started has been seen to stay deaf.
	entryProbe = 10 * time.Millisecond
	// resetTime is how long a board goes on answering after a reset request:
	// MCUboot waits 250 ms (boot_serial.c), as does Zephyr
	// (CONFIG_MCUMGR_GRP_OS_RESET_MS), and then takes a moment.
	resetTime = 500 * time.Millisecond
	// settleTime is how long a board that starts pauses at most while it prints.
	settleTime = 500 * time.Millisecond
	// quietTime is how long nothing is said to a board that restarts. A
	// bootloader built with CONFIG_BOOT_SERIAL_WAIT_FOR_DFU stays in recovery for
	// the first request it hears: half a second by default, and genuine ones
	// listen up to five times as long as they were built for (MCUboot issue 2613).
	quietTime = 3 * time.Second
)

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
