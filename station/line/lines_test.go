package line

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashline/configs"
	"flashline/fixtures/sim"
	"flashline/records"
)

// stepOf is the first step of that name.
func stepOf(t *testing.T, r records.Result, name string) records.Step {
	t.Helper()
	for _, s := range r.Steps {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no step %q in %v", name, r.Steps)
	return records.Step{}
}

// TestLineBuffers: what the recipe says of the bootloader's buffers is made use of,
// and where it is wrong the board is flashed all the same and the record says so.
func TestLineBuffers(t *testing.T) {
	usb := &sim.USBOptions{Bootloader: sim.USBID{Vendor: 0x2fe3, Product: 0x0100}}
	for _, test := range []struct {
		name    string
		build   sim.BuildOptions
		usb     bool
		image   configs.Image // what it says of the buffers
		message int
		note    string // of the identification
	}{
		{name: "told 4096", build: sim.BuildOptions{Params: true, ReceiveSize: 4096}, message: 4092},
		{name: "long lines", build: sim.BuildOptions{ReceiveSize: 4096, LineLength: 512}, image: configs.Image{LineLength: 512, MessageSize: 4092}, message: 4092},
		{name: "long lines, size found out", build: sim.BuildOptions{ReceiveSize: 4096, LineLength: 512}, image: configs.Image{LineLength: 512}, message: 3044},
		{name: "long lines that are none", build: sim.BuildOptions{}, image: configs.Image{LineLength: 512}, message: 1020, note: "set line_length in the recipe"},
		{name: "release 1.9", build: sim.BuildOptions{LineLength: 512, LineBuffers: 2, ReceiveSize: 512}, image: configs.Image{LineLength: 512, LineBuffers: 2}, message: 508},
		{name: "two buffers", build: sim.BuildOptions{LineBuffers: 2}, image: configs.Image{LineBuffers: 2}, message: 1020},
		{name: "USB", usb: true, message: 740},
		{name: "USB, told 4096", usb: true, build: sim.BuildOptions{Params: true, ReceiveSize: 4096}, message: 740},
		{name: "USB, long lines", usb: true, build: sim.BuildOptions{ReceiveSize: 4096, LineLength: 512}, image: configs.Image{LineLength: 512}, message: 3044},
		{name: "USB, asked for too much", usb: true, image: configs.Image{MessageSize: 1020}, message: 740, note: "set message_size in the recipe to 0"},
		{name: "USB, more buffers", usb: true, build: sim.BuildOptions{LineBuffers: 16}, image: configs.Image{MessageSize: 1020, LineBuffers: 16}, message: 1020},
		{name: "USB, more buffers that nobody told of", usb: true, build: sim.BuildOptions{LineBuffers: 16}, image: configs.Image{MessageSize: 1020}, message: 1020},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 1, func(_ int, o *sim.Options) {
					test.build.NoApplication = true
					o.Build = test.build
					if test.usb {
						o.USB, o.Baud = usb, sim.USBFullSpeed
					}
				}, func(r *rig) {
					img := &r.recipe.Images[0]
					img.LineLength, img.LineBuffers, img.MessageSize = test.image.LineLength, test.image.LineBuffers, test.image.MessageSize
					r.recipe.Check = configs.Check{Within: configs.Duration(time.Second), Proof: configs.NoProof}
				})
				got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
				if got.Outcome != records.Pass || got.MessageSize != test.message || got.Retries != 0 {
					t.Errorf("%s %s %s, messages of %d bytes, want %d; %d repeated", got.Outcome, got.FailureCode, got.Detail, got.MessageSize, test.message, got.Retries)
				}
				detail := stepOf(t, got, StepIdentify).Detail
				if test.note == "" && strings.Contains(detail, "recipe") || !strings.Contains(detail, test.note) {
					t.Errorf("the identification says %q", detail)
				}
			})
		})
	}
}

// TestUploadInRecord: how the image was sent stands in fields of the record.
func TestUploadInRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, func(site int, o *sim.Options) {
			if site == 2 {
				o.Fault = sim.Fault{Kind: sim.FaultLostReply, Value: 0.1}
			}
		}, nil)
		good := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
		s := stepOf(t, good, StepUpload)
		want := float64(s.Bytes) / s.Duration.Seconds()
		if got := float64(good.UploadRate); good.UploadMode != "overlapped" || good.UploadRewinds != 0 || got < 0.98*want || got > 1.02*want {
			t.Errorf("%q, %d rewinds, %.0f bytes/s of some %.0f", good.UploadMode, good.UploadRewinds, got, want)
		}
		if kept := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil); kept.Outcome != records.Pass || kept.UploadMode != "" || kept.UploadRate != 0 {
			t.Errorf("nothing was sent, and yet: %s, %q, %d bytes/s", kept.Outcome, kept.UploadMode, kept.UploadRate)
		}
		if lossy := r.job.Flash(t.Context(), r.fixture.Sites()[1], nil); lossy.Outcome != records.Pass || lossy.UploadRewinds == 0 || lossy.UploadRate <= 0 {
			t.Errorf("answers lost: %s, %d rewinds, %d bytes/s", lossy.Outcome, lossy.UploadRewinds, lossy.UploadRate)
		}
	})
}

// TestSendAhead: what the recipe says of sending ahead is done.
func TestSendAhead(t *testing.T) {
	for how, mode := range map[configs.SendAhead]string{
		configs.AheadAuto: "overlapped", configs.AheadProven: "overlapped", configs.AheadNever: "stop-and-wait",
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, nil, func(r *rig) { r.recipe.Images[0].SendAhead = how })
			got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
			if got.Outcome != records.Pass || got.UploadMode != mode {
				t.Errorf("%s: %s, %s", how, got.Outcome, got.UploadMode)
			}
		})
	}
}
