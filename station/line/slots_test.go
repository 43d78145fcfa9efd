package line

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"flashline/configs"
	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/smp/mcuboot"
)

// other is another firmware that the boards of these tests accept.
func other(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/app-1.1.0.bin")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// pending is an image that is marked to be swapped in from a slot of the
// board, for one boot or for good.
func pending(t testing.TB, p sim.Part, image []byte, forGood bool) []byte {
	t.Helper()
	slot, err := mcuboot.TrailerLayout{WriteSize: p.WriteSize, MaxSectors: p.SlotSize / p.SectorSize}.Pad(image, p.SlotSize, forGood)
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

// full is a bootloader with all that two slots need.
func full(mode sim.Mode) sim.BuildOptions {
	return sim.BuildOptions{Mode: mode, ImageState: true, SlotInfo: true, DirectUpload: true}
}

// Two slots. What the station reports is held against what the board would
// really run, now and after every boot to come.
func TestSlotPolicies(t *testing.T) {
	old := other(t)
	part := sim.NRF52840()
	tests := []struct {
		name   string
		policy configs.SlotPolicy
		build  sim.BuildOptions
		slots  map[int][]byte
		code   Code // "" for PASS
		sent   bool // whether the image was sent
		prove  bool // whether the swap was proven
	}{
		{"default build, slot 0", configs.PrimarySlot, sim.BuildOptions{}, map[int][]byte{0: old}, "", true, false},
		{"state on, slot 0", configs.PrimarySlot, sim.BuildOptions{ImageState: true}, map[int][]byte{0: old, 1: old}, "", true, false},
		{"stale test image pending", configs.PrimarySlot, sim.BuildOptions{ImageState: true}, map[int][]byte{0: old, 1: pending(t, part, old, false)}, "", true, false},
		{"stale permanent image pending", configs.PrimarySlot, sim.BuildOptions{ImageState: true}, map[int][]byte{0: old, 1: pending(t, part, old, true)}, "", true, false},
		{"stale image pending over a blank slot 0", configs.PrimarySlot, sim.BuildOptions{ImageState: true}, map[int][]byte{1: pending(t, part, old, true)}, "", true, false},
		{"slot 1, swap-move", configs.SecondaryConfirm, full(sim.ModeSwapMove), map[int][]byte{0: old}, "", true, true},
		{"slot 1, swap-scratch", configs.SecondaryConfirm, full(sim.ModeSwapScratch), map[int][]byte{0: old}, "", true, true},
		{"slot 1, overwrite-only", configs.SecondaryConfirm, full(sim.ModeOverwrite), map[int][]byte{0: old}, "", true, true},
		{"slot 1, blank board", configs.SecondaryConfirm, full(sim.ModeSwapMove), nil, "", true, false},
		{"slot 1, stale image pending", configs.SecondaryConfirm, full(sim.ModeSwapMove), map[int][]byte{0: old, 1: pending(t, part, old, true)}, "", true, true},
		{"slot 1, no direct upload", configs.SecondaryConfirm, sim.BuildOptions{ImageState: true, SlotInfo: true}, map[int][]byte{0: old}, NoDirectUpload, false, false},
		{"slot 1, no slot info", configs.SecondaryConfirm, sim.BuildOptions{ImageState: true, DirectUpload: true}, map[int][]byte{0: old}, NoDirectUpload, false, false},
		{"slot 1, no image state", configs.SecondaryConfirm, sim.BuildOptions{SlotInfo: true, DirectUpload: true}, map[int][]byte{0: old}, NoImageState, false, false},
		{"slot 1, one slot", configs.SecondaryConfirm, sim.BuildOptions{Mode: sim.ModeSingleSlot, SlotInfo: true}, map[int][]byte{0: old}, NoDirectUpload, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 1, func(_ int, o *sim.Options) {
					o.Part, o.Build, o.Contents = part, tt.build, tt.slots
					if tt.build.Mode == sim.ModeSingleSlot {
						o.Slots = 1
					}
				}, func(r *rig) { r.recipe.SlotPolicy, r.recipe.AllowDowngrade = tt.policy, true })
				got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
				if got.FailureCode != string(tt.code) || (got.Outcome == records.Pass) != (tt.code == "") {
					t.Fatalf("%s %s (%s), want %q", got.Outcome, got.FailureCode, got.Detail, tt.code)
				}
				if (got.BytesSent > 0) != tt.sent {
					t.Errorf("%d bytes sent", got.BytesSent)
				}
				steps := stepNames(got)
				if slices.Contains(steps, StepMark) != tt.prove {
					t.Errorf("steps %v", steps)
				}
				truth(t, r, got)
				r.safe()
			})
		})
	}
}

