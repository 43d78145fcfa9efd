package smp_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/gpio"
	"pgregory.net/rapid"

	"flashline/fixtures/sim"
	"flashline/smp"
	"flashline/smp/mcuboot"
)

// The engine against whole boards of software, with the timing of real parts.

func bytesOf(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// inRecovery powers a board with its recovery pin held and returns the host's
// end of its line.
func inRecovery(tb testing.TB, o sim.Options) (*sim.Board, net.Conn) {
	tb.Helper()
	host, far := net.Pipe()
	o.Line = far
	board, err := sim.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		host.Close()
		if err := board.Close(); err != nil {
			tb.Error(err)
		}
	})
	for pin, level := range map[*sim.Pin]gpio.Level{board.Recovery(): gpio.Low, board.Power(): gpio.High} {
		if err := pin.Out(level); err != nil {
			tb.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	if s := board.State(); s != sim.StateRecovery {
		tb.Fatalf("the board is in state %v", s)
	}
	return board, host
}

// send uploads data to a fresh board, to its bootloader or, if it has an SMP
// server, to its application, and checks its flash.
func send(tb testing.TB, so sim.Options, data []byte, o smp.UploadOptions) smp.UploadResult {
	tb.Helper()
	power, slot := inRecovery, 0
	if so.Server != nil {
		power, slot = inApplication, 1
	}
	board, line := power(tb, so)
	defer board.Close()
	c := smp.NewClient(line, smp.Options{Baud: so.Baud, Framing: framingOf(so)})
	defer c.Close()
	if _, err := c.AwaitTarget(tb.Context(), 200*time.Millisecond, 10*time.Second); err != nil {
		tb.Fatal(err)
	}
	r, err := c.Upload(tb.Context(), data, o)
	if err != nil {
		tb.Fatalf("%v after %+v", err, r)
	}
	if got := board.Slot(slot); !bytes.Equal(got[:len(data)], data) {
		tb.Error("the flash does not hold the image")
	}
	for _, v := range board.Violations() {
		tb.Error(v)
	}
	return r
}

// framingOf is how a board speaks.
func framingOf(so sim.Options) smp.Framing {
	if so.Build.Raw {
		return smp.FramingRaw
	}
	return smp.FramingConsole
}

// rawCeiling is ceiling for a bootloader that takes bare messages of up to
// message bytes, one after the other and as they come.
func rawCeiling(p sim.Part, baud, n, message int) time.Duration {
	const overhead, answer = 26, smp.HeaderSize + 15
	chunk := (message - overhead) / 32 * 32
	chunks := (n + chunk - 1) / chunk
	sectors := (n+p.SectorSize-1)/p.SectorSize + 1 // of the trailer
	if !p.Progressive {
		sectors = p.SlotSize / p.SectorSize
	}
	if p.NoErase {
		sectors = 0
	}
	return time.Duration(n+chunks*(overhead+answer))*10*time.Second/time.Duration(baud) +
		time.Duration((n+p.WriteSize-1)/p.WriteSize)*p.WriteTime + time.Duration(sectors)*p.EraseTime
}

// ceiling is what a part leaves as possible for n bytes in the largest
// messages it takes (buffers of 1024 bytes): the rest is the wire's framing,
// the time of its own flash and main loop, and its answers. In lock-step these
// follow each other; overlapped, the longer of both counts, but for the erases
// of a part that is deaf meanwhile.
func ceiling(p sim.Part, baud, n int, overlapped bool) time.Duration {
	const chunk, overhead = 992, 26 // of an upload request beyond its first
	byteTime := 10 * time.Second / time.Duration(baud)
	var wire, device, lockstep, erases time.Duration
	answer := time.Duration(len(smp.AppendFrame(nil, make([]byte, smp.HeaderSize+15)))) * byteTime
	lineTime := 127 * byteTime
	sectors := (n + p.SectorSize - 1) / p.SectorSize
	if p.Progressive {
		sectors++ // of the trailer
	} else {
		sectors = p.SlotSize / p.SectorSize
	}
	if !p.NoErase {
		erases = time.Duration(sectors) * p.EraseTime
	}
	for left := n; left > 0; left -= min(left, chunk) {
		k := min(left, chunk)
		frame := smp.WireSize(k + overhead)
		lines := (frame + 126) / 127
		w := time.Duration(frame) * byteTime
		// The main loop takes each line in its turn.
		taken := time.Duration(0)
		for i := range lines {
			taken = max(taken, min(time.Duration(i+1)*lineTime, w)) + p.LineTime
		}
		d := time.Duration((k+p.WriteSize-1)/p.WriteSize)*p.WriteTime + answer
		wire += w
		device += time.Duration(lines)*p.LineTime + d
		lockstep += taken + d
	}
	if overlapped {
		return max(wire, device) + erases
	}
	return lockstep + erases
}

var benchBauds = []int{115200, 460800, 1_000_000, 3_000_000}

func benchParts() []sim.Part {
	return []sim.Part{sim.NRF52840(), sim.STM32F4(), sim.NRF54L15(), sim.STM32L4()}
}

// In virtual time shares are exact: one chunk at a time comes to within 3 % of
// what framing, flash and answer leave as possible.
func TestStopAndWaitReachesItsCeiling(t *testing.T) {
	data := bytesOf(256 << 10)
	for _, p := range benchParts() {
		for _, baud := range benchBauds {
			t.Run(fmt.Sprintf("%s/%d", p.Name, baud), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := send(t, sim.Options{Part: p, Baud: baud}, data, smp.UploadOptions{MessageSize: 1020})
					best := ceiling(p, baud, len(data), false)
					share := float64(best) / float64(r.Elapsed)
					t.Logf("%.0f B/s, %.1f %% of the ceiling", float64(len(data))/r.Elapsed.Seconds(), 100*share)
					if share < 0.97 || r.Mode != smp.ModeStopAndWait || r.Resends > 0 {
						t.Errorf("%.1f %% of the ceiling; %+v", 100*share, r)
					}
				})
			})
		}
	}
}

