package line

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/fixtures/sim"
	"flashline/records"
)

// puzzled is a site whose board does not answer, and which knows why.
type puzzled struct {
	scripted
	silence  *fixtures.Silence
	err      error
	diagnose int
}

func (d *puzzled) Diagnose(_ context.Context, how fixtures.Entry) (*fixtures.Silence, error) {
	d.diagnose++
	if how.Method != configs.RecoveryPin {
		return nil, errors.New("another way in than the attempt's")
	}
	return d.silence, d.err
}

// What was found out about a silence is in the record, and what is no unit's
// fault does not fail the unit.
func TestDiagnose(t *testing.T) {
	for _, tt := range []struct {
		silence *fixtures.Silence
		outcome records.Outcome
		code    Code
		says    string
	}{
		{&fixtures.Silence{Cause: fixtures.SilenceNothing}, records.Fail, NoRecovery, "not one byte"},
		{&fixtures.Silence{Cause: fixtures.SilenceBaud, Baud: 1000000, Configured: 115200}, records.Fail, WrongBaud, "1000000"},
		{&fixtures.Silence{Cause: fixtures.SilenceRaw}, records.Fail, RawProtocol, "raw"},
		{&fixtures.Silence{Cause: fixtures.SilenceConsole}, records.Fail, ConsoleProtocol, "console lines"},
		{&fixtures.Silence{Cause: fixtures.SilenceEcho}, records.Fail, LineEcho, "TX and RX"},
		{&fixtures.Silence{Cause: fixtures.SilenceNoise, Heard: 77}, records.Fail, LineNoise, "77"},
		{&fixtures.Silence{Cause: fixtures.SilencePortShared, Holders: []string{"minicom (pid 4711)"}}, records.Error, PortShared, "minicom"},
		{&fixtures.Silence{Cause: fixtures.SilenceApplication, Text: []string{"hello"}}, records.Fail, NotRecovery, "hello"},
		{&fixtures.Silence{Cause: fixtures.SilenceLate}, records.Fail, NoRecovery, "answers now"},
		{nil, records.Fail, NoRecovery, "did not answer within 5.0 s of power-on"}, // the diagnosis failed
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, nil, nil)
			d := &puzzled{silence: tt.silence}
			d.enter = &fixtures.NoAnswerError{Site: 1, Held: 5 * time.Second}
			if d.silence == nil {
				d.err = errors.New("no port")
			}
			got := r.job.Flash(t.Context(), d, nil)
			if got.Outcome != tt.outcome || got.FailureCode != string(tt.code) || !strings.Contains(got.Detail, tt.says) || !strings.HasSuffix(got.Detail, ".") || got.FailedStep != StepRecovery {
				t.Errorf("%s %s at %s: %q, %q", got.Outcome, got.FailureCode, got.FailedStep, got.Detail, got.NextStep)
			}
			if !slices.Contains(stepNames(got), StepDiagnose) || d.diagnose != 1 {
				t.Errorf("steps %q", stepNames(got))
			}
			// While another try follows there is nothing to explain.
			if got := r.job.Flash(t.Context(), hurried{d}, nil); d.diagnose != 1 || got.FailureCode != string(NoRecovery) {
				t.Errorf("hurried: %s, %d diagnoses", got.FailureCode, d.diagnose)
			}
		})
	}
}

// A stale image that the bootloader does not tell of replaces what was written,
// once: the second attempt passes, and the record has both.
func TestReplacedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		part := sim.NRF52840()
		old := other(t)
		r := newRig(t, 1, func(_ int, o *sim.Options) {
			o.Contents = map[int][]byte{0: old, 1: pending(t, part, old, true)}
		}, func(r *rig) { r.recipe.AllowDowngrade = true })
		sum, err := r.line(1).Run(t.Context(), scans(t, "FL-000001"))
		if codes := r.records.codes("FL-000001"); err != nil || sum.Passed != 1 || !slices.Equal(codes, []string{"FAIL" + string(Replaced), "PASS"}) {
			t.Errorf("%+v %v %q", sum, err, codes)
		}
	})
}

// The row of an attempt with two images names both before the power goes on.
func TestRowOfTwoImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := build(t, "1.2.3", nil)
		r := newRig(t, 1, func(_ int, o *sim.Options) {
			o.Key = signer().Public()
			o.Build = sim.BuildOptions{Images: 2, SlotInfo: true}
		}, func(r *rig) {
			r.recipe.Images = []configs.Image{
				{Path: configs.Path{Written: "net.bin"}, Data: net, Number: 1, WriteSize: 4},
				{Path: configs.Path{Written: "app.bin"}, Data: build(t, "2.0.0", nil), WriteSize: 4},
			}
		})
		r.recipe.Images = nil // no files to look at again
		if _, err := r.line(1).Run(t.Context(), scans(t, "FL-000001")); err != nil {
			t.Fatal(err)
		}
		a := r.records.attempts[0]
		res := r.records.results[a.ID]
		if a.ImageName != "app.bin" || len(a.Further) != 1 || a.Further[0].Number != 1 || a.Further[0].Name != "net.bin" || a.Further[0].Size != int64(len(net)) {
			t.Errorf("row %+v", a)
		}
		if res.Outcome != records.Pass || len(res.Further) != 1 || res.Further[0].DeviceHash != a.Further[0].Hash || res.DeviceHash != a.ImageHash {
			t.Errorf("result %+v", res)
		}
	})
}
