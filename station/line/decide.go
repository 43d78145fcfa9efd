package line

import (
	"errors"
	"fmt"

	"flashline/configs"
	"flashline/records"
	"flashline/smp"
)

// Facts are what a board has revealed before anything is written to it.
type Facts struct {
	Target smp.Target
	Listed bool // it answered with an image list
	List   smp.ImageList
	Told   bool // it answered with slot info
	Slots  smp.SlotInfos
	// Mode is how the bootloader updates, which only an application tells.
	Mode smp.BootloaderMode
}

// direct reports whether uploads to every slot of an image can be addressed:
// all of them carry an upload number. Builds without direct upload label the
// wrong slot only, or one slot of two (boot_serial.c, bs_slot_info).
func (f *Facts) direct(image int) (numbers map[int]int, ok bool) {
	numbers = map[int]int{}
	for _, s := range f.Slots.Slots {
		if s.Image != image {
			continue
		}
		if s.UploadID <= 0 {
			return nil, false
		}
		numbers[s.Slot] = s.UploadID
	}
	return numbers, len(numbers) == 2
}

// single reports whether the board has told of one slot only.
func (f *Facts) single(image int) bool {
	n := 0
	for _, s := range f.Slots.Slots {
		if s.Image == image {
			n++
		}
	}
	return f.Told && n == 1
}

// has reports whether something shows that the board has this image number
// besides 0: MCUboot names images in its answers only where it has more.
func (f *Facts) has(image int) bool {
	for _, s := range f.Slots.Slots {
		if s.Image == image {
			return true
		}
	}
	for _, s := range f.List.Slots {
		if s.Image == image {
			return true
		}
	}
	return false
}

// stale finds an image that is marked to run at the next start in the place of
// what runs or was just flashed. To a bootloader that is one in the secondary
// slot, and only those built with image state tell; to an application it is the
// slot that does not run, which may be either.
func (f *Facts) stale() (smp.ImageSlot, bool) {
	for _, s := range f.List.Slots {
		elsewhere := s.Slot != 0
		if f.Target == smp.TargetApplication {
			elsewhere = !s.Active
		}
		if s.Pending && elsewhere {
			return s, true
		}
	}
	return smp.ImageSlot{}, false
}

// Decision is what to do with a board, and why. The rows are those of the
// README's table.
type Decision struct {
	Policy configs.SlotPolicy
	Row    string
	Why    string // one sentence
}

// Decide follows the decision table: which slot the images go to and what makes
// them stay. It never guesses; what the recipe wants and the board does not
// offer is a failure that names the build option that would cure it.
func Decide(want configs.SlotPolicy, f Facts) (Decision, *Failure) {
	if f.Target == smp.TargetApplication {
		return decideApplication(want, f)
	}
	_, direct := f.direct(0)
	primary := func(why string) (Decision, *Failure) {
		d := Decision{Policy: configs.PrimarySlot}
		_, pending := f.stale()
		switch {
		case pending:
			d.Row, d.Why = "3b", "Another image is marked to replace the one in slot 0, so it is let swap first, and then slot 0 is written"
		case f.single(0):
			d.Row, d.Why = "2", "There is one slot; what is in it boots, and nothing is to be confirmed"
		case direct:
			d.Row, d.Why = "4", "The bootloader takes uploads for either slot; slot 0 boots at once and nothing is to be confirmed"
		case f.List.HasFlags:
			d.Row, d.Why = "3", "An upload goes to slot 0, and the bootloader will say whether it is active and confirmed"
		default:
			d.Row, d.Why = "1", "An upload goes to slot 0, which boots at once; nothing is to be confirmed"
		}
		d.Why += why + "."
		return d, nil
	}
	refuse := func(code Code, detail, next string) (Decision, *Failure) {
		return Decision{}, &Failure{Outcome: records.Fail, Code: code, Detail: detail, Next: next}
	}
	switch want {
	case configs.ApplicationPolicy:
		return refuse(NotApplication, "The bootloader answered in the place of the application: the board has none that starts, or it was left in recovery.",
			`Flash it through recovery first (slot_policy = "auto"); call a technician.`)
	case configs.SecondaryConfirm, configs.SecondaryTestConfirm:
		holds := ""
		switch _, ok := f.List.Find(0, 0); {
		case !f.Listed:
			return refuse(ListRefused, "The bootloader does not say what its slots hold, and the recipe asks for the second of them.",
				`Set slot_policy = "primary" if this bootloader cannot list its images; call a technician.`)
		case !direct:
			return Decision{}, noDirectUpload("its secondary slot")
		case !ok:
			// MCUboot swaps nothing into an empty primary slot: such a board
			// would never start. In the primary slot the image is as lasting.
			return primary("; the recipe wants slot 1, but slot 0 is empty and nothing is ever swapped into an empty slot")
		case !f.List.HasFlags:
			return refuse(NoImageState, "The bootloader has no command to keep an image in slot 1, and the recipe asks for that.",
				`Build MCUboot 2.0 or newer with CONFIG_BOOT_SERIAL_IMG_GRP_IMAGE_STATE=y, or set slot_policy = "primary"; call a technician.`)
		}
		if _, pending := f.stale(); pending {
			holds = ", after the image that is pending there is let swap"
		}
		if want == configs.SecondaryTestConfirm {
			return Decision{want, "5t", "The recipe wants a trial start from slot 1, and the bootloader takes uploads for it and can mark it" + holds + "."}, nil
		}
		return Decision{want, "5", "The recipe wants slot 1, and the bootloader takes uploads for it and can mark it to stay" + holds + "."}, nil
	}
	return primary("")
}

