package line

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"flashline/records"
	"flashline/smp"
)

// identifyApplication learns what an application takes and what its slots
// hold, and clears the way for an update.
func (a *attempt) identifyApplication(ctx context.Context, s *records.Step) error {
	a.answers = true
	if err := a.checkBoard(ctx, s); err != nil {
		return err
	}
	a.client.SetVersion(smp.V2)
	info, ok, err := told(ctx, a.client.BootloaderInfo)
	if err != nil {
		return err
	}
	if ok {
		a.facts.Mode = info.Mode
	}
	if a.facts.Slots, a.facts.Told, err = told(ctx, a.client.SlotInfo); err != nil {
		return err
	}
	if err := a.sizeUp(ctx, s); err != nil {
		return err
	}
	if err := a.windowOf(ctx); err != nil {
		return err
	}
	list, err := a.applicationImages(ctx)
	if err != nil {
		return err
	}
	a.facts.Listed, a.facts.List = true, list
	var f *Failure
	if a.plan, f = Decide(a.job.Policy, a.facts); f != nil {
		return f
	}
	if err := a.clear(ctx, s); err != nil {
		return err
	}
	if f := a.guard(a.running); f != nil {
		return f
	}
	for _, l := range a.loads {
		active, ok := a.running(l.fw.Number)
		if ok {
			l.prev = fmt.Sprintf("%x", active.Hash)
			note(s, "runs "+active.Version)
		}
		// To an application it is the number of the image. One that has a single
		// image does not look at it, and would write over the first with another.
		l.number = cmp.Or(l.fw.UploadNumber, l.fw.Number)
		if l.fw.UploadNumber == 0 && l.fw.Number != 0 && !a.facts.has(l.fw.Number) {
			return noSuchImage(l.fw)
		}
		l.slot = 1
		if ok {
			l.slot = 1 - min(active.Slot, 1)
		}
		// Rewrite or not: the same image in both slots could not be told apart by
		// the hash that a mark goes by.
		l.kept = ok && l.is(active) && active.Confirmed
		// From an attempt that was cut off: on trial, or sent and not started.
		if other, found := a.facts.List.Find(l.fw.Number, l.slot); found && l.is(other) && !l.fw.Rewrite || ok && l.is(active) {
			l.there = true
		}
		if f := a.fits(l); f != nil {
			return f
		}
	}
	return nil
}

// running is the image that the application says runs, as of the last list.
func (a *attempt) running(image int) (smp.ImageSlot, bool) { return activeOf(a.facts.List, image) }

// applicationImages is the application's list, or why there is none.
func (a *attempt) applicationImages(ctx context.Context) (smp.ImageList, error) {
	list, err := a.applicationList(ctx)
	if e, refused := errors.AsType[*smp.ServerError](err); refused {
		f := &Failure{Outcome: records.Fail, Code: ListRefused, Err: err,
			Detail: fmt.Sprintf("The application does not say what its slots hold: %v.", e),
			Next:   "It needs CONFIG_MCUMGR_GRP_IMG=y; otherwise flash the board through recovery. Call a technician."}
		if !e.PerGroup && e.Code == smp.CodeTooLarge {
			f.Next = "The list does not fit its buffers: build the application with a larger CONFIG_MCUMGR_TRANSPORT_NETBUF_SIZE, such as 1024. Call a technician."
		}
		return list, f
	}
	return list, err
}

// clear deals with foreign images that are on trial or marked for one: until
// they are out of the way there is no free slot. Nothing foreign is ever
// confirmed; a restart lets a marked one swap in, and one on trial swap back.
func (a *attempt) clear(ctx context.Context, s *records.Step) error {
	const restarts = 3 // in, back, and one for a server that answered too early
	for n := 0; ; n++ {
		why := ""
		for _, e := range a.facts.List.Slots {
			switch {
			case e.Pending && !a.mine(e):
				why = fmt.Sprintf("version %s was pending and has been let swap", e.Version)
			case e.Active && !e.Confirmed && !a.mine(e):
				why = fmt.Sprintf("version %s was on trial and has been let go back", e.Version)
			}
		}
		if why == "" {
			return nil
		}
		if picksHighest(a.facts.Mode) {
			return a.eraseRival(ctx, s)
		}
		if n == restarts {
			foreign, _ := a.facts.stale()
			return staleSwap(foreign)
		}
		before := a.facts.List
		note(s, why)
		s.Retries++
		if err := a.restart(ctx, smp.BootNormal, s); err != nil {
			return err
		}
		if err := a.awaitApplication(ctx, func(list smp.ImageList) (bool, error) {
			a.facts.List = list
			return !alike(before, list), nil
		}); err != nil {
			return err
		}
	}
}

// eraseRival takes a higher version out of the slot that does not run, where
// the board runs ours already: otherwise the upload goes there and replaces it.
func (a *attempt) eraseRival(ctx context.Context, s *records.Step) error {
	foreign, ok := a.facts.stale()
	if running, runs := a.running(foreign.Image); !ok || !runs || !a.mine(running) {
		return nil
	}
	err := a.client.EraseImage(ctx, foreign.Slot, time.Duration(a.job.Timeouts.FirstChunk))
	if _, refused := errors.AsType[*smp.ServerError](err); refused {
		return staleSwap(foreign)
	}
	if err != nil {
		return err
	}
	note(s, fmt.Sprintf("version %s would have been started from slot %d and has been erased", foreign.Version, foreign.Slot))
	a.facts.List, err = a.applicationImages(ctx)
	return err
}

