package line

import (
	"context"
	"encoding/hex"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"

	"flashline/fixtures"
	"flashline/records"
	"flashline/smp"
)

// scripted is a site whose board answers as a test says: what no simulated
// bootloader does, and some real one might.
type scripted struct {
	target smp.Target
	answer func(h smp.Header, in map[string]any) any // nil for silence
	after  []string                                  // printed after a reset
	leaves bool                                      // a reset ends its recovery until the power is off
	enter  error
	down   error

	client *smp.Client
	far    net.Conn
	wg     sync.WaitGroup
	downs  int
	left   bool
}

func (s *scripted) Off(context.Context) error {
	s.hangUp()
	s.left = false
	return nil
}

func (s *scripted) Enter(_ context.Context, _ fixtures.Entry, text func([]byte)) (*smp.Client, smp.Target, error) {
	if s.enter != nil {
		return nil, 0, s.enter
	}
	near, far := net.Pipe()
	s.far = far
	s.client = smp.NewClient(near, smp.Options{Text: text})
	s.wg.Go(func() {
		var dec smp.Decoder
		buf := make([]byte, 4096)
		for {
			n, err := far.Read(buf)
			dec.Feed(buf[:n], func(m []byte) {
				h, payload, err := smp.ParseMessage(m)
				if err != nil {
					return
				}
				var in map[string]any
				cbor.Unmarshal(payload, &in)
				if s.left {
					return
				}
				out := s.answer(h, in)
				if out == nil {
					return
				}
				b, _ := cbor.Marshal(out)
				reset := h.Group == smp.GroupOS && h.Command == 5
				s.left = reset && s.leaves
				h.Op, h.Length = h.Op+1, uint16(len(b))
				frame := smp.AppendFrame(nil, append(h.Append(nil), b...))
				s.wg.Go(func() {
					far.Write(frame)
					if reset {
						time.Sleep(300 * time.Millisecond)
						for _, l := range s.after {
							far.Write([]byte(l + "\r\n"))
						}
					}
				})
			}, nil)
			if err != nil {
				return
			}
		}
	})
	if s.target == smp.TargetUnknown {
		s.target = smp.TargetBootloader
	}
	return s.client, s.target, nil
}

func (s *scripted) Reconnect(context.Context, func([]byte), time.Duration) (*smp.Client, error) {
	return s.client, nil
}

func (s *scripted) USB() bool { return false }

func (s *scripted) Down() error {
	s.downs++
	s.hangUp()
	return s.down
}

func (s *scripted) hangUp() {
	if s.client != nil {
		s.client.Close()
		s.far.Close()
		s.wg.Wait()
	}
}

type m = map[string]any

// good is a bootloader that does everything right; list is what it lists
// after an upload.
func good(list ...m) func(h smp.Header, in m) any {
	size, uploaded := uint64(0), false
	return func(h smp.Header, in m) any {
		switch {
		case h.Group == smp.GroupOS:
			if h.Command == 6 {
				return m{"rc": 8}
			}
			return m{"rc": 0}
		case h.Command == 0:
			out := []m{}
			if uploaded {
				out = append(out, list...)
			}
			return m{"images": out}
		case h.Command == 1:
			off := in["off"].(uint64)
			if off == 0 {
				size = in["len"].(uint64)
			}
			off += uint64(len(in["data"].([]byte)))
			uploaded = off == size
			return m{"rc": 0, "off": off}
		}
		return m{"rc": 8}
	}
}

// but answers like base, except where edit has another answer.
func but(base func(smp.Header, m) any, edit func(h smp.Header, in m) (any, bool)) func(smp.Header, m) any {
	return func(h smp.Header, in m) any {
		if out, ok := edit(h, in); ok {
			return out
		}
		return base(h, in)
	}
}

