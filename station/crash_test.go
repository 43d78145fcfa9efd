package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"flashline/records"
)

// process is the station in a process of its own.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex
	out  bytes.Buffer
	more chan struct{} // closed with every line, and made anew
}

// startStation runs the station and calls each for every line it prints.
func startStation(t *testing.T, each func(line string), args ...string) *process {
	t.Helper()
	// The test binary is the station when it is called by that name.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "station")
	if err := os.Symlink(self, name); err != nil {
		t.Fatal(err)
	}
	return startProgram(t, nil, each, name, args...)
}

// startProgram is startStation for any program, with something to read.
func startProgram(t *testing.T, in io.Reader, each func(line string), name string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	p := &process{t: t, cmd: exec.CommandContext(ctx, name, args...), done: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Stdin = in
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		defer cancel()
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			p.mu.Lock()
			p.out.WriteString(sc.Text() + "\n")
			close(p.more)
			p.more = make(chan struct{})
			p.mu.Unlock()
			if each != nil {
				each(sc.Text())
			}
		}
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// wait returns what was printed and the exit code, -1 for a signal.
func (p *process) wait() (string, int) {
	<-p.done
	return p.out.String(), p.cmd.ProcessState.ExitCode()
}

// await waits until the program has said something.
func (p *process) await(text string) {
	p.t.Helper()
	for ended := false; ; {
		p.mu.Lock()
		said, more := p.out.String(), p.more
		p.mu.Unlock()
		if strings.Contains(said, text) {
			return
		}
		if ended {
			p.t.Fatalf("it never said %q:\n%s", text, said)
		}
		select {
		case <-more:
		case <-p.done:
			ended = true // what it said last counts
		}
	}
}

func (p *process) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

func readRecords(t *testing.T, db string) []records.Record {
	t.Helper()
	r, err := records.OpenReadOnly(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []records.Record
	for rec, err := range r.Attempts(t.Context(), records.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

var passLine = regexp.MustCompile(`site \d+  (FL-\d+)  PASS `)

// passes are the units that a screen log shows as passed.
func passes(log string) (out []string) {
	for _, m := range passLine.FindAllStringSubmatch(log, -1) {
		out = append(out, m[1])
	}
	return out
}

// Killed at various moments, the station has lost nothing: every PASS that was
// on the screen is on file, what was cut off is INTERRUPTED at the next start,
// and the order goes on where it was.
func TestKilled(t *testing.T) {
	for _, after := range []string{"attempt 1", "upload 2", "verify", "PASS"} {
		t.Run(after, func(t *testing.T) {
			t.Parallel()
			db := filepath.Join(t.TempDir(), "k.db")
			args := []string{"demo", "--units", "6", "--sites", "3", "--baud", "1000000", "--db", db, "--order", "WO"}
			var p *process
			started := make(chan struct{})
			n := 0
			p = startStation(t, func(l string) {
				if strings.Contains(l, after) {
					if n++; n == 2 {
						<-started
						p.signal(syscall.SIGKILL)
					}
				}
			}, args...)
			close(started)
			log, code := p.wait()
			if code != -1 {
				t.Fatalf("the station ended by itself with %d:\n%s", code, log)
			}
			running := 0
			for _, rec := range readRecords(t, db) {
				if rec.Outcome() == records.Running {
					running++
				}
			}
			if running == 0 {
				t.Error("killed in the middle, and no attempt was open")
			}

			second := startStation(t, nil, args...)
			log2, code := second.wait()
			if code != exitPassed {
				t.Fatalf("the second run ended with %d:\n%s", code, log2)
			}
			if got := strings.Count(log2, "INTERRUPTED: "); got != running {
				t.Errorf("%d attempts were cut off, %d are told:\n%s", running, got, log2)
			}
			byUnit := map[string][]string{}
			for i, rec := range readRecords(t, db) {
				if rec.Seq != int64(i+1) {
					t.Errorf("attempt %d has seq %d", i+1, rec.Seq)
				}
				byUnit[rec.UnitSerial] = append(byUnit[rec.UnitSerial], string(rec.Outcome()))
				if rec.Outcome() == records.Pass && rec.Result.DeviceHash != rec.ImageHash {
					t.Errorf("%s passed with device hash %q", rec.UnitSerial, rec.Result.DeviceHash)
				}
			}
			for n := 1; n <= 6; n++ {
				serial := fmt.Sprintf("FL-%06d", n)
				got := byUnit[serial]
				if len(got) == 0 || got[len(got)-1] != "PASS" {
					t.Errorf("%s ended %v", serial, got)
				}
			}
			for _, serial := range passes(log) {
				if got := byUnit[serial]; len(got) != 1 || got[0] != "PASS" {
					t.Errorf("%s was shown as PASS before the kill, and is on file as %v", serial, got)
				}
			}
		})
	}
}

func TestSignals(t *testing.T) {
	tests := []struct {
		name    string
		signals []syscall.Signal
		allowed []records.Outcome
		least   int // units that must have passed
	}{
		{"Ctrl-C once finishes what runs", []syscall.Signal{syscall.SIGINT}, []records.Outcome{records.Pass}, 3},
		{"Ctrl-C twice aborts", []syscall.Signal{syscall.SIGINT, syscall.SIGINT}, []records.Outcome{records.Pass, records.Aborted}, 0},
		{"SIGTERM aborts", []syscall.Signal{syscall.SIGTERM}, []records.Outcome{records.Pass, records.Aborted}, 0},
		{"Ctrl-\\ aborts", []syscall.Signal{syscall.SIGQUIT}, []records.Outcome{records.Pass, records.Aborted}, 0},
		{"SIGHUP aborts", []syscall.Signal{syscall.SIGHUP}, []records.Outcome{records.Pass, records.Aborted}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			db := filepath.Join(t.TempDir(), "s.db")
			p := startStation(t, nil, "demo", "--units", "9", "--sites", "3", "--db", db, "--order", "WO")
			p.await("upload 1")
			for n, s := range tt.signals {
				if n > 0 {
					p.await("Stopping:") // two signals at once would be one
				}
				p.signal(s)
			}
			log, code := p.wait()
			if code != exitFailed {
				t.Errorf("exit code %d:\n%s", code, log)
			}
			recs := readRecords(t, db)
			if len(recs) != 3 {
				t.Errorf("%d attempts, want the three that ran", len(recs))
			}
			passed, aborted := 0, 0
			for _, rec := range recs {
				ok := false
				for _, o := range tt.allowed {
					ok = ok || rec.Outcome() == o
				}
				if !ok {
					t.Errorf("%s ended %s", rec.UnitSerial, rec.Outcome())
				}
				switch rec.Outcome() {
				case records.Pass:
					passed++
				case records.Aborted:
					aborted++
				}
			}
			if passed < tt.least || tt.least == 0 && aborted == 0 {
				t.Errorf("%d passed, %d aborted:\n%s", passed, aborted, log)
			}
		})
	}
}

// Whoever reads the output may go away in mid-order: the order is finished
// all the same.
func TestOutputGoesAway(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "p.db")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "station")
	if err := os.Symlink(self, name); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), name, "demo", "--units", "2", "--sites", "2", "--baud", "1000000", "--db", db)
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.Read(make([]byte, 10))
	r.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the station ended with %v", err)
	}
	recs := readRecords(t, db)
	if len(recs) != 2 || recs[0].Outcome() != records.Pass || recs[1].Outcome() != records.Pass {
		t.Errorf("%d records", len(recs))
	}
}

// The whole program in this process: what it started has ended.
func TestNothingLeftBehind(t *testing.T) {
	var out, errs bytes.Buffer
	code := run([]string{"demo", "--units", "3", "--sites", "2", "--baud", "1000000", "--fault", "wrong-key", "--db", filepath.Join(t.TempDir(), "d.db")}, nil, &out, &errs)
	if code != exitFailed {
		t.Errorf("exit code %d:\n%s%s", code, out.String(), errs.String())
	}
	goleak.VerifyNone(t)
}
