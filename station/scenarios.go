package main

import (
	"time"

	"flashline/configs"
	"flashline/fixtures/sim"
	"flashline/station/line"
)

// scenarios are the boards that the station is made for, one row each, and
// what it must refuse. The names are an interface: they are added to, never
// changed.
func scenarios() []scenario {
	var (
		old    = held{firmware: firmware{version: "0.9.0"}}
		oldNet = held{firmware: firmware{version: "0.9.0", number: 1}}
		newer  = held{firmware: firmware{version: "2.0.0"}}
		keep   = held{firmware: old.firmware, mark: forGood}

		oneOld = map[int]held{0: old}
		both   = []firmware{{version: "1.0.0"}, {version: "1.2.3", number: 1}}

		vanilla = sim.STM32L4() // erases all of a slot first
		all     = sim.BuildOptions{ImageState: true, SlotInfo: true, DirectUpload: true}
		server  = &sim.ServerOptions{BootloaderInfo: true}
		usb     = sim.USBOptions{Bootloader: sim.USBID{Vendor: 0x2fe3, Product: 0x0100}, Application: sim.USBID{Vendor: 0x2fe3, Product: 0x0001}}
	)
	build := func(b sim.BuildOptions, change func(*sim.BuildOptions)) sim.BuildOptions {
		change(&b)
		return b
	}
	mode := func(m sim.Mode) sim.BuildOptions {
		return build(all, func(b *sim.BuildOptions) { b.Mode = m })
	}
	application := scenarioRecipe{policy: configs.ApplicationPolicy}

	return []scenario{
		// Serial recovery, one slot.
		{
			name: "recovery-single-slot", system: "Serial recovery over a UART, one slot, vanilla MCUboot that erases the whole slot first",
			end:   end{row: "1"},
			board: sim.Options{Part: vanilla, Slots: 1}, slots: oneOld,
		}, {
			name: "recovery-single-slot-blank", system: "The same on a blank board, with slot info built in",
			end:   end{row: "2"},
			board: sim.Options{Part: vanilla, Slots: 1, Build: sim.BuildOptions{SlotInfo: true}},
		}, {
			name: "recovery-single-slot-old", system: "The same with MCUboot 1.9: small buffers, a list without hashes; the application proves the image",
			end:   end{row: "1"},
			board: sim.Options{Part: vanilla, Slots: 1, Build: sim.BuildOptions{Release: sim.Release1_9}, Server: server}, slots: oneOld,
		}, {
			name: "recovery-single-slot-old-unproven", system: "The same, and nobody can prove the image",
			end:   end{code: line.HashNotReported, row: "1"},
			board: sim.Options{Part: vanilla, Slots: 1, Build: sim.BuildOptions{Release: sim.Release1_9}}, slots: oneOld,
		}, {
			name: "recovery-single-slot-ncs", system: "Serial recovery over a UART, one slot, a Nordic part as the nRF Connect SDK builds it: erased as the upload goes",
			end:   end{row: "1"},
			board: sim.Options{Part: sim.NRF5340(), Slots: 1, Build: sim.BuildOptions{Release: sim.Release2_1}}, slots: oneOld,
		}, {
			name: "recovery-single-slot-rram", system: "The same on a part with RRAM, which is not erased",
			end:   end{row: "1"},
			board: sim.Options{Part: sim.NRF54L15(), Slots: 1}, slots: oneOld,
		},

		// A port of the board's own.
		{
			name: "recovery-usb", system: "Serial recovery over USB CDC, one slot: the port goes and comes back with another product id",
			end:   end{row: "1"},
			board: sim.Options{Slots: 1, USB: &usb}, slots: oneOld, recipe: scenarioRecipe{quiet: true},
		}, {
			name: "recovery-usb-no-application-port", system: "The same with an application without USB",
			end:   end{row: "1"},
			board: sim.Options{Slots: 1, USB: &sim.USBOptions{Bootloader: usb.Bootloader}}, slots: oneOld, recipe: scenarioRecipe{quiet: true},
		}, {
			name: "recovery-usb-reply-lost", system: "The same with a host that loses the answer to the reset along with the port",
			end:   end{row: "1"},
			board: sim.Options{Slots: 1, USB: &sim.USBOptions{Bootloader: usb.Bootloader, Application: usb.Application, ReplyLost: true}},
			slots: oneOld, recipe: scenarioRecipe{quiet: true},
		}, {
			name: "recovery-usb-no-port", system: "A board whose bootloader shows no USB port",
			end:   end{code: line.NoUSBPort},
			board: sim.Options{Slots: 1, USB: &sim.USBOptions{Application: usb.Application}}, recipe: scenarioRecipe{quiet: true},
		}, {
			name: "recovery-usb-lost", system: "A board whose USB port goes in the middle of the upload",
			end:   end{code: line.USBLost, row: "1"},
			board: sim.Options{Slots: 1, USB: &usb, Fault: sim.Fault{Kind: sim.FaultUSBDrop}}, recipe: scenarioRecipe{quiet: true},
		},

		// Serial recovery, two slots.
		{
			name: "two-slots", system: "Serial recovery, two slots, default build without image state: slot 0 boots, nothing is confirmed",
			end:   end{row: "1"},
			slots: map[int]held{0: old, 1: old},
		}, {
			name: "two-slots-state", system: "The same with image state: the bootloader says active and confirmed",
			end:   end{row: "3"},
			board: sim.Options{Build: sim.BuildOptions{ImageState: true}}, slots: map[int]held{0: old, 1: old},
		}, {
			name: "stale-test-image", system: "Two slots, image state, an old image marked for a trial start in slot 1",
			end:   end{row: "3b"},
			board: sim.Options{Build: sim.BuildOptions{ImageState: true}},
			slots: map[int]held{0: old, 1: {firmware{version: "0.8.0"}, onTrial}},
		}, {
			name: "stale-permanent-image", system: "The same, marked to stay",
			end:   end{row: "3b"},
			board: sim.Options{Build: sim.BuildOptions{ImageState: true}},
			slots: map[int]held{0: old, 1: {firmware{version: "0.8.0"}, forGood}},
		}, {
			name: "stale-image-blank-slot", system: "The same over an empty slot 0, into which nothing is swapped before it is written",
			end:   end{row: "3b"},
			board: sim.Options{Build: sim.BuildOptions{ImageState: true}},
			slots: map[int]held{1: {firmware{version: "0.8.0"}, forGood}},
		}, {
			name: "stale-image-untold", system: "Two slots, no image state: the bootloader hides the image that is marked in slot 1; seen after the restart, flashed again",
			end:   end{after: line.Replaced, row: "1"},
			slots: map[int]held{0: old, 1: {firmware{version: "0.8.0"}, forGood}}, recipe: scenarioRecipe{quiet: true},
		}, {
			name: "stale-image-untold-boot-text", system: "The same, seen by what the board prints",
			end:   end{after: line.Replaced, row: "1"},
			slots: map[int]held{0: old, 1: {firmware{version: "0.8.0"}, forGood}},
		}, {
			name: "direct-upload", system: "Two slots, direct upload, image state: slot 0 by default",
			end:   end{row: "4"},
			board: sim.Options{Build: all}, slots: oneOld,
		}, {
			name: "secondary-confirm", system: "The same through slot 1: uploaded, marked to stay, swapped in, found confirmed in slot 0",
			end:   end{row: "5"},
			board: sim.Options{Build: all}, slots: oneOld, recipe: scenarioRecipe{policy: configs.SecondaryConfirm},
		}, {
			name: "secondary-confirm-scratch", system: "The same with a bootloader that swaps using scratch",
			end:   end{row: "5"},
			board: sim.Options{Build: mode(sim.ModeSwapScratch)}, slots: oneOld, recipe: scenarioRecipe{policy: configs.SecondaryConfirm},
		}, {
			name: "secondary-confirm-blank-board", system: "The same on a blank board, where nothing would be swapped into slot 0: that is written instead",
			end:   end{row: "4"},
			board: sim.Options{Build: all}, recipe: scenarioRecipe{policy: configs.SecondaryConfirm},
		}, {
			name: "secondary-test-server", system: "Through slot 1 on trial; the application's SMP server is told to keep it",
			end:   end{row: "5t"},
			board: sim.Options{Build: all, Server: server}, slots: oneOld, recipe: scenarioRecipe{policy: configs.SecondaryTestConfirm},
		}, {
			name: "secondary-test-self", system: "Through slot 1 on trial; the application keeps itself",
			end:   end{row: "5t"},
			board: sim.Options{Build: all, Server: &sim.ServerOptions{SelfConfirm: true}}, slots: oneOld, recipe: scenarioRecipe{policy: configs.SecondaryTestConfirm},
		}, {
			name: "secondary-test-nobody", system: "Through slot 1 on trial; nobody keeps it",
			end:   end{code: line.NotConfirmed, row: "5t"},
			board: sim.Options{Build: all}, slots: oneOld, recipe: scenarioRecipe{policy: configs.SecondaryTestConfirm},
		}, {
			name: "no-image-state", system: "Direct upload without image state: slot 1 asked for (\"managed to upload but couldn't confirm\")",
			end:   end{code: line.NoImageState},
			board: sim.Options{Build: sim.BuildOptions{SlotInfo: true, DirectUpload: true}}, slots: oneOld, recipe: scenarioRecipe{policy: configs.SecondaryConfirm},
		}, {
			name: "no-image-state-primary", system: "The same board through slot 0",
			end:   end{row: "4"},
			board: sim.Options{Build: sim.BuildOptions{SlotInfo: true, DirectUpload: true}}, slots: oneOld,
		}, {
			name: "no-direct-upload", system: "Image state without direct upload: slot 1 asked for",
			end:   end{code: line.NoDirectUpload},
			board: sim.Options{Build: sim.BuildOptions{SlotInfo: true, ImageState: true}}, slots: oneOld, recipe: scenarioRecipe{policy: configs.SecondaryConfirm},
		}, {
			name: "already-flashed", system: "A board that holds the image already: verified, started, not written",
			end:   end{row: "1", kept: true},
			slots: map[int]held{0: {firmware: firmware{version: "1.0.0"}}},
		},

		// Other ways of updating.
		{
			name: "overwrite-only", system: "A bootloader that overwrites slot 0, through slot 1",
			end:   end{row: "5"},
			board: sim.Options{Build: mode(sim.ModeOverwrite)}, slots: oneOld, recipe: scenarioRecipe{policy: configs.SecondaryConfirm},
		}, {
			name: "swap-offset", system: "A bootloader that swaps using offset, slot 0",
			end:   end{row: "4"},
			board: sim.Options{Build: mode(sim.ModeSwapOffset)}, slots: oneOld,
		}, {
			name: "swap-offset-secondary", system: "The same through slot 1, where the image lies one sector further on",
			end:   end{row: "5"},
			board: sim.Options{Build: mode(sim.ModeSwapOffset)}, slots: oneOld, recipe: scenarioRecipe{policy: configs.SecondaryConfirm},
		}, {
			name: "swap-offset-misplaced", system: "A bootloader of 2.2 that swaps using offset without direct upload: it puts the image where it does not look for it",
			end:   end{code: line.ImageNotListed, row: "1"},
			board: sim.Options{Build: sim.BuildOptions{Release: sim.Release2_2, Mode: sim.ModeSwapOffset}}, slots: oneOld,
		}, {
			name: "direct-xip", system: "Direct execution in place, an older image in slot 1",
			end:   end{row: "1"},
			board: sim.Options{Build: sim.BuildOptions{Mode: sim.ModeDirectXIP}}, slots: map[int]held{0: old, 1: old},
		}, {
			name: "direct-xip-newer-in-slot-1", system: "The same with a higher version in slot 1, which is the one that runs",
			end:   end{code: line.OtherSlotRuns, row: "1"},
			board: sim.Options{Build: sim.BuildOptions{Mode: sim.ModeDirectXIP}}, slots: map[int]held{0: old, 1: newer},
		}, {
			name: "direct-xip-newer-silent", system: "The same with an application that prints nothing",
			end:   end{code: line.OtherSlotRuns, row: "1"},
			board: sim.Options{Build: sim.BuildOptions{Mode: sim.ModeDirectXIP}}, slots: map[int]held{0: old, 1: newer}, recipe: scenarioRecipe{quiet: true},
		}, {
			name: "direct-xip-revert", system: "Direct execution in place with revert, which throws away what has no confirmed trailer",
			end:   end{code: line.ErasedAtBoot, row: "1"},
			board: sim.Options{Build: sim.BuildOptions{Mode: sim.ModeDirectXIPRevert}}, slots: map[int]held{0: keep},
		}, {
			name: "ram-load", system: "RAM load, an image signed for it, and an application that can tell",
			end:   end{row: "1"},
			board: sim.Options{Build: sim.BuildOptions{Mode: sim.ModeRAMLoad}, Server: server}, recipe: scenarioRecipe{images: []firmware{{version: "1.0.0", ramLoad: true}}},
		}, {
			name: "ram-load-unsigned-for-it", system: "RAM load, an image without load address",
			end:   end{code: line.ImageNotListed, row: "1"},
			board: sim.Options{Build: sim.BuildOptions{Mode: sim.ModeRAMLoad}},
		}, {
			name: "encrypted", system: "An encrypted image, and a bootloader with the key",
			end:   end{row: "1"},
			slots: oneOld, decrypts: true, recipe: scenarioRecipe{images: []firmware{{version: "1.0.0", encrypted: true}}},
		}, {
			name: "encrypted-without-key", system: "An encrypted image, and a bootloader without the key",
			end:   end{code: line.ImageNotListed, row: "1"},
			slots: oneOld, recipe: scenarioRecipe{images: []firmware{{version: "1.0.0", encrypted: true}}},
		},

		// Two images.
		{
			name: "two-images", system: "Application core and network core, two .bin files",
			end:   end{row: "1"},
			board: sim.Options{Part: sim.NRF5340(), Build: sim.BuildOptions{Images: 2}}, slots: map[int]held{0: old, 2: oldNet}, recipe: scenarioRecipe{images: both},
		}, {
			name: "two-images-package", system: "The same from a dfu_application.zip, onto a blank board with slot info",
			end:   end{row: "1"},
			board: sim.Options{Part: sim.NRF5340(), Build: sim.BuildOptions{Images: 2, SlotInfo: true}}, recipe: scenarioRecipe{images: both, zip: true},
		}, {
			name: "two-images-secondary", system: "The same through the secondary slots",
			end:   end{row: "5"},
			board: sim.Options{Part: sim.NRF5340(), Build: build(all, func(b *sim.BuildOptions) { b.Images = 2 })},
			slots: map[int]held{0: old, 2: oldNet}, recipe: scenarioRecipe{images: both, policy: configs.SecondaryConfirm},
		}, {
			name: "two-images-unproven", system: "Two images for a board that shows nothing of a second one: its number could erase something else",
			end:   end{code: line.NoSuchImage, row: "1"},
			board: sim.Options{Part: sim.NRF5340(), Build: sim.BuildOptions{Images: 2}}, recipe: scenarioRecipe{images: both},
		}, {
			name: "dependency-missing", system: "An image that depends on a newer network core than the board has",
			end:   end{code: line.DependencyMissing, row: "1"},
			board: sim.Options{Part: sim.NRF5340(), Build: sim.BuildOptions{Images: 2}}, slots: map[int]held{0: old, 2: oldNet},
			recipe: scenarioRecipe{images: []firmware{{version: "1.0.0", needs: "1.0.0"}}},
		},

		// Through the application.
		{
			name: "application", system: "An application with an SMP server, two slots, UART: slot 1, trial start, kept",
			end:   end{row: "A1"},
			board: sim.Options{Server: server}, slots: oneOld, recipe: application,
		}, {
			name: "application-usb", system: "The same over USB CDC, across re-enumeration",
			end:   end{row: "A1"},
			board: sim.Options{Server: &sim.ServerOptions{}, USB: &sim.USBOptions{Application: usb.Application}}, slots: oneOld,
			recipe: scenarioRecipe{policy: configs.ApplicationPolicy, quiet: true},
		}, {
			name: "application-shell", system: "The same behind a shell: prompt, echo, colours and a log on one UART",
			end:   end{row: "A1"},
			board: sim.Options{Server: &sim.ServerOptions{Shell: true, LogEvery: 70 * time.Millisecond}}, slots: oneOld, recipe: application,
		}, {
			name: "application-direct-xip", system: "The same with a bootloader that runs the highest version: nothing to mark",
			end:   end{row: "A2"},
			board: sim.Options{Build: sim.BuildOptions{Mode: sim.ModeDirectXIP}, Server: server}, slots: oneOld, recipe: application,
		}, {
			name: "application-crashes", system: "The same with an image that crashes: the board goes back to the old one",
			end:   end{code: line.Reverted, row: "A1"},
			board: sim.Options{Server: server, Crashes: "1.0.0+0"}, slots: oneOld, recipe: application,
		}, {
			name: "application-wrong-key", system: "The same with an image whose key the bootloader does not trust",
			end:   end{code: line.NotSwapped, row: "A1"},
			board: sim.Options{Server: server}, slots: oneOld,
			recipe: scenarioRecipe{policy: configs.ApplicationPolicy, images: []firmware{{version: "1.0.0", foreign: true}}},
		}, {
			name: "application-one-slot", system: "An application with an SMP server and one slot",
			end:   end{code: line.NoFreeSlot, row: "A1"},
			board: sim.Options{Slots: 1, Server: server}, slots: oneOld, recipe: application,
		}, {
			name: "application-downgrade", system: "An application newer than the recipe",
			end:   end{code: line.Downgrade, row: "A1"},
			board: sim.Options{Server: server}, slots: map[int]held{0: newer}, recipe: application,
		}, {
			name: "application-wanted", system: "An update through the application for a board that has none",
			end:   end{code: line.NotApplication},
			board: sim.Options{Build: sim.BuildOptions{NoApplication: true}}, recipe: application,
		}, {
			name: "wrong-board", system: "An application that says it runs on another board",
			end:   end{code: line.WrongBoard},
			board: sim.Options{Server: &sim.ServerOptions{Info: &sim.InfoOptions{Board: "frdm_k64f"}}}, slots: oneOld,
			recipe: scenarioRecipe{policy: configs.ApplicationPolicy, board: "nrf52840dk/nrf52840"},
		},

		// The other ways in.
		{
			name: "entry-boot-mode", system: "Into recovery by a request to the application (boot mode), no pin",
			end:   end{row: "1"},
			board: sim.Options{Build: sim.BuildOptions{BootMode: true}, Server: &sim.ServerOptions{BootMode: true}}, slots: oneOld,
			recipe: scenarioRecipe{entry: configs.BootMode},
		}, {
			name: "entry-boot-mode-ignored", system: "The same with an application that does not know the request",
			end:   end{code: line.NotRecovery},
			board: sim.Options{Build: sim.BuildOptions{BootMode: true}, Server: server}, slots: oneOld,
			recipe: scenarioRecipe{entry: configs.BootMode},
		}, {
			name: "entry-window", system: "Into recovery by asking in the moment the bootloader listens (WAIT_FOR_DFU)",
			end:   end{row: "1"},
			board: sim.Options{Build: sim.BuildOptions{NoEntrancePin: true, WaitForDFU: 500 * time.Millisecond}}, slots: oneOld,
			recipe: scenarioRecipe{entry: configs.Window},
		}, {
			name: "entry-no-application", system: "A blank board that stays in recovery (NO_APPLICATION), by power-on",
			end:   end{row: "1"},
			board: sim.Options{Build: sim.BuildOptions{NoEntrancePin: true, NoApplication: true}}, recipe: scenarioRecipe{entry: configs.PowerOn},
		}, {
			name: "entry-reset-pin", system: "Into recovery by the reset line (PIN_RESET)",
			end:   end{row: "1"},
			board: sim.Options{Build: sim.BuildOptions{NoEntrancePin: true, PinReset: true}}, slots: oneOld, recipe: scenarioRecipe{entry: configs.ResetPin},
		},

		// Without the frames of the console.
		{
			name: "raw", system: "A bootloader built for the raw protocol, which the station finds out",
			end:   end{row: "1"},
			board: sim.Options{Build: sim.BuildOptions{Raw: true}}, slots: oneOld,
		}, {
			name: "raw-window", system: "The same in the moment it listens, told by the recipe",
			end:    end{row: "1"},
			board:  sim.Options{Build: sim.BuildOptions{Raw: true, NoEntrancePin: true, WaitForDFU: 500 * time.Millisecond}},
			slots:  oneOld,
			recipe: scenarioRecipe{entry: configs.Window, framing: configs.RawFraming},
		},

		// What keeps a board from answering.
		{
			name: "wrong-baud", system: "A bootloader at another speed than the station file says",
			end:   end{code: line.WrongBaud},
			board: sim.Options{Baud: 115200}, slots: oneOld,
		}, {
			name: "raw-protocol", system: "A bootloader built for the raw protocol, and a recipe that says console",
			end:   end{code: line.RawProtocol},
			board: sim.Options{Build: sim.BuildOptions{Raw: true}}, slots: oneOld, recipe: scenarioRecipe{framing: configs.ConsoleFraming},
		}, {
			name: "console-protocol", system: "A bootloader with console lines, and a recipe that says raw",
			end:   end{code: line.ConsoleProtocol},
			slots: oneOld, recipe: scenarioRecipe{framing: configs.RawFraming},
		}, {
			name: "silent", system: "A board from which nothing comes",
			end:   end{code: line.NoRecovery},
			board: sim.Options{Fault: sim.Fault{Kind: sim.FaultSilent}}, slots: oneOld,
		}, {
			name: "recovery-pin-not-wired", system: "The recovery pin does not reach the board: its application starts",
			end:   end{code: line.NotRecovery},
			board: sim.Options{Build: sim.BuildOptions{NoEntrancePin: true}}, slots: oneOld,
		}, {
			name: "recovery-pin-not-wired-server", system: "The same with an application that answers",
			end:   end{code: line.NotRecovery},
			board: sim.Options{Build: sim.BuildOptions{NoEntrancePin: true}, Server: server}, slots: oneOld,
		},

		// Images that do not belong on the board.
		{
			name: "wrong-key", system: "An image whose key the bootloader does not trust",
			end:   end{code: line.ImageNotListed, row: "1"},
			slots: oneOld, recipe: scenarioRecipe{images: []firmware{{version: "1.0.0", foreign: true}}},
		}, {
			name: "downgrade", system: "A board that holds a higher version",
			end:   end{code: line.Downgrade, row: "1"},
			slots: map[int]held{0: newer},
		}, {
			name: "downgrade-allowed", system: "The same with a recipe that allows it",
			end:   end{row: "1"},
			slots: map[int]held{0: newer}, recipe: scenarioRecipe{downgrade: true},
		}, {
			name: "image-too-large", system: "An image that reaches into the trailer of the slot that the board tells of",
			end:   end{code: line.ImageTooLarge, row: "4"},
			board: sim.Options{SlotSize: 32 << 10, Build: all}, recipe: scenarioRecipe{images: []firmware{{version: "1.0.0", size: 31 << 10}}},
		}, {
			name: "message-too-long", system: "A recipe that asks for longer messages than the bootloader takes",
			end:   end{code: line.MessageTooLong, row: "1"},
			slots: oneOld, recipe: scenarioRecipe{messageSize: 2000},
		}, {
			name: "application-hangs", system: "An application that never says a word after the restart",
			end:   end{code: line.NoBoot, row: "1"},
			board: sim.Options{Fault: sim.Fault{Kind: sim.FaultBootLoop}}, slots: oneOld,
		},
	}
}
