package line

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"runtime/debug"
	"time"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/records"
	"flashline/smp"
	"flashline/smp/mcuboot"
)

// The steps of an attempt, in order, as they stand in the records.
const (
	StepPowerOff  = "power off"
	StepRecovery  = "enter recovery"
	StepIdentify  = "identify"
	StepUpload    = "upload"
	StepVerify    = "verify"
	StepConfirm   = "confirm" // only where the image goes to the secondary slot
	StepRelease   = "release"
	StepBoot      = "boot"
	StepCheck     = "check"
	StepProve     = "prove" // likewise
	StepPowerDown = "power down"
)

// Site is what an attempt needs of a site's hardware; *fixtures.Site is one.
type Site interface {
	// Off takes the power away and waits until the board is without.
	Off(ctx context.Context) error
	// Enter brings the board to where it answers, and gives text what it prints.
	Enter(ctx context.Context, how fixtures.Entry, text func(line []byte)) (*smp.Client, smp.Target, error)
	// Reconnect returns a client on the port of a board that restarts.
	Reconnect(ctx context.Context, text func(line []byte), within time.Duration) (*smp.Client, error)
	// Boot starts the board by a power cycle, without recovery.
	Boot(ctx context.Context, text func(line []byte)) (*smp.Client, error)
	// Down ends the work: port closed, lines released, power off.
	Down() error
}

// Job is what is done to a unit.
type Job struct {
	Firmware    *Firmware
	Policy      configs.SlotPolicy
	Rewrite     bool           // send it also to a board that already holds it
	WriteSize   int            // flash write size of the part, bytes
	MessageSize int            // largest message, 0 to find out
	BootText    *regexp.Regexp // what the application must print, nil for nothing
	Within      time.Duration  // after the boot, to print it
	Resends     int            // of one chunk
	Timeouts    configs.Timeouts
}

// NewJob makes the job of a recipe.
func NewJob(r *configs.Recipe) (*Job, error) {
	img := &r.Images[0]
	fw, err := LoadFirmware(img)
	if err != nil {
		return nil, err
	}
	pattern, err := r.Check.Pattern(fw.Version.String())
	if err != nil {
		return nil, fmt.Errorf("recipe %s: boot text: %w", r.File, err)
	}
	resends := r.Retries.Chunk
	if resends == 0 {
		resends = -1 // the engine's 0 means its default
	}
	return &Job{
		Firmware: fw, Policy: r.SlotPolicy, Rewrite: img.Rewrite, WriteSize: img.WriteSize, MessageSize: img.MessageSize, BootText: pattern,
		Within: time.Duration(r.Check.Within), Resends: resends, Timeouts: r.Timeouts,
	}, nil
}

// Progress is what a running attempt tells a watcher.
type Progress struct {
	Step        string
	Done        bool // the step has ended
	Outcome     records.Outcome
	Sent, Total int // bytes, during the upload
}

// attempt is one flash of one unit; it becomes a records.Result.
type attempt struct {
	job    *Job
	site   Site
	watch  func(Progress)
	start  time.Time
	result records.Result
	client *smp.Client
	prints *transcript
	reset  int // the line of the transcript where the restart begins

	slot   int  // where the image goes
	number int  // the image number that addresses it
	kept   bool // the board holds the image already
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
	// Whatever becomes of this function, a panic of a watcher included.
	down := false
	defer func() {
		if !down {
			site.Down() // its error has been recorded, or a panic passes by
		}
	}()
	var failure *Failure
	for _, s := range []struct {
		name      string
		do        func(context.Context, *records.Step) error
		secondary bool // only for an image in the secondary slot
	}{
		{StepPowerOff, a.powerOff, false},
		{StepRecovery, a.enterRecovery, false},
		{StepIdentify, a.identify, false},
		{StepUpload, a.upload, false},
		{StepVerify, a.verify, false},
		{StepConfirm, a.confirm, true},
		{StepRelease, a.release, false},
		{StepBoot, a.boot, false},
		{StepCheck, a.check, false},
		{StepProve, a.prove, true},
	} {
		if s.secondary && a.slot == 0 {
			continue
		}
		if failure = a.step(ctx, s.name, s.do); failure != nil {
			a.result.FailedStep = s.name
			break
		}
	}
	// With a context of its own: power off also happens after Ctrl-C.
	if f := a.step(context.WithoutCancel(ctx), StepPowerDown, a.powerDown); f != nil {
		// Worse than whatever went before: the board may still have power.
		if failure != nil {
			f.Detail += " Before that: " + failure.Detail
		}
		failure = f
		a.result.FailedStep = StepPowerDown
	} else {
		down = true
	}
	a.result.Duration = time.Since(a.start)
	a.result.Outcome = records.Pass
	if failure != nil {
		a.result.Outcome = failure.Outcome
		a.result.FailureCode = string(failure.Code)
		a.result.Detail = failure.Detail
		a.result.NextStep = failure.Next
	}
	return a.result
}

