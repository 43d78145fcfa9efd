package line

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/gpio"

	"flashline/configs"
	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/smp/mcuboot"
)

// signer is the key of the images and boards of these tests.
func signer() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) }

// build makes a signed image of a few kilobytes.
func build(t testing.TB, version string, edit func(*mcuboot.BuildOptions)) []byte {
	t.Helper()
	v, err := mcuboot.ParseVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	o := mcuboot.BuildOptions{Version: v, Body: []byte(strings.Repeat("firmware "+version+" ", 300)), Key: signer()}
	if edit != nil {
		edit(&o)
	}
	image, err := mcuboot.Build(o)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func ramLoad(o *mcuboot.BuildOptions) { o.Flags, o.LoadAddr = mcuboot.FlagRAMLoad, 0x20000000 }

// system is a board and a recipe, and how a flash of it has to end.
type system struct {
	name   string
	board  func(*sim.Options)
	recipe func(*configs.Recipe)
	code   Code   // "" for PASS
	row    string // of the decision
	proof  string // part of it
	steps  string // that must be among the steps, none that begins with "-"
	sent   int    // images sent: 1 unless it says -1 for none
}

// systems are all that the station serves, and all that it refuses.
func systems(t *testing.T) []system {
	old, image := build(t, "1.0.0", nil), build(t, "2.0.0", nil)
	newer := build(t, "3.0.0", nil)
	net, oldNet := build(t, "1.2.3", nil), build(t, "1.1.0", nil)
	ram, oldRAM := build(t, "2.0.0", ramLoad), build(t, "1.0.0", ramLoad)
	part := sim.Ideal()
	trailer := func(image []byte, forGood bool) []byte { return pending(t, part, image, forGood) }
	full := func(mode sim.Mode) func(*sim.Options) {
		return func(o *sim.Options) {
			o.Build = sim.BuildOptions{Mode: mode, ImageState: true, SlotInfo: true, DirectUpload: true}
		}
	}
	with := func(edits ...func(*sim.Options)) func(*sim.Options) {
		return func(o *sim.Options) {
			for _, e := range edits {
				e(o)
			}
		}
	}
	slots := func(c map[int][]byte) func(*sim.Options) { return func(o *sim.Options) { o.Contents = c } }
	one := func(o *sim.Options) { o.Slots = 1 }
	server := func(o *sim.Options) { o.Server = &sim.ServerOptions{Params: true, ImageCheck: true} }
	usb := func(o *sim.Options) {
		o.USB = &sim.USBOptions{Bootloader: sim.USBID{Vendor: 0x2fe3, Product: 0x0100}, Application: sim.USBID{Vendor: 0x2fe3, Product: 4}, ReplyLost: true}
	}
	bootUSB := func(o *sim.Options) {
		o.USB = &sim.USBOptions{Bootloader: sim.USBID{Vendor: 0x2fe3, Product: 0x0100}}
	}
	policy := func(p configs.SlotPolicy) func(*configs.Recipe) {
		return func(r *configs.Recipe) { r.SlotPolicy = p }
	}
	application := func(r *configs.Recipe) { r.Entry, r.SlotPolicy = configs.PowerOn, configs.ApplicationPolicy }
	entry := func(e configs.Entry) func(*configs.Recipe) { return func(r *configs.Recipe) { r.Entry = e } }
	noText := func(r *configs.Recipe) { r.Check.BootText = "" }
	both := func(edits ...func(*configs.Recipe)) func(*configs.Recipe) {
		return func(r *configs.Recipe) {
			for _, e := range edits {
				e(r)
			}
		}
	}
	multi := func(r *configs.Recipe) {
		r.Images = append(r.Images, configs.Image{Path: configs.Path{Written: "net.bin"}, Data: net, Number: 1, WriteSize: 4})
	}
	image0 := func(data []byte) func(*configs.Recipe) { return func(r *configs.Recipe) { r.Images[0].Data = data } }
	two := func(o *sim.Options) { o.Build.Images = 2 }
	const (
		listed   = "listed the hash in slot 0."
		again    = "listed the hash in slot 0 again."
		reported = "The application reported the hash"
	)
	return []system{
		// Recovery, one slot and two.
		{name: "one slot", board: with(one, slots(map[int][]byte{0: old})), row: "1", proof: listed},
		{name: "one slot, told", board: func(o *sim.Options) { o.Slots, o.Build.SlotInfo = 1, true }, row: "2", proof: listed},
		{name: "one slot, MCUboot 1.9", board: func(o *sim.Options) { o.Slots, o.Build.Release = 1, sim.Release1_9 }, code: HashNotReported, row: "1"},
		{name: "one slot, no text asked for", board: with(one, slots(map[int][]byte{0: old})), recipe: noText, row: "1", proof: again},
		{name: "two slots, default build", board: slots(map[int][]byte{0: old, 1: old}), row: "1", proof: listed},
		{name: "state on", board: func(o *sim.Options) { o.Build.ImageState, o.Contents = true, map[int][]byte{0: old} }, row: "3", proof: listed},
		{name: "direct upload", board: with(full(sim.ModeSwapMove), slots(map[int][]byte{0: old})), row: "4", proof: listed, steps: "-mark"},
		{name: "stale test image", board: func(o *sim.Options) {
			o.Build.ImageState, o.Contents = true, map[int][]byte{0: old, 1: trailer(old, false)}
		}, row: "3b", proof: listed},
		{name: "stale permanent image", board: func(o *sim.Options) {
			o.Build.ImageState, o.Contents = true, map[int][]byte{0: old, 1: trailer(old, true)}
		}, row: "3b", proof: listed},
		{name: "stale image over an empty slot 0", board: func(o *sim.Options) {
			o.Build.ImageState, o.Contents = true, map[int][]byte{1: trailer(old, true)}
		}, row: "3b", proof: listed, steps: "let swap", sent: 2},
		{name: "stale image, not told, text asked for", board: slots(map[int][]byte{0: old, 1: trailer(old, true)}), code: Replaced, row: "1", steps: "examine"},
		{name: "stale image, not told, no text", board: slots(map[int][]byte{0: old, 1: trailer(old, true)}), recipe: noText, code: Replaced, row: "1"},
		{name: "holds it already", board: slots(map[int][]byte{0: image}), row: "1", proof: listed, sent: -1},

		// The second slot.
		{name: "confirm, swap-move", board: with(full(sim.ModeSwapMove), slots(map[int][]byte{0: old})), recipe: policy(configs.SecondaryConfirm), row: "5", proof: again, steps: "mark"},
		{name: "confirm, overwrite-only", board: with(full(sim.ModeOverwrite), slots(map[int][]byte{0: old})), recipe: policy(configs.SecondaryConfirm), row: "5", proof: again},
		{name: "confirm, swap-offset", board: with(full(sim.ModeSwapOffset), slots(map[int][]byte{0: old})), recipe: policy(configs.SecondaryConfirm), row: "5", proof: again},
		{name: "confirm, an application that answers", board: with(full(sim.ModeSwapMove), slots(map[int][]byte{0: old}), server), recipe: both(policy(configs.SecondaryConfirm), noText), row: "5", proof: reported},
		{name: "confirm, empty slot 0", board: full(sim.ModeSwapMove), recipe: policy(configs.SecondaryConfirm), row: "4", proof: listed, steps: "-mark"},
		{name: "confirm, holds it already and is to get it again", board: with(full(sim.ModeSwapMove), slots(map[int][]byte{0: image})), recipe: both(policy(configs.SecondaryConfirm), func(r *configs.Recipe) { r.Images[0].Rewrite = true }), row: "5", proof: again, steps: "-mark"},
		{name: "confirm, no state", board: func(o *sim.Options) {
			o.Build = sim.BuildOptions{SlotInfo: true, DirectUpload: true}
			o.Contents = map[int][]byte{0: old}
		}, recipe: policy(configs.SecondaryConfirm), code: NoImageState, sent: -1},
		{name: "confirm, no direct upload", board: func(o *sim.Options) {
			o.Build = sim.BuildOptions{SlotInfo: true, ImageState: true}
			o.Contents = map[int][]byte{0: old}
		}, recipe: policy(configs.SecondaryConfirm), code: NoDirectUpload, sent: -1},
		{name: "confirm, direct-XIP", board: with(full(sim.ModeDirectXIP), slots(map[int][]byte{0: old})), recipe: policy(configs.SecondaryConfirm), code: NotSwapped, row: "5"},
		{name: "trial, server confirms", board: with(full(sim.ModeSwapMove), slots(map[int][]byte{0: old}), server), recipe: policy(configs.SecondaryTestConfirm), row: "5t", proof: reported, steps: "confirm"},
		{name: "trial, confirms itself", board: with(full(sim.ModeSwapMove), slots(map[int][]byte{0: old}), func(o *sim.Options) {
			o.Server = &sim.ServerOptions{SelfConfirm: true}
		}), recipe: policy(configs.SecondaryTestConfirm), row: "5t", proof: reported},
		{name: "trial, nobody confirms", board: with(full(sim.ModeSwapMove), slots(map[int][]byte{0: old})), recipe: policy(configs.SecondaryTestConfirm), code: NotConfirmed, row: "5t"},

		// Other modes.
		{name: "direct-XIP", board: func(o *sim.Options) { o.Build.Mode, o.Contents = sim.ModeDirectXIP, map[int][]byte{0: old} }, row: "1", proof: listed},
		{name: "direct-XIP, a higher version beside", board: func(o *sim.Options) {
			o.Build.Mode, o.Contents = sim.ModeDirectXIP, map[int][]byte{0: old, 1: newer}
		}, code: OtherSlotRuns, row: "1", steps: "examine"},
		{name: "direct-XIP, a higher version beside, no text", board: func(o *sim.Options) {
			o.Build.Mode, o.Contents = sim.ModeDirectXIP, map[int][]byte{0: old, 1: newer}
		}, recipe: noText, code: OtherSlotRuns, row: "1"},
		{name: "direct-XIP with revert", board: func(o *sim.Options) { o.Build.Mode = sim.ModeDirectXIPRevert }, code: ErasedAtBoot, row: "1", steps: "examine"},
		// What these list in recovery is what they last loaded.
		{name: "RAM load", board: with(server, func(o *sim.Options) {
			o.Build.Mode, o.Contents = sim.ModeRAMLoad, map[int][]byte{0: oldRAM}
		}), recipe: image0(ram), row: "1", proof: "The application reported the hash"},
		{name: "RAM load, nobody to tell", board: func(o *sim.Options) { o.Build.Mode, o.Contents = sim.ModeRAMLoad, map[int][]byte{0: oldRAM} }, recipe: image0(ram), code: ImageNotListed, row: "1"},
		{name: "RAM load, not built for it", board: func(o *sim.Options) { o.Build.Mode = sim.ModeRAMLoad }, code: ImageNotListed, row: "1"},
		{name: "overwrite-only", board: func(o *sim.Options) { o.Build.Mode, o.Contents = sim.ModeOverwrite, map[int][]byte{0: old} }, row: "1", proof: listed},
		{name: "swap-offset", board: func(o *sim.Options) { o.Build.Mode, o.Contents = sim.ModeSwapOffset, map[int][]byte{0: old} }, row: "1", proof: listed},

		// Several images.
		{name: "two images", board: with(two, slots(map[int][]byte{0: old, 2: oldNet}), func(o *sim.Options) { o.Build.SlotInfo = true }), recipe: multi, row: "1", proof: listed, sent: 2},
		{name: "two images, blank", board: with(two, func(o *sim.Options) { o.Build.SlotInfo = true }), recipe: multi, row: "1", proof: listed, sent: 2},
		{name: "two images, direct upload", board: with(full(sim.ModeSwapMove), two, slots(map[int][]byte{0: old, 2: oldNet})), recipe: multi, row: "4", proof: listed, sent: 2},
		{name: "two images, second slots", board: with(full(sim.ModeSwapMove), two, slots(map[int][]byte{0: old, 2: oldNet})), recipe: both(multi, policy(configs.SecondaryConfirm)), row: "5", proof: again, sent: 2},
		{name: "two images, one held already", board: with(two, slots(map[int][]byte{0: old, 2: net}), func(o *sim.Options) { o.Build.SlotInfo = true }), recipe: multi, row: "1", proof: listed},
		{name: "two images for a board with one", recipe: multi, code: NoSuchImage, row: "1", sent: -1},
		{name: "two images, a blank board that does not tell", board: two, recipe: multi, code: NoSuchImage, row: "1", sent: -1},
		{name: "two images, a blank board that does not tell, number in the recipe", board: two, recipe: both(multi, func(r *configs.Recipe) { r.Images[1].UploadNumber = 1 }), row: "1", proof: listed, sent: 2},

		// USB.
		{name: "USB, application without", board: with(one, bootUSB), recipe: noText, row: "1", proof: again},
		{name: "USB, application with", board: with(one, usb, server), recipe: noText, row: "1", proof: reported},
		{name: "USB, application that prints before its port is there", board: with(one, usb), code: NoBoot, row: "1"},
		{name: "USB, confirm", board: with(full(sim.ModeSwapMove), slots(map[int][]byte{0: old}), usb), recipe: both(noText, policy(configs.SecondaryConfirm)), row: "5", proof: again},

		// The application's server.
		{name: "application", board: with(slots(map[int][]byte{0: old}), server), recipe: both(application, noText), row: "A1", proof: reported, steps: "confirm"},
		{name: "application, auto", board: with(slots(map[int][]byte{0: old}), server), recipe: both(entry(configs.PowerOn), noText), row: "A1", proof: reported},
		{name: "application, prints its version", board: with(slots(map[int][]byte{0: old}), server), recipe: application, row: "A1", proof: reported},
		{name: "application, USB", board: with(slots(map[int][]byte{0: old}), server, usb), recipe: both(application, noText), row: "A1", proof: reported},
		{name: "application, overwrite-only", board: with(slots(map[int][]byte{0: old}), server, func(o *sim.Options) { o.Build.Mode = sim.ModeOverwrite }), recipe: both(application, noText), row: "A1", proof: reported},
		{name: "application, confirms itself", board: with(slots(map[int][]byte{0: old}), func(o *sim.Options) { o.Server = &sim.ServerOptions{SelfConfirm: true} }), recipe: both(application, noText), row: "A1", proof: reported},
		{name: "application, version 2 only", board: with(slots(map[int][]byte{0: old}), func(o *sim.Options) { o.Server = &sim.ServerOptions{NoVersion1: true} }), recipe: both(application, noText), row: "A1", proof: reported},
		{name: "application, frugal, old error names", board: with(slots(map[int][]byte{0: old}), func(o *sim.Options) {
			o.Server = &sim.ServerOptions{FrugalList: true, RetErrors: true, LegacyRC: true}
		}), recipe: both(application, noText), row: "A1", proof: reported},
		{name: "application, holds it already", board: with(slots(map[int][]byte{0: image}), server), recipe: both(application, noText), row: "A1", proof: reported, sent: -1},
		{name: "application, sent before and not started", board: with(slots(map[int][]byte{0: old, 1: image}), server), recipe: both(application, noText), row: "A1", proof: reported, sent: -1},
		{name: "application, ran on trial when its power was cut", board: with(slots(map[int][]byte{0: onTrial(t, part, image), 1: old}), server), recipe: both(application, noText), row: "A1", proof: reported, sent: -1},
		{name: "application, another image on trial", board: with(slots(map[int][]byte{0: onTrial(t, part, build(t, "1.5.0", nil)), 1: trailer(old, true)}), server), recipe: both(application, noText), row: "A1", proof: reported},
		{name: "application, another image pending", board: with(slots(map[int][]byte{0: old, 1: trailer(build(t, "1.5.0", nil), false)}), server), recipe: both(application, noText), row: "A1", proof: reported},
		{name: "application, another image pending for good", board: with(slots(map[int][]byte{0: old, 1: trailer(build(t, "1.5.0", nil), true)}), server), recipe: both(application, noText), row: "A1", proof: reported},
		{name: "application, its bootloader listens at start", board: with(slots(map[int][]byte{0: old}), server, func(o *sim.Options) { o.Build.WaitForDFU = 2 * time.Second }), recipe: both(application, noText), row: "A1", proof: reported},
		{name: "application crashes", board: with(slots(map[int][]byte{0: old}), server, func(o *sim.Options) { o.Crashes = "2.0.0+0" }), recipe: both(application, noText), code: Reverted, row: "A1"},
		{name: "application, key not trusted", board: with(slots(map[int][]byte{0: old}), server), recipe: both(application, noText, image0(build(t, "2.0.0", func(o *mcuboot.BuildOptions) {
			o.Key = ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", 32)))
		}))), code: NotSwapped, row: "A1"},
		{name: "application, one slot", board: with(one, slots(map[int][]byte{0: old}), server), recipe: both(application, noText), code: NoFreeSlot, row: "A1"},
		{name: "application, direct-XIP", board: with(slots(map[int][]byte{0: old}), func(o *sim.Options) {
			o.Build.Mode, o.Server = sim.ModeDirectXIP, &sim.ServerOptions{BootloaderInfo: true}
		}), recipe: both(application, noText), row: "A2", proof: reported, steps: "upload"},
		{name: "application, direct-XIP, does not tell", board: with(slots(map[int][]byte{0: old}), func(o *sim.Options) {
			o.Build.Mode, o.Server = sim.ModeDirectXIP, &sim.ServerOptions{}
		}), recipe: both(application, noText), code: NoImageState, row: "A1"},
		{name: "application, two images", board: with(two, slots(map[int][]byte{0: old, 2: oldNet}), func(o *sim.Options) {
			o.Server = &sim.ServerOptions{BufferSize: 1024}
		}), recipe: both(application, noText, multi), row: "A1", proof: reported, sent: 2},
		{name: "application, two images held", board: with(two, slots(map[int][]byte{0: image, 2: net}), func(o *sim.Options) {
			o.Server = &sim.ServerOptions{BufferSize: 1024}
		}), recipe: both(application, noText, multi), row: "A1", proof: reported, sent: -1},
		{name: "application, two images held on trial by a bootloader that goes back", board: with(two, slots(map[int][]byte{0: trailer(image, false), 2: trailer(net, false)}), func(o *sim.Options) {
			o.Build.Mode, o.Server = sim.ModeDirectXIPRevert, &sim.ServerOptions{BufferSize: 1024}
		}), recipe: both(application, noText, multi), code: NoBoot, row: "A1", sent: -1},
		{name: "application with one image, two in the recipe", board: with(slots(map[int][]byte{0: old}), server), recipe: both(application, noText, multi), code: NoSuchImage, row: "A1", sent: -1},
		{name: "application, no sector to move by", board: with(slots(map[int][]byte{0: old}), func(o *sim.Options) {
			o.SlotSize = 4 * part.SectorSize
			o.Server = &sim.ServerOptions{BootloaderInfo: true, SlotInfo: true}
		}), recipe: both(application, noText, image0(build(t, "2.0.0", func(o *mcuboot.BuildOptions) { o.Body = make([]byte, 3*part.SectorSize-2000) })), func(r *configs.Recipe) { r.Images[0].SectorSize = part.SectorSize }), code: ImageTooLarge, row: "A1", sent: -1},
		{name: "application, two images, small buffers", board: with(two, slots(map[int][]byte{0: old, 1: old, 2: oldNet, 3: oldNet}), server), recipe: both(application, noText, multi), code: ListRefused},
		{name: "application behind a shell", board: with(slots(map[int][]byte{0: old}), func(o *sim.Options) {
			o.Server = &sim.ServerOptions{Shell: true, LogEvery: 70 * time.Millisecond}
		}), recipe: application, row: "A1", proof: reported},
		{name: "application wanted, bootloader found", board: func(o *sim.Options) { o.Build.NoApplication = true }, recipe: application, code: NotApplication},
		{name: "bootloader wanted, application found", board: with(slots(map[int][]byte{0: old}), server, func(o *sim.Options) { o.Build.NoEntrancePin = true }), code: NotRecovery},

		// The other ways in.
		{name: "blank board by power-on", board: func(o *sim.Options) { o.Build.NoApplication = true }, recipe: entry(configs.PowerOn), row: "1", proof: listed},
		{name: "blank board by power-on, no text", board: func(o *sim.Options) { o.Build.NoApplication = true }, recipe: both(entry(configs.PowerOn), noText), code: NotProven, row: "1"},
		{name: "blank board by power-on, silent by design", board: func(o *sim.Options) { o.Build.NoApplication = true }, recipe: both(entry(configs.PowerOn), noText, func(r *configs.Recipe) { r.Check.Proof = configs.NoProof }), row: "1", proof: listed},
		{name: "boot mode", board: with(slots(map[int][]byte{0: old}), func(o *sim.Options) {
			o.Build.BootMode, o.Server = true, &sim.ServerOptions{BootMode: true}
		}), recipe: both(entry(configs.BootMode), noText), row: "1", proof: reported},
		{name: "boot mode, USB", board: with(slots(map[int][]byte{0: old}), usb, func(o *sim.Options) {
			o.Build.BootMode, o.Server = true, &sim.ServerOptions{BootMode: true}
		}), recipe: both(entry(configs.BootMode), noText), row: "1", proof: reported},
		{name: "boot mode, not built", board: with(slots(map[int][]byte{0: old}), server), recipe: entry(configs.BootMode), code: NotRecovery},
		{name: "window", board: func(o *sim.Options) {
			o.Build.NoEntrancePin, o.Build.WaitForDFU, o.Contents = true, 500*time.Millisecond, map[int][]byte{0: old}
		}, recipe: entry(configs.Window), row: "1", proof: listed},
		{name: "window, no text asked for", board: func(o *sim.Options) {
			o.Build.NoEntrancePin, o.Build.WaitForDFU, o.Contents = true, 500*time.Millisecond, map[int][]byte{0: old}
		}, recipe: both(entry(configs.Window), noText), row: "1", proof: again},
		{name: "reset pin", board: func(o *sim.Options) {
			o.Build.NoEntrancePin, o.Build.PinReset, o.Contents = true, true, map[int][]byte{0: old}
		}, recipe: entry(configs.ResetPin), row: "1", proof: listed},

		// Guards.
		{name: "downgrade", board: slots(map[int][]byte{0: newer}), code: Downgrade, row: "1", sent: -1},
		{name: "downgrade allowed", board: slots(map[int][]byte{0: newer}), recipe: func(r *configs.Recipe) { r.AllowDowngrade = true }, row: "1", proof: listed},
		{name: "downgrade through the application", board: with(slots(map[int][]byte{0: newer}), server), recipe: application, code: Downgrade, row: "A1", sent: -1},
		{name: "another board", board: with(slots(map[int][]byte{0: old}), func(o *sim.Options) {
			o.Server = &sim.ServerOptions{Info: &sim.InfoOptions{Board: "other_board"}}
		}), recipe: both(application, func(r *configs.Recipe) { r.Board = "nrf52840dk/nrf52840" }), code: WrongBoard},
		{name: "the right board", board: with(slots(map[int][]byte{0: old}), func(o *sim.Options) {
			o.Server = &sim.ServerOptions{Info: &sim.InfoOptions{Board: "nrf52840dk"}}
		}), recipe: both(application, noText, func(r *configs.Recipe) { r.Board = "nrf52840dk/nrf52840" }), row: "A1", proof: reported},
		{name: "larger than the slot", board: func(o *sim.Options) { o.SlotSize, o.Build.SlotInfo = part.SectorSize, true }, code: ImageTooLarge, row: "1", sent: -1},
		{name: "needs another image", board: with(two, slots(map[int][]byte{0: old, 2: oldNet}), func(o *sim.Options) { o.Build.SlotInfo = true }), recipe: image0(build(t, "2.0.0", needs(1, "1.2.0"))), code: DependencyMissing, row: "1", sent: -1},
		{name: "has the other image", board: with(two, slots(map[int][]byte{0: old, 2: net}), func(o *sim.Options) { o.Build.SlotInfo = true }), recipe: image0(build(t, "2.0.0", needs(1, "1.2.0"))), row: "1", proof: listed},
		{name: "messages longer than the board takes", board: func(o *sim.Options) { o.Build.ReceiveSize = 256 }, recipe: func(r *configs.Recipe) { r.Images[0].MessageSize = 1020 }, code: MessageTooLong, row: "1"},
		{name: "lines longer than the board takes", board: func(o *sim.Options) { o.Build.LineLength = 64 }, code: MessageTooLong},

		// A bootloader that does not tell.
		{name: "list without hashes, an application that tells", board: with(slots(map[int][]byte{0: old}), server, func(o *sim.Options) { o.Build.NoHash = true }), recipe: noText, row: "1", proof: reported},
	}
}

// rig puts the system at a site.
func (tt *system) rig(t *testing.T) *rig {
	return newRig(t, 1, func(_ int, o *sim.Options) {
		o.Part, o.Key, o.App = sim.Ideal(), signer().Public(), "blinky"
		if tt.board != nil {
			tt.board(o)
		}
	}, func(r *rig) {
		r.recipe.Images = []configs.Image{{Path: configs.Path{Written: "app.bin"}, Data: build(t, "2.0.0", nil), WriteSize: 4}}
		r.recipe.Timeouts.FirstChunk = configs.Duration(10 * time.Second)
		if tt.recipe != nil {
			tt.recipe(r.recipe)
		}
	})
}

// From power-on to power down. What the station says is held against what the
// board would really run from now on.
func TestSystems(t *testing.T) {
	for _, tt := range systems(t) {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := tt.rig(t)
				got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
				tt.judge(t, r, got)
				r.safe()
			})
		})
	}
}

