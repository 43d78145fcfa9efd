package line

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/records"
	"flashline/smp"
	"flashline/smp/mcuboot"
)

// identify learns what the board takes and holds, and decides what to do.
func (a *attempt) identify(ctx context.Context, s *records.Step) error {
	if a.facts.Target == smp.TargetApplication {
		return a.identifyApplication(ctx, s)
	}
	if err := a.sizeUp(ctx, s); err != nil {
		return err
	}
	// What it holds is worth knowing, not worth failing for: releases of
	// MCUboot differ in what they list, and some list nothing.
	list, err := twice(ctx, func(ctx context.Context) (smp.ImageList, error) {
		return a.client.Images(ctx, time.Duration(a.job.Timeouts.List))
	})
	switch {
	case err == nil:
		a.facts.Listed, a.facts.List = true, list
	case soft(err) && ctx.Err() == nil:
		s.Detail = fmt.Sprintf("no image list: %v", err)
		if f := a.blind(err); f != nil {
			return f
		}
	default:
		return err
	}
	if a.facts.Slots, a.facts.Told, err = told(ctx, a.client.SlotInfo); err != nil {
		return err
	}
	var f *Failure
	if a.plan, f = Decide(a.job.Policy, a.facts); f != nil {
		return f
	}
	if f := a.guard(func(image int) (smp.ImageSlot, bool) { return a.facts.List.Find(image, 0) }); f != nil {
		return f
	}
	if foreign, ok := a.facts.stale(); ok {
		// Into an empty slot 0 nothing is swapped: there it waits until it has
		// been written, and is dealt with then.
		if _, ok := a.facts.List.Find(foreign.Image, 0); ok {
			if err := a.letSwap(ctx, s); err != nil {
				return err
			}
		}
	}
	return a.place(s)
}

// sizeUp finds out how long lines may be, and what the largest message is.
func (a *attempt) sizeUp(ctx context.Context, s *records.Step) error {
	for _, l := range a.loads {
		if err := a.fitLines(ctx, l, s); err != nil {
			return err
		}
		l.message = cmp.Or(l.fw.MessageSize, a.result.MessageSize)
		switch {
		case l.message == 0:
			size, err := a.findMessageSize(ctx, l.lines)
			if err != nil {
				return err
			}
			l.message, a.result.MessageSize = size, size
		case a.site.USB() && l.message > l.lines.Holds():
			// What the recipe asks for is nothing that this board has shown.
			ok, err := either(func() (bool, error) { return a.client.Takes(ctx, l.message, l.lines) })
			if err != nil {
				return err
			}
			if !ok {
				note(s, fmt.Sprintf("messages of %d bytes got no answer at USB speed, so that those of %d are sent, which its line buffers hold: set message_size in the recipe to 0", l.message, l.lines.Holds()))
				l.message = l.lines.Holds()
			}
		}
	}
	a.result.MessageSize = a.loads[0].message
	return nil
}

// appLines is what an application has in the place of MCUboot's eight line
// buffers: CONFIG_UART_MCUMGR_RX_BUF_COUNT is 2.
const appLines = 2

// fitLines says which lines carry the image: those of the recipe if this board
// takes them, else those of 128 bytes that all take.
func (a *attempt) fitLines(ctx context.Context, l *load, s *records.Step) error {
	if a.facts.Target == smp.TargetApplication {
		l.lines = smp.Lines{Count: appLines}
		return nil
	}
	l.lines = smp.Lines{Count: l.fw.LineBuffers}
	if l.fw.LineLength <= 128 || a.client.Framing() == smp.FramingRaw {
		return nil
	}
	ok, err := either(func() (bool, error) { return a.client.TakesLine(ctx, l.fw.LineLength) })
	if err != nil {
		return err
	}
	if ok {
		l.lines.Length = l.fw.LineLength
		return nil
	}
	note(s, fmt.Sprintf("lines of %d bytes got no answer, so that those of 128 are sent: set line_length in the recipe to the bootloader's CONFIG_BOOT_MAX_LINE_INPUT_LEN", l.fw.LineLength))
	return nil
}

// either asks again after a no, since a request or an answer may have been lost.
func either(ask func() (bool, error)) (bool, error) {
	ok, err := ask()
	if !ok && err == nil {
		return ask()
	}
	return ok, err
}

