package line

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/smp"
)

// What one board loses may be its contact; what several in a row lose is the
// part, and one that does not shows it.
func TestLessons(t *testing.T) {
	var l lessons
	options := func() smp.UploadOptions {
		o := smp.UploadOptions{Overlap: smp.OverlapAuto, Window: 2}
		l.apply(0, &o)
		return o
	}
	gaveUp := smp.UploadResult{Mode: smp.ModeStopAndWait, Rewinds: 1}
	l.learn(0, smp.UploadResult{Mode: smp.ModeOverlapped, SectorSize: 4096})
	if o := options(); o.SectorSize != 4096 || o.Overlap != smp.OverlapAuto {
		t.Errorf("after a good board: %+v", o)
	}
	l.learn(0, gaveUp)
	l.learn(0, gaveUp)
	l.learn(0, smp.UploadResult{Mode: smp.ModeOverlapped, Rewinds: 1})
	l.learn(0, smp.UploadResult{Mode: smp.ModeStopAndWait}) // never tried: says nothing
	l.learn(0, gaveUp)
	l.learn(0, gaveUp)
	if o := options(); o.Overlap != smp.OverlapAuto {
		t.Errorf("given up after %d in a row", l.lost)
	}
	l.learn(0, gaveUp)
	if o := options(); o.Overlap != smp.OverlapOff || o.Window != 1 {
		t.Errorf("not given up after %d in a row: %+v", l.lost, o)
	}
	if o := (smp.UploadOptions{SectorSize: 2048}); true {
		if l.apply(1, &o); o.SectorSize != 2048 {
			t.Error("what the recipe says was overruled")
		}
	}
}

// Boards with small buffers are searched from above until two have agreed.
func TestMessageSizeIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, func(_ int, o *sim.Options) { o.Build.ReceiveSize = 512 }, func(r *rig) { r.recipe.Images[0].Rewrite = true })
		var took []time.Duration
		for range 3 {
			got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
			if got.Outcome != records.Pass || got.MessageSize != 508 {
				t.Fatalf("%s %s, messages of %d bytes", got.Outcome, got.Detail, got.MessageSize)
			}
			took = append(took, got.Steps[2].Duration)
		}
		if took[2] > took[1]-time.Second {
			t.Errorf("identifying took %v", took)
		}
	})
}

// The record says how the image was sent.
func TestUploadStepTellsTheMode(t *testing.T) {
	for _, tt := range []struct {
		part sim.Part
		says string
	}{
		{sim.NRF54L15(), "overlapped, "},
		{sim.NRF52840(), "kB/s"},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, func(_ int, o *sim.Options) { o.Part = tt.part }, nil)
			got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
			for _, s := range got.Steps {
				if s.Name == StepUpload && !strings.Contains(s.Detail, tt.says) {
					t.Errorf("%s: the step says %q", tt.part.Name, s.Detail)
				}
			}
			if got.Outcome != records.Pass {
				t.Errorf("%s: %s", tt.part.Name, got.Detail)
			}
			truth(t, r, got)
		})
	}
}
