package line

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashline/configs"
	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/smp"
)

// clockedPort is a port that notes when the upload begins and ends.
type clockedPort struct {
	io.ReadWriteCloser
	baud int
	wire *wireClock

	decoder smp.Decoder
	began   time.Time // of the frame on its way
}

// wireClock is when the first byte of the first upload request went out, and
// when the last byte of the last one had left the wire.
type wireClock struct {
	mu          sync.Mutex
	free        time.Time // when the wire is
	first, last time.Time
}

func (p *clockedPort) Write(b []byte) (int, error) {
	w := p.wire
	w.mu.Lock()
	start := time.Now()
	if w.free.After(start) {
		start = w.free
	}
	if bytes.HasPrefix(b, []byte{6, 9}) { // a packet begins
		p.began = start
	}
	w.free = start.Add(time.Duration(len(b)) * 10 * time.Second / time.Duration(p.baud))
	p.decoder.Feed(b, func(msg []byte) {
		h, _, err := smp.ParseMessage(msg)
		if err != nil || h.Group != smp.GroupImage || h.Command != 1 || h.Op != smp.OpWrite {
			return
		}
		if w.first.IsZero() {
			w.first = p.began
		}
		w.last = w.free
	}, nil)
	w.mu.Unlock()
	return p.ReadWriteCloser.Write(b)
}

// least are the timings of the fixture's hardware at their minimum, so that
// what they take is not counted: power_off 10ms, settle 0s, detect_delay 0s,
// stagger 0s. The rest is what a station file has that says nothing, reset_pulse
// 50ms among it.
func least(t *testing.T) configs.Timings {
	t.Helper()
	st, err := configs.LoadStation("../../configs/sim.toml")
	if err != nil {
		t.Fatal(err)
	}
	times := st.Timings
	times.PowerOff, times.Settle, times.DetectDelay, times.Stagger = configs.Duration(10*time.Millisecond), 0, 0, 0
	return times
}

// resetDelay is what a bootloader waits between its answer to a reset and the
// reset (boot_serial.c).
const resetDelay = 250 * time.Millisecond

// What is not the board's own time stays below 300 ms on either side of the
// upload. The board takes no time for anything here (flash, hash, signature) but
// to boot, whatever the moment at which it is ready, 1 ms to start its
// application, and resetDelay.
func TestTimeAroundTheUpload(t *testing.T) {
	const limit = 300 * time.Millisecond
	const appStart = time.Millisecond
	image, file := build(t, "2.0.0", nil), filepath.Join(t.TempDir(), "app.bin")
	if err := os.WriteFile(file, image, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		baud  int
		build sim.BuildOptions
		edit  func(*configs.Recipe)
		// twice is a board that its application takes into recovery, and not the
		// first of its job.
		twice bool
	}{
		{name: "at 115200 baud", baud: 115200},
		{name: "at 1 Mbaud", baud: 1_000_000},
		{name: "with every question answered", baud: 115200, build: sim.BuildOptions{Params: true, SlotInfo: true}},
		{name: "with message_size in the recipe", baud: 115200, edit: func(r *configs.Recipe) { r.Images[0].MessageSize = 1020 }},
		// What is longer than its buffer a board meets with silence, so that
		// finding out its size takes longer than this.
		{name: "small buffer, with message_size in the recipe", baud: 115200, build: sim.BuildOptions{ReceiveSize: 512},
			edit: func(r *configs.Recipe) { r.Images[0].MessageSize = 508 }},
		{name: "by boot mode", baud: 115200, build: sim.BuildOptions{BootMode: true}, twice: true,
			edit: func(r *configs.Recipe) {
				r.Entry = configs.BootMode
				r.Images = []configs.Image{{Path: configs.Path{Written: "app.bin", Abs: file}, Data: image, SHA256: fmt.Sprintf("%x", sha256.Sum256(image)), WriteSize: 4}}
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var before, after time.Duration
			for boot := time.Millisecond; boot < 40*time.Millisecond; boot += 1300 * time.Microsecond {
				synctest.Test(t, func(t *testing.T) {
					var wire wireClock
					r := newRig(t, 1, func(_ int, o *sim.Options) {
						o.Part, o.Build, o.Baud = sim.Ideal(), test.build, test.baud
						o.Part.BootTime, o.Part.AppStart = boot, appStart
						if test.twice {
							o.Key, o.App = signer().Public(), "blinky"
							o.Image, o.Server = build(t, "1.0.0", nil), &sim.ServerOptions{BootMode: true}
						}
					}, func(r *rig) {
						if test.edit != nil {
							test.edit(r.recipe)
						}
						r.station.Timings = least(t)
						r.station.Sites[0].Baud = test.baud
						dial := r.dial
						r.dial = func(site int) (io.ReadWriteCloser, error) {
							line, err := dial(site)
							return &clockedPort{ReadWriteCloser: line, baud: test.baud, wire: &wire}, err
						}
					})
					if test.twice {
						r.job.lessons.restarted()
					}
					if sum, err := r.line(1).Run(t.Context(), scans(t, "FL-000001")); err != nil || sum.Passed != 1 {
						t.Fatal(sum, err)
					}
					press, pass := r.of(Started)[0].At, r.of(Recorded)[0].At
					start := wire.first.Sub(press) - boot
					if test.twice {
						start -= appStart + resetDelay + boot
					}
					before = max(before, start)
					after = max(after, pass.Sub(wire.last)-resetDelay-boot-appStart)
				})
			}
			t.Logf("before the upload %v, after it %v", before, after)
			if before > limit || after > limit {
				t.Errorf("the station adds %v before the upload and %v after it", before, after)
			}
		})
	}
}

