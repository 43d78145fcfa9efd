package smp

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// device is the far end of a client's line in these tests. Its handler gets
// every message and says what comes back.
type device struct {
	conn   net.Conn
	handle func(h Header, payload []byte) []reply
	wg     sync.WaitGroup

	mu   sync.Mutex
	seen []Header
	raw  []byte
}

type reply struct {
	after   time.Duration
	bytes   []byte // written as they are
	payload string // else: hex of the payload of a matching answer
}

func newDevice(t *testing.T, opts Options, handle func(h Header, payload []byte) []reply) (*Client, *device) {
	t.Helper()
	near, far := net.Pipe()
	d := &device{conn: far, handle: handle}
	c := NewClient(near, opts)
	d.wg.Go(d.run)
	t.Cleanup(func() {
		c.Close()
		far.Close()
		d.wg.Wait()
	})
	return c, d
}

func (d *device) run() {
	var dec Decoder
	buf := make([]byte, 4096)
	for {
		n, err := d.conn.Read(buf)
		d.mu.Lock()
		d.raw = append(d.raw, buf[:n]...)
		d.mu.Unlock()
		dec.Feed(buf[:n], func(m []byte) {
			h, payload, err := ParseMessage(append([]byte(nil), m...))
			if err != nil {
				panic(err)
			}
			d.mu.Lock()
			d.seen = append(d.seen, h)
			d.mu.Unlock()
			for _, r := range d.handle(h, payload) {
				d.wg.Go(func() {
					time.Sleep(r.after)
					out := r.bytes
					if out == nil {
						p, err := hex.DecodeString(r.payload)
						if err != nil {
							panic(err)
						}
						out = answerFrame(h, p)
					}
					d.conn.Write(out)
				})
			}
		}, nil)
		if err != nil {
			return
		}
	}
}

func (d *device) headers() []Header {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Header(nil), d.seen...)
}

func answerFrame(h Header, payload []byte) []byte {
	h.Op++
	h.Length = uint16(len(payload))
	return AppendFrame(nil, append(h.Append(nil), payload...))
}

const rcOK = "bf62726300ff" // {"rc": 0}, as MCUboot writes it

func always(payload string) func(Header, []byte) []reply {
	return func(Header, []byte) []reply { return []reply{{payload: payload}} }
}

