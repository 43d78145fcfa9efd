package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// foreignClient is an SMP client that others wrote, as its users run it. What
// it has no option for it does as it likes: frames, versions, sizes, timeouts.
type foreignClient struct {
	name string // of the program
	env  string // variable with the path of the program, if it is not on PATH
	from string // where the program can be had
	// inRegistry is false for a program that can only be built from its
	// repository: nothing that installs from registries can be asked to have it.
	inRegistry bool

	version, list, reset []string
	// port comes before every command but version, upload before the file.
	port   func(path, baud string) []string
	upload []string
}

func foreignClients() []foreignClient {
	return []foreignClient{{
		name: "smpmgr", env: "FLASHLINE_SMPMGR", from: "pip install smpmgr", inRegistry: true,
		version: []string{"--version"},
		port:    func(path, baud string) []string { return []string{"--port", path, "--baudrate", baud} },
		list:    []string{"image", "state-read"},
		upload:  []string{"image", "upload"},
		reset:   []string{"os", "reset"},
	}, {
		name: "mcumgrctl", env: "FLASHLINE_MCUMGRCTL", from: "cargo install --no-default-features mcumgrctl", inRegistry: true,
		version: []string{"--version"},
		port:    func(path, baud string) []string { return []string{"--serial", path, "--baud", baud} },
		list:    []string{"--json", "image", "get-state"}, // it prints nothing without --json
		upload:  []string{"--quiet", "image", "upload"},
		reset:   []string{"os", "system-reset"},
	}, {
		name: "mcumgr-client", env: "FLASHLINE_MCUMGR_CLIENT", from: "cargo build in its repository, vouch-opensource/mcumgr-client",
		version: []string{"--version"},
		port:    func(path, baud string) []string { return []string{"--device", path, "--baudrate", baud} },
		list:    []string{"list"},
		// Its default is slot 1, which a bootloader without direct upload
		// refuses with rc 3, and so does the simulator.
		upload: []string{"upload", "--slot", "0"},
		reset:  []string{"reset"},
	}}
}

// blinkyHash is the SHA-256 TLV in configs/blinky-1.0.0.bin: what a board that
// holds the image must report.
const blinkyHash = "e5c0e0c37320a5e6cffe0858f88694e64b44b4871b8565aa3d8ed669b3cce745"

// TestForeignClients has programs that know nothing of flashline flash boards
// of "station simulate": where they succeed, it is not because the simulator
// and our own client share a mistake.
func TestForeignClients(t *testing.T) {
	dir := t.TempDir()
	station := "" // not built if there is no client
	for _, c := range foreignClients() {
		t.Run(c.name, func(t *testing.T) {
			program := c.find(t)
			if station == "" {
				station = buildStation(t, dir)
			}
			t.Log(lastLine(c.run(t, program, c.version...)))
			for _, b := range []foreignBoard{
				{name: "stock", baud: "1000000"},
				{name: "params", baud: "1000000", options: []string{"--params"}},
				{name: "slow wire", baud: "115200"},
				{name: "slow flash", baud: "1000000", options: []string{"--part", "STM32F4"}, sticky: true},
			} {
				t.Run(b.name, func(t *testing.T) { c.flash(t, program, station, b) })
			}
		})
	}
}

// foreignBoard is what a foreign client has to cope with.
type foreignBoard struct {
	name, baud string
	options    []string // of station simulate
	// sticky says that the part looks at its recovery pin after every reset,
	// and so returns to recovery from a reset for as long as the pin is held.
	sticky bool
}