// Without frames the same holds, and the wire is used for little but the image:
// to 95 % with a buffer of the usual size, and to 98 % with a large one, where
// the flash takes no time.
func TestRawReachesItsCeiling(t *testing.T) {
	data := bytesOf(192 << 10)
	for _, p := range append(benchParts(), sim.Ideal()) {
		for _, baud := range benchBauds {
			for _, size := range []int{1024, 4096} {
				t.Run(fmt.Sprintf("%s/%d/%d", p.Name, baud, size), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						so := sim.Options{Part: p, Baud: baud, Build: sim.BuildOptions{Raw: true, Params: true, ReceiveSize: size}}
						r := send(t, so, data, smp.UploadOptions{MessageSize: size - 4, Overlap: smp.OverlapAuto, Window: 4})
						best := rawCeiling(p, baud, len(data), r.MessageSize)
						share, wire := float64(best)/float64(r.Elapsed), float64(len(data))/r.Elapsed.Seconds()/float64(baud/10)
						t.Logf("%.0f B/s, %.1f %% of the ceiling, %.1f %% of the wire", float64(len(data))/r.Elapsed.Seconds(), 100*share, 100*wire)
						least := map[int]float64{1024: 0.95, 4096: 0.98}[size]
						if share < 0.97 || r.Mode != smp.ModeStopAndWait || r.Resends > 0 || p.Name == sim.Ideal().Name && wire < least {
							t.Errorf("%.1f %% of the ceiling, %.1f %% of the wire; %+v", 100*share, 100*wire, r)
						}
					})
				})
			}
		}
	}
}

