package line

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/fixtures/sim"
	"flashline/records"
)

// Each fault of a board, line or station ends with its own code, at its own
// step, with a sentence and a next step; and only a board that really runs the
// image passes.
func TestFlashOutcomes(t *testing.T) {
	board := func(f func(*sim.Options)) func(int, *sim.Options) {
		return func(_ int, o *sim.Options) { f(o) }
	}
	fault := func(s string) func(int, *sim.Options) {
		f, err := sim.ParseFault(s)
		if err != nil {
			t.Fatal(err)
		}
		return board(func(o *sim.Options) { o.Fault = f })
	}
	upTo := func(step string) []string {
		var out []string
		for _, s := range allSteps {
			out = append(out, s)
			if s == step {
				break
			}
		}
		return append(out, StepPowerDown)
	}
	// and looks closer after the failure
	then := func(step, next string) []string {
		out := upTo(step)
		return append(out[:len(out)-1], next, StepPowerDown)
	}
	tests := []struct {
		name    string
		board   func(int, *sim.Options)
		edit    func(*rig)
		outcome records.Outcome
		code    Code
		steps   []string
	}{
		{"good", nil, nil, records.Pass, "", allSteps},
		{"good, whole slot erased first", board(func(o *sim.Options) { o.Part = sim.STM32F4() }), nil, records.Pass, "", allSteps},
		{"good, one slot", board(func(o *sim.Options) { o.Slots = 1 }), nil, records.Pass, "", allSteps},
		{"good, at 1 Mbaud", board(func(o *sim.Options) { o.Baud = 1_000_000 }), func(r *rig) { r.station.Sites[0].Baud = 1_000_000 }, records.Pass, "", allSteps},
		{"good, small buffers", board(func(o *sim.Options) { o.Build.ReceiveSize = 256 }), nil, records.Pass, "", allSteps},
		{"good, prints nothing that is asked for", nil, func(r *rig) { r.recipe.Check.BootText = "" }, records.Pass, "", allSteps},
		{"some answers lost", fault("lost-reply=0.1"), nil, records.Pass, "", allSteps},
		{"silent", fault("silent"), nil, records.Fail, NoRecovery, then(StepRecovery, StepDiagnose)},
		{"wrong key", fault("wrong-key"), nil, records.Fail, ImageNotListed, upTo(StepVerify)},
		{"dies", fault("dies"), nil, records.Fail, BoardSilent, upTo(StepUpload)},
		{"corrupting line", fault("corrupt"), nil, records.Fail, BadLine, upTo(StepUpload)},
		{"application never starts", fault("boot-loop"), nil, records.Fail, NoBoot, then(StepBoot, StepExamine)},
		{"application prints something else", nil, func(r *rig) { r.recipe.Check.BootText = "hello" }, records.Fail, WrongBootText, then(StepCheck, StepExamine)},
		{"slot too small", board(func(o *sim.Options) { o.SlotSize = 16 << 10 }), nil, records.Fail, UploadRefused, upTo(StepUpload)},
		{"takes too long", fault("slow-erase=1000"), func(r *rig) { r.recipe.Timeouts.Total = configs.Duration(8 * time.Second) }, records.Fail, TotalTime, upTo(StepUpload)},
		{"port missing", nil, func(r *rig) {
			r.dial = func(int) (io.ReadWriteCloser, error) {
				return nil, &fixtures.PortError{Path: "/dev/x", Err: errors.New("gone"), Hint: "Plug it in."}
			}
		}, records.Error, PortFault, upTo(StepRecovery)},
		{"port breaks", nil, func(r *rig) {
			dial := r.dial
			r.dial = func(n int) (io.ReadWriteCloser, error) {
				p, err := dial(n)
				time.AfterFunc(2*time.Second, func() { p.Close() })
				return p, err
			}
		}, records.Error, PortLost, upTo(StepUpload)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 1, tt.board, tt.edit)
				got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
				if got.Outcome != tt.outcome || got.FailureCode != string(tt.code) {
					t.Errorf("%s %s (%s), want %s %s", got.Outcome, got.FailureCode, got.Detail, tt.outcome, tt.code)
				}
				if d := cmp.Diff(tt.steps, stepNames(got)); d != "" {
					t.Errorf("steps (-want +got):\n%s", d)
				}
				if tt.outcome == records.Pass {
					if want := fmt.Sprintf("%x", r.job.Images[0].Hash); got.DeviceHash != want || got.DeviceVersion == "" {
						t.Errorf("device hash %s version %s, want %s", got.DeviceHash, got.DeviceVersion, want)
					}
					if !strings.HasPrefix(string(r.boards[0].Slot(0)), string(r.job.Images[0].Data)) {
						t.Error("passed, but the flash does not hold the image")
					}
				} else {
					if !strings.HasSuffix(got.Detail, ".") || got.NextStep == "" {
						t.Errorf("an operator is told %q, %q", got.Detail, got.NextStep)
					}
					i := slices.IndexFunc(got.Steps, func(s records.Step) bool { return s.Outcome != records.Pass && s.Outcome != records.Skipped })
					if got.FailedStep != got.Steps[i].Name || got.Steps[i].Outcome != tt.outcome {
						t.Errorf("failed step %q, and the first that did is %+v", got.FailedStep, got.Steps[i])
					}
				}
				var sum time.Duration
				for _, s := range got.Steps {
					sum += s.Duration
				}
				if sum != got.Duration {
					t.Errorf("steps take %s of %s", sum, got.Duration)
				}
				r.safe()
			})
		})
	}
}

