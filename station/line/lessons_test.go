package line

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashline/configs"
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

// A raw board is worked by any recipe but one that says console, and once one
// was found the next are entered at once. A silent board teaches nothing.
func TestRawBoards(t *testing.T) {
	for _, framing := range configs.Framings() {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, func(_ int, o *sim.Options) { o.Build.Raw, o.Contents = true, map[int][]byte{0: other(t)} }, func(r *rig) {
				r.recipe.Framing, r.recipe.AllowDowngrade = framing, true
				r.recipe.Images[0].Rewrite = true
			})
			flash := func() (records.Result, time.Duration) {
				t.Helper()
				got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
				truth(t, r, got)
				r.safe()
				return got, got.Steps[1].Duration
			}
			if framing == configs.ConsoleFraming {
				if got, _ := flash(); got.FailureCode != string(RawProtocol) || !strings.Contains(got.NextStep, `framing = "raw"`) {
					t.Errorf("%s %s %s", got.FailureCode, got.Detail, got.NextStep)
				}
				return
			}
			for n := range 3 {
				got, entering := flash()
				if got.Outcome != records.Pass || got.Retries > 0 || got.Proof == "" || got.MessageSize != 1020 {
					t.Fatalf("%s: %s %s %+v", framing, got.FailureCode, got.Detail, got)
				}
				if found := entering > 5*time.Second; found != (framing == configs.AutoFraming && n == 0) || !found && entering > time.Second {
					t.Errorf("%s: board %d took %v to enter", framing, n, entering)
				}
				if got.Steps[1].Detail != "raw protocol" {
					t.Errorf("the step says %q", got.Steps[1].Detail)
				}
			}
			// Another kind of board in the same job.
			if err := r.boards[0].Replace(sim.Options{Name: "S1", Key: boardKey(t)}); err != nil {
				t.Fatal(err)
			}
			got, _ := flash()
			if got.FailureCode != string(ConsoleProtocol) {
				t.Errorf("%s: a console board: %s %s", framing, got.FailureCode, got.Detail)
			}
			if got, _ := flash(); (got.Outcome == records.Pass) != (framing == configs.AutoFraming) {
				t.Errorf("%s: its second try: %s %s", framing, got.FailureCode, got.Detail)
			}
		})
	}
}

// A console board costs nothing for there being others.
func TestConsoleBoardsLoseNothing(t *testing.T) {
	var took []time.Duration
	for _, framing := range []configs.Framing{configs.AutoFraming, configs.ConsoleFraming} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, nil, func(r *rig) { r.recipe.Framing = framing })
			got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
			if got.Outcome != records.Pass {
				t.Error(got.Detail)
			}
			took = append(took, got.Duration)
		})
	}
	if took[0] != took[1] {
		t.Errorf("auto %v, console %v", took[0], took[1])
	}
}

// The application that asks for recovery by boot mode need not be built as the
// bootloader is.
func TestRawBootloaderBehindConsoleApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, func(_ int, o *sim.Options) {
			o.Build.Raw, o.Build.BootMode, o.Contents = true, true, map[int][]byte{0: other(t)}
			o.Server = &sim.ServerOptions{BootMode: true}
		}, func(r *rig) { r.recipe.Entry, r.recipe.AllowDowngrade = configs.BootMode, true })
		got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
		if got.Outcome != records.Pass || got.Duration > 30*time.Second {
			t.Errorf("%s %s after %v", got.FailureCode, got.Detail, got.Duration)
		}
		truth(t, r, got)
	})
}

// hit damages one byte of a long message, of which the first is a probe and the
// next ones are chunks.
type hit struct {
	io.ReadWriteCloser
	message, at int
	seen        *int
}

func (h hit) Write(p []byte) (int, error) {
	if len(p) > 500 {
		if *h.seen++; *h.seen == h.message {
			p = bytes.Clone(p)
			p[h.at] ^= 0x40
		}
	}
	return h.ReadWriteCloser.Write(p)
}

// Damage on a raw line shows in the board's own hash, or in a refusal; once it is
// sent again before the board is to blame.
func TestDamageOnRawLine(t *testing.T) {
	for _, tt := range []struct {
		message, at int
		says        string
	}{
		{5, 500, "sent again since it was not listed"}, // in the image
		{3, 10, "sent again after a refusal"},          // in the name of a key
		{2, 15, "sent again after a refusal"},          // in the length of the image
		{3, 0, ""},                                     // in the operation: the chunk is lost, and sent again
		{3, 2, ""},                                     // in its length
		{3, 6, ""},                                     // in its number: its answer is nobody's
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, func(_ int, o *sim.Options) { o.Build.Raw = true }, func(r *rig) {
				r.recipe.Framing = configs.RawFraming
				dial, seen := r.dial, 0
				r.dial = func(site int) (io.ReadWriteCloser, error) {
					line, err := dial(site)
					return hit{line, tt.message, tt.at, &seen}, err
				}
			})
			got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
			said := ""
			for _, s := range got.Steps {
				said += s.Detail + "\n"
			}
			if got.Outcome != records.Pass || got.Retries == 0 || !strings.Contains(said, tt.says) {
				t.Errorf("byte %d of message %d: %s %s %s, %d retries:\n%s", tt.at, tt.message, got.Outcome, got.FailureCode, got.Detail, got.Retries, said)
			}
			truth(t, r, got)
		})
	}
}