// A board that erases ten times as slowly as others of its kind costs that time
// and nothing else: where it is slow is learned, in either mode.
func TestSlowEraseCostsNoMore(t *testing.T) {
	p := sim.NRF52840()
	o := sim.Options{Part: p, Baud: 1_000_000, Fault: sim.Fault{Kind: sim.FaultSlowErase}}
	p.EraseTime *= 10
	data := bytesOf(128 << 10)
	best := ceiling(p, o.Baud, len(data), false)
	for _, mode := range []smp.Overlap{smp.OverlapOff, smp.OverlapAuto} {
		synctest.Test(t, func(t *testing.T) {
			r := send(t, o, data, smp.UploadOptions{MessageSize: 1020, Overlap: mode})
			if share := float64(best) / float64(r.Elapsed); share < 0.97 || r.Resends > 0 || r.SectorSize != p.SectorSize {
				t.Errorf("%.1f %% of the ceiling, %+v", 100*share, r)
			}
		})
	}
}

// Where a part can take it, lines ahead bring the rate to within 3 % of what
// its wire and its own work leave, whichever is more. A part that is deaf while
// it erases loses the refilling of the line after each sector, and gains all
// the same; one that cannot take it loses the trials and nothing else.
func TestOverlapOnBoards(t *testing.T) {
	data := bytesOf(256 << 10)
	deaf := map[string]bool{"nRF52840/115200": true, "nRF52840/460800": true, "nRF52840/1000000": true}
	unable := map[string]bool{"STM32F4/1000000": true}
	for _, p := range benchParts() {
		for _, baud := range benchBauds {
			name := fmt.Sprintf("%s/%d", p.Name, baud)
			t.Run(name, func(t *testing.T) {
				var solo, over smp.UploadResult
				synctest.Test(t, func(t *testing.T) {
					solo = send(t, sim.Options{Part: p, Baud: baud}, data, smp.UploadOptions{MessageSize: 1020})
				})
				synctest.Test(t, func(t *testing.T) {
					over = send(t, sim.Options{Part: p, Baud: baud}, data, smp.UploadOptions{MessageSize: 1020, Overlap: smp.OverlapAuto})
				})
				share := float64(ceiling(p, baud, len(data), true)) / float64(over.Elapsed)
				gain := float64(solo.Elapsed) / float64(over.Elapsed)
				t.Logf("%s: %.0f B/s, was %.0f (x%.3f), %.1f %% of the ceiling, %.1f %% of the wire; %d early, %d rewinds, sector %d", over.Mode,
					float64(len(data))/over.Elapsed.Seconds(), float64(len(data))/solo.Elapsed.Seconds(), gain, 100*share,
					1000*float64(len(data))/float64(baud)/over.Elapsed.Seconds(), over.Early, over.Rewinds, over.SectorSize)
				switch {
				case unable[name]:
					if over.Mode != smp.ModeStopAndWait || over.TestsFailed == 0 || over.Resends > 0 || gain < 0.998 {
						t.Errorf("%+v, x%.3f: want the self-tests failed and nothing lost", over, gain)
					}
				case deaf[name]:
					if over.Mode != smp.ModeOverlapped || over.Rewinds > 0 || over.SectorSize != p.SectorSize || gain < 1.07 {
						t.Errorf("%+v, x%.3f: want the sectors found and no line lost", over, gain)
					}
				case over.Mode != smp.ModeOverlapped || over.Rewinds > 0 || share < 0.97:
					t.Errorf("%+v, %.1f %% of the ceiling", over, 100*share)
				}
			})
		}
	}
}

// Told that sending ahead is proven, the test is left out; where that was wrong
// the loss shows, and the test is made before more.
func TestOverlapProven(t *testing.T) {
	data := bytesOf(128 << 10)
	for _, tt := range []struct {
		part    sim.Part
		mode    smp.UploadMode
		rewinds int
	}{{sim.NRF54L15(), smp.ModeOverlapped, 0}, {sim.STM32F4(), smp.ModeStopAndWait, 1}} {
		synctest.Test(t, func(t *testing.T) {
			o := sim.Options{Part: tt.part, Baud: 1_000_000}
			auto := send(t, o, data, smp.UploadOptions{MessageSize: 1020, Overlap: smp.OverlapAuto})
			r := send(t, o, data, smp.UploadOptions{MessageSize: 1020, Overlap: smp.OverlapAuto, Proven: true})
			if r.Mode != tt.mode || r.Rewinds != tt.rewinds || tt.rewinds == 0 && (r.TestsFailed > 0 || r.Elapsed >= auto.Elapsed) || tt.rewinds > 0 && r.TestsFailed == 0 {
				t.Errorf("%s: %+v; tested, it took %s", tt.part.Name, r, auto.Elapsed)
			}
		})
	}
}