// findMessageSize tries first what the boards before took: the search from
// above costs a silence for every size that is too large.
func (a *attempt) findMessageSize(ctx context.Context, lines smp.Lines) (int, error) {
	if size := a.job.lessons.message(); size > 0 {
		ok, err := a.client.Takes(ctx, size, lines)
		if ok || err != nil {
			return size, err
		}
	}
	size, err := a.client.FindMessageSize(ctx, lines)
	if err == nil {
		a.job.lessons.took(size)
	}
	return size, err
}

// windowOf finds out how many requests an application takes at once.
func (a *attempt) windowOf(ctx context.Context) error {
	p, ok, err := told(ctx, a.client.Params)
	if ok {
		a.window = p.Window()
	}
	return err
}

// place says where each image goes.
func (a *attempt) place(s *records.Step) error {
	list := a.facts.List
	for _, l := range a.loads {
		holds, ok := list.Find(l.fw.Number, 0)
		switch {
		case ok:
			l.prev = fmt.Sprintf("%x", holds.Hash)
			note(s, "holds "+holds.Version)
		case a.facts.Listed:
			note(s, "holds no valid image")
		}
		l.kept = ok && !l.fw.Rewrite && l.is(holds) && (!list.HasFlags || holds.Active && holds.Confirmed)
		switch {
		case l.kept || !ok || a.plan.Policy == configs.PrimarySlot:
		case l.is(holds):
			// With the same image in both slots a mark by its hash would mean
			// either.
			a.plan.Why += " Slot 0 holds the image already, so it is written there."
		default:
			l.slot = 1
		}
		var f *Failure
		if l.number, f = numberOf(l.fw, l.slot, a.facts); f != nil {
			return f
		}
		if f := a.fits(l); f != nil {
			return f
		}
	}
	return nil
}

// note adds to what a step says.
func note(s *records.Step, text string) {
	if s.Detail != "" {
		s.Detail += "; "
	}
	s.Detail += text
}

func staleSwap(foreign smp.ImageSlot) *Failure {
	return &Failure{Outcome: records.Fail, Code: StaleSwap,
		Detail: fmt.Sprintf("Slot %d of the board holds version %s, marked to run in the place of the right image at the next start.", foreign.Slot, foreign.Version),
		Next:   "Start the board once without recovery so that it makes that change, then flash it again."}
}

// letSwap starts the board once, so that an image left pending by somebody
// else is swapped in and out of the way, and enters recovery again. There is
// no command to take such a mark back.
func (a *attempt) letSwap(ctx context.Context, s *records.Step) error {
	foreign, _ := a.facts.stale()
	if err := a.restart(ctx, smp.BootNormal, s); err != nil {
		return err
	}
	if _, _, err := a.awaitStart(ctx, time.Duration(a.job.Timeouts.Swap)); err != nil {
		return err
	}
	s.Retries++
	note(s, fmt.Sprintf("version %s was pending in slot %d and has been let swap", foreign.Version, foreign.Slot))
	err := a.enterAgain(ctx, s)
	if errors.Is(err, fixtures.ErrNoPower) {
		return staleSwap(foreign)
	}
	if err != nil {
		return err
	}
	list, err := a.list(ctx, s)
	if err != nil {
		return err
	}
	a.facts.Listed, a.facts.List = true, list
	a.pending, a.swapped = false, true
	if foreign, ok := a.facts.stale(); ok {
		return staleSwap(foreign)
	}
	for _, l := range a.loads {
		l.kept = false
	}
	return nil
}

// enterAgain goes into recovery once more; the facts stay.
func (a *attempt) enterAgain(ctx context.Context, s *records.Step) error {
	facts := a.facts
	if err := a.site.Off(ctx); err != nil {
		return err
	}
	if err := a.enter(ctx, s); err != nil {
		return err
	}
	a.answers = a.facts.Target == smp.TargetApplication
	a.facts = facts
	return nil
}

