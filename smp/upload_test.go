package smp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"
)

// flasher is the upload rule of MCUboot's bs_upload in a few lines, with the
// trouble a line or a board may bring. fixtures/sim has the whole machine;
// this one is for looking into single rules.
type flasher struct {
	align      int
	maxMessage int
	erase      time.Duration // before the first chunk is answered
	params     bool

	mu     *sync.Mutex // a pointer, so that test tables may hold flashers by value
	flash  []byte
	want   int // curr_off
	size   int
	firsts int // chunks with off 0 received
	lasts  int
	asks   int
	sizes  []int
	// drop and mute decide about the n-th message (from 1): not received, or
	// carried out but not answered.
	n          int
	drop, mute func(n int, off int) bool
	hook       func(off int) []byte // replaces the answer's payload when not nil
}

func (f *flasher) handle(h Header, p []byte) []reply {
	f.mu.Lock()
	defer f.mu.Unlock()
	if HeaderSize+len(p) > f.maxMessage {
		return nil
	}
	if h.Group == GroupOS {
		if h.Command == cmdParams {
			if !f.params {
				return []reply{{payload: "bf62726308ff"}}
			}
			return []reply{{payload: fmt.Sprintf("bf686275665f73697a6519%04x696275665f636f756e7401ff", f.maxMessage+4)}}
		}
		return []reply{{payload: rcOK}}
	}
	var in struct {
		Off  *int
		Len  *int
		Data []byte
	}
	if err := cbor.Unmarshal(p, &in); err != nil || in.Off == nil {
		return []reply{{payload: "bf62726303ff"}}
	}
	f.n++
	if f.drop != nil && f.drop(f.n, *in.Off) {
		return nil
	}
	f.sizes = append(f.sizes, HeaderSize+len(p))
	var wait time.Duration
	switch {
	case *in.Off == 0:
		f.firsts++
		f.size, f.want, f.flash = *in.Len, 0, nil
		wait = f.erase
	case *in.Off > f.size && len(in.Data) == 1:
		f.asks++
	}
	if *in.Off == f.want && f.want < f.size {
		if *in.Off+len(in.Data) == f.size {
			f.lasts++
		}
		data := in.Data
		if f.want+len(data) < f.size {
			data = data[:len(data)/f.align*f.align]
		}
		f.flash = append(f.flash, data...)
		f.want += len(data)
	}
	if f.mute != nil && f.mute(f.n, *in.Off) {
		return nil
	}
	if f.hook != nil {
		if b := f.hook(*in.Off); b != nil {
			return []reply{{bytes: answerFrame(h, b)}}
		}
	}
	b, _ := cbor.Marshal(map[string]int{"rc": 0, "off": f.want})
	return []reply{{after: wait, bytes: answerFrame(h, b)}}
}

// ready fills in what a test leaves open.
func (f *flasher) ready() *flasher {
	f.mu = new(sync.Mutex)
	if f.align == 0 {
		f.align = 4
	}
	if f.maxMessage == 0 {
		f.maxMessage = 1021
	}
	return f
}