func noDirectUpload(slot string) *Failure {
	return &Failure{Outcome: records.Fail, Code: NoDirectUpload,
		Detail: "The bootloader does not offer " + slot + " for uploads, and the recipe asks for that.",
		Next:   `Build MCUboot with CONFIG_MCUBOOT_SERIAL_DIRECT_IMAGE_UPLOAD=y and CONFIG_BOOT_SERIAL_IMG_GRP_SLOT_INFO=y, or set slot_policy = "primary"; call a technician.`}
}

func decideApplication(want configs.SlotPolicy, f Facts) (Decision, *Failure) {
	switch want {
	case configs.AutoPolicy, configs.ApplicationPolicy:
	default:
		return Decision{}, &Failure{Outcome: records.Fail, Code: NotRecovery,
			Detail: "The board's application answered instead of its bootloader: it did not enter recovery.",
			Next:   `Check the recovery pin of this site, and that the bootloader is built with serial recovery; to update through the application set entry = "power-on" and slot_policy = "application". Call a technician.`}
	}
	if !f.Listed {
		return Decision{}, &Failure{Outcome: records.Fail, Code: ListRefused,
			Detail: "The application does not say what its slots hold.",
			Next:   "It needs CONFIG_MCUMGR_GRP_IMG=y; otherwise flash the board through recovery. Call a technician."}
	}
	if picksHighest(f.Mode) {
		return Decision{configs.ApplicationPolicy, "A2", "An application answers, and its bootloader runs the highest version from either slot: the image goes to the slot that is free."}, nil
	}
	return Decision{configs.ApplicationPolicy, "A1", "An application answers: the image goes to the slot that is free, starts on trial, and is kept once it runs."}, nil
}

// picksHighest reports whether a bootloader runs the highest version wherever
// it lies, and mostly without a mark.
func picksHighest(m smp.BootloaderMode) bool {
	switch m {
	case smp.ModeDirectXIP, smp.ModeRAMLoad:
		return true
	}
	return false
}

// numberOf is the image number that addresses a slot of an image in an upload
// to a bootloader. A number other than 0 is never sent unless the recipe says
// it or the board proves it: MCUboot does not check its bounds, and a wrong one
// erases a foreign partition (flash_area_id_from_multi_image_slot).
func numberOf(fw *Firmware, slot int, f Facts) (int, *Failure) {
	numbers, direct := f.direct(fw.Number)
	switch {
	case slot == 0 && fw.UploadNumber != 0:
		return fw.UploadNumber, nil
	case slot != 0 && !direct:
		return 0, noDirectUpload(fmt.Sprintf("the secondary slot of image %d", fw.Number))
	case slot != 0:
		return numbers[slot], nil
	case fw.Number == 0:
		return 0, nil // slot 0 of image 0 on every build
	case direct:
		return numbers[slot], nil
	case f.has(fw.Number):
		return fw.Number, nil
	}
	return 0, noSuchImage(fw)
}

func noSuchImage(fw *Firmware) *Failure {
	return &Failure{Outcome: records.Fail, Code: NoSuchImage,
		Detail: fmt.Sprintf("Nothing shows that this board takes an image %d (%s), and on a board that does not, sending it can erase something else.", fw.Number, fw.Name),
		Next:   "Check that this order is for this board. If it is, build MCUboot with CONFIG_BOOT_SERIAL_IMG_GRP_SLOT_INFO=y (an application with CONFIG_MCUMGR_GRP_IMG_SLOT_INFO=y), or say upload_number in the recipe if you know it. Call a technician."}
}

// soft reports whether an answer, or the lack of one, only means that the board
// does not tell: releases of MCUboot differ in what they know.
func soft(err error) bool {
	_, refused := errors.AsType[*smp.ServerError](err)
	_, garbled := errors.AsType[*smp.ProtocolError](err)
	_, silent := errors.AsType[*smp.TimeoutError](err)
	return refused || garbled || silent
}
