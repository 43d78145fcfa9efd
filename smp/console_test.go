package smp

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Vectors of SMP over console, from captures of genuine servers and from
// newtmgr's documentation.
func TestAppendFrame(t *testing.T) {
	tests := []struct{ name, msg, frame string }{
		{"os 1 write, indefinite map", "0200000200000001bfff", "\x06\x09AAwCAAACAAAAAb//mZo=\n"},
		{"image list", "0000000100010100a0", "\x06\x09AAsAAAABAAEBAKCxzg==\n"},
		{"image list, no payload", "0000000000010100", "\x06\x09AAoAAAAAAAEBAAQB\n"},
		{"reset", "0200000100000205a0", "\x06\x09AAsCAAABAAACBaCnuA==\n"},
	}
	for _, tt := range tests {
		msg, err := hex.DecodeString(tt.msg)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(AppendFrame(nil, msg)); got != tt.frame {
			t.Errorf("%s: frame %q, want %q", tt.name, got, tt.frame)
		}
		if got := WireSize(len(msg)); got != len(tt.frame) {
			t.Errorf("%s: WireSize %d, want %d", tt.name, got, len(tt.frame))
		}
	}
	if got := crc16(0, []byte("123456789")); got != 0x31c3 {
		t.Errorf("crc16 of 123456789 = %#x, want the XMODEM check value 0x31c3", got)
	}
}

func TestAppendFrameLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		msg := rapid.SliceOfN(rapid.Byte(), HeaderSize, 3000).Draw(t, "message")
		frame := AppendFrame(nil, msg)
		if len(frame) != WireSize(len(msg)) {
			t.Fatalf("frame of %d bytes, WireSize says %d", len(frame), WireSize(len(msg)))
		}
		for i, line := range bytes.SplitAfter(frame, []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			if len(line) > 127 {
				t.Fatalf("line %d has %d bytes; servers hold 127", i, len(line))
			}
			if (len(line)-3)%4 != 0 {
				t.Fatalf("line %d has %d base64 characters, not a multiple of 4", i, len(line)-3)
			}
		}
	})
}

func TestAppendFrameAllocatesNothing(t *testing.T) {
	msg, dst := make([]byte, 1020), make([]byte, 0, 2048)
	if n := testing.AllocsPerRun(100, func() { AppendFrame(dst, msg) }); n != 0 {
		t.Errorf("%v allocations a frame, want none", n)
	}
}

// feed returns what a decoder makes of the pieces.
func feed(pieces ...string) (messages, texts []string, stats DecoderStats) {
	var d Decoder
	for _, p := range pieces {
		d.Feed([]byte(p),
			func(m []byte) { messages = append(messages, hex.EncodeToString(m)) },
			func(l []byte) { texts = append(texts, string(l)) })
	}
	return messages, texts, d.Stats()
}