func TestScriptedBoards(t *testing.T) {
	hash, err := hex.DecodeString("e5c0e0c37320a5e6cffe0858f88694e64b44b4871b8565aa3d8ed669b3cce745")
	if err != nil {
		t.Fatal(err)
	}
	slot := func(n int, more m) m {
		out := m{"slot": n, "hash": hash, "version": "1.0.0"}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	banner := []string{"*** Booting ***", "blinky version 1.0.0"}
	upload := func(h smp.Header) bool { return h.Group == smp.GroupImage && h.Command == 1 }
	list := func(h smp.Header) bool { return h.Group == smp.GroupImage && h.Command == 0 }
	reset := func(h smp.Header) bool { return h.Group == smp.GroupOS && h.Command == 5 }
	state := m{"bootable": true, "active": true, "confirmed": true}
	tests := []struct {
		name   string
		site   *scripted
		noText bool // the recipe asks for no boot text
		code   Code // "" for PASS
	}{
		{"all well", &scripted{answer: good(slot(0, nil)), after: banner}, false, ""},
		{"all well, with flags", &scripted{answer: good(slot(0, state)), after: banner}, false, ""},
		{"all well, silent application, no boot text", &scripted{answer: good(slot(0, nil)), leaves: true}, true, ""},
		{"an application answers", &scripted{target: smp.TargetApplication, answer: good()}, false, NotRecovery},
		{"the image is in slot 1 only", &scripted{answer: good(slot(1, nil)), after: banner}, false, ImageNotListed},
		{"listed without a hash", &scripted{answer: good(m{"slot": 0, "version": "1.0.0"}), after: banner}, false, HashNotReported},
		{"listed with half the hash", &scripted{answer: good(m{"slot": 0, "version": "1.0.0", "hash": hash[:16]}), after: banner}, false, HashDiffers},
		{"listed with another version", &scripted{answer: good(m{"slot": 0, "version": "1.0.1", "hash": hash}), after: banner}, false, HashDiffers},
		{"another image is pending", &scripted{answer: good(slot(0, state), m{"slot": 1, "version": "0.9.0", "hash": hash, "pending": true}), after: banner}, false, StaleSwap},
		{"not confirmed", &scripted{answer: good(slot(0, m{"bootable": true, "active": true})), after: banner}, false, NotConfirmed},
		{"two images in one slot", &scripted{answer: good(slot(0, nil), slot(0, nil)), after: banner}, false, Garbled},
		{"takes no data", &scripted{answer: but(good(), func(h smp.Header, in m) (any, bool) {
			return m{"rc": 0, "off": 960}, upload(h)
		})}, false, UploadStalled},
		{"loses its place", &scripted{answer: but(good(), func(h smp.Header, in m) (any, bool) {
			return m{"rc": 0, "off": 0}, upload(h) && in["off"].(uint64) > 9000
		})}, false, UploadRestarted},
		{"answers an upload with nonsense", &scripted{answer: but(good(), func(h smp.Header, in m) (any, bool) {
			return m{"off": "here"}, upload(h)
		})}, false, Garbled},
		{"falls silent in the upload", &scripted{answer: silentAfter(good(), 12)}, false, BoardSilent},
		{"lists nothing after the upload", &scripted{answer: but(good(), afterUpload(list, nil))}, false, ListTimeout},
		{"refuses to list", &scripted{answer: but(good(), afterUpload(list, m{"rc": 1}))}, false, ListRefused},
		{"refuses the reset", &scripted{answer: but(good(slot(0, nil)), func(h smp.Header, in m) (any, bool) {
			return m{"rc": 10}, reset(h)
		})}, false, ResetRefused},
		{"never leaves recovery", &scripted{answer: good(slot(0, nil))}, false, StillInRecovery},
		{"never leaves recovery, no boot text", &scripted{answer: good(slot(0, nil))}, true, StillInRecovery},
		{"never leaves recovery, noise on the line", &scripted{answer: good(slot(0, nil)), after: []string{"\x01\x02", "~~"}}, true, StillInRecovery},
		{"prints noise only", &scripted{answer: good(slot(0, nil)), leaves: true, after: []string{"\x01\x02"}}, false, NoBoot},
		{"interlock open", &scripted{enter: &fixtures.InterlockError{Site: 1}}, false, InterlockOpen},
		{"pin broken", &scripted{enter: &fixtures.PinError{Pin: "GPIO5", Role: "power of site 1", Err: context.DeadlineExceeded}}, false, PinFault},
		{"power stays on", &scripted{answer: good(slot(0, nil)), after: banner, down: &fixtures.PinError{Pin: "GPIO5", Role: "power of site 1", Err: context.DeadlineExceeded}}, false, PinFault},
		{"power stays on after a failure", &scripted{answer: good(), down: &fixtures.PinError{Pin: "GPIO5", Role: "power of site 1", Err: context.DeadlineExceeded}}, false, PinFault},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 1, nil, func(r *rig) {
					if tt.noText {
						r.recipe.Check.BootText = ""
					}
				})
				site := tt.site
				got := r.job.Flash(t.Context(), site, nil)
				if got.FailureCode != string(tt.code) || (got.Outcome == records.Pass) != (tt.code == "") {
					t.Errorf("%s %s (%s), want %q", got.Outcome, got.FailureCode, got.Detail, tt.code)
				}
				if want := map[bool]int{true: 1, false: 2}[site.down == nil]; site.downs != want {
					t.Errorf("powered down %d times, want %d", site.downs, want)
				}
				if got.Outcome == records.Pass && got.DeviceHash != hex.EncodeToString(hash) {
					t.Errorf("passed with device hash %q", got.DeviceHash)
				}
			})
		})
	}
}

// silentAfter answers n requests and no more.
func silentAfter(base func(smp.Header, m) any, n int) func(smp.Header, m) any {
	return func(h smp.Header, in m) any {
		if n--; n < 0 {
			return nil
		}
		return base(h, in)
	}
}

// afterUpload gives another answer to some requests once an upload has begun.
func afterUpload(which func(smp.Header) bool, answer any) func(smp.Header, m) (any, bool) {
	begun := false
	return func(h smp.Header, _ m) (any, bool) {
		begun = begun || h.Group == smp.GroupImage && h.Command == 1
		return answer, begun && which(h)
	}
}
