package smp

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// instant is a line at whose end a device takes every chunk at once. It
// allocates nothing, so that what is counted is the client's.
type instant struct {
	raw    bool // without frames
	dec    Decoder
	off    int
	answer chan []byte
	frames [2][]byte
	turn   int
}

func (l *instant) message(msg []byte) {
	h, p, err := ParseMessage(msg)
	if err != nil {
		panic(err)
	}
	// a2 63 "off" <uint> 64 "data" <head> ..., as the engine sends it; the
	// first chunk has "len" before.
	at := bytes.Index(p[:24], []byte("data")) + 4
	n := 0
	switch p[at] {
	case 0x59:
		n = int(binary.BigEndian.Uint16(p[at+1:]))
	case 0x58:
		n = int(p[at+1])
	default:
		n = int(p[at] & 0x1f)
	}
	// A copy, which a busy computer makes the client send, moves nothing.
	l.off = 0
	if !bytes.Contains(p[:8], []byte("len")) {
		switch p[5] {
		case 0x1a:
			l.off = int(binary.BigEndian.Uint32(p[6:]))
		case 0x19:
			l.off = int(binary.BigEndian.Uint16(p[6:]))
		default:
			panic("a chunk before byte 256, and not the first")
		}
	}
	l.off += n
	var buf [64]byte
	out := append(buf[:HeaderSize], 0xbf, 0x62, 'r', 'c', 0, 0x63, 'o', 'f', 'f')
	out = append(appendHead(out, cborUint, l.off), 0xff)
	h.Op++
	h.Length = uint16(len(out) - HeaderSize)
	h.Append(out[:0])
	l.turn ^= 1
	if l.raw {
		l.frames[l.turn] = append(l.frames[l.turn][:0], out...)
	} else {
		l.frames[l.turn] = AppendFrame(l.frames[l.turn][:0], out)
	}
	l.answer <- l.frames[l.turn]
}

func (l *instant) Write(p []byte) (int, error) {
	if l.raw {
		l.message(p)
		return len(p), nil
	}
	l.dec.Feed(p, l.message, nil)
	return len(p), nil
}

func (l *instant) Read(p []byte) (int, error) {
	b, ok := <-l.answer
	if !ok {
		return 0, io.EOF
	}
	return copy(p, b), nil
}

func (l *instant) Close() error { close(l.answer); return nil }

// BenchmarkChunk is the client's own work for a chunk: building, framing,
// writing, reading and understanding the answer. An operation is one chunk of
// an upload that never ends before the benchmark does, the far end's work
// included.
func BenchmarkChunk(b *testing.B) {
	for _, framing := range []Framing{FramingConsole, FramingRaw} {
		b.Run(framing.String(), func(b *testing.B) {
			const size = 992
			c := NewClient(&instant{raw: framing == FramingRaw, answer: make(chan []byte, 1)}, Options{Framing: framing})
			defer c.Close()
			data := make([]byte, size*(b.N+1))
			b.SetBytes(size)
			b.ReportAllocs()
			b.ResetTimer()
			if _, err := c.Upload(context.Background(), data, UploadOptions{MessageSize: 1020}); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// What a chunk costs in memory is nothing: uploads of very different lengths
// allocate the same.
func TestNoAllocationPerChunk(t *testing.T) {
	count := func(framing Framing, chunks int) float64 {
		data := make([]byte, chunks*992)
		return testing.AllocsPerRun(5, func() {
			c := NewClient(&instant{raw: framing == FramingRaw, answer: make(chan []byte, 1)}, Options{Framing: framing})
			defer c.Close()
			if _, err := c.Upload(context.Background(), data, UploadOptions{MessageSize: 1020}); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, framing := range []Framing{FramingConsole, FramingRaw} {
		if few, many := count(framing, 10), count(framing, 1000); many > few+20 {
			t.Errorf("%s: an upload of 10 chunks allocates %.0f times, one of 1000 chunks %.0f times", framing, few, many)
		}
	}
}

// Requests built by hand are what the encoder makes of the same values.
func TestAppendChunk(t *testing.T) {
	c := &Client{codec: newCodec()}
	for _, image := range []int{0, 1, 24, 300} {
		for _, sha := range [][]byte{nil, make([]byte, 32)} {
			for _, off := range []int{0, 1, 23, 24, 255, 256, 65535, 65536, 1 << 20} {
				for _, n := range []int{1, 23, 24, 255, 256, 992} {
					u := upload{data: make([]byte, 2<<20), opts: UploadOptions{Image: image, SHA: sha}}
					h, got, err := ParseMessage(u.appendChunk(nil, off, u.data[:n]))
					if err != nil || h.Op != OpWrite || h.Group != GroupImage || h.Command != cmdImageUpload {
						t.Fatalf("header %+v, %v", h, err)
					}
					var want []byte
					if off == 0 {
						want = c.encode(struct {
							Image int    `cbor:"image,omitempty"`
							Len   int    `cbor:"len"`
							Off   int    `cbor:"off"`
							SHA   []byte `cbor:"sha,omitempty"`
							Data  []byte `cbor:"data"`
						}{image, len(u.data), off, sha, u.data[:n]})
					} else {
						want = c.encode(struct {
							Image int    `cbor:"image,omitempty"`
							Off   int    `cbor:"off"`
							Data  []byte `cbor:"data"`
						}{image, off, u.data[:n]})
					}
					if d := cmp.Diff(want, got); d != "" {
						t.Fatalf("image %d, off %d, %d bytes (-want +got):\n%s", image, off, n, d)
					}
				}
			}
		}
	}
}

// Whatever the short way reads in an answer, the decoder reads too.
func FuzzPlainOffset(f *testing.F) {
	for _, s := range []string{
		"bf6272630063" + "6f6666" + "19ffffff", "a2627263006" + "36f66661864", "a1636f66661a00010000", "bf636f666605ff",
		"bf62726303ff", "a2627263006" + "36f6666", "", "bf", "ff", "bf62726300636f66661b0000000000000001ff",
		"a1627263006" + "36f666605", "a2636f666605", "bf62726300636f6666051800ff",
	} {
		f.Add(mustHex(s))
	}
	c := newCodec()
	f.Fuzz(func(t *testing.T, p []byte) {
		off, ok := plainOffset(p)
		if !ok {
			return
		}
		var out uploadAnswer
		if err := c.decode("test", p, &out); err != nil || out.Off == nil || *out.Off != off || out.Match != nil {
			t.Errorf("%x: offset %d, the decoder says %+v, %v", p, off, out, err)
		}
	})
}

// The answers that servers give to all but a few requests take the short way.
func TestPlainOffset(t *testing.T) {
	for payload, want := range map[string]int{
		"bf62726300636f66661864ff":       100,   // MCUboot
		"bf62726300636f66661903e0ff":     992,   //
		"bf62726300636f66661a00010000ff": 65536, //
		"a162" + "7263" + "00":           -1,
		"bf636f6666190200ff":             512, // Zephyr's server
		"a1636f6666190200":               512,
		"a262726300636f6666190200":       512, // with the older result code
		"bf62726303ff":                   -1,
		"bf636f66661864656d61746368f5ff": -1, // with "match": the decoder's
	} {
		off, ok := plainOffset(mustHex(payload))
		if ok != (want >= 0) || ok && int(off) != want {
			t.Errorf("%s: %d, %v, want %d", payload, off, ok, want)
		}
	}
}
