package line

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/records"
	"flashline/smp"
	"flashline/smp/mcuboot"
)

// gone is closed when the line of the board has ended; never if there is none.
func (a *attempt) gone() <-chan struct{} {
	if a.client == nil {
		return nil
	}
	return a.client.Gone()
}

// printed waits for a line of the restarted board, and follows its USB port.
func (a *attempt) printed(ctx context.Context, within time.Duration, match func(context.Context, <-chan struct{}) (string, bool)) (string, bool, error) {
	wctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	deadline := time.Now().Add(within)
	for {
		line, ok := match(wctx, a.gone())
		if ok || ctx.Err() != nil {
			return line, ok, ctx.Err()
		}
		left := time.Until(deadline)
		if left <= 0 || !a.site.USB() {
			return "", false, nil
		}
		if back, err := a.follow(ctx, left); err != nil || !back {
			return "", false, err
		}
	}
}

// awaitStart waits, in silence at first, until a board that restarts shows that
// it runs: by a line that it prints or by an answer, which is target. Neither in
// time is no error: there are boards that say nothing.
func (a *attempt) awaitStart(ctx context.Context, within time.Duration) (line string, target smp.Target, err error) {
	deadline := time.Now().Add(within)
	// Whatever comes at once may still be from before.
	if err := pause(ctx, resetTime); err != nil {
		return "", 0, err
	}
	if err := a.rejoin(ctx, time.Until(deadline)); err != nil {
		return "", 0, err
	}
	for wait := quietTime; ; wait = time.Second {
		wait = min(wait, max(time.Until(deadline), 0))
		line, _, err := a.printed(ctx, wait, func(ctx context.Context, gone <-chan struct{}) (string, bool) {
			return a.prints.wait(ctx, gone, a.reset, nil)
		})
		if err != nil {
			return "", 0, err
		}
		if line != "" {
			a.settle(ctx)
		}
		target, err := a.look(ctx)
		if err != nil || line != "" || target != smp.TargetUnknown || !time.Now().Before(deadline) {
			return line, target, err
		}
	}
}

// boot waits until the board shows that it runs: by the first line that it
// prints, where the recipe asks for a text, else by whatever it says. It may be
// a board that says nothing: then it must at least not be in recovery again.
func (a *attempt) boot(ctx context.Context, s *records.Step) error {
	within := time.Duration(a.job.Timeouts.Boot)
	switch {
	case !a.settled():
		within += time.Duration(a.job.Timeouts.Swap)
	case a.job.BootText == nil:
		within = min(within, resetTime+quietTime)
	}
	for again := false; ; again = true {
		line, target, err := a.firstSign(ctx, within)
		if err != nil {
			return err
		}
		s.Detail = line
		switch {
		case a.job.BootText != nil && line != "":
			return nil // the next step looks closer
		case target == smp.TargetBootloader && !again:
			// It may have come here only because it was spoken to while it
			// listened at its start (CONFIG_BOOT_SERIAL_WAIT_FOR_DFU), by us or by
			// noise. Once more, and longer in silence.
			s.Retries++
			if err := a.restart(ctx, smp.BootNormal); err != nil {
				return err
			}
			if err := pause(ctx, 2*quietTime); err != nil {
				return err
			}
			continue
		case target == smp.TargetBootloader:
			return &Failure{Outcome: records.Fail, Code: StillInRecovery,
				Detail: "The board holds the right image but came back in recovery instead of starting it.",
				Next:   "Check that the recovery pin of this site lets go; otherwise put the board aside as bad."}
		case a.job.BootText != nil:
			f := &Failure{Outcome: records.Fail, Code: NoBoot,
				Detail: fmt.Sprintf("The board holds the right image but printed nothing within %.0f s of its restart.", within.Seconds()),
				Next:   setAside}
			if a.site.USB() {
				f.Next = "An application on USB prints before anybody has its port, unless it waits for DTR: take boot_text out of the recipe if this one does not wait; otherwise put the board aside as bad."
			}
			return f
		case target == smp.TargetApplication:
			a.answers = true
		case a.client == nil:
			s.Detail = "its USB port did not come back, as of an application without one"
		case line == "":
			s.Detail = "printed nothing; left the bootloader"
		}
		return nil
	}
}

// firstSign is what a restarted board shows first. Where a text has to come the
// board is left alone until it does.
func (a *attempt) firstSign(ctx context.Context, within time.Duration) (string, smp.Target, error) {
	if a.job.BootText == nil {
		return a.awaitStart(ctx, within)
	}
	line, ok, err := a.printed(ctx, within, func(ctx context.Context, gone <-chan struct{}) (string, bool) {
		return a.prints.wait(ctx, gone, a.reset, nil)
	})
	if ok || err != nil {
		return line, smp.TargetUnknown, err
	}
	target, err := a.look(ctx)
	return "", target, err
}

