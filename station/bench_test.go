package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"flashline/fixtures/sim"
	"flashline/smp"
)

// quick is a part that takes no time at all, so that only the wire is left.
func quick() sim.Part {
	p := sim.Ideal()
	p.LineTime = 0
	return p
}

// TestBound holds the ceilings against arithmetic done by hand.
func TestBound(t *testing.T) {
	const size = 992 * 100
	for _, tt := range []struct {
		name   string
		bound  bound
		size   int
		mode   smp.UploadMode
		window int
		want   time.Duration
	}{
		{
			// One chunk of 496 bytes: 8 + 1 + "len" 4+3 + "off" 4+1 + "data" 5+3
			// is a head of 29, with length and CRC 529 bytes, 708 characters in 6
			// lines: 726 bytes. Then 8 + 1 + 4 + 4 + 3 + 1 bytes of an answer, with
			// length and CRC 25 of them, 36 characters and 39 bytes. 765 bytes.
			name: "one chunk", bound: bound{part: quick(), baud: 1_000_000, message: 1020, writeSize: 4},
			size: 496, mode: smp.ModeStopAndWait, want: 7650 * time.Microsecond,
		}, {
			// The same without frames: 525 bytes there, 21 back.
			name: "raw", bound: bound{part: sim.Part{SectorSize: 1, WriteSize: 1, NoErase: true, LineTime: 575 * time.Microsecond}, baud: 1_000_000, message: 1020, writeSize: 4, raw: true},
			size: 496, mode: smp.ModeOverlapped, want: 5460 * time.Microsecond,
		}, {
			// The same, 124 words and one sector, and the trailer of two slots.
			name: "flash", bound: bound{part: sim.Part{SectorSize: 4096, WriteSize: 4, EraseTime: 85 * time.Millisecond, WriteTime: 41 * time.Microsecond, Progressive: true}, baud: 1_000_000, message: 1020, writeSize: 4, slots: 2},
			size: 496, mode: smp.ModeStopAndWait, want: 7650*time.Microsecond + 124*41*time.Microsecond + 2*85*time.Millisecond,
		}, {
			// Every line is decoded while the next one travels, but for the last.
			name: "lines", bound: bound{part: sim.Part{SectorSize: 4096, WriteSize: 4, LineTime: 575 * time.Microsecond}, baud: 1_000_000, message: 1020, writeSize: 4},
			size: 496, mode: smp.ModeStopAndWait, want: 7650*time.Microsecond + 575*time.Microsecond,
		}, {
			// The whole slot is erased before the first answer.
			name: "whole slot", bound: bound{part: sim.Part{SlotSize: 4 << 10, SectorSize: 1 << 10, WriteSize: 4, EraseTime: time.Second}, baud: 1_000_000, message: 1020, writeSize: 4},
			size: 496, mode: smp.ModeStopAndWait, want: 4*time.Second + 7650*time.Microsecond,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.bound.least(tt.size, tt.mode, tt.window); got != tt.want {
				t.Errorf("least %v, want %v", got, tt.want)
			}
		})
	}

	share := func(b bound, mode smp.UploadMode, window int) float64 {
		return size / b.least(size, mode, window).Seconds() / (float64(b.baud) / 10)
	}
	wire := bound{part: quick(), baud: 115200, message: 1020, writeSize: 32}
	if got := share(wire, smp.ModeOverlapped, 1); got < 0.70 || got > 0.72 {
		t.Errorf("without flash times the ceiling is %.3f of the wire, want what framing leaves, 0.71", got)
	}
	// What genuine servers without flash times gave to a plain client.
	if got := share(wire, smp.ModeStopAndWait, 1); got < 0.68 || got > 0.70 {
		t.Errorf("stop-and-wait it is %.3f, want some 0.69", got)
	}
	for _, part := range sim.Parts() {
		for _, baud := range []int{115200, 1_000_000, 3_000_000} {
			b := bound{part: part, baud: baud, message: 1020, writeSize: 32, slots: 2}
			slow, fast := b.least(size, smp.ModeStopAndWait, 1), b.least(size, smp.ModeOverlapped, 1)
			if fast > slow {
				t.Errorf("%s at %d: overlapped %v, slower than stop-and-wait %v", part.Name, baud, fast, slow)
			}
			b.application, b.message = true, 380
			if one, two := b.least(size, smp.ModeWindow, 1), b.least(size, smp.ModeWindow, 2); two > one || one < b.least(size, smp.ModeStopAndWait, 1) {
				t.Errorf("%s at %d: a window of two %v, of one %v", part.Name, baud, two, one)
			}
		}
	}
}