func (a *attempt) upload(ctx context.Context, s *records.Step) error {
	total, before, sent := 0, 0, false
	for _, l := range a.loads {
		if !l.kept && !l.there {
			total += len(l.fw.Data)
		}
	}
	for _, l := range a.loads {
		if l.kept || l.there {
			continue
		}
		sent = true
		o := smp.UploadOptions{
			Image:        l.number,
			WriteSize:    l.fw.WriteSize,
			MessageSize:  l.message,
			LineLength:   l.lines.Length,
			Encrypted:    l.fw.Encrypted,
			FirstTimeout: time.Duration(a.job.Timeouts.FirstChunk),
			ChunkTimeout: time.Duration(a.job.Timeouts.Chunk),
			LastTimeout:  time.Duration(a.job.Timeouts.LastChunk),
			Resends:      a.job.Resends,
			Progress: func(p smp.UploadProgress) {
				a.watch(Progress{Step: StepUpload, Sent: before + p.Sent, Total: total})
			},
		}
		o.SectorSize, o.Overlap = l.fw.SectorSize, smp.OverlapAuto
		o.Ahead = max(l.fw.LineBuffers-1, 0)
		if a.facts.Target == smp.TargetApplication {
			o.Overlap, o.Window = smp.OverlapOff, a.window // its two line buffers leave no room ahead
			if a.site.USB() {
				o.Window = 1 // two would be one burst of more lines than it holds, and save no time on a wire
			}
			sum := sha256.Sum256(l.fw.Data)
			o.SHA, o.Encrypted = sum[:], false // it decrypts nothing: its bootloader will
		}
		switch l.fw.SendAhead {
		case configs.AheadNever:
			o.Overlap, o.Window = smp.OverlapOff, 1
		case configs.AheadProven:
			o.Proven = true
		}
		a.job.lessons.apply(l.fw.Number, &o)
		r, err := a.client.Upload(ctx, l.fw.Data, o)
		s.Bytes += int64(r.Sent)
		s.Retries += r.Resends
		a.result.BytesSent += int64(r.Bytes)
		a.result.Retries += r.Resends
		a.result.UploadMode = string(r.Mode)
		a.result.UploadRewinds += r.Rewinds
		a.taken, a.sending = a.taken+r.Sent, a.sending+r.Elapsed
		a.result.ChunkSize = max(a.result.ChunkSize, r.ChunkSize)
		if a.damaged(err) {
			note(s, "sent again after a refusal, for the raw protocol has no checksum")
			a.result.Retries++
			s.Retries++
			return a.upload(ctx, s)
		}
		if err != nil {
			if len(a.loads) > 1 {
				note(s, "at "+a.called(l))
			}
			return a.explainUpload(l, err)
		}
		a.job.lessons.learn(l.fw.Number, r)
		note(s, pace(r))
		if r.Match != nil && !*r.Match {
			return &Failure{Outcome: records.Fail, Code: HashDiffers, Next: reseat,
				Detail: fmt.Sprintf("The board compared what it has stored of %s with what was sent, and they differ.", a.called(l))}
		}
		before += len(l.fw.Data)
	}
	if !sent {
		return skip(s, "the board holds the image already")
	}
	return nil
}

// pace says how an upload went: the way of sending and the rate.
func pace(r smp.UploadResult) string {
	text := string(r.Mode)
	if s := r.Elapsed.Seconds(); s > 0 {
		text += fmt.Sprintf(", %.1f kB/s", float64(r.Sent)/s/1000)
	}
	if r.Rewinds > 0 {
		text += fmt.Sprintf(", %d times back to one at a time", r.Rewinds)
	}
	return text
}

// verify asks the board what it holds now. A bootloader checks hash and
// signature before it lists an image, so an image that is listed with the
// right hash is complete, undamaged and signed with the key it trusts.
func (a *attempt) verify(ctx context.Context, s *records.Step) error {
	if a.facts.Target == smp.TargetApplication {
		return a.verifyApplication(ctx, s)
	}
	list, err := a.list(ctx, s)
	if err == nil {
		err = a.compare(list)
	}
	if f, ok := errors.AsType[*Failure](err); ok && a.mayProveLater(f) {
		// The upload was acknowledged to the end; whether it is right the
		// application can still tell, and must.
		a.unproven = f
		return skip(s, f.Detail+" The application is asked instead.")
	}
	if a.damaged(err) {
		note(s, "sent again since it was not listed, for the raw protocol has no checksum")
		a.result.Retries++
		s.Retries++
		if err := a.upload(ctx, s); err != nil {
			return err
		}
		return a.verify(ctx, s)
	}
	return err
}