func TestClientCommands(t *testing.T) {
	tests := []struct {
		name   string
		answer string // hex
		ask    func(ctx context.Context, c *Client) (any, error)
		header Header // what was sent
		sent   string // payload
		want   any
	}{
		{
			"probe of a bootloader", rcOK,
			func(ctx context.Context, c *Client) (any, error) { return c.Probe(ctx, time.Second) },
			Header{Op: OpWrite, Group: GroupOS, Command: 1, Length: 1}, "a0", TargetBootloader,
		}, {
			"probe of an application", "bf62726308ff",
			func(ctx context.Context, c *Client) (any, error) { return c.Probe(ctx, time.Second) },
			Header{Op: OpWrite, Group: GroupOS, Command: 1, Length: 1}, "a0", TargetApplication,
		}, {
			"probe of an application that speaks version 2 only", "bf6272630cff",
			func(ctx context.Context, c *Client) (any, error) { return c.Probe(ctx, time.Second) },
			Header{Op: OpWrite, Group: GroupOS, Command: 1, Length: 1}, "a0", TargetApplication,
		}, {
			"version 2, answered in version 1", rcOK,
			func(ctx context.Context, c *Client) (any, error) {
				c.SetVersion(V2)
				return nil, c.Reset(ctx, BootNormal)
			},
			Header{Version: V2, Op: OpWrite, Group: GroupOS, Command: 5, Length: 1}, "a0", nil,
		}, {
			"echo", "bf61726568656c6c6fff",
			func(ctx context.Context, c *Client) (any, error) { return c.Echo(ctx, "hello") },
			Header{Op: OpWrite, Group: GroupOS, Command: 0, Length: 9}, "a161646568656c6c6f", "hello",
		}, {
			"reset", rcOK,
			func(ctx context.Context, c *Client) (any, error) { return nil, c.Reset(ctx, BootNormal) },
			Header{Op: OpWrite, Group: GroupOS, Command: 5, Length: 1}, "a0", nil,
		}, {
			"reset to the bootloader, empty answer", "",
			func(ctx context.Context, c *Client) (any, error) { return nil, c.Reset(ctx, BootBootloader) },
			Header{Op: OpWrite, Group: GroupOS, Command: 5, Length: 12}, "a169626f6f745f6d6f646501", nil,
		}, {
			"params", "bf686275665f73697a65190400696275665f636f756e7401ff",
			func(ctx context.Context, c *Client) (any, error) { return c.Params(ctx) },
			Header{Op: OpRead, Group: GroupOS, Command: 6, Length: 1}, "a0", Params{1024, 1},
		}, {
			"image list, as MCUboot writes it",
			"bf66696d616765739fbf64736c6f7400646861736843010203" + "6776657273696f6e65322e342e30ffffff",
			func(ctx context.Context, c *Client) (any, error) { return c.Images(ctx, 0) },
			Header{Op: OpRead, Group: GroupImage, Command: 0, Length: 1}, "a0",
			ImageList{Slots: []ImageSlot{{Version: "2.4.0", Hash: []byte{1, 2, 3}}}},
		}, {
			"empty image list", "bf66696d616765739fffff",
			func(ctx context.Context, c *Client) (any, error) { return c.Images(ctx, 0) },
			Header{Op: OpRead, Group: GroupImage, Command: 0, Length: 1}, "a0", ImageList{},
		}, {
			"set state", "bf66696d616765739fffff",
			func(ctx context.Context, c *Client) (any, error) { return c.SetImageState(ctx, []byte{9}, true, 0) },
			Header{Op: OpWrite, Group: GroupImage, Command: 0, Length: 17}, "a267636f6e6669726df564686173684109", ImageList{},
		}, {
			"confirm what runs", "bf66696d616765739fffff",
			func(ctx context.Context, c *Client) (any, error) { return c.SetImageState(ctx, nil, true, 0) },
			Header{Op: OpWrite, Group: GroupImage, Command: 0, Length: 10}, "a167636f6e6669726df5", ImageList{},
		}, {
			"erase", rcOK,
			func(ctx context.Context, c *Client) (any, error) { return nil, c.EraseImage(ctx, 1, time.Second) },
			Header{Op: OpWrite, Group: GroupImage, Command: 5, Length: 7}, "a164736c6f7401", nil,
		}, {
			"information", "bf666f7574707574665a6570687972ff",
			func(ctx context.Context, c *Client) (any, error) { return c.Info(ctx, "s") },
			Header{Op: OpRead, Group: GroupOS, Command: 7, Length: 10}, "a166666f726d61746173", "Zephyr",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sent := make(chan string, 1)
				c, d := newDevice(t, Options{}, func(h Header, p []byte) []reply {
					sent <- hex.EncodeToString(p)
					h.Version = V1
					return []reply{{bytes: answerFrame(h, mustHex(tt.answer))}}
				})
				got, err := tt.ask(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("answer (-want +got):\n%s", d)
				}
				if d := cmp.Diff([]Header{tt.header}, d.headers()); d != "" {
					t.Errorf("header (-want +got):\n%s", d)
				}
				if got := <-sent; got != tt.sent {
					t.Errorf("payload %s, want %s", got, tt.sent)
				}
			})
		})
	}
}

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func TestSlotInfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// As captured from MCUboot with direct upload.
		var captured []byte
		for _, cp := range readCaptures(t, "testdata/captures/mcuboot-full.jsonl.gz") {
			if cp.Case == "img 6 slot info" {
				captured = mustHex(cp.Rx)
			}
		}
		var dec Decoder
		var payload []byte
		dec.Feed(captured, func(m []byte) { payload = append([]byte(nil), m[HeaderSize:]...) }, nil)
		if payload == nil {
			t.Fatal("the capture has no slot info")
		}
		c, _ := newDevice(t, Options{}, func(h Header, _ []byte) []reply { return []reply{{bytes: answerFrame(h, payload)}} })
		got, err := c.SlotInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Slots) != 2 || got.Slots[0].UploadID != 1 || got.Slots[1].UploadID != 2 || got.Slots[0].Size == 0 || got.MaxImage[0] == 0 {
			t.Errorf("slot info %+v", got)
		}
	})
}