// Stopped at any moment of any of them, an attempt ends at once with the board
// without power: ABORTED, or as what had failed before and was being looked into.
func TestSystemsAborted(t *testing.T) {
	for _, tt := range systems(t) {
		t.Run(tt.name, func(t *testing.T) {
			var whole time.Duration
			synctest.Test(t, func(t *testing.T) {
				r := tt.rig(t)
				whole = r.job.Flash(t.Context(), r.fixture.Sites()[0], nil).Duration
			})
			for part := range 7 {
				at := whole * time.Duration(2*part+1) / 14
				synctest.Test(t, func(t *testing.T) {
					r := tt.rig(t)
					ctx, cancel := context.WithCancelCause(t.Context())
					time.AfterFunc(at, func() { cancel(ErrAborted) })
					got := r.job.Flash(ctx, r.fixture.Sites()[0], nil)
					looked := slices.ContainsFunc(got.Steps, func(s records.Step) bool { return s.Name == StepExamine || s.Name == StepDiagnose })
					if got.Outcome != records.Aborted && !looked || got.Duration > at+100*time.Millisecond {
						t.Errorf("stopped after %s of %s: %s %s after %s", at, whole, got.Outcome, got.FailureCode, got.Duration)
					}
					r.safe()
				})
			}
		})
	}
}

