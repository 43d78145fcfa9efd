package line

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"flashline/records"
	"flashline/smp"
)

// staleSwap finds an image in the secondary slot that is marked to be swapped
// in: at the next start it would replace what was just flashed. Only
// bootloaders built with image state tell.
func staleSwap(list smp.ImageList) *Failure {
	for _, s := range list.Slots {
		if s.Image == 0 && s.Slot != 0 && s.Pending {
			return &Failure{Outcome: records.Fail, Code: StaleSwap,
				Detail: fmt.Sprintf("Slot %d of the board holds version %s, marked to replace the image in slot 0 at the next start.", s.Slot, s.Version),
				Next:   "Start the board once without recovery so that it makes that change, then flash it again."}
		}
	}
	return nil
}

// letSwap starts the board once, so that an image left pending by somebody
// else is swapped in and out of the way, and enters recovery again. There is
// no command to take such a mark back.
func (a *attempt) letSwap(ctx context.Context, stale *Failure) (smp.ImageList, error) {
	from := a.prints.len()
	client, err := a.site.Boot(ctx, a.prints.add)
	if errors.Is(err, ErrNoPower) {
		return smp.ImageList{}, stale
	}
	if err != nil {
		return smp.ImageList{}, err
	}
	// The first line is the application's: MCUboot's own console is never on
	// the line of its recovery. A silent board gets the whole time.
	wctx, cancel := context.WithTimeout(ctx, time.Duration(a.job.Timeouts.Swap))
	a.prints.wait(wctx, client.Gone(), from, nil)
	cancel()
	if err := a.site.Off(ctx); err != nil {
		return smp.ImageList{}, err
	}
	if err := a.enterRecovery(ctx, nil); err != nil {
		return smp.ImageList{}, err
	}
	list, err := a.client.Images(ctx, time.Duration(a.job.Timeouts.List))
	if err != nil {
		return list, err
	}
	if f := staleSwap(list); f != nil {
		return list, f
	}
	return list, nil
}

// ErrNoPower is returned by the Boot of a site whose power is in somebody's
// hands.
var ErrNoPower = errors.New("the station cannot switch this board's power")

// chooseSecondary finds out how the secondary slot is addressed. It never
// guesses: on some builds a wrong number erases a foreign partition. Only a
// bootloader whose slot info names an upload number for every slot of the
// image takes direct uploads.
func (a *attempt) chooseSecondary(ctx context.Context, s *records.Step, primary bool) error {
	if !primary {
		// MCUboot swaps nothing into an empty primary slot: such a board would
		// never start. In the primary slot the image is as good and as lasting.
		s.Detail += "; the primary slot is empty, so the image goes there"
		return nil
	}
	infos, err := a.client.SlotInfo(ctx)
	_, refused := errors.AsType[*smp.ServerError](err)
	if err != nil && !refused {
		return err
	}
	number, slots := 0, 0
	for _, i := range infos.Slots {
		if i.Image != 0 {
			continue
		}
		if slots++; i.UploadID <= 0 {
			slots = -1
			break
		}
		if i.Slot == 1 {
			number = i.UploadID
		}
	}
	if refused || slots != 2 || number == 0 {
		return &Failure{Outcome: records.Fail, Code: NoDirectUpload, Err: err,
			Detail: "The bootloader does not offer its secondary slot for uploads, and the recipe asks for that.",
			Next:   "Build MCUboot with CONFIG_MCUBOOT_SERIAL_DIRECT_IMAGE_UPLOAD=y and CONFIG_BOOT_SERIAL_IMG_GRP_SLOT_INFO=y, or set slot_policy = \"primary\"; call a technician."}
	}
	a.slot, a.number = 1, number
	return nil
}

// confirm marks the image in the secondary slot to be swapped in for good. It
// is one call, with confirm: after a test, MCUboot answers a confirm with
// success and leaves it a test.
func (a *attempt) confirm(ctx context.Context, s *records.Step) error {
	list, err := a.client.SetImageState(ctx, a.job.Firmware.Hash, true, time.Duration(a.job.Timeouts.List))
	if e, ok := errors.AsType[*smp.ServerError](err); ok {
		f := &Failure{Outcome: records.Fail, Code: ConfirmRefused, Err: err, Next: callTech,
			Detail: fmt.Sprintf("The board holds the image in slot 1 but refuses to keep it: %v.", e)}
		if e.NotSupported() {
			f.Code = NoImageState
			f.Detail = "The board holds the image in slot 1, but its bootloader has no command to keep it."
			f.Next = "Build MCUboot with CONFIG_BOOT_SERIAL_IMG_GRP_IMAGE_STATE=y, or set slot_policy = \"primary\"; call a technician."
		}
		return f
	}
	if err != nil {
		return err
	}
	slot, ok := list.Find(0, 1)
	if !ok || !bytes.Equal(slot.Hash, a.job.Firmware.Hash) || !slot.Pending || !slot.Permanent {
		f := &Failure{Outcome: records.Fail, Code: ConfirmRefused, Next: callTech,
			Detail: "The board was told to keep the image in slot 1 and does not report it as pending and permanent."}
		if !list.HasFlags {
			// MCUboot up to 1.10 answers the command with a list, and does
			// nothing.
			f.Code = NoImageState
			f.Next = "Its MCUboot is too old for this (2.0 or newer is needed); set slot_policy = \"primary\". Call a technician."
		}
		return f
	}
	return nil
}

// prove enters recovery once more: only the bootloader can say that the swap
// was made, and for good.
func (a *attempt) prove(ctx context.Context, s *records.Step) error {
	a.result.DeviceHash, a.result.DeviceVersion = "", ""
	if err := a.site.Off(ctx); err != nil {
		return err
	}
	if err := a.enterRecovery(ctx, s); err != nil {
		return err
	}
	list, err := a.list(ctx, s)
	if err != nil {
		return err
	}
	slot, ok := list.Find(0, 0)
	if ok {
		a.result.DeviceHash, a.result.DeviceVersion = hex.EncodeToString(slot.Hash), slot.Version
	}
	switch {
	case !ok || !bytes.Equal(slot.Hash, a.job.Firmware.Hash):
		return &Failure{Outcome: records.Fail, Code: NotSwapped,
			Detail: "The board restarted and did not swap the image into its primary slot.",
			Next:   "Check that its bootloader swaps (and is not built for direct execution in place); call a technician."}
	case !slot.Active || !slot.Confirmed:
		return &Failure{Outcome: records.Fail, Code: NotConfirmed,
			Detail: "The board runs the image but does not report it as active and confirmed: it may go back to the old one.", Next: callTech}
	}
	return nil
}