// Buffers and lines beyond the default, on a bootloader built with them.
func TestLargerBuffers(t *testing.T) {
	data := bytesOf(256 << 10)
	o := sim.Options{Part: sim.NRF54L15(), Baud: 115200, Build: sim.BuildOptions{ReceiveSize: 4096, LineBuffers: 32, LineLength: 512, Params: true}}
	var rates [3]float64
	for i, up := range []smp.UploadOptions{
		{MessageSize: 1020},
		{LineLength: 512}, // the message size asked for
		{LineLength: 512, Overlap: smp.OverlapAuto, Ahead: 31},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := send(t, o, data, up)
			rates[i] = float64(r.Sent) / r.Elapsed.Seconds()
			t.Logf("messages of %d bytes, lines of %d: %.0f B/s", r.MessageSize, up.LineLength, rates[i])
			if want := []int{1020, 4092, 4092}[i]; r.MessageSize != want || r.Rewinds > 0 {
				t.Errorf("%+v, want messages of %d bytes", r, want)
			}
		})
	}
	if rates[1] < 1.03*rates[0] || rates[2] < 1.01*rates[1] {
		t.Errorf("rates %.0f: larger should be faster", rates)
	}
}

// firmware is a valid image, which an application's server insists on.
func firmware(tb testing.TB, n int) []byte {
	tb.Helper()
	b, err := mcuboot.Build(mcuboot.BuildOptions{Body: bytesOf(n)})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// inApplication powers a board that starts its application.
func inApplication(tb testing.TB, o sim.Options) (*sim.Board, net.Conn) {
	tb.Helper()
	host, far := net.Pipe()
	o.Line, o.Image = far, firmware(tb, 5000)
	board, err := sim.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		host.Close()
		if err := board.Close(); err != nil {
			tb.Error(err)
		}
	})
	if err := board.Power().Out(gpio.High); err != nil {
		tb.Fatal(err)
	}
	return board, host
}

// Several requests at a time, on applications with buffers for them and on
// those that lose them.
func TestWindowOnBoards(t *testing.T) {
	file := firmware(t, 100<<10)
	large := sim.ServerOptions{Params: true, BufferCount: 8, BufferSize: 1024, LineBuffers: 8}
	for _, tt := range []struct {
		name         string
		part         sim.Part
		server       sim.ServerOptions
		slower, fast smp.UploadMode // at 115,200 and 1,000,000 baud
	}{
		// Two line buffers are enough for full lines, and would not be for a short
		// last one with another request behind it.
		{"nRF54L15, default buffers", sim.NRF54L15(), sim.ServerOptions{Params: true}, smp.ModeWindow, smp.ModeWindow},
		{"nRF54L15, large buffers", sim.NRF54L15(), large, smp.ModeWindow, smp.ModeWindow},
		{"nRF54L15, two buffers", sim.NRF54L15(), sim.ServerOptions{Params: true, BufferCount: 2}, smp.ModeStopAndWait, smp.ModeStopAndWait},
		{"STM32L4, default buffers", sim.STM32L4(), sim.ServerOptions{Params: true}, smp.ModeWindow, smp.ModeWindow},
		{"STM32L4, large buffers", sim.STM32L4(), large, smp.ModeWindow, smp.ModeWindow},
		{"nRF52840, erasing as it goes", sim.NRF52840(), sim.ServerOptions{Params: true, Progressive: true}, smp.ModeStopAndWait, smp.ModeStopAndWait},
	} {
		for _, baud := range []int{115200, 1_000_000} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, baud), func(t *testing.T) {
				var solo, win smp.UploadResult
				for i, r := range []*smp.UploadResult{&solo, &win} {
					synctest.Test(t, func(t *testing.T) {
						size, count := 384, 4 // the server's defaults
						if tt.server.BufferSize != 0 {
							size = tt.server.BufferSize
						}
						if tt.server.BufferCount != 0 {
							count = tt.server.BufferCount
						}
						p := smp.Params{BufSize: size, BufCount: count}
						o := smp.UploadOptions{MessageSize: p.MaxMessage()}
						if i == 1 {
							o.Window = p.Window()
						}
						*r = send(t, sim.Options{Part: tt.part, Baud: baud, Server: &tt.server}, file, o)
					})
				}
				gain := float64(solo.Elapsed) / float64(win.Elapsed)
				t.Logf("%s: %.0f B/s, was %.0f (x%.3f); %d early, %d rewinds", win.Mode, float64(win.Sent)/win.Elapsed.Seconds(),
					float64(solo.Sent)/solo.Elapsed.Seconds(), gain, win.Early, win.Rewinds)
				want := tt.slower
				if baud > 115200 {
					want = tt.fast
				}
				if win.Mode != want || win.Mode == smp.ModeWindow && (win.Rewinds > 0 || gain < 1.03) || win.Resends > 0 || gain < 0.998 {
					t.Errorf("%+v, x%.3f", win, gain)
				}
			})
		}
	}
}