// A board whose power is not the station's may run the image on trial already,
// from an attempt that was cut off: it is kept, and not restarted, which would
// take it back.
func TestOnTrialAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		image := build(t, "2.0.0", nil)
		r := newRig(t, 1, func(_ int, o *sim.Options) {
			o.Part, o.Key, o.Server = sim.Ideal(), signer().Public(), &sim.ServerOptions{}
			o.Contents = map[int][]byte{0: build(t, "1.0.0", nil), 1: pending(t, o.Part, image, false)}
		}, func(r *rig) {
			r.recipe.Images = []configs.Image{{Path: configs.Path{Written: "app.bin"}, Data: image, WriteSize: 4}}
			r.recipe.Entry, r.recipe.Check.BootText = configs.PowerOn, ""
			s := &r.station.Sites[0]
			s.Power, s.Recovery, s.Reset = configs.Output{}, configs.Output{}, nil
		})
		if err := r.boards[0].Power().Out(gpio.High); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
		if names := stepNames(got); got.Outcome != records.Pass || got.BytesSent > 0 || slices.Contains(names, StepRelease) || !slices.Contains(names, StepConfirm) {
			t.Errorf("%s %s %s, steps %q", got.Outcome, got.FailureCode, got.Detail, names)
		}
		everyImage(t, r, got)
	})
}