func TestBenchCases(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range benchCases() {
		if seen[c.name] {
			t.Errorf("there are two cases %s", c.name)
		}
		seen[c.name] = true
	}
	usual, err := chooseCases("", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range usual {
		if strings.Contains(c.name, "3000000") || strings.Contains(c.name, "460800") || c.sites == 128 {
			t.Errorf("%s is run without --all", c.name)
		}
	}
	for _, name := range []string{"nRF52840-115200-stop-and-wait", "STM32F4-1000000-automatic", "nRF54L15-3000000-automatic", "application-115200-window", "sites-1-115200", "sites-128-115200", "sites-64-1000000"} {
		if c, err := chooseCases(name, false); err != nil || len(c) != 1 || c[0].name != name {
			t.Errorf("case %s: %v, %v", name, c, err)
		}
	}
	if _, err := chooseCases("sideways", true); err == nil {
		t.Error("a case that there is not was found")
	}
}

// TestBenchRun measures small cases of each kind. What comes out must hang
// together; how fast it is depends on the computer, and is not looked at.
func TestBenchRun(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	b, err := newBenchRun(&log)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, c := range []benchCase{
		{name: "one", part: sim.NRF54L15(), baud: 1_000_000, sites: 1, size: 30 << 10},
		{name: "automatic", part: sim.NRF54L15(), baud: 1_000_000, sites: 1, size: 30 << 10, overlap: smp.OverlapAuto},
		{name: "large", part: sim.NRF54L15(), baud: 1_000_000, sites: 1, size: 30 << 10, overlap: smp.OverlapAuto, lineLength: 512, message: 4092},
		{name: "window", part: sim.NRF54L15(), baud: 1_000_000, sites: 1, size: 30 << 10, application: true, window: true},
		{name: "many", part: sim.NRF54L15(), baud: 1_000_000, sites: 3, size: 30 << 10, many: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := b.run(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if r.Case != c.name || r.Baud != c.baud || r.Sites != c.sites || r.Mode == "" {
				t.Errorf("report %+v", r)
			}
			if wire := r.Rate / float64(c.sites) / 100_000; r.Rate <= 0 || wire > 0.75 || fmt.Sprintf("%.4f", wire) != fmt.Sprintf("%.4f", r.Wire) {
				t.Errorf("%.0f bytes a second, %.4f of the wire", r.Rate, r.Wire)
			}
			// A hair above 1 is within what a timer may be off.
			if r.Ceiling <= 0 || r.Ceiling > 1.05 {
				t.Errorf("%.3f of the ceiling", r.Ceiling)
			}
			if (r.OfOne > 0) != c.many || r.CPU <= 0 || r.RSS <= 0 || r.CPU > 4*r.Wall {
				t.Errorf("report %+v", r)
			}
			sum := 0.0
			for _, p := range r.Phases {
				sum += p.Seconds
			}
			if len(r.Phases) < 6 || sum > r.Wall {
				t.Errorf("phases %v of %.2f s", r.Phases, r.Wall)
			}
		})
	}
}

// TestBenchJSON: scripts rely on the names.
func TestBenchJSON(t *testing.T) {
	var b bytes.Buffer
	if err := printBench(&b, "json", true, []benchReport{{Case: "x", Rate: 1234.5678, Wire: 0.123456, Phases: []benchPhase{}}}); err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(got[0]))
	for _, want := range []string{"case", "baud", "sites", "mode", "payload_bytes_per_s", "wire_share", "ceiling_share", "cpu_s", "wall_s", "rss_mb"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %q in %v", want, names)
		}
	}
	if got[0]["wire_share"] != 0.1235 || got[0]["payload_bytes_per_s"] != 1235.0 {
		t.Errorf("not rounded: %v", got[0])
	}
}