// lagging is a line behind an adapter that holds everything back for a while in
// each direction, as FTDI's do with their latency timer at its default.
func lagging(tb testing.TB, board net.Conn, lag time.Duration) net.Conn {
	host, adapter := net.Pipe()
	type held struct {
		until time.Time
		data  []byte
	}
	var running sync.WaitGroup
	carry := func(from, to net.Conn) {
		queue := make(chan held, 4096)
		running.Go(func() {
			defer close(queue)
			for {
				buf := make([]byte, 4096)
				n, err := from.Read(buf)
				if err != nil {
					return
				}
				queue <- held{time.Now().Add(lag), buf[:n]}
			}
		})
		running.Go(func() {
			defer to.Close()
			for h := range queue {
				time.Sleep(time.Until(h.until))
				if _, err := to.Write(h.data); err != nil {
					from.Close()
				}
			}
		})
	}
	carry(adapter, board)
	carry(board, adapter)
	tb.Cleanup(func() {
		host.Close()
		adapter.Close()
		board.Close()
		running.Wait()
	})
	return host
}

// Behind a slow adapter lines ahead fill some of the waiting, and its lag is
// taken for no loss.
func TestOverlapBehindSlowAdapter(t *testing.T) {
	data := bytesOf(128 << 10)
	for _, baud := range []int{115200, 1_000_000} {
		var rates [2]float64
		for i, mode := range []smp.Overlap{smp.OverlapOff, smp.OverlapAuto} {
			synctest.Test(t, func(t *testing.T) {
				board, line := inRecovery(t, sim.Options{Part: sim.NRF52840(), Baud: baud})
				c := smp.NewClient(lagging(t, line, 16*time.Millisecond), smp.Options{Baud: baud})
				defer c.Close()
				r, err := c.Upload(t.Context(), data, smp.UploadOptions{MessageSize: 1020, Overlap: mode})
				if err != nil || r.Rewinds > 0 || r.Resends > 0 || !bytes.Equal(board.Slot(0)[:len(data)], data) {
					t.Errorf("%v, %+v", err, r)
				}
				rates[i] = float64(r.Sent) / r.Elapsed.Seconds()
			})
		}
		t.Logf("%d baud: %.0f B/s one at a time, %.0f overlapped", baud, rates[0], rates[1])
		if least := map[int]float64{115200: 1.2, 1_000_000: 1}[baud]; rates[1] < least*rates[0] {
			t.Errorf("%d baud: %.0f B/s overlapped, %.0f not", baud, rates[1], rates[0])
		}
	}
}

