package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"flashline/configs"
	"flashline/station/line"
)

// TestRecipeBaud: the speed that a recipe names is that of the ports.
func TestRecipeBaud(t *testing.T) {
	dir := t.TempDir()
	config, err := configs.WriteExample(dir)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "sim-recipe.toml")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for want, first := range map[int]string{115200: "", 460800: "baud = 460800\n"} {
		if err := os.WriteFile(name, append([]byte(first), text...), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := load(config, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range f.station.Sites {
			if s.Baud != want {
				t.Errorf("site %d has %d baud, want %d", s.Number, s.Baud, want)
			}
		}
	}
}

// typist types pieces of text with a pause before each.
type typist struct {
	pieces []string
	pause  time.Duration
	end    error
}

func (p *typist) Read(b []byte) (int, error) {
	if len(p.pieces) == 0 {
		return 0, p.end
	}
	time.Sleep(p.pause)
	n := copy(b, p.pieces[0])
	if p.pieces[0] = p.pieces[0][n:]; p.pieces[0] == "" {
		p.pieces = p.pieces[1:]
	}
	return n, nil
}

func TestScan(t *testing.T) {
	long := strings.Repeat("x", 3*maxLabel)
	tests := []struct {
		name     string
		in       *typist
		attended bool
		want     []string // "!" for a problem, "broken" for the last
	}{
		{"lines", &typist{pieces: []string{"A\nB\r\n\n C \n"}, end: io.EOF}, false, []string{"A", "B", "", "C"}},
		{"no newline at the end", &typist{pieces: []string{"A\nB"}, end: io.EOF}, false, []string{"A", "B"}},
		{"over-long line in between", &typist{pieces: []string{"A\n" + long + "\nB\n"}, end: io.EOF}, false, []string{"A", "!", "B"}},
		{"over-long line at the end", &typist{pieces: []string{"A\n" + long}, end: io.EOF}, false, []string{"A", "!"}},
		{"input breaks", &typist{pieces: []string{"A\n"}, end: errors.New("input/output error")}, false, []string{"A", "broken"}},
		{"scanner that types Enter twice", &typist{pieces: []string{"A\n\n", "B\n\n", "\n"}, pause: time.Second, end: io.EOF}, true, []string{"A", "B", ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				for s := range scan(t.Context(), tt.in, tt.attended) {
					switch {
					case s.Broken:
						got = append(got, "broken")
					case s.Problem != "":
						got = append(got, "!")
					default:
						got = append(got, s.Text)
					}
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("scans (-want +got):\n%s", d)
				}
			})
		})
	}
}

// The scanner's labels are not shown while the rows are drawn, and whoever
// uses the terminal next sees what he types.
func TestMuteEcho(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer tty.Close()
	flags := func() uint32 {
		s, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return s.Lflag
	}
	before := flags()
	if before&unix.ECHO == 0 {
		t.Fatal("a new terminal does not echo: the test shows nothing")
	}
	restore, err := muteEcho(tty)
	if err != nil {
		t.Fatal(err)
	}
	if got := flags(); got&unix.ECHO != 0 || got&unix.ICANON == 0 || got&unix.ISIG == 0 {
		t.Errorf("flags %#x: want no echo, and lines and signals as before", got)
	}
	if restore(); flags() != before {
		t.Error("the terminal was not restored")
	}
}

// stuck is a terminal held with Ctrl-S.
type stuck struct{ release chan struct{} }

func (s stuck) Write(b []byte) (int, error) { <-s.release; return len(b), nil }

// A terminal that takes nothing holds neither the line nor the end.
func TestStuckTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := stuck{make(chan struct{})}
		s := newScreen(out)
		start := time.Now()
		for range 10000 {
			s.Event(line.Event{Kind: line.Refused, Text: "no"})
		}
		if time.Since(start) > 0 {
			t.Error("events waited for the terminal")
		}
		s.Close()
		if took := time.Since(start); took != closeTime {
			t.Errorf("Close took %s", took)
		}
		close(out.release)
	})
}
