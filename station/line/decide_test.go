package line

import (
	"testing"

	"flashline/configs"
	"flashline/smp"
)

// slotInfo is slot info with an upload number for each slot given, -1 for a slot
// without.
func slotInfo(image int, numbers ...int) (infos []smp.SlotInfo) {
	for slot, n := range numbers {
		infos = append(infos, smp.SlotInfo{Image: image, Slot: slot, Size: 65536, UploadID: n})
	}
	return infos
}

func TestDecide(t *testing.T) {
	list := func(flags bool, slots ...smp.ImageSlot) Facts {
		return Facts{Target: smp.TargetBootloader, Listed: true, List: smp.ImageList{Slots: slots, HasFlags: flags}}
	}
	told := func(f Facts, infos []smp.SlotInfo) Facts {
		f.Told, f.Slots.Slots = true, infos
		return f
	}
	holds := smp.ImageSlot{Version: "1.0.0"}
	pending := smp.ImageSlot{Slot: 1, Version: "0.9.0", Pending: true}
	application := Facts{Target: smp.TargetApplication, Listed: true, Mode: smp.ModeUnknown}
	picks := application
	picks.Mode = smp.ModeDirectXIP
	for _, tt := range []struct {
		name   string
		want   configs.SlotPolicy
		facts  Facts
		policy configs.SlotPolicy
		row    string
		code   Code
	}{
		{"nothing known", configs.AutoPolicy, Facts{Target: smp.TargetBootloader}, configs.PrimarySlot, "1", ""},
		{"one slot", configs.AutoPolicy, told(list(false, holds), slotInfo(0, 1)), configs.PrimarySlot, "2", ""},
		{"state", configs.PrimarySlot, list(true, holds), configs.PrimarySlot, "3", ""},
		{"pending", configs.AutoPolicy, list(true, holds, pending), configs.PrimarySlot, "3b", ""},
		{"direct", configs.AutoPolicy, told(list(true, holds), slotInfo(0, 1, 2)), configs.PrimarySlot, "4", ""},
		{"mislabelled: only one of two slots", configs.AutoPolicy, told(list(false, holds), slotInfo(0, -1, 1)), configs.PrimarySlot, "1", ""},
		{"second slot", configs.SecondaryConfirm, told(list(true, holds), slotInfo(0, 1, 2)), configs.SecondaryConfirm, "5", ""},
		{"trial", configs.SecondaryTestConfirm, told(list(true, holds), slotInfo(0, 1, 2)), configs.SecondaryTestConfirm, "5t", ""},
		{"second slot, empty first", configs.SecondaryConfirm, told(list(false), slotInfo(0, 1, 2)), configs.PrimarySlot, "4", ""},
		{"second slot, mislabelled", configs.SecondaryConfirm, told(list(true, holds), slotInfo(0, -1, 1)), "", "", NoDirectUpload},
		{"second slot, no state", configs.SecondaryConfirm, told(list(false, holds), slotInfo(0, 1, 2)), "", "", NoImageState},
		{"second slot, no list", configs.SecondaryConfirm, told(Facts{Target: smp.TargetBootloader}, slotInfo(0, 1, 2)), "", "", ListRefused},
		{"application", configs.AutoPolicy, application, configs.ApplicationPolicy, "A1", ""},
		{"application that picks", configs.ApplicationPolicy, picks, configs.ApplicationPolicy, "A2", ""},
		{"application without images", configs.AutoPolicy, Facts{Target: smp.TargetApplication}, "", "", ListRefused},
		{"application in the place of a bootloader", configs.PrimarySlot, application, "", "", NotRecovery},
		{"bootloader in the place of an application", configs.ApplicationPolicy, list(true, holds), "", "", NotApplication},
	} {
		got, f := Decide(tt.want, tt.facts)
		code := Code("")
		if f != nil {
			code = f.Code
		}
		if got.Policy != tt.policy || got.Row != tt.row || code != tt.code {
			t.Errorf("%s: %+v, %q", tt.name, got, code)
		}
	}
}

// No number but 0 is sent unless something shows that it is right.
func TestNumberOf(t *testing.T) {
	listed := Facts{List: smp.ImageList{Slots: []smp.ImageSlot{{Image: 1}}}}
	with := func(infos ...[]smp.SlotInfo) (f Facts) {
		f.Told = true
		for _, i := range infos {
			f.Slots.Slots = append(f.Slots.Slots, i...)
		}
		return f
	}
	for _, tt := range []struct {
		name         string
		image, slot  int
		recipe, want int
		facts        Facts
		code         Code
	}{
		{"application, unknown board", 0, 0, 0, 0, Facts{}, ""},
		{"application, direct build", 0, 0, 0, 0, with(slotInfo(0, 1, 2)), ""},
		{"second slot", 0, 1, 0, 2, with(slotInfo(0, 1, 2)), ""},
		{"second slot, one labelled", 0, 1, 0, 0, with(slotInfo(0, -1, 1)), NoDirectUpload},
		{"second image, unknown board", 1, 0, 0, 0, Facts{}, NoSuchImage},
		{"second image, listed", 1, 0, 0, 1, listed, ""},
		{"second image, slot info, not direct", 1, 0, 0, 1, with(slotInfo(0, -1, 1), slotInfo(1, -1, 3)), ""},
		{"second image, direct", 1, 0, 0, 3, with(slotInfo(0, 1, 2), slotInfo(1, 3, 4)), ""},
		{"second slot of the second image", 1, 1, 0, 4, with(slotInfo(0, 1, 2), slotInfo(1, 3, 4)), ""},
		{"second slot of a second image that has one", 1, 1, 0, 0, with(slotInfo(0, 1, 2), slotInfo(1, 3)), NoDirectUpload},
		{"said by the recipe", 1, 0, 3, 3, Facts{}, ""},
	} {
		got, f := numberOf(&Firmware{Number: tt.image, UploadNumber: tt.recipe}, tt.slot, tt.facts)
		code := Code("")
		if f != nil {
			code = f.Code
		}
		if got != tt.want || code != tt.code {
			t.Errorf("%s: %d, %q", tt.name, got, code)
		}
	}
}