// alike compares the states of two lists.
func alike(a, b smp.ImageList) bool {
	if len(a.Slots) != len(b.Slots) {
		return false
	}
	for i, s := range a.Slots {
		t := b.Slots[i]
		if string(s.Hash) != string(t.Hash) || s.Pending != t.Pending || s.Active != t.Active || s.Confirmed != t.Confirmed {
			return false
		}
	}
	return true
}

// awaitApplication waits for the application of a board that restarts, until
// ready says that its list is the one after the restart. A server goes on
// answering for a while before it resets.
func (a *attempt) awaitApplication(ctx context.Context, ready func(smp.ImageList) (bool, error)) error {
	within := time.Duration(a.job.Timeouts.Boot + a.job.Timeouts.Swap)
	deadline := time.Now().Add(within)
	quiet := quietTime
	answered := false
	if err := a.rejoin(ctx, within); err != nil {
		return err
	}
	for again := false; ; {
		// Not a word while a bootloader may be listening; what the board prints
		// shows that it is past that.
		wctx, cancel := context.WithTimeout(ctx, quiet)
		_, printed := a.prints.wait(wctx, a.gone(), a.reset, nil)
		cancel()
		if printed {
			a.settle(ctx)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		target, err := a.probeUntil(ctx, deadline, probeTime)
		if _, silent := errors.AsType[*smp.TimeoutError](err); silent && ctx.Err() == nil {
			if answered {
				return &Failure{Outcome: records.Fail, Code: NotRestarted, Err: err,
					Detail: fmt.Sprintf("The board was told to restart and its application went on as before for %.0f s.", within.Seconds()),
					Next:   "Its application does not carry out a restart: switch the board off and on by hand and look at it with station explain; call a technician."}
			}
			return &Failure{Outcome: records.Fail, Code: NoBoot, Err: err,
				Detail: fmt.Sprintf("The board was restarted and its application did not answer again within %.0f s.", within.Seconds()),
				Next:   setAside}
		}
		if err != nil {
			return err
		}
		if target == smp.TargetBootloader {
			if again {
				return &Failure{Outcome: records.Fail, Code: StillInRecovery,
					Detail: "The board came back in recovery instead of starting its application.",
					Next:   "Check that the recovery pin of this site lets go, and flash the board through recovery; call a technician."}
			}
			again, quiet = true, 2*quietTime
			if err := a.restart(ctx, smp.BootNormal); err != nil {
				return err
			}
			if err := a.rejoin(ctx, time.Until(deadline)); err != nil {
				return err
			}
			continue
		}
		list, err := a.applicationList(ctx)
		_, lost := errors.AsType[*smp.PortError](err)
		answered = answered || err == nil
		switch {
		case err == nil:
			if ok, err := ready(list); ok || err != nil {
				return err
			}
		case ctx.Err() != nil || !soft(err) && !(lost && a.site.USB()):
			return err
		}
		quiet = probeTime
		if err := pause(ctx, probeTime); err != nil {
			return err
		}
	}
}

// verifyApplication sees that the images are where they were sent. An
// application compares no signature, and often no hash: what it lists is worth
// something only once its bootloader has started it.
func (a *attempt) verifyApplication(ctx context.Context, s *records.Step) error {
	list, err := a.applicationImages(ctx)
	if err != nil {
		return err
	}
	a.facts.List = list
	for _, l := range a.loads {
		if active, ok := a.running(l.fw.Number); ok && l.is(active) {
			l.report(active)
			continue
		}
		slot, ok := list.Find(l.fw.Number, l.slot)
		switch {
		case !ok:
			return &Failure{Outcome: records.Fail, Code: ImageNotListed,
				Detail: fmt.Sprintf("The board took %s but lists nothing in slot %d.", a.called(l), l.slot), Next: reseat}
		case !l.is(slot):
			return &Failure{Outcome: records.Fail, Code: HashDiffers,
				Detail: fmt.Sprintf("The board lists hash %x (version %s) in slot %d instead of %x (version %s).", head(slot.Hash), slot.Version, l.slot, head(l.fw.Hash), l.fw.Version),
				Next:   reseat}
		}
	}
	return nil
}

// bootApplication waits until the application that was sent answers.
func (a *attempt) bootApplication(ctx context.Context, s *records.Step) error {
	err := a.awaitApplication(ctx, func(list smp.ImageList) (bool, error) {
		a.facts.List = list
		for _, l := range a.loads {
			if active, ok := activeOf(list, l.fw.Number); ok && l.is(active) {
				continue
			}
			if slot, ok := list.Find(l.fw.Number, l.slot); ok && l.is(slot) && slot.Pending {
				return false, nil // it has not restarted yet
			}
			return false, a.notRunning(l, list)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	a.answers = true
	s.Detail = "the application answers and runs " + a.loads[0].fw.Version.String()
	return nil
}

// notRunning is a board that started something else than it was told to.
func (a *attempt) notRunning(l *load, list smp.ImageList) *Failure {
	runs := "another image"
	if active, ok := activeOf(list, l.fw.Number); ok {
		runs = "version " + active.Version
	}
	for _, s := range list.Slots {
		if s.Image == l.fw.Number && l.is(s) {
			return &Failure{Outcome: records.Fail, Code: Reverted,
				Detail: fmt.Sprintf("The board runs %s again, and %s lies in slot %d: it was started on trial and went back, or was not started at all.", runs, a.called(l), s.Slot),
				Next:   "The new application crashes, or resets before it can be confirmed, or its bootloader does not take it; call a technician."}
		}
	}
	return &Failure{Outcome: records.Fail, Code: NotSwapped,
		Detail: fmt.Sprintf("The board runs %s, and %s is gone from its slot: its bootloader refused it.", runs, a.called(l)),
		Next:   "Its bootloader trusts another key, or refuses older versions; check that this order and this board belong together. Call a technician."}
}