// step runs one step and records it. A panic in it is the station's fault and
// ends this attempt only: the neighbours go on.
func (a *attempt) step(ctx context.Context, name string, do func(context.Context, *records.Step) error) (failure *Failure) {
	s := records.Step{Name: name, Start: time.Since(a.start), Outcome: records.Pass}
	defer func() {
		if p := recover(); p != nil {
			failure = &Failure{Outcome: records.Error, Code: StationFault, Next: callTech,
				Detail: fmt.Sprintf("A fault of the station program at step %q: %v.", name, p),
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
		a.watch(Progress{Step: name, Done: true, Outcome: s.Outcome})
	}()
	a.watch(Progress{Step: name})
	if err := ctx.Err(); err != nil {
		return explain(ctx, name, err)
	}
	if err := do(ctx, &s); err != nil {
		return explain(ctx, name, a.listen(ctx, err))
	}
	return nil
}

// listen looks into a silence in recovery. A board that is dead or without
// power stays silent; one that answers a short probe is alive, and it is the
// line that loses what is longer.
func (a *attempt) listen(ctx context.Context, err error) error {
	if _, explained := errors.AsType[*Failure](err); explained || a.client == nil || ctx.Err() != nil {
		return err
	}
	if _, silent := errors.AsType[*smp.TimeoutError](err); !silent {
		return err
	}
	target, probeErr := a.client.AwaitTarget(ctx, probeTime, 10*probeTime)
	if probeErr != nil || target != smp.TargetBootloader {
		return err
	}
	s := a.client.Stats()
	return &Failure{Outcome: records.Fail, Code: BadLine, Err: err,
		Detail: fmt.Sprintf("The board is alive, but requests or answers get lost on its line (%d of %d requests unanswered, %d damaged answers).",
			s.Requests-s.Answers, s.Requests, s.Decoder.BadLine+s.Decoder.BadPacket),
		Next: "Reseat the board and check its contacts and ground; if other boards fail at this site too, call a technician for its cable and adapter."}
}

func (a *attempt) powerOff(ctx context.Context, _ *records.Step) error { return a.site.Off(ctx) }

func (a *attempt) enterRecovery(ctx context.Context, s *records.Step) error {
	client, target, err := a.site.Enter(ctx, fixtures.Entry{}, a.prints.add)
	if err != nil {
		return err
	}
	a.client = client
	client.SetTimeout(time.Duration(a.job.Timeouts.Command))
	if target != smp.TargetBootloader {
		if target == smp.TargetApplication {
			a.result.Target = records.Application
		}
		return &Failure{Outcome: records.Fail, Code: NotRecovery,
			Detail: "The board's application answered instead of its bootloader: it did not enter recovery.",
			Next:   "Check the recovery pin of this site; the bootloader may be built without serial recovery. Call a technician."}
	}
	a.result.Target = records.Bootloader
	return nil
}

// identify learns what the board takes and holds. What it holds is worth
// knowing, not worth failing for: releases of MCUboot differ in what they
// list, and some list nothing.
func (a *attempt) identify(ctx context.Context, s *records.Step) error {
	a.result.MessageSize = a.job.MessageSize
	if a.result.MessageSize == 0 {
		size, err := a.client.FindMessageSize(ctx)
		if err != nil {
			return err
		}
		a.result.MessageSize = size
	}
	list, err := a.client.Images(ctx, time.Duration(a.job.Timeouts.List))
	if err != nil {
		if _, broken := errors.AsType[*smp.PortError](err); broken || ctx.Err() != nil {
			return err
		}
		s.Detail = fmt.Sprintf("no image list: %v", err)
		return nil
	}
	if f := staleSwap(list); f != nil {
		if list, err = a.letSwap(ctx, f); err != nil {
			return err
		}
		s.Retries++
	}
	slot, ok := list.Find(0, 0)
	if ok {
		a.result.PrevHash = hex.EncodeToString(slot.Hash)
		s.Detail = "holds " + slot.Version
	} else {
		s.Detail = "holds no valid image"
	}
	a.kept = !a.job.Rewrite && ok && bytes.Equal(slot.Hash, a.job.Firmware.Hash) && (!list.HasFlags || slot.Active && slot.Confirmed)
	if a.job.Policy == configs.SecondaryConfirm && !a.kept {
		return a.chooseSecondary(ctx, s, ok)
	}
	return nil
}

func (a *attempt) upload(ctx context.Context, s *records.Step) error {
	fw := a.job.Firmware
	if a.kept {
		s.Outcome, s.Detail = records.Skipped, "the board holds the image already"
		return nil
	}
	r, err := a.client.Upload(ctx, fw.Data, smp.UploadOptions{
		Image:        a.number,
		WriteSize:    a.job.WriteSize,
		MessageSize:  a.result.MessageSize,
		Encrypted:    fw.Encrypted,
		FirstTimeout: time.Duration(a.job.Timeouts.FirstChunk),
		ChunkTimeout: time.Duration(a.job.Timeouts.Chunk),
		LastTimeout:  time.Duration(a.job.Timeouts.LastChunk),
		Resends:      a.job.Resends,
		Progress: func(p smp.UploadProgress) {
			a.watch(Progress{Step: StepUpload, Sent: p.Sent, Total: p.Total})
		},
	})
	s.Bytes, s.Retries = int64(r.Sent), r.Resends
	a.result.BytesSent, a.result.Retries, a.result.ChunkSize = int64(r.Bytes), r.Resends, r.ChunkSize
	return err
}

// verify asks the board what it holds now. A bootloader checks hash and
// signature before it lists an image, so an image that is listed with the
// right hash is complete, undamaged and signed with the key it trusts.
func (a *attempt) verify(ctx context.Context, s *records.Step) error {
	list, err := a.list(ctx, s)
	if err != nil {
		return err
	}
	slot, ok := list.Find(0, a.slot)
	if !ok {
		return &Failure{Outcome: records.Fail, Code: ImageNotListed,
			Detail: "The board took the image but does not accept it: its bootloader trusts another key, or the image was damaged.",
			Next:   "Check that this order and this board belong together: development and release boards trust different keys. Call a technician."}
	}
	a.result.DeviceVersion, a.result.DeviceHash = slot.Version, hex.EncodeToString(slot.Hash)
	want := a.job.Firmware
	switch {
	case len(slot.Hash) == 0:
		return &Failure{Outcome: records.Fail, Code: HashNotReported,
			Detail: fmt.Sprintf("The board lists version %s without a hash, so it cannot be proven to be the right image.", slot.Version),
			Next:   "The bootloader needs CONFIG_BOOT_SERIAL_IMG_GRP_HASH=y; call a technician."}
	case !bytes.Equal(slot.Hash, want.Hash):
		return &Failure{Outcome: records.Fail, Code: HashDiffers,
			Detail: fmt.Sprintf("The board reports hash %x (version %s) instead of %x (version %s).", head(slot.Hash), slot.Version, head(want.Hash), want.Version),
			Next:   reseat}
	}
	if f := staleSwap(list); f != nil {
		return f
	}
	if a.slot == 0 && list.HasFlags && !(slot.Active && slot.Confirmed) {
		return &Failure{Outcome: records.Fail, Code: NotConfirmed,
			Detail: "The board holds the right image but does not report it as active and confirmed: it may go back to another one.",
			Next:   "Flash the board again; if this comes back, call a technician."}
	}
	if v, err := mcuboot.ParseVersion(slot.Version); err == nil && v.Compare(want.Version) != 0 {
		return &Failure{Outcome: records.Fail, Code: HashDiffers,
			Detail: fmt.Sprintf("The board reports version %s instead of %s.", slot.Version, want.Version), Next: reseat}
	}
	return nil
}

func head(hash []byte) []byte { return hash[:min(len(hash), 8)] }

// list asks twice: a request or an answer may have been lost on the line.
func (a *attempt) list(ctx context.Context, s *records.Step) (smp.ImageList, error) {
	for try := 1; ; try++ {
		list, err := a.client.Images(ctx, time.Duration(a.job.Timeouts.List))
		_, silent := errors.AsType[*smp.TimeoutError](err)
		_, refused := errors.AsType[*smp.ServerError](err)
		switch {
		case silent && ctx.Err() == nil && try == 1:
			s.Retries++
			continue
		case silent && ctx.Err() == nil:
			return list, &Failure{Outcome: records.Fail, Code: ListTimeout, Err: err, Next: reseat,
				Detail: fmt.Sprintf("The board took the image but did not answer what it holds (%v).", err)}
		case refused:
			return list, &Failure{Outcome: records.Fail, Code: ListRefused, Err: err, Next: callTech,
				Detail: fmt.Sprintf("The board took the image but does not say what it holds: %v.", err)}
		}
		return list, err
	}
}

// release lets go of the bootloader: Enter has released the pin, the
// reset starts the application. An answer lost on the line is no failure if
// the board has left; one that is still there is asked again.
func (a *attempt) release(ctx context.Context, s *records.Step) error {
	a.reset = a.prints.len()
	for {
		err := a.client.Reset(ctx, smp.BootNormal)
		if _, silent := errors.AsType[*smp.TimeoutError](err); silent && ctx.Err() == nil && s.Retries < 3 {
			if target, _ := a.client.Probe(ctx, probeTime); target == smp.TargetBootloader {
				s.Retries++
				continue
			}
			return nil
		}
		if e, refused := errors.AsType[*smp.ServerError](err); refused {
			return &Failure{Outcome: records.Fail, Code: ResetRefused, Err: err, Next: callTech,
				Detail: fmt.Sprintf("The board holds the right image but refuses to restart: %v.", e)}
		}
		return err
	}
}

const (
	// probeTime is how long one look for a bootloader waits.
	probeTime = 300 * time.Millisecond
	// resetTime is how long a bootloader goes on answering after a reset
	// request: it waits 250 ms (boot_serial.c) and then takes a moment.
	resetTime = 500 * time.Millisecond
)

// boot waits for the first line that the board prints after its restart. A
// recipe without boot text may be for a board that prints nothing: then it
// must at least not be in recovery again.
func (a *attempt) boot(ctx context.Context, s *records.Step) error {
	within := time.Duration(a.job.Timeouts.Boot)
	if a.slot != 0 {
		within += time.Duration(a.job.Timeouts.Swap)
	}
	if a.job.BootText == nil && a.slot == 0 {
		within = min(within, a.job.Within)
		// Whatever comes meanwhile may still be the bootloader, or noise.
		if err := pause(ctx, resetTime); err != nil {
			return err
		}
	}
	wctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	line, ok := a.prints.wait(wctx, a.client.Gone(), a.reset, nil)
	if ok {
		s.Detail = line
		if a.job.BootText != nil {
			return nil // the next step looks closer
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	target, err := a.client.Probe(ctx, probeTime)
	if _, broken := errors.AsType[*smp.PortError](err); broken {
		return err
	}
	switch {
	case target == smp.TargetBootloader:
		return &Failure{Outcome: records.Fail, Code: StillInRecovery,
			Detail: "The board holds the right image but came back in recovery instead of starting it.",
			Next:   "Check that the recovery pin of this site lets go; otherwise put the board aside as bad."}
	case a.job.BootText != nil:
		return &Failure{Outcome: records.Fail, Code: NoBoot,
			Detail: fmt.Sprintf("The board holds the right image but printed nothing within %.0f s of its restart.", within.Seconds()),
			Next:   setAside}
	}
	if !ok {
		s.Detail = "printed nothing; left the bootloader"
	}
	return nil
}

func (a *attempt) check(ctx context.Context, s *records.Step) error {
	if a.job.BootText == nil {
		s.Outcome = records.Skipped
		s.Detail = "the recipe asks for no boot text"
		return nil
	}
	wctx, cancel := context.WithTimeout(ctx, a.job.Within)
	defer cancel()
	line, ok := a.prints.wait(wctx, a.client.Gone(), a.reset, a.job.BootText)
	if ok {
		s.Detail = line
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return &Failure{Outcome: records.Fail, Code: WrongBootText,
		Detail: fmt.Sprintf("The board started but did not print %q within %.0f s; it printed %s.", a.job.BootText, a.job.Within.Seconds(), a.prints.quote(a.reset)),
		Next:   setAside}
}

func (a *attempt) powerDown(context.Context, *records.Step) error { return a.site.Down() }

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
