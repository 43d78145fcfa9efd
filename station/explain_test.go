package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"flashline/configs"
	"flashline/fixtures/sim"
	"flashline/smp/mcuboot"
)

// What explain says of boards built differently, over real pseudo-terminals;
// and that it changes nothing.
func TestExplain(t *testing.T) {
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
	tests := []struct {
		name     string
		options  sim.Options
		released bool // the recovery pin at power-on
		want     func(e explanation) bool
		why      string
	}{
		{"default build, blank", sim.Options{}, false, func(e explanation) bool {
			return e.Target == "bootloader" && e.MessageSize == 1020 && !e.Echo && !e.SlotInfo && len(e.Images) == 0 && e.Policy == "primary"
		}, "nothing is to be confirmed"},
		{"everything on", sim.Options{Image: image, Build: sim.BuildOptions{Echo: true, Params: true, ImageState: true, SlotInfo: true, DirectUpload: true}}, false, func(e explanation) bool {
			return e.Echo && e.BufferSize == 1024 && e.ImageState && e.Hashes && len(e.Slots) == 2 && e.Slots[1].UploadID == 2 &&
				len(e.Images) == 1 && e.Images[0].Version == "1.0.0" && len(e.Images[0].Hash) == 64
		}, "secondary-confirm would work too"},
		{"direct upload without state", sim.Options{Image: image, Build: sim.BuildOptions{SlotInfo: true, DirectUpload: true}}, false, func(e explanation) bool {
			return !e.ImageState
		}, "needs image state"},
		{"one slot", sim.Options{Slots: 1, Build: sim.BuildOptions{SlotInfo: true}}, false, func(e explanation) bool {
			return len(e.Slots) == 1
		}, "There is one slot"},
		{"application server", sim.Options{Image: image, Server: &sim.ServerOptions{Params: true, BootloaderInfo: true}}, true, func(e explanation) bool {
			return e.Target == "application" && e.Policy == "" && e.MessageSize == 380 && strings.HasPrefix(e.Bootloader, "MCUboot")
		}, "bring the board into recovery"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.Key = key.Public()
			tt.options.Baud = 1_000_000
			b, err := sim.New(tt.options)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if err := powerCycle(b, !tt.released); err != nil {
				t.Fatal(err)
			}
			awaitBoot(t.Context(), b)
			before := b.Slot(0)
			var out, errs bytes.Buffer
			args := []string{"explain", "--port", b.Port(), "--baud", "1000000", "--format", "json"}
			if code := run(args, nil, &out, &errs); code != exitPassed {
				t.Fatalf("exit code %d: %s", code, errs.String())
			}
			var e explanation
			if err := json.Unmarshal(out.Bytes(), &e); err != nil {
				t.Fatalf("%v in %s", err, out.String())
			}
			if !tt.want(e) || !strings.Contains(e.Why, tt.why) {
				t.Errorf("explained as %s", out.String())
			}
			if !bytes.Equal(before, b.Slot(0)) {
				t.Error("the board was written to")
			}
			out.Reset()
			if code := run(args[:5], nil, &out, &errs); code != exitPassed || !strings.Contains(out.String(), e.Why) {
				t.Errorf("as text, exit code %d: %s", code, out.String())
			}
		})
	}
}

func TestExplainSilence(t *testing.T) {
	b, err := sim.New(sim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close() // it has no power
	var out, errs bytes.Buffer
	if code := run([]string{"explain", "--port", b.Port(), "--wait", "300ms"}, nil, &out, &errs); code != exitFailed || !strings.Contains(errs.String(), "has the board power") {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}