func TestClientErrors(t *testing.T) {
	ask := func(c *Client) error { _, err := c.Images(context.Background(), time.Second); return err }
	tests := []struct {
		name, answer string
		check        func(error) bool
		text         string
	}{
		{"refused", "bf62726308ff", func(err error) bool { e, ok := errors.AsType[*ServerError](err); return ok && e.NotSupported() },
			"image list: device answered rc 8 (ENOTSUP)"},
		{"group error", "a163657272a26567726f75700162726308",
			func(err error) bool {
				e, ok := errors.AsType[*ServerError](err)
				return ok && e.PerGroup && !e.NotSupported()
			},
			"image list: device answered image error 8 (HASH_NOT_FOUND)"},
		{"group error under its first name", "a163726574a26567726f75700162726307", nil, "image list: device answered image error 7 (TLV_INVALID_SIZE)"},
		{"group error that is none", "a263657272a2656772 6f757001627263006669 6d6167657380", nil, ""},
		{"negative rc", "a162726324", nil, "image list: device answered rc -5"},
		{"negative rc as 32-bit unsigned", "a16272631afffffffb", nil, "image list: device answered rc -5"},
		{"negative rc as 64-bit unsigned", "a16272631bfffffffffffffffb", nil, "image list: device answered rc -5"},
		{"rc with text", "a2627263036372736e63626164", nil, `image list: device answered rc 3 (EINVAL): "bad"`},
		{"rc that is text", "a16272636161", func(err error) bool { _, ok := errors.AsType[*ProtocolError](err); return ok }, "unreadable answer"},
		{"doubled key", "a262726300627263 03", func(err error) bool { _, ok := errors.AsType[*ProtocolError](err); return ok }, "unreadable answer"},
		{"cut off", "bf62726300", nil, "unreadable answer"},
		{"trailing bytes", "a16272630000", nil, "unreadable answer"},
		{"no images", "a0", func(err error) bool { _, ok := errors.AsType[*ProtocolError](err); return ok }, `the answer has no "images"`},
		{"too deep", "a166696d61676573" + strings.Repeat("81", 20) + "80", nil, "unreadable answer"},
		{"slot out of range", "a166696d6167657381a264736c6f74190400", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := newDevice(t, Options{}, always(strings.ReplaceAll(tt.answer, " ", "")))
				err := ask(c)
				if tt.name == "group error that is none" {
					if err != nil {
						t.Fatalf("err with rc 0 is a success, got %v", err)
					}
					return
				}
				if err == nil {
					t.Fatal("no error")
				}
				if !strings.Contains(err.Error(), tt.text) {
					t.Errorf("error %q, want it to hold %q", err, tt.text)
				}
				if tt.check != nil && !tt.check(err) {
					t.Errorf("wrong type: %#v", err)
				}
			})
		})
	}
}

// Unknown keys come with every newer release and must not hurt.
func TestUnknownKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newDevice(t, Options{}, always("bf6372666601"+"66696d616765739fbf64736c6f740163666f6fa161610165726967687400ffff"+"6b73706c697453746174757300ff"))
		l, err := c.Images(t.Context(), 0)
		if err != nil || len(l.Slots) != 1 || l.Slots[0].Slot != 1 {
			t.Errorf("list %+v, error %v", l, err)
		}
	})
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDevice(t, Options{Timeout: 3 * time.Second}, func(Header, []byte) []reply { return nil })
		start := time.Now()
		_, err := c.Echo(t.Context(), "x")
		silent, ok := errors.AsType[*TimeoutError](err)
		if !ok || !silent.Timeout() || silent.After != 3*time.Second || time.Since(start) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		c.Echo(t.Context(), "x")
		synctest.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		// One line feed opens the conversation, one follows each silence.
		if got := strings.Count(string(d.raw), "\n\x06\x09"); !strings.HasPrefix(string(d.raw), "\n\x06\x09") || got != 2 {
			t.Errorf("sent %q: want a line feed before each of the two frames", d.raw)
		}
	})
}

func TestNoNudgeWhileAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDevice(t, Options{}, always(rcOK))
		for range 3 {
			if err := c.Reset(t.Context(), BootNormal); err != nil {
				t.Fatal(err)
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if got := strings.Count(string(d.raw), "\n"); got != 4 {
			t.Errorf("%d line feeds in %q, want the first and one a frame", got, d.raw)
		}
	})
}

// A late answer to a request given up, an answer doubled, one to another
// command under the same number: none may be taken for the one waited for.
func TestStrays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c, _ := newDevice(t, Options{Timeout: time.Second}, func(h Header, _ []byte) []reply {
			n++
			right := answerFrame(h, mustHex("a161726272"+"31")) // {"r":"r1"}, header of the request itself
			switch n {
			case 1: // answered too late
				return []reply{{after: 1500 * time.Millisecond, bytes: right}}
			case 2:
				other, group, op := h, h, h
				other.Command++
				group.Group = GroupImage
				op.Op = OpRead
				before := h
				before.Sequence--
				var junk []byte
				for _, x := range []Header{other, group, op, before} {
					junk = append(junk, answerFrame(x, mustHex("a161726477726f6e"))...)
				}
				return []reply{{after: 800 * time.Millisecond, bytes: append(append(junk, right...), right...)}}
			}
			return []reply{{bytes: right}}
		})
		if _, err := c.Echo(t.Context(), "a"); err == nil {
			t.Fatal("the first echo should have timed out")
		}
		for i := range 2 {
			got, err := c.Echo(t.Context(), "b")
			if err != nil || got != "r1" {
				t.Fatalf("echo %d: %q, %v", i, got, err)
			}
		}
		time.Sleep(time.Second)
		if s := c.Stats(); s.Strays != 6 || s.Answers != 2 || s.Requests != 3 || s.Timeouts != 1 {
			t.Errorf("stats %+v, want 6 strays (1 late, 4 wrong, 1 doubled)", s)
		}
	})
}

// A line that sends back what it gets: every request comes home as a stray,
// told from the strays of a device, and does not keep the answer from being
// heard.
func TestEchoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := true
		c, d := newDevice(t, Options{Timeout: time.Second}, func(h Header, p []byte) []reply {
			back := []reply{{bytes: AppendFrame(nil, append(h.Append(nil), p...))}}
			if !silent {
				back = append(back, reply{after: time.Millisecond, payload: rcOK})
			}
			return back
		})
		if _, err := c.Echo(t.Context(), "x"); err == nil {
			t.Error("an echo was taken for an answer")
		}
		silent = false
		if err := c.Reset(t.Context(), BootNormal); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if s := c.Stats(); s.Echoes != 2 || s.Strays != 2 || s.Answers != 1 {
			t.Errorf("stats %+v, want 2 echoes, both strays too, and 1 answer", s)
		}
		// The same header around other bytes, a number not yet used, an answer
		// that comes late: no echoes.
		seen := d.headers()[0]
		unused := seen
		unused.Sequence = 200
		for _, m := range [][]byte{
			append(seen.Append(nil), mustHex("a161646179")...),
			append(unused.Append(nil), mustHex("a161646178")...),
		} {
			d.conn.Write(AppendFrame(nil, m))
		}
		d.conn.Write(answerFrame(seen, mustHex(rcOK)))
		synctest.Wait()
		if s := c.Stats(); s.Echoes != 2 || s.Strays != 5 {
			t.Errorf("stats %+v, want still 2 echoes, and 5 strays", s)
		}
	})
}