// TestBenchBaudAutoLoop: TX joined with RX shows what the line can do, and no port
// is told apart from one that does not know a speed.
func TestBenchBaudAutoLoop(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	looped := make(chan struct{})
	go func() {
		defer close(looped)
		io.Copy(master, master) // until nobody has the other end
	}()
	defer func() { tty.Close(); <-looped; master.Close() }()
	r, err := (&benchPort{port: tty.Name(), speed: "auto", framing: "auto"}).measure(t.Context())
	if err != nil || len(r.Speeds) != 1 || r.Baud != 3_000_000 || r.Speeds[0].Answered != "loop" || r.Speeds[0].Probes != speedProbes || r.Speeds[0].Lost != 0 {
		t.Errorf("%d baud, %v, %+v", r.Baud, err, r.Speeds)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r, err = (&benchPort{port: file, speed: "auto", framing: "auto"}).measure(t.Context())
	if e, ok := errors.AsType[*exitError](err); !ok || e.code != exitFault || len(r.Speeds) != 0 {
		t.Errorf("a file: %v, %+v", err, r.Speeds)
	}
	for _, p := range []benchPort{{port: file, speed: "fast", framing: "auto"}, {port: file, speed: "0", framing: "auto"}, {port: file, speed: "auto", framing: "auto", usb: true}} {
		if _, err := p.measure(t.Context()); err == nil || !strings.Contains(err.Error(), "--baud") {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// TestBenchBaudAuto: the fastest speed at which a board loses nothing is found,
// and nothing is written to it.
func TestBenchBaudAuto(t *testing.T) {
	for _, tt := range []struct {
		name  string
		baud  int
		fault sim.Fault
		want  int // 0 for none
		asked int // speeds
	}{
		{"one speed", 460800, sim.Fault{}, 460800, 5},
		{"any speed", sim.Unlimited, sim.Fault{}, 3_000_000, 1},
		{"bad line", 460800, sim.Fault{Kind: sim.FaultCorrupt, Value: 0.003}, 0, 11},
		{"dead", 460800, sim.Fault{Kind: sim.FaultSilent}, 0, 11},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // with each other: they wait most of the time
			boards, err := sim.NewBench(t.TempDir(), 1, func(int) sim.Options {
				return sim.Options{Baud: tt.baud, Fault: tt.fault, Seed: 1, Build: sim.BuildOptions{NoApplication: true}}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer boards.Close()
			b := boards.Board(1)
			if err := powerCycle(b, true); err != nil {
				t.Fatal(err)
			}
			awaitBoot(t.Context(), b)
			before := b.Slot(0)
			r, err := (&benchPort{port: b.Port(), speed: "auto", framing: "auto"}).measure(t.Context())
			if (err == nil) != (tt.want > 0) || r.Baud != tt.want || len(r.Speeds) != tt.asked {
				t.Fatalf("%d baud, %v, after %+v", r.Baud, err, r.Speeds)
			}
			var out bytes.Buffer
			if err := printBench(&out, "text", true, []benchReport{r}); err != nil {
				t.Fatal(err)
			}
			end := "fastest speed without errors: none\n"
			if tt.want > 0 {
				end = fmt.Sprintf("fastest speed without errors: %d\n", tt.want)
				s := r.Speeds[len(r.Speeds)-1]
				if s.Answered != "bootloader" || s.Message != 1020 || s.Probes != speedProbes || s.Lost != 0 {
					t.Errorf("%+v", s)
				}
			}
			if !strings.HasSuffix(out.String(), end) {
				t.Errorf("printed %s", out.String())
			}
			if !bytes.Equal(b.Slot(0), before) {
				t.Error("the board was written to")
			}
		})
	}
}