func image(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func uploadTo(t *testing.T, f *flasher, data []byte, opts UploadOptions) (UploadResult, error) {
	t.Helper()
	c, _ := newDevice(t, Options{}, f.ready().handle)
	res, err := c.Upload(t.Context(), data, opts)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && !bytes.Equal(f.flash, data) {
		t.Errorf("success, but the flash holds %d bytes that are not the image", len(f.flash))
	}
	for _, s := range f.sizes {
		if s > res.MessageSize {
			t.Errorf("a message of %d bytes was sent, the limit is %d", s, res.MessageSize)
		}
	}
	return res, err
}

func TestUpload(t *testing.T) {
	tests := []struct {
		name  string
		f     flasher
		size  int
		opts  UploadOptions
		check func(t *testing.T, f *flasher, r UploadResult)
	}{
		{name: "one byte", size: 1},
		{name: "less than a write unit", size: 3},
		{name: "one chunk", size: 500},
		{name: "with the size asked for", size: 40000, f: flasher{params: true}, check: func(t *testing.T, f *flasher, r UploadResult) {
			if r.MessageSize != 1021 || r.Requests != 41 {
				t.Errorf("%+v: want messages of up to 1021 bytes, 41 of them", r)
			}
		}},
		{name: "with the size found", size: 5000, f: flasher{maxMessage: 509}, check: func(t *testing.T, f *flasher, r UploadResult) {
			if r.MessageSize != 508 {
				t.Errorf("found %d", r.MessageSize)
			}
		}},
		{name: "beyond 64 KiB, where offsets grow", size: 70001, opts: UploadOptions{MessageSize: 1020}},
		{name: "write size 16, told", size: 5000, f: flasher{align: 16}, opts: UploadOptions{WriteSize: 16}, check: wantRequests(6)},
		{name: "write size 32, not told", size: 5000, f: flasher{align: 32}, check: wantRequests(6)},
		// The rest of each chunk is dropped and sent again.
		{name: "write size told wrong", size: 5000, f: flasher{align: 64}, opts: UploadOptions{WriteSize: 4}},
		{name: "slow erase", size: 5000, f: flasher{erase: 40 * time.Second}, check: func(t *testing.T, f *flasher, r UploadResult) {
			if f.firsts != 1 {
				t.Errorf("the first chunk was sent %d times: each copy erases the slot", f.firsts)
			}
			if f.asks > maxPositionQueries {
				t.Errorf("asked %d times while the device was busy", f.asks)
			}
		}},
		{name: "first chunk lost", size: 5000, f: flasher{drop: func(n, off int) bool { return n == 1 }}, check: func(t *testing.T, f *flasher, r UploadResult) {
			if f.firsts != 1 || r.Resends != 1 {
				t.Errorf("first chunk received %d times, %d resends", f.firsts, r.Resends)
			}
		}},
		{name: "first answer lost", size: 5000, f: flasher{mute: func(n, off int) bool { return n == 1 }}, check: func(t *testing.T, f *flasher, r UploadResult) {
			if f.firsts != 1 {
				t.Errorf("the first chunk was sent %d times though it had arrived", f.firsts)
			}
		}},
		{name: "a chunk lost twice", size: 5000, f: flasher{drop: func(n, off int) bool { return n == 3 || n == 4 }}, check: func(t *testing.T, f *flasher, r UploadResult) {
			if r.Resends != 2 {
				t.Errorf("%d resends", r.Resends)
			}
		}},
		{name: "an answer lost", size: 5000, f: flasher{mute: func(n, off int) bool { return n == 3 }}},
		{name: "last answer lost", size: 5000, f: flasher{mute: func(n, off int) bool { return n == 6 }}, check: func(t *testing.T, f *flasher, r UploadResult) {
			if r.Resends != 1 {
				t.Errorf("%d resends", r.Resends)
			}
		}},
		{name: "already there, as an application says", size: 5000, f: flasher{hook: func(off int) []byte {
			b, _ := cbor.Marshal(map[string]any{"off": 5000, "match": true})
			return b
		}}, check: func(t *testing.T, f *flasher, r UploadResult) {
			if r.Match == nil || !*r.Match || r.Requests != 1 {
				t.Errorf("%+v", r)
			}
			f.flash = image(5000)
		}},
		{name: "content other than the sha, as an application says at the end", size: 1000, f: flasher{hook: func(off int) []byte {
			b, _ := cbor.Marshal(map[string]any{"off": 1000, "match": false})
			return b
		}}, check: func(t *testing.T, f *flasher, r UploadResult) {
			if r.Match == nil || *r.Match {
				t.Errorf("%+v: the mismatch is lost", r)
			}
			f.flash = image(1000)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &tt.f
				last := -1
				tt.opts.Progress = func(p UploadProgress) {
					if p.Sent <= last || p.Total != tt.size {
						t.Errorf("progress went from %d to %d of %d", last, p.Sent, p.Total)
					}
					last = p.Sent
				}
				data := image(tt.size)
				if tt.f.hook != nil {
					f.flash = data
					f.want = tt.size
				}
				c, _ := newDevice(t, Options{}, f.ready().handle)
				r, err := c.Upload(t.Context(), data, tt.opts)
				if err != nil {
					t.Fatal(err)
				}
				f.mu.Lock()
				defer f.mu.Unlock()
				if tt.check != nil {
					tt.check(t, f, r)
				}
				if !bytes.Equal(f.flash, data) {
					t.Errorf("the flash does not hold the image (%d of %d bytes)", len(f.flash), len(data))
				}
				if last != tt.size || r.Sent != tt.size {
					t.Errorf("progress ended at %d, result %+v", last, r)
				}
			})
		})
	}
}