// damaged reports, once, whether what was sent may have been damaged on its way,
// where no checksum shows that: else it is the image or the key that is wrong.
func (a *attempt) damaged(err error) bool {
	f, failed := errors.AsType[*Failure](err)
	_, refused := errors.AsType[*smp.ServerError](err)
	_, stalled := errors.AsType[*smp.StallError](err) // at a length that it took wrong
	if a.resent || a.client.Framing() != smp.FramingRaw || !refused && !stalled && !(failed && f.Code == ImageNotListed) {
		return false
	}
	a.resent = true
	return true
}

// mayProveLater reports whether a bootloader that does not tell what it holds
// leaves it to the application.
func (a *attempt) mayProveLater(f *Failure) bool {
	switch f.Code {
	case ImageNotListed:
		// A bootloader that loads to RAM checks what it has loaded at its start,
		// not what was written since: it lists nothing on a blank board, nor an
		// image of another size (bootutil_img_hash, MCUBOOT_RAM_LOAD).
		for _, l := range a.loads {
			if !l.fw.RAMLoad {
				return false
			}
		}
		fallthrough
	case ListRefused, ListTimeout, HashNotReported, Garbled:
		return a.plan.Policy == configs.PrimarySlot && (a.job.Proof == configs.AutoProof || a.job.Proof == configs.ApplicationProof)
	}
	return false
}

// compare holds a bootloader's list against what was sent.
func (a *attempt) compare(list smp.ImageList) error {
	a.facts.List = list
	for _, l := range a.loads {
		slot, ok := list.Find(l.fw.Number, l.slot)
		if !ok {
			return a.notListed(l)
		}
		l.report(slot)
		switch {
		case len(slot.Hash) == 0:
			return &Failure{Outcome: records.Fail, Code: HashNotReported,
				Detail: fmt.Sprintf("The board lists version %s without a hash, so it cannot be proven to be the right image.", slot.Version),
				Next:   "The bootloader needs CONFIG_BOOT_SERIAL_IMG_GRP_HASH=y; call a technician."}
		case !l.is(slot):
			return &Failure{Outcome: records.Fail, Code: HashDiffers,
				Detail: fmt.Sprintf("The board reports hash %x (version %s) for %s instead of %x (version %s).", head(slot.Hash), slot.Version, a.called(l), head(l.fw.Hash), l.fw.Version),
				Next:   reseat}
		}
		if v, err := mcuboot.ParseVersion(slot.Version); err == nil && v.Compare(l.fw.Version) != 0 {
			return &Failure{Outcome: records.Fail, Code: HashDiffers,
				Detail: fmt.Sprintf("The board reports version %s of %s instead of %s.", slot.Version, a.called(l), l.fw.Version), Next: reseat}
		}
	}
	if foreign, ok := a.facts.stale(); ok {
		if a.swapped {
			return staleSwap(foreign)
		}
		a.pending = true
		return nil
	}
	for _, l := range a.loads {
		if slot, _ := list.Find(l.fw.Number, 0); l.slot == 0 && list.HasFlags && !(slot.Active && slot.Confirmed) {
			return notConfirmed("holds")
		}
	}
	return nil
}

func notConfirmed(does string) *Failure {
	return &Failure{Outcome: records.Fail, Code: NotConfirmed,
		Detail: fmt.Sprintf("The board %s the right image but does not report it as active and confirmed: it may go back to another one.", does),
		Next:   "Flash the board again; if this comes back, call a technician."}
}

