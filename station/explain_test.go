package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/fixtures/sim"
	"flashline/smp/mcuboot"
)

// What explain says of boards built differently, over real pseudo-terminals;
// and that it changes nothing.
func TestExplain(t *testing.T) {
	t.Parallel() // it waits most of the time
	image, err := configs.Examples.ReadFile("blinky-1.0.0.bin")
	if err != nil {
		t.Fatal(err)
	}
	pem, err := configs.Examples.ReadFile("blinky.pub.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := mcuboot.LoadPublicKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	all := sim.BuildOptions{Echo: true, Params: true, ImageState: true, SlotInfo: true, DirectUpload: true}
	// works is what explain says of a policy besides the one it chooses.
	works := func(e explanation, policy configs.SlotPolicy) (ok bool, cure string) {
		for _, p := range e.Policies {
			if p.Policy == string(policy) {
				return p.Works, p.Cure
			}
		}
		return false, "not mentioned"
	}
	pending, err := mcuboot.TrailerLayout{WriteSize: 4, MaxSectors: 16}.Pad(image, 64<<10, true)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		options  sim.Options
		released bool // the recovery pin at power-on
		want     func(e explanation) bool
		row, why string
	}{
		{"default build, blank", sim.Options{}, false, func(e explanation) bool {
			ok, cure := works(e, configs.SecondaryConfirm)
			return e.Target == "bootloader" && e.MessageSize == 1020 && !e.Echo && !e.SlotInfo && len(e.Images) == 0 && e.Policy == "primary" &&
				!ok && strings.Contains(cure, "DIRECT_IMAGE_UPLOAD=y") && e.Release == "2.1 or newer"
		}, "1", "nothing is to be confirmed"},
		{"everything on", sim.Options{Image: image, Build: all}, false, func(e explanation) bool {
			confirm, _ := works(e, configs.SecondaryConfirm)
			test, _ := works(e, configs.SecondaryTestConfirm)
			app, cure := works(e, configs.ApplicationPolicy)
			return e.Echo && e.BufferSize == 1024 && e.ImageState && e.Hashes && len(e.Slots) == 2 && e.Slots[1].UploadID == 2 &&
				len(e.Images) == 1 && e.Images[0].Version == "1.0.0" && len(e.Images[0].Hash) == 64 && e.Policy == "primary" &&
				confirm && test && !app && cure != "" && e.Release == "newer than 2.4"
		}, "4", "takes uploads for either slot"},
		{"direct upload without state", sim.Options{Image: image, Build: sim.BuildOptions{SlotInfo: true, DirectUpload: true}}, false, func(e explanation) bool {
			ok, cure := works(e, configs.SecondaryConfirm)
			return !e.ImageState && !ok && strings.Contains(cure, "IMAGE_STATE=y")
		}, "4", "either slot"},
		{"state without direct upload, an image pending", sim.Options{SlotSize: 64 << 10, Contents: map[int][]byte{0: image, 1: pending},
			Build: sim.BuildOptions{ImageState: true, SlotInfo: true, Release: sim.Release2_3}}, false, func(e explanation) bool {
			return e.ImageState && len(e.Images) == 2 && e.Release == "2.2 to 2.4"
		}, "3b", "let swap first"},
		{"one slot", sim.Options{Slots: 1, Build: sim.BuildOptions{SlotInfo: true}}, false, func(e explanation) bool {
			return len(e.Slots) == 1 && e.Release == "newer than 2.4"
		}, "2", "There is one slot"},
		{"MCUboot 1.9", sim.Options{Image: image, Build: sim.BuildOptions{Release: sim.Release1_9}}, false, func(e explanation) bool {
			return e.Release == "1.10 or older" && !e.Hashes && e.MessageSize == 508 && len(e.Hints) == 3
		}, "1", "boots at once"},
		{"MCUboot 2.0", sim.Options{Image: image, Build: sim.BuildOptions{Release: sim.Release2_0}}, false, func(e explanation) bool {
			return e.Release == "2.0" && e.Hashes
		}, "1", "boots at once"},
		{"two images", sim.Options{Build: sim.BuildOptions{Images: 2, SlotInfo: true}}, false, func(e explanation) bool {
			return len(e.Slots) == 4 && e.Slots[3].Image == 1
		}, "1", "slot 0"},
		{"application server", sim.Options{Image: image, Server: &sim.ServerOptions{Params: true, BootloaderInfo: true, Info: &sim.InfoOptions{Board: "nrf52840dk"}}}, true, func(e explanation) bool {
			ok, _ := works(e, configs.PrimarySlot)
			return e.Target == "application" && e.Policy == "application" && e.MessageSize == 380 && strings.HasPrefix(e.Bootloader, "MCUboot") &&
				strings.Contains(e.Bootloader, "swap using move") && e.Board == "nrf52840dk" && !ok && e.Release == ""
		}, "A1", "starts on trial"},
		{"application under direct-XIP", sim.Options{Image: image, Build: sim.BuildOptions{Mode: sim.ModeDirectXIP}, Server: &sim.ServerOptions{BootloaderInfo: true}}, true, func(e explanation) bool {
			return e.Policy == "application" && strings.Contains(e.Bootloader, "direct-XIP")
		}, "A2", "highest version"},
		{"application behind a shell", sim.Options{Image: image, Server: &sim.ServerOptions{Shell: true, NoVersion1: true}}, true, func(e explanation) bool {
			return e.Target == "application" && len(e.Images) == 1 && e.Bootloader == ""
		}, "A1", "starts on trial"},
	}
	// All at once: they wait most of the time.
	var wg sync.WaitGroup
	got := make([]explained, len(tests))
	for i, tt := range tests {
		tt.options.Key, tt.options.Baud = key.Public(), 1_000_000
		wg.Go(func() { got[i] = explainBoard(t, tt.options, tt.released, true, "--baud", "1000000") })
	}
	wg.Wait()
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := got[i]
			if g.code != exitPassed {
				t.Fatalf("exit code %d: %s", g.code, g.errs)
			}
			if !tt.want(g.e) || g.e.Row != tt.row || !strings.Contains(g.e.Why, tt.why) {
				t.Errorf("explained as %s", g.json)
			}
			if g.changed {
				t.Error("the board was written to")
			}
			if !strings.Contains(g.text, g.e.Why) {
				t.Errorf("as text: %s", g.text)
			}
		})
	}
}