func wantRequests(n int) func(*testing.T, *flasher, UploadResult) {
	return func(t *testing.T, f *flasher, r UploadResult) {
		if r.Requests != n {
			t.Errorf("%d requests, want %d", r.Requests, n)
		}
	}
}

func TestUploadErrors(t *testing.T) {
	offset := func(off any) func(int) []byte {
		return func(int) []byte { b, _ := cbor.Marshal(map[string]any{"rc": 0, "off": off}); return b }
	}
	tests := []struct {
		name string
		f    flasher
		opts UploadOptions
		want any // pointer to the expected error type
	}{
		{"never answers", flasher{drop: func(int, int) bool { return true }}, UploadOptions{FirstTimeout: 20 * time.Second}, new(*TimeoutError)},
		{"stops answering", flasher{drop: func(n, _ int) bool { return n > 3 }}, UploadOptions{}, new(*TimeoutError)},
		{"takes nothing", flasher{hook: offset(0)}, UploadOptions{}, new(*StallError)},
		{"sticks", flasher{hook: offset(960)}, UploadOptions{}, new(*StallError)},
		{"too large", flasher{hook: func(int) []byte { return mustHex("bf62726303ff") }}, UploadOptions{}, new(*ServerError)},
		{"refuses a later chunk", flasher{hook: func(off int) []byte {
			if off == 0 {
				return nil
			}
			return mustHex("bf62726303ff")
		}}, UploadOptions{}, new(*ServerError)},
		{"restarts", flasher{hook: func(off int) []byte {
			if off < 2000 {
				return nil
			}
			return offset(0)(off)
		}}, UploadOptions{}, new(*RestartError)},
		{"wants a byte never sent", flasher{hook: offset(4000)}, UploadOptions{}, new(*ProtocolError)},
		{"wants a negative byte", flasher{hook: offset(-4)}, UploadOptions{}, new(*ProtocolError)},
		{"wants an absurd byte", flasher{hook: offset(uint64(1) << 63)}, UploadOptions{}, new(*ProtocolError)},
		{"answers without off", flasher{hook: func(int) []byte { return mustHex(rcOK) }}, UploadOptions{}, new(*ProtocolError)},
		{"answers junk", flasher{hook: func(int) []byte { return mustHex("ff00") }}, UploadOptions{}, new(*ProtocolError)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.opts.MessageSize = 1020
				start := time.Now()
				_, err := uploadTo(t, &tt.f, image(5000), tt.opts)
				if err == nil || !errors.As(err, tt.want) {
					t.Fatalf("error %v, want a %T", err, tt.want)
				}
				if _, ok := errors.AsType[*UploadError](err); !ok {
					t.Errorf("error %T says not where the upload stopped", err)
				}
				if time.Since(start) > 5*time.Minute {
					t.Errorf("took %s to give up", time.Since(start))
				}
			})
		})
	}
}

// An application in the middle of the same file, by its SHA, goes on where it
// stands: an upload cut short costs only what is missing.
func TestUploadResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := image(5000)
		f := &flasher{}
		f.hook = func(off int) []byte {
			if off == 0 { // the first chunk moved nothing: the data is there already
				f.flash, f.want = append([]byte(nil), data[:2960]...), 2960
				b, _ := cbor.Marshal(map[string]int{"off": 2960})
				return b
			}
			return nil
		}
		sum := sha256.Sum256(data)
		r, err := uploadTo(t, f, data, UploadOptions{MessageSize: 1020, SHA: sum[:]})
		if err != nil || r.Requests != 4 {
			t.Errorf("%+v, %v: want the first request and 3 more", r, err)
		}
	})
}