// look asks once what is there now; nothing is an answer too.
func (a *attempt) look(ctx context.Context) (smp.Target, error) {
	if a.client == nil {
		return smp.TargetUnknown, nil
	}
	a.client.SetVersion(smp.V1)
	target, err := a.client.Probe(ctx, probeTime)
	_, lost := errors.AsType[*smp.PortError](err)
	if ctx.Err() != nil || lost && !a.site.USB() {
		return target, err
	}
	return target, nil
}

func (a *attempt) check(ctx context.Context, s *records.Step) error {
	if a.job.BootText == nil {
		return skip(s, "the recipe asks for no boot text")
	}
	line, ok, err := a.printed(ctx, a.job.Within, func(ctx context.Context, gone <-chan struct{}) (string, bool) {
		return a.prints.wait(ctx, gone, a.reset, a.job.BootText)
	})
	if err != nil {
		return err
	}
	if ok {
		s.Detail = line
		return nil
	}
	return &Failure{Outcome: records.Fail, Code: WrongBootText,
		Detail: fmt.Sprintf("The board started but did not print %q within %.0f s; it printed %s.", a.job.BootAsks, a.job.Within.Seconds(), a.prints.quote(a.reset)),
		Next:   setAside}
}

// confirm keeps what was started on trial. A bootloader's recovery has no
// command for that: the application does it, when told to or by itself.
func (a *attempt) confirm(ctx context.Context, s *records.Step) error {
	if !a.answers {
		target, err := a.look(ctx)
		if err != nil {
			return err
		}
		a.answers = target == smp.TargetApplication
	}
	if !a.answers {
		// It may have to look around before it trusts itself.
		if err := pause(ctx, a.job.Within); err != nil {
			return err
		}
		return skip(s, "the application has no SMP server on this port; it has to keep itself")
	}
	list, err := a.applicationList(ctx)
	if err != nil {
		return err
	}
	kept := true
	for _, l := range a.loads {
		active, ok := activeOf(list, l.fw.Number)
		if !ok || !l.is(active) {
			return a.notRunning(l, list)
		}
		kept = kept && active.Confirmed
	}
	// Without a hash: what is meant is what runs. It is said also where the list
	// has it as confirmed: Zephyr's does so too early where the bootloader runs
	// images in place and the other slot is empty.
	list, err = a.client.SetImageState(ctx, nil, true, time.Duration(a.job.Timeouts.List))
	if e, refused := errors.AsType[*smp.ServerError](err); refused {
		if kept && e.NotSupported() {
			return skip(s, "it is kept already")
		}
		return &Failure{Outcome: records.Fail, Code: ConfirmRefused, Err: err, Next: callTech,
			Detail: fmt.Sprintf("The board runs the image on trial, and its application refuses to keep it: %v.", e)}
	}
	if err != nil {
		return err
	}
	return a.keeps(list)
}

// keeps holds an application's list against what must run for good.
func (a *attempt) keeps(list smp.ImageList) error {
	for _, l := range a.loads {
		active, ok := activeOf(list, l.fw.Number)
		if !ok || !l.is(active) {
			return a.notRunning(l, list)
		}
		if a.facts.Target == smp.TargetBootloader && active.Slot != 0 {
			return notSwapped(a.called(l))
		}
		if !active.Confirmed {
			return notConfirmed("runs")
		}
		l.report(active)
	}
	a.facts.List = list
	f := Facts{Target: smp.TargetApplication, List: list}
	if foreign, ok := f.stale(); ok && !a.mine(foreign) {
		return staleSwap(foreign)
	}
	return nil
}

func notSwapped(image string) *Failure {
	return &Failure{Outcome: records.Fail, Code: NotSwapped,
		Detail: fmt.Sprintf("The board restarted and did not swap %s into its primary slot.", image),
		Next:   `Check that its bootloader swaps, and is not built for direct execution in place or RAM loading: for those set slot_policy = "primary" or "application". Call a technician.`}
}

func (a *attempt) mine(s smp.ImageSlot) bool {
	for _, l := range a.loads {
		if l.fw.Number == s.Image && l.is(s) {
			return true
		}
	}
	return false
}

// applicationList asks the application, in the protocol that names its errors.
func (a *attempt) applicationList(ctx context.Context) (smp.ImageList, error) {
	a.client.SetVersion(smp.V2)
	return a.client.Images(ctx, time.Duration(a.job.Timeouts.List))
}

// activeOf is the image of a number that an application says runs.
func activeOf(list smp.ImageList, image int) (smp.ImageSlot, bool) {
	for _, s := range list.Slots {
		if s.Image == image && s.Active {
			return s, true
		}
	}
	return smp.ImageSlot{}, false
}