// notListed is a board that took an image to the end and does not have it.
func (a *attempt) notListed(l *load) *Failure {
	f := &Failure{Outcome: records.Fail, Code: ImageNotListed,
		Detail: "The board took " + a.called(l) + " but does not accept it: its bootloader trusts another key, or the image was damaged.",
		Next:   "Check that this order and this board belong together: development and release boards trust different keys. (MCUboot 2.2 built to swap using offset puts an upload in the wrong place: it takes 2.3. One built to load to RAM wants images signed with --load-addr.) Call a technician."}
	switch {
	case l.fw.RAMLoad:
		f.Detail = "The board took " + a.called(l) + " but does not list it. A bootloader that loads to RAM lists what it loaded at its last start, so that says little: or else it trusts another key, or the image was damaged."
		f.Next = "Build the application with an SMP server on this port (CONFIG_MCUMGR_GRP_IMG=y), which can prove what runs. If it has one, check that this order and this board belong together. Call a technician."
	case l.fw.Encrypted:
		f.Detail = "The board took " + a.called(l) + " but does not accept it: the image is encrypted, and its bootloader cannot decrypt it, trusts another key, or got it damaged."
		f.Next = "Check that this board's MCUboot is built with CONFIG_BOOT_ENCRYPT_IMAGE=y and the key the image was made for, or flash the image that is not encrypted. Call a technician."
	case l.slot != 0:
		f.Detail = fmt.Sprintf("The board took %s to slot %d but does not accept it there: its bootloader trusts another key, the image was damaged, or the bootloader swaps using offset, which looks for it one sector further on.", a.called(l), l.slot)
		f.Next = `Check that order and board belong together; with CONFIG_BOOT_SWAP_USING_OFFSET set slot_policy = "primary". Call a technician.`
	}
	return f
}

// list asks twice: a request or an answer may have been lost on the line.
func (a *attempt) list(ctx context.Context, s *records.Step) (smp.ImageList, error) {
	for try := 1; ; try++ {
		list, err := a.client.Images(ctx, time.Duration(a.job.Timeouts.List))
		_, silent := errors.AsType[*smp.TimeoutError](err)
		_, refused := errors.AsType[*smp.ServerError](err)
		garbled, broken := errors.AsType[*smp.ProtocolError](err)
		switch {
		case silent && ctx.Err() == nil && try == 1:
			s.Retries++
			continue
		case silent && ctx.Err() == nil:
			f := &Failure{Outcome: records.Fail, Code: ListTimeout, Err: err, Next: reseat,
				Detail: fmt.Sprintf("The board took the image but did not answer what it holds (%v).", err)}
			if target, _ := a.client.AwaitTarget(ctx, probeTime, 5*probeTime); target == smp.TargetUnknown {
				f.Code, f.Detail = BoardSilent, fmt.Sprintf("The board took the image and stopped answering (%v).", err)
			}
			return list, f
		case refused:
			return list, &Failure{Outcome: records.Fail, Code: ListRefused, Err: err, Next: callTech,
				Detail: fmt.Sprintf("The board took the image but does not say what it holds: %v.", err)}
		case broken:
			return list, &Failure{Outcome: records.Fail, Code: Garbled, Err: err, Next: reseat,
				Detail: fmt.Sprintf("The board took the image and gave a list of what it holds that makes no sense: %v.", garbled)}
		}
		return list, err
	}
}

// mark tells the board to start the images that are not in slot 0 yet: for
// good, or on trial if that is the policy. To a bootloader it is one call and
// never two: after a test, MCUboot answers a confirm with success and leaves it
// a test. A further image is always marked for good, since nothing could
// confirm it later.
func (a *attempt) mark(ctx context.Context, s *records.Step) error {
	marked := false
	for _, l := range a.loads {
		if l.kept || l.slot == 0 && a.facts.Target == smp.TargetBootloader {
			continue
		}
		if active, ok := a.running(l.fw.Number); ok && l.is(active) && a.facts.Target == smp.TargetApplication {
			continue // on trial already
		}
		marked = true
		good := a.plan.Policy == configs.SecondaryConfirm || l.fw.Number > 0
		list, err := a.client.SetImageState(ctx, l.fw.Hash, good, time.Duration(a.job.Timeouts.List))
		if e, refused := errors.AsType[*smp.ServerError](err); refused {
			if a.plan.Row == "A2" && e.NotSupported() {
				return skip(s, "the bootloader runs the highest version")
			}
			return a.markRefused(l, e)
		}
		if err != nil {
			return err
		}
		slot, ok := list.Find(l.fw.Number, l.slot)
		if !ok || !l.is(slot) || !slot.Pending || good && !slot.Permanent {
			f := &Failure{Outcome: records.Fail, Code: ConfirmRefused, Next: callTech,
				Detail: fmt.Sprintf("The board was told to start %s from slot %d and does not report it as pending.", a.called(l), l.slot)}
			if !list.HasFlags {
				// MCUboot up to 1.10 answers the command with a list, and does
				// nothing.
				f.Code = NoImageState
				f.Next = `Its MCUboot is too old for this (2.0 or newer is needed); set slot_policy = "primary". Call a technician.`
			}
			return f
		}
	}
	if !marked {
		return skip(s, "there is nothing to mark")
	}
	return nil
}