// flash flashes the second board of two.
func (c foreignClient) flash(t *testing.T, program, station string, b foreignBoard) {
	const image, key = "../configs/blinky-1.0.0.bin", "../configs/blinky.pub.pem"
	sim := startSimulator(t, station, append([]string{"--boards", "2", "--key", key, "--baud", b.baud}, b.options...)...)
	do := func(args ...string) string {
		t.Helper()
		return c.run(t, program, append(c.port(sim.ports[1], b.baud), args...)...)
	}
	// A board that still starts hears nothing, and not every client asks twice.
	sim.await(1, "recovery")
	sim.await(2, "recovery")

	if out := do(c.list...); strings.Contains(strings.ToLower(out), blinkyHash) {
		t.Fatalf("the board lists the image before it was sent:\n%s", out)
	}
	do(append(c.upload, image)...)
	if out := do(c.list...); !strings.Contains(strings.ToLower(out), blinkyHash) {
		t.Fatalf("the list after the upload does not have the hash %s:\n%s", blinkyHash, out)
	}
	if got := sim.state(2); got != "recovery" {
		t.Errorf("before the reset the board is in state %q, want recovery", got)
	}
	do(c.reset...)
	// MCUboot resets 250 ms after its answer.
	if b.sticky {
		sim.say("boot 2") // with the pin released
	}
	sim.await(2, "application")
	if got := sim.state(1); got != "recovery" {
		t.Errorf("the board beside it is in state %q, want recovery: it was not touched", got)
	}
}

// find is the path of the program. Without it the test is skipped; it fails if
// all that can be installed was said to be there, with FLASHLINE_REQUIRE_TOOLS=1.
func (c foreignClient) find(t *testing.T) string {
	t.Helper()
	program := os.Getenv(c.env)
	if program == "" {
		program = c.name
	}
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	missing := fmt.Sprintf("%s was not run against the simulator, %v: get it with %q and give its path in %s", c.name, err, c.from, c.env)
	// A path that was given and is wrong is never a reason to skip.
	if os.Getenv(c.env) != "" || c.inRegistry && os.Getenv("FLASHLINE_REQUIRE_TOOLS") == "1" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// run runs the program to its end and returns all it printed.
func (c foreignClient) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "COLUMNS=200") // or a hash may be broken in two
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not end: %w", ctx.Err())
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", c.name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func buildStation(t *testing.T, dir string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // sqlite may have to be compiled
	defer cancel()
	program := filepath.Join(dir, "station")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// simulator is a "station simulate" that runs until the test ends.
type simulator struct {
	t     *testing.T
	ports []string // of the boards in order
	in    io.Writer
	out   *bufio.Scanner
}

// startSimulator returns when the boards are there.
func startSimulator(t *testing.T, station string, options ...string) *simulator {
	t.Helper()
	// Not the test's context: that ends before the clean-up, which wants to
	// see the simulator end in order.
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	dir := t.TempDir()
	cmd := exec.CommandContext(ctx, station, append([]string{"simulate", "--dir", dir}, options...)...)
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = 5 * time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer cancel()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("station simulate did not live as long as the test: %v", err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("station simulate: %v", err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("station simulate ended and left %v behind", left)
		}
	})
	s := &simulator{t: t, in: in, out: bufio.NewScanner(out)}
	for n := 1; n <= 2; n++ {
		s.ports = append(s.ports, s.line())
	}
	return s
}

// line is the next line the simulator prints. It waits no longer than the
// simulator may live.
func (s *simulator) line() string {
	s.t.Helper()
	if !s.out.Scan() {
		s.t.Fatalf("station simulate printed no more: %v", s.out.Err())
	}
	return s.out.Text()
}

// state asks what board n, counted from 1, is doing.
func (s *simulator) state(n int) string {
	s.t.Helper()
	s.say(fmt.Sprintf("state %d", n))
	return s.line()
}

func (s *simulator) say(command string) {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in, command); err != nil {
		s.t.Fatal(err)
	}
}

// await waits until board n is in a state.
func (s *simulator) await(n int, want string) {
	s.t.Helper()
	late := time.After(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		got := s.state(n)
		if got == want {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			s.t.Fatalf("board %d is in state %q, want %q", n, got, want)
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