// prove looks once more whether the board really runs what it was given: what
// the bootloader listed before the restart does not show what a restart does,
// with slots whose state it does not tell.
func (a *attempt) prove(ctx context.Context, s *records.Step) error {
	if a.facts.Target == smp.TargetBootloader && a.unproven == nil {
		a.proof = append(a.proof, "The bootloader listed the hash in slot "+a.slots()+".")
	}
	if a.job.BootText != nil {
		a.proof = append(a.proof, "The board printed the boot text.")
	}
	switch {
	case a.unproven != nil:
		// Only the application's word is left.
		err := a.proveByApplication(ctx, s)
		if _, failed := errors.AsType[*Failure](err); failed || soft(err) && ctx.Err() == nil {
			note(s, err.Error())
			return a.unproven
		}
		return err
	case a.facts.Target == smp.TargetApplication, a.job.Proof == configs.ApplicationProof:
		return a.proveByApplication(ctx, s)
	case a.job.Proof == configs.RecoveryProof:
		return a.proveByRecovery(ctx, s)
	case a.plan.Policy != configs.PrimarySlot:
		// Neither text nor trust will do: the swap has to be seen.
		if a.answers {
			return a.proveByApplication(ctx, s)
		}
		return a.proveByRecovery(ctx, s)
	case a.tells():
		return skip(s, "the boot text tells the version")
	case slices.ContainsFunc(a.loads, func(l *load) bool { return l.fw.RAMLoad }):
		// Its bootloader lists what it validated in RAM at its last start.
		return a.proveByApplication(ctx, s)
	case a.job.Proof == configs.NoProof:
		if f := a.rival(a.facts.List); f != nil {
			return f
		}
		return skip(s, "the recipe asks for no more")
	case a.answers, a.job.Entry == configs.BootMode: // whose application has a server
		return a.proveByApplication(ctx, s)
	}
	err := a.proveByRecovery(ctx, s)
	if errors.Is(err, fixtures.ErrNoPower) {
		return skip(s, "the station cannot switch this board's power")
	}
	return err
}

// tells reports whether the boot text alone shows that the image runs.
func (a *attempt) tells() bool {
	return a.job.BootText != nil && a.job.TellsVersion && len(a.loads) == 1 && !a.twin()
}

// slots names where the images lie now.
func (a *attempt) slots() string {
	for _, l := range a.loads {
		if l.slot != 0 {
			return "1"
		}
	}
	return "0"
}

// twin reports whether another slot holds an image of the same version, or the
// very same image: the version alone then does not tell which one runs.
func (a *attempt) twin() bool {
	for _, s := range a.facts.List.Slots {
		for _, l := range a.loads {
			v, err := mcuboot.ParseVersion(s.Version)
			if s.Image == l.fw.Number && s.Slot != l.slot && err == nil && v.Compare(l.fw.Version) == 0 {
				return true
			}
		}
	}
	return false
}

func (a *attempt) proveByApplication(ctx context.Context, s *records.Step) error {
	if !a.answers {
		target, err := a.probeUntil(ctx, time.Now().Add(time.Duration(a.job.Timeouts.Boot)), probeTime)
		_, silent := errors.AsType[*smp.TimeoutError](err)
		if err != nil && (!silent || ctx.Err() != nil) {
			return err
		}
		if target != smp.TargetApplication {
			return &Failure{Outcome: records.Fail, Code: NoBoot,
				Detail: "The board was restarted, and no application with an SMP server answers on its port.",
				Next:   `If this product has none, set proof = "recovery" or a boot_text in the recipe's [check]; otherwise put the board aside as bad.`}
		}
	}
	list, err := a.applicationList(ctx)
	if err != nil {
		return err
	}
	if err := a.keeps(list); err != nil {
		return err
	}
	s.Detail = "the application lists it as active and confirmed"
	a.proof = append(a.proof, "The application reported the hash as active and confirmed.")
	return nil
}