// A server that loses its place, at whatever chunk, ends the upload at once
// and says where it had been.
func TestUploadRestartedServer(t *testing.T) {
	for _, at := range []int{960, 2880, 4800} {
		synctest.Test(t, func(t *testing.T) {
			f := &flasher{hook: func(off int) []byte {
				if off < at {
					return nil
				}
				b, _ := cbor.Marshal(map[string]int{"off": 0})
				return b
			}}
			sum := sha256.Sum256(nil)
			r, err := uploadTo(t, f, image(5000), UploadOptions{MessageSize: 1020, SHA: sum[:]})
			e, ok := errors.AsType[*RestartError](err)
			if !ok || e.Wants != 0 || e.Had < at || e.Had >= at+992 || f.firsts != 1 {
				t.Errorf("restart at %d: %v, %+v, %d first chunks", at, err, r, f.firsts)
			}
		})
	}
}

// A device that claims more than its line buffers let through: what it says
// of itself is tried before it is believed.
func TestFindMessageSizeDoubts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newDevice(t, Options{}, func(h Header, p []byte) []reply {
			switch {
			case h.Group == GroupOS && h.Command == cmdParams:
				return []reply{{payload: "bf686275665f73697a65190800696275665f636f756e7401ff"}} // 2048
			case HeaderSize+len(p) > 740:
				return nil
			}
			return []reply{{payload: rcOK}}
		})
		if size, err := c.FindMessageSize(t.Context(), Lines{}); err != nil || size != 740 {
			t.Errorf("message size %d, %v", size, err)
		}
	})
}

// At USB speed a message of more lines than the target holds has to pass twice in
// a row; at the speed of a UART, and where the lines hold it, once is enough.
func TestTakesTwiceAtUSBSpeed(t *testing.T) {
	for _, test := range []struct {
		name  string
		baud  int
		size  int
		lines Lines
		want  bool
	}{
		{"UART", 115200, 1020, Lines{}, true},
		{"USB", 0, 1020, Lines{}, false},
		{"USB, as many as it holds", 0, 740, Lines{}, true},
		{"USB, more buffers", 0, 1020, Lines{Count: 12}, true},
		{"USB, longer ones", 0, 3044, Lines{Length: 512}, true},
		{"USB, too long for two", 0, 759, Lines{Length: 512, Count: 2}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				c, _ := newDevice(t, Options{Baud: test.baud}, func(Header, []byte) []reply {
					if asked++; asked > 1 {
						return nil
					}
					return []reply{{payload: rcOK}}
				})
				if got, err := c.Takes(t.Context(), test.size, test.lines); got != test.want || err != nil {
					t.Errorf("%v, %v", got, err)
				}
			})
		})
	}
}

// Told a size that is too large, the upload ends with what was found out: the
// device is there, and got nothing.
func TestUploadLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flasher{drop: func(_, off int) bool { return off == 0 }}
		start := time.Now()
		_, err := uploadTo(t, f, image(5000), UploadOptions{MessageSize: 1020})
		if e, ok := errors.AsType[*LostError](err); !ok || e.Copies != 6 || e.Size > 1020 {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("found out after %s", took)
		}
	})
}

func TestUploadImpossibleOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if _, err := uploadTo(t, &flasher{}, nil, UploadOptions{}); err == nil {
			t.Error("an empty image was uploaded")
		}
		if _, err := uploadTo(t, &flasher{}, image(100), UploadOptions{MessageSize: 40}); err == nil {
			t.Error("messages too small for one write unit were accepted")
		}
	})
}

// An encrypted image: its last chunk is sent once, its position never asked.
func TestUploadEncrypted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flasher{mute: func(n, off int) bool { return off > 4000 }, erase: 20 * time.Second}
		_, err := uploadTo(t, f, image(5000), UploadOptions{MessageSize: 1020, Encrypted: true})
		f.mu.Lock()
		defer f.mu.Unlock()
		if _, ok := errors.AsType[*TimeoutError](err); !ok || f.lasts != 1 || f.asks != 0 {
			t.Errorf("%v; last chunk sent %d times, position asked %d times", err, f.lasts, f.asks)
		}
	})
}