func TestDecoder(t *testing.T) {
	const (
		msg   = "0200000100000205a0"
		frame = "\x06\x09AAsCAAABAAACBaCnuA==\n"
	)
	long := strings.Repeat("ab", 150)
	longMsg, _ := hex.DecodeString("0200008e00000001" + long[:284])
	longFrame := string(AppendFrame(nil, longMsg))
	longHex := hex.EncodeToString(longMsg)
	lines := strings.SplitAfter(longFrame, "\n")
	tests := []struct {
		name     string
		in       []string
		messages []string
		texts    []string
		bad      int // lines and packets counted as bad
	}{
		{"one frame", []string{frame}, []string{msg}, nil, 0},
		{"byte by byte", strings.Split(frame, ""), []string{msg}, nil, 0},
		{"two frames in one read", []string{frame + frame}, []string{msg, msg}, nil, 0},
		{"log lines around", []string{"*** Booting ***\r\n" + frame + "I: hello\n"}, []string{msg}, []string{"*** Booting ***", "I: hello"}, 0},
		{"log text before the marker on the same line", []string{"uart:~$ " + frame}, []string{msg}, []string{"uart:~$ "}, 0},
		{"CR LF ends", []string{strings.ReplaceAll(frame, "\n", "\r\n")}, []string{msg}, nil, 0},
		{"LF CR ends, as MCUboot up to 1.9", []string{frame + "\r" + frame + "\r"}, []string{msg, msg}, nil, 0},
		{"two lines", []string{longFrame}, []string{longHex}, nil, 0},
		{"noise line between the lines", []string{lines[0] + "I: noise\n" + lines[1]}, []string{longHex}, []string{"I: noise"}, 0},
		{"noise inside a line", []string{lines[0][:60] + "\x1b[0mlog" + lines[0][60:] + lines[1] + frame}, []string{msg}, nil, 1},
		{"lost line", []string{lines[1] + frame}, []string{msg}, nil, 0},
		{"frame cut short by the next", []string{lines[0] + frame}, []string{msg}, nil, 1},
		{"frame cut short in mid-line", []string{"log" + lines[0][:41] + frame}, []string{msg}, []string{"log"}, 1},
		{"bad CRC", []string{"\x06\x09AAsCAAABAAACBaCnuQ==\n" + frame}, []string{msg}, nil, 1},
		{"more bytes than announced", []string{"\x06\x09AAoCAAABAAACBaCnuA==\n" + frame}, []string{msg}, nil, 1},
		{"announced length below a header", []string{"\x06\x09AAMCAAABAAACBaCnuA==\n" + frame}, []string{msg}, nil, 1},
		{"announced length absurd", []string{"\x06\x09//8CAAABAAACBaCnuA==\n" + frame}, []string{msg}, nil, 1},
		{"not base64", []string{"\x06\x09AAsC?AABAAACBaCnuA==\n" + frame}, []string{msg}, nil, 1},
		{"over-long line of junk", []string{strings.Repeat("x", maxLine+1) + "\n" + frame}, []string{msg}, nil, 1},
		{"unsplit long line, as MCUboot up to 1.9", []string{unsplit(longFrame)}, []string{longHex}, nil, 0},
		{"lines of four characters", []string{resplit(longFrame, 4)}, []string{longHex}, nil, 0},
		{"first line 93, then 90 raw bytes, as Zephyr", []string{resplit(longFrame, 120)}, []string{longHex}, nil, 0},
		{"empty lines", []string{"\n\r\n\n" + frame}, []string{msg}, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			messages, texts, stats := feed(tt.in...)
			if d := cmp.Diff(tt.messages, messages); d != "" {
				t.Errorf("messages (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.texts, texts); d != "" {
				t.Errorf("texts (-want +got):\n%s", d)
			}
			if got := stats.BadLine + stats.BadPacket; got != tt.bad {
				t.Errorf("%d bad lines and packets counted, want %d", got, tt.bad)
			}
			if stats.Messages != len(tt.messages) {
				t.Errorf("%d messages counted, want %d", stats.Messages, len(tt.messages))
			}
		})
	}
}

// unsplit joins a frame's lines into one.
func unsplit(frame string) string {
	return strings.ReplaceAll(frame, "\n\x04\x14", "")
}

// resplit cuts a frame into lines of n base64 characters.
func resplit(frame string, n int) string {
	body := strings.TrimSuffix(unsplit(frame)[2:], "\n")
	var b strings.Builder
	mark := "\x06\x09"
	for len(body) > 0 {
		k := min(n, len(body))
		b.WriteString(mark + body[:k] + "\n")
		body, mark = body[k:], "\x04\x14"
	}
	return b.String()
}

// A capture is a conversation with a genuine server; see testdata/README.md.
type capture struct {
	Case    string
	Tx, Rx  string
	Answers []struct {
		Header struct {
			Op, Ver, Group, Seq, ID int
		}
		Payload any
	}
}