// truth holds a PASS against the board.
func truth(t errorer, r *rig, got records.Result) {
	if got.Outcome != records.Pass {
		return
	}
	image, permanent, ok := r.boards[0].WillRun()
	if !ok || !permanent || !bytes.Equal(image.Hash, r.job.Images[0].Hash) || got.DeviceHash != fmt.Sprintf("%x", r.job.Images[0].Hash) {
		t.Errorf("PASS with device hash %s, and the board will run %+v, permanently %v, at all %v", got.DeviceHash, image, permanent, ok)
	}
}

type errorer interface{ Errorf(string, ...any) }

// A board that holds the image already is verified and started, not written.
func TestAlreadyFlashed(t *testing.T) {
	for _, rewrite := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, nil, func(r *rig) { r.recipe.Images[0].Rewrite = rewrite })
			for i := range 2 {
				got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
				if got.Outcome != records.Pass {
					t.Fatalf("flash %d: %s %s", i, got.FailureCode, got.Detail)
				}
				if sent := got.BytesSent > 0; sent != (i == 0 || rewrite) {
					t.Errorf("flash %d, rewrite %v: %d bytes sent", i, rewrite, got.BytesSent)
				}
				truth(t, r, got)
			}
		})
	}
}

// Whatever a bootloader was built like, whatever was in its slots and however
// the line behaves: PASS means that the board runs the image from now on.
func TestPassIsTrue(t *testing.T) {
	old := other(t)
	passed := 0
	rapid.Check(t, func(rt *rapid.T) {
		part := rapid.SampledFrom([]sim.Part{sim.NRF52840(), sim.NRF54L15(), sim.STM32L4()}).Draw(rt, "part")
		build := sim.BuildOptions{
			Mode:         rapid.SampledFrom(sim.Modes()).Draw(rt, "mode"),
			ImageState:   rapid.Bool().Draw(rt, "image state"),
			SlotInfo:     rapid.Bool().Draw(rt, "slot info"),
			DirectUpload: rapid.Bool().Draw(rt, "direct upload"),
		}
		slots := 2
		if build.Mode == sim.ModeSingleSlot {
			slots, build.ImageState, build.DirectUpload = 1, false, false
		}
		contents := map[int][]byte{}
		for n := range slots {
			switch rapid.SampledFrom([]string{"blank", "image", "pending", "confirmed", "junk"}).Draw(rt, fmt.Sprintf("slot %d", n)) {
			case "image":
				contents[n] = old
			case "pending":
				contents[n] = pending(t, part, old, false)
			case "confirmed":
				contents[n] = pending(t, part, old, true)
			case "junk":
				contents[n] = bytes.Repeat([]byte{0x5a}, 3000)
			}
		}
		fault, err := sim.ParseFault(rapid.SampledFrom([]string{"", "", "", "lost-reply=0.05", "corrupt=0.0002", "reset-mid-upload", "dies", "wrong-key"}).Draw(rt, "fault"))
		if err != nil {
			t.Fatal(err)
		}
		policy := rapid.SampledFrom([]configs.SlotPolicy{configs.PrimarySlot, configs.SecondaryConfirm}).Draw(rt, "policy")
		seed := rapid.Uint64().Draw(rt, "seed")
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, func(_ int, o *sim.Options) {
				o.Part, o.Build, o.Slots, o.Contents, o.Fault, o.Seed = part, build, slots, contents, fault, seed
			}, func(r *rig) {
				r.recipe.SlotPolicy, r.recipe.AllowDowngrade = policy, true
				r.recipe.Images[0].WriteSize = 32
			})
			got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
			truth(rt, r, got)
			if got.Outcome == records.Pass {
				passed++
			}
			r.safe()
		})
	})
	if passed == 0 {
		t.Error("nothing passed: the test shows nothing")
	}
}