// What callers branch on.
func TestServerErrorKinds(t *testing.T) {
	image := &ServerError{Group: GroupImage, PerGroup: true, Code: ImageNoFreeSlot}
	if !image.Image(ImageNoFreeSlot) || image.Image(ImageHashNotFound) || image.NotSupported() || image.TooOld() {
		t.Errorf("%v is taken for something else", image)
	}
	for _, e := range []*ServerError{
		{Group: GroupOS, PerGroup: true, Code: ImageNoFreeSlot},
		{Code: ImageNoFreeSlot}, // 9 of the protocol is "corrupt"
	} {
		if e.Image(ImageNoFreeSlot) {
			t.Errorf("%v is taken for a code of the image group", e)
		}
	}
	if e := (&ServerError{Group: GroupImage, PerGroup: true, Code: CodeTooOld}); e.TooOld() {
		t.Errorf("%v is taken for a refused version", e)
	}
	// The constants are those that Name knows under Zephyr's names.
	for code, name := range map[int64]string{
		ImageHashNotFound: "HASH_NOT_FOUND", ImageNoFreeSlot: "NO_FREE_SLOT",
		ImageFlashWriteFailed: "FLASH_WRITE_FAILED", ImageFlashEraseFailed: "FLASH_ERASE_FAILED",
		ImageInvalidSlot: "INVALID_SLOT", ImageInvalidHeader: "INVALID_IMAGE_HEADER",
		ImageInvalidHeaderMagic: "INVALID_IMAGE_HEADER_MAGIC", ImageInvalidHash: "INVALID_HASH",
		ImageInvalidFlashAddress: "INVALID_FLASH_ADDRESS", ImageCurrentIsNewer: "CURRENT_VERSION_IS_NEWER",
		ImageAlreadyPending: "IMAGE_ALREADY_PENDING", ImageTooLarge: "INVALID_IMAGE_TOO_LARGE",
		ImageDataOverrun: "INVALID_IMAGE_DATA_OVERRUN", ImageConfirmationDenied: "IMAGE_CONFIRMATION_DENIED",
		ImageTestOfActiveDenied: "IMAGE_SETTING_TEST_TO_ACTIVE_DENIED",
	} {
		if got := (&ServerError{Group: GroupImage, PerGroup: true, Code: code}).Name(); got != name {
			t.Errorf("code %d is %s, want %s", code, got, name)
		}
	}
}

func TestOverlappingRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newDevice(t, Options{}, func(h Header, p []byte) []reply {
			// Later requests are answered first.
			return []reply{{after: time.Second - time.Duration(h.Sequence)*10*time.Millisecond, bytes: answerFrame(h, append([]byte{0xa1, 0x61, 'r'}, p[3:]...))}}
		})
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				want := strings.Repeat("x", i)
				if got, err := c.Echo(t.Context(), want); err != nil || got != want {
					t.Errorf("echo of %d characters: %q, %v", i, got, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestSequenceWraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDevice(t, Options{}, always(rcOK))
		for range 600 {
			if err := c.Reset(t.Context(), BootNormal); err != nil {
				t.Fatal(err)
			}
		}
		hs := d.headers()
		if hs[256].Sequence != hs[0].Sequence || hs[599].Sequence != hs[87].Sequence {
			t.Error("sequence numbers do not wrap at 256")
		}
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newDevice(t, Options{}, func(Header, []byte) []reply { return nil })
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		_, err := c.Images(ctx, time.Hour)
		if !errors.Is(err, context.Canceled) || time.Since(start) != time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestLineEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDevice(t, Options{}, func(Header, []byte) []reply { return nil })
		time.AfterFunc(time.Second, func() { d.conn.Close() })
		_, err := c.Images(t.Context(), time.Hour)
		if e, ok := errors.AsType[*PortError](err); !ok || !errors.Is(e, io.EOF) {
			t.Errorf("error %v, want the port's", err)
		}
		<-c.Gone()
		if _, err := c.Images(t.Context(), time.Hour); err == nil {
			t.Error("a request on an ended line succeeded")
		}
	})
}

func TestCloseEndsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newDevice(t, Options{}, func(Header, []byte) []reply { return nil })
		time.AfterFunc(time.Second, func() { c.Close() })
		if _, err := c.Images(t.Context(), time.Hour); err == nil {
			t.Error("no error after Close")
		}
		if err := c.Reset(t.Context(), BootNormal); err == nil {
			t.Error("no error from a closed client")
		}
	})
}

// hungLine takes nothing: every Write blocks until Close.
type hungLine struct{ closed chan struct{} }