// stuckPort is a port whose Close hangs, as one does whose adapter takes no
// more data.
type stuckPort struct {
	io.ReadWriteCloser
	hangs time.Duration
}

func (p stuckPort) Close() error {
	time.Sleep(p.hangs)
	return p.ReadWriteCloser.Close()
}

// A site that is dead, one whose flash is slow and one whose port does not close
// change no other site's time.
func TestNoSiteWaitsForAnother(t *testing.T) {
	const sites, dead, slow, stuck = 8, 2, 4, 7
	var alone time.Duration
	run := func(t *testing.T, n int, ill bool) (took map[int]time.Duration) {
		took = map[int]time.Duration{}
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, n, func(site int, o *sim.Options) {
				switch {
				case !ill:
				case site == dead:
					o.Fault.Kind = sim.FaultSilent
				case site == slow:
					o.Fault.Kind = sim.FaultSlowErase
				}
			}, func(r *rig) {
				r.station.Timings.Stagger = 0 // a pause between power-ons is no waiting for each other
				dial := r.dial
				r.dial = func(site int) (io.ReadWriteCloser, error) {
					line, err := dial(site)
					if err == nil && ill && site == stuck {
						line = stuckPort{line, time.Minute}
					}
					return line, err
				}
			})
			// Two cycles, so that what the first leaves behind can show in the second.
			if _, err := r.line(2*n).Run(t.Context(), scans(t, labels(2*n)...)); err != nil {
				t.Fatal(err)
			}
			for _, e := range r.of(Recorded) {
				switch {
				case ill && (e.Site == dead || e.Site == slow || e.Site == stuck):
					if e.Site == dead && e.Result.FailureCode != string(NoRecovery) || e.Site != dead && e.Result.Duration < alone+alone/2 {
						t.Errorf("site %d is not as ill as it should be: %s after %v", e.Site, e.Result.Outcome, e.Result.Duration)
					}
				case e.Result.Outcome != records.Pass:
					t.Errorf("site %d: %s", e.Site, e.Result.Detail)
				default:
					took[e.Site] = max(took[e.Site], e.Result.Duration)
				}
			}
			r.safe()
		})
		return took
	}
	alone = run(t, 1, false)[1]
	for name, together := range map[string]map[int]time.Duration{"good ones": run(t, sites, false), "dead, slow and stuck ones": run(t, sites, true)} {
		if len(together) < sites-3 {
			t.Errorf("among %s, only %d sites had a pass", name, len(together))
		}
		for site, took := range together {
			if took > alone+alone/50 {
				t.Errorf("site %d took %v among %s, and alone %v", site, took, name, alone)
			}
		}
		t.Logf("alone %v, among %s %v", alone, name, together)
	}
}