func (a *attempt) markRefused(l *load, e *smp.ServerError) *Failure {
	f := &Failure{Outcome: records.Fail, Code: ConfirmRefused, Err: e, Next: callTech,
		Detail: fmt.Sprintf("The board holds %s in slot %d but refuses to start it from there: %v.", a.called(l), l.slot, e)}
	if !e.NotSupported() {
		return f
	}
	f.Code = NoImageState
	f.Detail = fmt.Sprintf("The board holds %s in slot %d, but has no command to start it from there.", a.called(l), l.slot)
	f.Next = `Build MCUboot with CONFIG_BOOT_SERIAL_IMG_GRP_IMAGE_STATE=y, or set slot_policy = "primary"; call a technician.`
	if a.facts.Target == smp.TargetApplication {
		f.Next = "If its bootloader runs the highest version from either slot (direct-XIP, RAM load), build the application with CONFIG_MCUMGR_GRP_OS_BOOTLOADER_INFO=y so that it says so; call a technician."
	}
	return f
}

// release lets the board go: Enter has released the pin, the reset starts the
// application.
func (a *attempt) release(ctx context.Context, s *records.Step) error {
	return a.restart(ctx, smp.BootNormal, s)
}

// restart resets the board by command. An answer lost on the line is no
// failure if the board has left; one that is still there is asked again. A USB
// port that goes before the answer comes is success.
func (a *attempt) restart(ctx context.Context, mode smp.BootMode, steps ...*records.Step) error {
	a.reset = a.prints.len()
	a.answers = false
	if back, err := a.follow(ctx, time.Duration(a.job.Timeouts.Boot)); err != nil {
		return err
	} else if !back {
		return &fixtures.NoPortError{Err: errors.New("it went with an earlier restart"), Waited: time.Duration(a.job.Timeouts.Boot)}
	}
	for try := 1; ; try++ {
		err := a.client.Reset(ctx, mode)
		if ctx.Err() != nil {
			return err
		}
		if _, silent := errors.AsType[*smp.TimeoutError](err); silent && try < 4 {
			if target, _ := a.client.Probe(ctx, probeTime); target == a.facts.Target && target != smp.TargetUnknown {
				for _, s := range steps {
					s.Retries++
				}
				continue
			}
			return nil
		}
		if _, lost := errors.AsType[*smp.PortError](err); lost && a.site.USB() {
			return nil
		}
		if e, refused := errors.AsType[*smp.ServerError](err); refused {
			return &Failure{Outcome: records.Fail, Code: ResetRefused, Err: err, Next: callTech,
				Detail: fmt.Sprintf("The board refuses to restart: %v.", e)}
		}
		return err
	}
}

// explainUpload words the refusals of an application's server that have a cure.
func (a *attempt) explainUpload(l *load, err error) error {
	e, refused := errors.AsType[*smp.ServerError](err)
	if !refused || a.facts.Target != smp.TargetApplication {
		return err
	}
	f := &Failure{Outcome: records.Fail, Code: UploadRefused, Err: err, Next: callTech,
		Detail: fmt.Sprintf("The application refuses %s: %v.", a.called(l), e)}
	switch {
	case e.Image(smp.ImageNoFreeSlot) || !e.PerGroup && e.Code == smp.CodeBadState:
		f.Code = NoFreeSlot
		f.Detail = fmt.Sprintf("The application has no free slot for %s: the board has one slot only, or another update is under way in the second.", a.called(l))
		f.Next = `A board with one slot is flashed through recovery (entry = "recovery-pin" or "boot-mode"); otherwise start the board once more and try again. Call a technician.`
	case e.Image(smp.ImageCurrentIsNewer):
		f.Code = Downgrade
		f.Detail = fmt.Sprintf("The application refuses %s because it is older than what runs.", a.called(l))
		f.Next = "Check that this order is for this board."
	case e.Image(smp.ImageTooLarge):
		f.Code = ImageTooLarge
		f.Next = "Check that this order is for this board; otherwise the image has to be built smaller. Call a technician."
	}
	return f
}