// proveByRecovery enters recovery once more: after a restart the bootloader
// says what became of the slots.
func (a *attempt) proveByRecovery(ctx context.Context, s *records.Step) error {
	err := a.enterAgain(ctx, s)
	if _, silent := errors.AsType[*fixtures.NoAnswerError](err); silent && a.job.Entry == configs.PowerOn {
		// What answered once because it had no application has one now; or it
		// has died.
		return &Failure{Outcome: records.Fail, Code: NotProven,
			Detail: "The board took the image and was started, and nothing shows that the image runs.",
			Next:   `Set a boot_text with {version} in the recipe's [check] if the board prints one; if it is silent by design, say so with proof = "none".`}
	}
	if err != nil {
		return err
	}
	if a.answers {
		return a.proveByApplication(ctx, s)
	}
	list, err := a.list(ctx, s)
	if err != nil {
		return err
	}
	for _, l := range a.loads {
		slot, ok := list.Find(l.fw.Number, 0)
		if !ok || !l.is(slot) {
			if l.slot == 0 {
				return a.fate(list)
			}
			l.hash, l.version = "", ""
			return notSwapped(a.called(l))
		}
		l.report(slot)
		if list.HasFlags && !(slot.Active && slot.Confirmed) {
			f := notConfirmed("runs")
			if a.plan.Policy == configs.SecondaryTestConfirm {
				f.Detail = "The board started the image on trial, and nobody has kept it: at the next start it goes back to the old one."
				f.Next = `The application must confirm itself (boot_write_img_confirmed) or have an SMP server on this port; or set slot_policy = "secondary-confirm". Call a technician.`
			}
			return f
		}
	}
	a.facts.List = list
	if foreign, ok := a.facts.stale(); ok {
		return staleSwap(foreign)
	}
	if f := a.rival(list); f != nil && a.settled() && !(a.job.BootText != nil && a.job.TellsVersion) {
		return f
	}
	note(s, "after the restart the bootloader still lists it in slot 0")
	a.proof = append(a.proof, "After a restart the bootloader listed the hash in slot 0 again.")
	return nil
}

// rival is a higher version in the other slot: a bootloader that runs the
// highest version would start it, and one that swaps would not. A bootloader
// does not tell of which kind it is.
func (a *attempt) rival(list smp.ImageList) *Failure {
	for _, l := range a.loads {
		other, ok := list.Find(l.fw.Number, 1)
		v, err := mcuboot.ParseVersion(other.Version)
		if !ok || l.is(other) || err != nil || v.Compare(l.fw.Version) <= 0 {
			continue
		}
		return &Failure{Outcome: records.Fail, Code: OtherSlotRuns,
			Detail: fmt.Sprintf("Slot 1 holds version %s, higher than the recipe's %s: a bootloader that runs the highest version (direct-XIP, RAM load) starts that one, and nothing shows which one runs.", v, l.fw.Version),
			Next:   "Release a higher version, or set boot_text with {version} in the recipe's [check] so that the board shows what runs; call a technician."}
	}
	return nil
}

// fate says what became of an image that was in slot 0 before the restart.
func (a *attempt) fate(list smp.ImageList) *Failure {
	for _, l := range a.loads {
		slot, ok := list.Find(l.fw.Number, 0)
		switch {
		case !ok:
			return &Failure{Outcome: records.Fail, Code: ErasedAtBoot,
				Detail: fmt.Sprintf("The bootloader accepted %s and threw it away at its start.", a.called(l)),
				Next:   "It is built for direct-XIP or RAM load with revert, which keeps only images with a confirmed trailer, or for RAM load, which wants images signed with --load-addr: build MCUboot with CONFIG_BOOT_DIRECT_XIP_REVERT=n (or CONFIG_BOOT_RAM_LOAD_REVERT=n), or sign for it; call a technician."}
		case !l.is(slot):
			return &Failure{Outcome: records.Fail, Code: Replaced,
				Detail: fmt.Sprintf("At its start the board replaced %s with version %s, which somebody had marked for that in slot 1.", a.called(l), slot.Version),
				Next:   "Flash the board again: that image is out of the way now."}
		}
	}
	return nil
}

// examine looks into recovery once more when a board that took the image did
// not start it: what the bootloader did to the slots tells why.
func (a *attempt) examine(ctx context.Context, f *Failure) *Failure {
	switch f.Code {
	case NoBoot, WrongBootText, StillInRecovery:
	default:
		return f
	}
	if a.facts.Target != smp.TargetBootloader || a.job.Entry == configs.PowerOn || a.job.Entry == configs.BootMode {
		return f
	}
	var why *Failure
	a.step(ctx, step{StepExamine, func(ctx context.Context, s *records.Step) error {
		if f.Code != StillInRecovery {
			if err := a.enterAgain(ctx, s); err != nil {
				return err
			}
		}
		list, err := a.list(ctx, s)
		if err != nil {
			return err
		}
		if a.settled() {
			if why = a.fate(list); why == nil && f.Code == WrongBootText {
				why = a.rival(list)
			}
		}
		if s.Detail = "the image is where it was put"; why != nil {
			s.Detail = why.Detail
		}
		return nil
	}})
	if why == nil {
		return f
	}
	why.Detail += " " + f.Detail
	return why
}

// diagnose finds out why a board does not answer, as far as can be told.
func (a *attempt) diagnose(ctx context.Context, f *Failure) *Failure {
	d, can := a.site.(Diagnoser)
	if !can || f.Code != NoRecovery || ctx.Err() != nil {
		return f
	}
	a.step(ctx, step{StepDiagnose, func(ctx context.Context, s *records.Step) error {
		silence, err := d.Diagnose(ctx, a.how)
		if err != nil {
			return err
		}
		why := silenceFailure(silence, f)
		s.Detail = why.Detail
		f = why
		return nil
	}})
	return f
}