// Also in the faster modes: the last chunk sets out alone, when nothing is open.
func TestUploadEncryptedInFastModes(t *testing.T) {
	for i := range 40 { // answers and writes end in any order
		o := []UploadOptions{{Overlap: OverlapAuto}, {Window: 4}}[i%2]
		synctest.Test(t, func(t *testing.T) {
			copies, asked := 0, 0
			f := &flasher{}
			f.mute = func(n, off int) bool {
				if off+992 < 40000 || off > 40000 {
					return false
				}
				copies, asked = copies+1, f.asks // before it a question does no harm
				return true
			}
			o.MessageSize, o.Encrypted = 1020, true
			c, _ := newDevice(t, Options{Baud: 1_000_000}, f.ready().handle)
			r, err := c.Upload(t.Context(), image(40000), o)
			f.mu.Lock()
			defer f.mu.Unlock()
			if _, ok := errors.AsType[*TimeoutError](err); !ok || copies != 1 || f.lasts != 1 || f.asks != asked || r.Early == 0 || r.Rewinds > 0 {
				t.Errorf("%v, %+v; last chunk sent %d times, position asked %d times", err, r, copies, f.asks)
			}
		})
	}
}

// Once it is known how long answers take, one that is missing is not waited for
// much longer, whatever ChunkTimeout allows.
func TestUploadNoticesLossSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flasher{drop: func(n, off int) bool { return n == 20 }, mute: func(n, off int) bool { return n == 30 }}
		start := time.Now()
		r, err := uploadTo(t, f, image(60000), UploadOptions{MessageSize: 1020})
		if took := time.Since(start); err != nil || r.Resends != 2 || took > time.Second {
			t.Errorf("%v, %+v after %s", err, r, took)
		}
	})
}

// A device that was only slow, and lost the second copy while it was busy, is
// heard when it answers the first.
func TestUploadHearsLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := (&flasher{drop: func(n, off int) bool { return n == 21 }}).ready()
		c, _ := newDevice(t, Options{}, func(h Header, p []byte) []reply {
			replies := f.handle(h, p)
			if f.n == 20 {
				replies[0].after = time.Second
			}
			return replies
		})
		start, data := time.Now(), image(60000)
		r, err := c.Upload(t.Context(), data, UploadOptions{MessageSize: 1020})
		if took := time.Since(start); err != nil || r.Resends != 1 || took > 1100*time.Millisecond || !bytes.Equal(f.flash, data) {
			t.Errorf("%v, %+v after %s", err, r, took)
		}
	})
}

func TestUploadCancel(t *testing.T) {
	for _, at := range []time.Duration{time.Millisecond, time.Second, 45 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			f := &flasher{erase: 30 * time.Second, mute: func(n, off int) bool { return off > 2000 }}
			c, _ := newDevice(t, Options{}, f.ready().handle)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(at, cancel)
			start := time.Now()
			_, err := c.Upload(ctx, image(5000), UploadOptions{MessageSize: 1020, ChunkTimeout: time.Minute})
			if !errors.Is(err, context.Canceled) || time.Since(start) != at {
				t.Errorf("cancelled after %s, ended after %s: %v", at, time.Since(start), err)
			}
		})
	}
}

// Whatever is lost, an upload that reports success has put exactly the image
// into the flash, and never restarts a device that had taken the first chunk.
func TestUploadUnderLoss(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		loss := rapid.IntRange(0, 40).Draw(rt, "percent lost")
		size := rapid.IntRange(1, 9000).Draw(rt, "size")
		align := rapid.SampledFrom([]int{1, 4, 8, 16, 32}).Draw(rt, "align")
		limit := rapid.SampledFrom([]int{124, 252, 508, 1020}).Draw(rt, "message size")
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			lose := func(int, int) bool { return rnd.IntN(200) < loss }
			f := &flasher{align: align, maxMessage: limit + 1, drop: lose, mute: lose}
			_, err := uploadTo(t, f, image(size), UploadOptions{MessageSize: limit, Resends: 20})
			if err != nil && loss < 10 {
				t.Errorf("gave up with %d %% lost: %v", loss, err)
			}
		})
	})
}