// explained is what explain said of a board, in both formats.
type explained struct {
	code             int
	e                explanation
	json, text, errs string
	changed          bool // the board's flash
}

// explainBoard explains a new board, which is switched on with its recovery pin
// held or released, or not at all.
func explainBoard(t *testing.T, o sim.Options, released, power bool, flags ...string) (got explained) {
	b, err := sim.New(o)
	if err != nil {
		t.Error(err)
		return got
	}
	defer b.Close()
	if power {
		if err := powerCycle(b, !released); err != nil {
			t.Error(err)
			return got
		}
		awaitBoot(t.Context(), b)
	}
	before := [][]byte{b.Slot(0), b.Slot(1)}
	var out, errs bytes.Buffer
	args := append([]string{"explain", "--port", b.Port()}, flags...)
	got.code = run(append(args, "--format", "json"), nil, &out, &errs)
	got.json, got.errs = out.String(), errs.String()
	if err := json.Unmarshal(out.Bytes(), &got.e); err != nil {
		t.Errorf("%v in %s", err, got.json)
	}
	var text bytes.Buffer
	got.e.text(&text)
	got.text = text.String()
	got.changed = !bytes.Equal(before[0], b.Slot(0)) || !bytes.Equal(before[1], b.Slot(1))
	return got
}

// What explain finds out of a board that does not answer.
func TestExplainSilence(t *testing.T) {
	t.Parallel() // it waits most of the time
	image, err := configs.Examples.ReadFile("blinky-1.0.0.bin")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		options sim.Options
		power   bool
		baud    string
		cause   fixtures.SilenceCause
		want    string // in what a person reads
	}{
		{"no power", sim.Options{}, false, "115200", fixtures.SilenceNothing, "has the board power"},
		{"another speed", sim.Options{Baud: 1_000_000}, true, "115200", fixtures.SilenceBaud, "--baud 1000000"},
		{"started too late to hear it", sim.Options{Image: image, Build: sim.BuildOptions{NoEntrancePin: true}}, true, "115200", fixtures.SilenceNothing, "Ruled out: the raw protocol"},
	}
	var wg sync.WaitGroup
	got := make([]explained, len(tests))
	for i, tt := range tests {
		wg.Go(func() { got[i] = explainBoard(t, tt.options, false, tt.power, "--baud", tt.baud, "--wait", "300ms") })
	}
	wg.Wait()
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := got[i]
			if g.code != exitFailed || !strings.Contains(g.errs, tt.want) {
				t.Errorf("exit code %d: %s", g.code, g.errs)
			}
			if g.e.Silence == nil || g.e.Silence.Cause != string(tt.cause) || g.e.Policy != "" {
				t.Errorf("explained as %s", g.json)
			}
		})
	}
}

// A board without frames is found, and asked all the same.
func TestExplainRaw(t *testing.T) {
	t.Parallel()
	build := sim.BuildOptions{Raw: true, Params: true, SlotInfo: true}
	got := make([]explained, 4)
	var wg sync.WaitGroup
	for i, framing := range []string{"auto", "raw", "console"} {
		wg.Go(func() {
			got[i] = explainBoard(t, sim.Options{Build: build}, false, true, "--wait", "300ms", "--framing", framing)
		})
	}
	wg.Go(func() {
		got[3] = explainBoard(t, sim.Options{}, false, true, "--wait", "300ms", "--framing", "raw")
	})
	wg.Wait()
	for _, g := range got[:2] {
		if g.code != exitPassed || g.e.Framing != "raw" || g.e.Target != "bootloader" || g.e.MessageSize != 1020 || g.e.Policy != "primary" || g.e.Release != "newer than 2.4" || len(g.e.Slots) != 2 || g.changed {
			t.Errorf("exit code %d, %s", g.code, g.json)
		}
		if !strings.Contains(g.text, "bootloader, in the raw protocol\n") {
			t.Errorf("text %s", g.text)
		}
	}
	for i, cause := range []fixtures.SilenceCause{fixtures.SilenceRaw, fixtures.SilenceConsole} {
		if g := got[2+i]; g.code != exitFailed || g.e.Silence == nil || g.e.Silence.Cause != string(cause) || !strings.Contains(g.errs, "--framing auto") {
			t.Errorf("exit code %d, %s%s", g.code, g.json, g.errs)
		}
	}
}

// Hints that contradict each other are no release.
func TestReleaseHints(t *testing.T) {
	var h releaseHints
	h.since("2.2", "a")
	h.since("2.0", "b")
	if h.release != "2.2 or newer" {
		t.Errorf("release %q", h.release)
	}
	h.until("2.4", "c")
	h.until("2.4", "c")
	if h.release != "2.2 to 2.4" || len(h.all) != 3 {
		t.Errorf("release %q from %q", h.release, h.all)
	}
	h.until("1.9", "d")
	if !strings.HasPrefix(h.release, "contradictory") {
		t.Errorf("release %q", h.release)
	}
}