// The list after the upload is all that counts: a board that took every byte
// and reports another hash, or none, does not pass.
func TestFlashTrustsTheDeviceOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil, nil)
		r.job.Images[0].Hash = append([]byte(nil), r.job.Images[0].Hash...)
		r.job.Images[0].Hash[31] ^= 1 // not what the board will report
		got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
		if got.Outcome != records.Fail || got.FailureCode != string(HashDiffers) {
			t.Errorf("%s %s: %s", got.Outcome, got.FailureCode, got.Detail)
		}
	})
}

func TestFlashPrevHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil, nil)
		for i := range 2 {
			got := r.job.Flash(t.Context(), r.fixture.Sites()[0], nil)
			want := ""
			if i == 1 {
				want = fmt.Sprintf("%x", r.job.Images[0].Hash)
			}
			if got.Outcome != records.Pass || got.PrevHash != want {
				t.Errorf("flash %d: %s, previous hash %q, want %q", i, got.Outcome, got.PrevHash, want)
			}
		}
	})
}

// Stopped at any moment, an attempt ends at once, ABORTED, with the board
// without power.
func TestFlashAborted(t *testing.T) {
	for at := 10 * time.Millisecond; at < 6*time.Second; at += 437 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, nil, nil)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(at, func() { cancel(ErrAborted) })
			got := r.job.Flash(ctx, r.fixture.Sites()[0], nil)
			if got.Outcome != records.Aborted || got.FailureCode != string(Aborted) || got.Duration > at+100*time.Millisecond {
				t.Errorf("stopped after %s: %s %s after %s", at, got.Outcome, got.FailureCode, got.Duration)
			}
			r.safe()
		})
	}
}

// A panic anywhere in an attempt is that attempt's ERROR, with safe pins.
func TestFlashPanic(t *testing.T) {
	for _, step := range allSteps {
		if step == StepPowerDown {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, nil, nil)
			first := true
			got := r.job.Flash(t.Context(), r.fixture.Sites()[0], func(p Progress) {
				if p.Step == step && p.Total > 0 || p.Step == step && !p.Done && step != StepUpload {
					if first {
						first = false
						panic("a bug")
					}
				}
			})
			if got.Outcome != records.Error || got.FailureCode != string(StationFault) || !strings.Contains(got.Detail, "a bug") {
				t.Errorf("panic in %q: %s %s %s", step, got.Outcome, got.FailureCode, got.Detail)
			}
			r.safe()
		})
	}
}

func TestTranscriptIsBounded(t *testing.T) {
	tr := newTranscript()
	for range 10 * maxLines {
		tr.add([]byte(strings.Repeat("x", 10*maxLineText)))
	}
	lines, _ := tr.since(0)
	if len(lines) > maxLines || len(lines[0]) > maxLineText || tr.len() != 10*maxLines {
		t.Errorf("%d lines of %d bytes kept, %d counted", len(lines), len(lines[0]), tr.len())
	}
	tr.add([]byte("\x1b[31mred\xff"))
	if lines, _ := tr.since(tr.len() - 1); lines[0] != "[31mred?" {
		t.Errorf("control characters kept: %q", lines[0])
	}
}