// onTrial is a slot whose image was swapped in and not confirmed.
func onTrial(t testing.TB, p sim.Part, image []byte) []byte {
	t.Helper()
	slot := pending(t, p, image, false)
	at := mcuboot.TrailerLayout{WriteSize: p.WriteSize, MaxSectors: p.SlotSize / p.SectorSize}.Offsets(p.SlotSize)
	slot[at.CopyDone] = 1
	return slot
}

func needs(image byte, least string) func(*mcuboot.BuildOptions) {
	return func(o *mcuboot.BuildOptions) {
		v, _ := mcuboot.ParseVersion(least)
		o.Protected = []mcuboot.TLV{{Type: mcuboot.TLVDependency, Data: []byte{image, 0, 0, 0, v.Major, v.Minor, byte(v.Revision), 0, 0, 0, 0, 0}}}
	}
}

func (tt *system) judge(t *testing.T, r *rig, got records.Result) {
	if got.FailureCode != string(tt.code) || (got.Outcome == records.Pass) != (tt.code == "") {
		t.Errorf("%s %s (%s), want %q", got.Outcome, got.FailureCode, got.Detail, tt.code)
		for _, s := range got.Steps {
			t.Logf("%-15s %-8s %s %s", s.Name, s.Outcome, s.Duration, s.Detail)
		}
	}
	if got.PolicyRow != tt.row || (tt.row == "") != (got.PolicyWhy == "") {
		t.Errorf("row %q (%s), want %q", got.PolicyRow, got.PolicyWhy, tt.row)
	}
	if !strings.Contains(got.Proof, tt.proof) || (got.Proof == "") != (tt.code != "") {
		t.Errorf("proof %q, want %q", got.Proof, tt.proof)
	}
	names := stepNames(got)
	if want, not := strings.CutPrefix(tt.steps, "-"); want != "" && slices.Contains(names, want) == not {
		t.Errorf("steps %q, want %q", names, tt.steps)
	}
	if want := max(tt.sent, 0); tt.sent != 0 && (got.BytesSent > 0) != (want > 0) {
		t.Errorf("%d bytes sent", got.BytesSent)
	}
	if got.Outcome == records.Pass {
		everyImage(t, r, got)
	} else if !strings.HasSuffix(got.Detail, ".") || !strings.HasSuffix(got.NextStep, ".") {
		t.Errorf("an operator is told %q %q", got.Detail, got.NextStep)
	}
}

// everyImage holds a PASS against the board, for each image.
func everyImage(t errorer, r *rig, got records.Result) {
	hashes := []string{got.DeviceHash}
	for _, f := range got.Further {
		hashes = append(hashes, f.DeviceHash)
	}
	for i, fw := range r.job.Images {
		want := fmt.Sprintf("%x", fw.Hash)
		all := r.boards[0].WillRunAll()
		if fw.Number >= len(all) || !all[fw.Number].Permanent || fmt.Sprintf("%x", all[fw.Number].Image.Hash) != want || hashes[i] != want {
			t.Errorf("PASS of image %d with device hash %s; the board will run %+v", fw.Number, hashes[i], all)
		}
	}
}