// troubled loses bytes, lines and stretches of what goes over a line, and
// damages some beyond mistaking, by the dice.
type troubled struct {
	net.Conn
	rnd  *rand.Rand
	rate float64 // of 1024-byte stretches with trouble
	lose bool    // and damage nothing, which without frames no checksum would show
}

func (l *troubled) Write(p []byte) (int, error) {
	out := bytes.Clone(p)
	for at := 0; at < len(out); at += 1024 {
		if l.rnd.Float64() >= l.rate {
			continue
		}
		from := at + l.rnd.IntN(min(1024, len(out)-at))
		kinds := 4
		if l.lose {
			kinds = 3
		}
		switch l.rnd.IntN(kinds) {
		case 0: // one byte lost
			out = append(out[:from], out[from+1:]...)
		case 1: // all from here on, as a deaf board does
			out = out[:from]
		case 2: // a stretch in the middle
			out = append(out[:from], out[min(len(out), from+1+l.rnd.IntN(300)):]...)
		case 3: // noise that is no base64
			out[from] = 0x80 | out[from]
		}
	}
	if _, err := l.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Whatever happens on the line and on the board, an upload in any mode ends, and
// one that reports success has put exactly the image into the flash.
func TestFastModesUnderTrouble(t *testing.T) {
	parts := []sim.Part{sim.NRF52840(), sim.STM32F4(), sim.NRF54L15(), sim.STM32L4(), sim.Ideal()}
	faults := []sim.Fault{{}, {}, {}, {Kind: sim.FaultLostReply, Value: 0.02}, {Kind: sim.FaultResetMidUp}, {Kind: sim.FaultDies}, {Kind: sim.FaultSlowErase}}
	var ended, failed, early, rewinds atomic.Int64
	rapid.Check(t, func(rt *rapid.T) {
		var (
			part    = rapid.SampledFrom(parts).Draw(rt, "part")
			fault   = rapid.SampledFrom(faults).Draw(rt, "fault")
			baud    = rapid.SampledFrom(benchBauds).Draw(rt, "baud")
			seed    = rapid.Uint64().Draw(rt, "seed")
			rate    = rapid.SampledFrom([]float64{0, 0, 0.001, 0.01, 0.05}).Draw(rt, "trouble")
			size    = rapid.IntRange(1, 60000).Draw(rt, "size")
			window  = rapid.SampledFrom([]int{0, 0, 0, 2, 6}).Draw(rt, "window")
			message = rapid.SampledFrom([]int{252, 508, 740, 1020}).Draw(rt, "message size")
			sector  = rapid.SampledFrom([]int{0, 0, part.SectorSize, 2048, 12345}).Draw(rt, "sector size")
			ahead   = rapid.SampledFrom([]int{0, 1, 3, 20}).Draw(rt, "lines ahead")
			raw     = rapid.IntRange(0, 4).Draw(rt, "raw") == 0
		)
		synctest.Test(t, func(t *testing.T) {
			so := sim.Options{Part: part, Fault: fault, Baud: baud, Seed: seed, Build: sim.BuildOptions{Raw: raw}}
			board, line := inRecovery(t, so)
			c := smp.NewClient(&troubled{line, rand.New(rand.NewPCG(seed, 2)), rate, raw}, smp.Options{Baud: baud, Framing: framingOf(so)})
			defer c.Close()
			data := bytesOf(size)
			start := time.Now()
			r, err := c.Upload(t.Context(), data, smp.UploadOptions{
				MessageSize: message, Overlap: smp.OverlapAuto, Window: window, SectorSize: sector, Ahead: ahead,
			})
			ended.Add(1)
			early.Add(int64(r.Early))
			rewinds.Add(int64(r.Rewinds))
			if err != nil {
				failed.Add(1)
				if rate == 0 && fault.Kind == "" {
					t.Errorf("failed without trouble: %v, %+v", err, r)
				}
			} else if got := board.Slot(0)[:size]; !bytes.Equal(got, data) {
				t.Errorf("success, and the flash does not hold the image: %+v", r)
			}
			if took := time.Since(start); took > 30*time.Minute {
				t.Errorf("took %s: %v, %+v", took, err, r)
			}
		})
	})
	t.Logf("%d uploads, %d of them failed; %d requests early, %d rewinds", ended.Load(), failed.Load(), early.Load(), rewinds.Load())
}

// benchmark uploads to a board in real time and prints how fast it went: image
// bytes a second, the share of the line's bits and, for a bootloader, the share
// of the time that the part and the framing leave as possible. The board's
// clock is the computer's: on a fast line the milliseconds by which its timers
// are late count against the client. What is exact is in the tests, which run
// in virtual time.
func benchmark(b *testing.B, so sim.Options, data []byte, o smp.UploadOptions) time.Duration {
	var took time.Duration
	var r smp.UploadResult
	for b.Loop() {
		r = send(b, so, data, o)
		took += r.Elapsed
	}
	took /= time.Duration(b.N)
	rate := float64(len(data)) / took.Seconds()
	b.ReportMetric(rate, "payload_bytes/s")
	b.ReportMetric(100*rate*10/float64(so.Baud), "%wire")
	switch {
	case so.Build.Raw:
		b.ReportMetric(100*float64(rawCeiling(so.Part, so.Baud, len(data), o.MessageSize))/float64(took), "%ceiling")
	case so.Server == nil:
		b.ReportMetric(100*float64(ceiling(so.Part, so.Baud, len(data), r.Mode == smp.ModeOverlapped))/float64(took), "%ceiling")
	}
	b.ReportMetric(0, "ns/op")
	return took
}

// BenchmarkUpload runs every mode on boards with real part timings, in real
// time. The second of each pair has the ratio of the two, from one run.
func BenchmarkUpload(b *testing.B) {
	pair := func(so sim.Options, data []byte, o smp.UploadOptions, mode smp.UploadMode, fast smp.UploadOptions) {
		var solo time.Duration
		name := fmt.Sprintf("%s/%d", so.Part.Name, so.Baud)
		b.Run(name+"/"+string(smp.ModeStopAndWait), func(b *testing.B) { solo = benchmark(b, so, data, o) })
		b.Run(name+"/"+string(mode), func(b *testing.B) {
			took := benchmark(b, so, data, fast)
			if solo > 0 {
				b.ReportMetric(float64(solo)/float64(took), "x_stop-and-wait")
			}
		})
	}
	bauds := benchBauds
	if testing.Short() { // so that it cannot rot
		bauds = []int{1_000_000}
	}
	for _, p := range benchParts() {
		for _, baud := range bauds {
			so := sim.Options{Part: p, Baud: baud}
			pair(so, bytesOf(min(64<<10, baud*2/7)), smp.UploadOptions{MessageSize: 1020},
				smp.ModeOverlapped, smp.UploadOptions{MessageSize: 1020, Overlap: smp.OverlapAuto, SectorSize: p.SectorSize})
		}
	}
	for _, baud := range bauds {
		for _, size := range []int{1024, 4096} {
			b.Run(fmt.Sprintf("ideal/%d/raw, %d-byte buffer", baud, size), func(b *testing.B) {
				so := sim.Options{Part: sim.Ideal(), Baud: baud, Build: sim.BuildOptions{Raw: true, ReceiveSize: size}}
				benchmark(b, so, bytesOf(min(192<<10, baud*2/7)), smp.UploadOptions{MessageSize: size - 4})
			})
		}
		so := sim.Options{Part: sim.STM32L4(), Baud: baud, Server: &sim.ServerOptions{BufferCount: 8, BufferSize: 1024, LineBuffers: 8}}
		so.Part.Name += " application"
		pair(so, firmware(b, min(64<<10, baud*2/7)), smp.UploadOptions{MessageSize: 1020},
			smp.ModeWindow, smp.UploadOptions{MessageSize: 1020, Window: 6})
	}
}