func readCaptures(t testing.TB, name string) []capture {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var out []capture
	sc := bufio.NewScanner(z)
	sc.Buffer(nil, 1<<20)
	for n := 0; sc.Scan(); n++ {
		if n == 0 {
			continue // the configuration
		}
		var c capture
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, c)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// Every answer that a genuine server ever gave to the captures decodes to
// what an independent decoder made of it, however its bytes are cut.
func TestDecoderOnCaptures(t *testing.T) {
	files, _ := filepath.Glob("testdata/captures/*.jsonl.gz")
	if len(files) == 0 {
		t.Fatal("no captures")
	}
	c := newCodec()
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			answers := 0
			for _, cp := range readCaptures(t, file) {
				rx, err := hex.DecodeString(cp.Rx)
				if err != nil {
					t.Fatal(err)
				}
				for _, step := range []int{len(rx) + 1, 1, 7} {
					var d Decoder
					i := 0
					for rest := rx; len(rest) > 0; rest = rest[min(step, len(rest)):] {
						d.Feed(rest[:min(step, len(rest))], func(m []byte) {
							h, payload, err := ParseMessage(m)
							if err != nil {
								t.Errorf("%s: %v", cp.Case, err)
								return
							}
							if i >= len(cp.Answers) {
								t.Errorf("%s: more answers than captured", cp.Case)
								return
							}
							want := cp.Answers[i]
							i++
							if int(h.Op) != want.Header.Op || int(h.Version) != want.Header.Ver || int(h.Group) != want.Header.Group ||
								int(h.Sequence) != want.Header.Seq || int(h.Command) != want.Header.ID {
								t.Errorf("%s: header %+v, want %+v", cp.Case, h, want.Header)
							}
							var got any
							if err := c.dec.Unmarshal(payload, &got); err != nil {
								t.Errorf("%s: payload %x: %v", cp.Case, payload, err)
								return
							}
							if d := cmp.Diff(want.Payload, jsonish(got)); d != "" {
								t.Errorf("%s: payload (-captured +ours):\n%s", cp.Case, d)
							}
						}, nil)
					}
					if i != len(cp.Answers) {
						t.Errorf("%s: %d answers found in pieces of %d bytes, %d captured", cp.Case, i, step, len(cp.Answers))
					}
				}
				answers += len(cp.Answers)
			}
			if answers == 0 {
				t.Error("a capture without answers shows nothing")
			}
		})
	}
}

// jsonish turns decoded CBOR into what the captures' JSON holds.
func jsonish(v any) any {
	switch v := v.(type) {
	case map[any]any:
		m := map[string]any{}
		for k, e := range v {
			m[k.(string)] = jsonish(e)
		}
		return m
	case []any:
		out := []any{}
		for _, e := range v {
			out = append(out, jsonish(e))
		}
		return out
	case []byte:
		return map[string]any{"hex": hex.EncodeToString(v)}
	case uint64:
		return float64(v)
	case int64:
		return float64(v)
	}
	return v
}

// Our frames are, byte for byte, those that another implementation sent to
// the genuine servers.
func TestAppendFrameOnCaptures(t *testing.T) {
	same := 0
	for _, cp := range readCaptures(t, "testdata/captures/mcuboot-nordic-default.jsonl.gz") {
		if !strings.HasPrefix(cp.Case, "upload off") && !strings.HasPrefix(cp.Case, "os 1 padded") {
			continue
		}
		tx, _ := hex.DecodeString(cp.Tx)
		var d Decoder
		d.Feed(tx, func(m []byte) {
			same++
			if got := AppendFrame(nil, m); !bytes.Equal(got, tx) {
				t.Errorf("%s: our frame differs:\n%q\n%q", cp.Case, got, tx)
			}
		}, nil)
	}
	if same < 40 {
		t.Errorf("only %d frames compared", same)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte("\x06\x09AAsCAAABAAACBaCnuA==\n"), 3)
	f.Add([]byte("boot\r\n\x06\x09AAsC\n\x04\x14AAAB\n\x04\x14AAACBaCnuA==\n"), 1)
	for _, cp := range readCaptures(f, "testdata/captures/zephyr-4.4-app-microbit.jsonl.gz")[:40] {
		rx, _ := hex.DecodeString(cp.Rx)
		f.Add(rx, 5)
	}
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		step = max(1, step%64)
		var whole, cut []string
		var a, b Decoder
		take := func(out *[]string) func([]byte) {
			return func(m []byte) {
				if len(m) < HeaderSize {
					t.Fatalf("a message of %d bytes came out", len(m))
				}
				*out = append(*out, string(m))
			}
		}
		a.Feed(in, take(&whole), nil)
		for rest := in; len(rest) > 0; rest = rest[min(step, len(rest)):] {
			b.Feed(rest[:min(step, len(rest))], take(&cut), nil)
		}
		if d := cmp.Diff(whole, cut); d != "" {
			t.Fatalf("the result depends on how the bytes were cut:\n%s", d)
		}
		// Whatever went before, a blank line and a good frame get through.
		msg := []byte("\x02\x00\x00\x01\x00\x00\x02\x05\xa0")
		var last []byte
		a.Feed(AppendFrame([]byte("\n"), msg), func(m []byte) { last = append([]byte(nil), m...) }, nil)
		if !bytes.Equal(last, msg) {
			t.Fatal("a good frame after the input was not found")
		}
	})
}