func (h hungLine) Read([]byte) (int, error)  { <-h.closed; return 0, io.ErrClosedPipe }
func (h hungLine) Write([]byte) (int, error) { <-h.closed; return 0, io.ErrClosedPipe }
func (h hungLine) Close() error              { close(h.closed); return nil }

func TestHungWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(hungLine{make(chan struct{})}, Options{Timeout: time.Second})
		defer c.Close()
		for range 2 {
			start := time.Now()
			err := c.Reset(t.Context(), BootNormal)
			if _, ok := errors.AsType[*TimeoutError](err); !ok || time.Since(start) != time.Second {
				t.Errorf("after %s: %v", time.Since(start), err)
			}
		}
	})
}

// The bootloader starts to listen after 2 s, and answers more slowly than it
// is asked.
func TestAwaitTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c, _ := newDevice(t, Options{}, func(Header, []byte) []reply {
			if time.Since(start) < 2*time.Second {
				return nil
			}
			return []reply{{after: 170 * time.Millisecond, payload: rcOK}}
		})
		target, err := c.AwaitTarget(t.Context(), 50*time.Millisecond, 5*time.Second)
		if err != nil || target != TargetBootloader {
			t.Fatalf("%v, %v", target, err)
		}
		if took := time.Since(start); took > 2300*time.Millisecond {
			t.Errorf("noticed after %s", took)
		}
	})
}

func TestAwaitTargetGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newDevice(t, Options{}, func(Header, []byte) []reply { return nil })
		start := time.Now()
		_, err := c.AwaitTarget(t.Context(), 100*time.Millisecond, 20*time.Second)
		if _, ok := errors.AsType[*TimeoutError](err); !ok || time.Since(start) != 20*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		_, d := newDevice(t, Options{Text: func(l []byte) {
			mu.Lock()
			got = append(got, string(l))
			mu.Unlock()
		}}, func(Header, []byte) []reply { return nil })
		d.conn.Write([]byte("*** Booting Zephyr ***\r\nblinky version 1.0.0\r\n"))
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if d := cmp.Diff([]string{"*** Booting Zephyr ***", "blinky version 1.0.0"}, got); d != "" {
			t.Error(d)
		}
	})
}

// A panic in the text function ends the line like a broken port, and nothing
// more.
func TestTextPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDevice(t, Options{Text: func([]byte) { panic("a bug") }}, always(rcOK))
		d.conn.Write([]byte("hello\n"))
		<-c.Gone()
		if _, err := c.Images(t.Context(), time.Second); err == nil || !strings.Contains(err.Error(), "a bug") {
			t.Errorf("error %v", err)
		}
	})
}

func TestProbeSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sizes := make(chan int, 1)
		c, _ := newDevice(t, Options{}, func(h Header, p []byte) []reply {
			sizes <- HeaderSize + len(p)
			if HeaderSize+len(p) > 509 { // a build with a 512-byte buffer
				return nil
			}
			return []reply{{payload: rcOK}}
		})
		for _, size := range []int{30, 38, 45, 100, 252, 269, 270, 271, 272, 508, 509, 510, 1020} {
			ok, err := c.ProbeSize(t.Context(), size, time.Second)
			if err != nil || ok != (size <= 509) {
				t.Errorf("size %d: %v, %v", size, ok, err)
			}
			if got := <-sizes; got != size {
				t.Errorf("a probe of %d bytes was sent for %d", got, size)
			}
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for _, cp := range readCaptures(f, "testdata/captures/mcuboot-full.jsonl.gz")[:60] {
		rx, _ := hex.DecodeString(cp.Rx)
		var d Decoder
		d.Feed(rx, func(m []byte) { f.Add(append([]byte(nil), m[HeaderSize:]...)) }, nil)
	}
	c := newCodec()
	f.Fuzz(func(t *testing.T, payload []byte) {
		var list imageListAnswer
		if c.decode("list", payload, &list) == nil {
			if l, err := list.list("list"); err == nil && len(l.Slots) > 64 {
				t.Errorf("%d slots", len(l.Slots))
			}
		}
		var up uploadAnswer
		if err := c.decode("upload", payload, &up); err == nil && up.RC != nil && *up.RC != 0 {
			t.Error("a refusal was taken for success")
		}
	})
}
