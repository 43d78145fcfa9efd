package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/host/v3/gpioioctl"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/smp/mcuboot"
)

// insideKernel is set in the environment of the test inside the kernel.
const insideKernel = "FLASHLINE_INSIDE"

// insideEnded begins the line that says how the test inside ended.
const insideEnded = "FLASHLINE_ENDED "

// isInit tells whether this is the first process of a kernel.
func isInit() bool { return os.Getpid() == 1 && os.Args[0] == "/init" }

// runInit makes the kernel usable, runs the test inside and ends the machine.
func runInit() {
	verdict := "well"
	if err := initMain(); err != nil {
		verdict = err.Error()
	}
	fmt.Println(insideEnded + verdict)
	unix.Sync()
	// qemu is told not to restart: it ends.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func initMain() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"devpts", "/dev/pts"}, {"tmpfs", "/tmp"},
		{"tracefs", "/sys/kernel/tracing"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		options := ""
		if m.kind == "devpts" {
			options = "mode=620,ptmxmode=666"
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, options); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	for _, name := range []string{"/configfs.ko", "/gpio-sim.ko"} {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		f.Close()
	}
	if err := unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""); err != nil {
		return fmt.Errorf("mount configfs: %w", err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestKernel$", "-test.v")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.Env = append(os.Environ(), insideKernel+"=1", "PATH=/", "HOME=/tmp", "TMPDIR=/tmp")
	return cmd.Run()
}

// lead is a line of the chip and what it is soldered to.
type lead struct {
	name string
	cfg  configs.Output
	// up is the level of its safe state, and where the resistor at its far end
	// pulls to.
	up bool
	// feel is told what the far end sees, true for at work. nil for a lamp.
	feel func(active bool) error

	// What the chip was told last.
	driven, level bool
	active        bool // the far end's view
}

// see is the level on the wire.
func (w *lead) see() bool {
	if w.driven {
		return w.level
	}
	return w.up
}

// edge is a change at the far end of a wire.
type edge struct {
	at     time.Duration // on the kernel's monotonic clock
	wire   *lead
	active bool
}

func (e edge) String() string {
	if e.wire == nil {
		return "never moved"
	}
	to := "rests"
	if e.active {
		to = "works"
	}
	return fmt.Sprintf("%12.6f %s %s", e.at.Seconds(), e.wire.name, to)
}

// farSide is the chip, the boards behind its lines, and what the chip's driver was
// told. The kernel's tracer notes that at the driver's own functions: nothing that
// was done to a line is missed, however short it was.
type farSide struct {
	t      *testing.T // for what fails on the way
	sys    string     // folder of the chip in sysfs
	wires  []*lead
	boards *sim.Bench
	pipe   *os.File
	ended  chan struct{}

	mu sync.Mutex
	// letsGo tells what the chip makes of a line that nobody holds any more: an
	// input. A chip that does not drives it on.
	letsGo bool
	edges  []edge
	marks  map[string]chan struct{}
}

const (
	sites   = 4
	tracing = "/sys/kernel/tracing/"
	// lid is the line of the start interlock.
	lid = "LID"
)

// wiring is every kind of line: as the README wants it at site 1, and at the
// others what else a fixture may have.
func wiring() []*lead {
	od := configs.Output{ActiveLow: true, OpenDrain: true}
	low, high := configs.Output{ActiveLow: true}, configs.Output{}
	return []*lead{
		{name: "S1_POWER", cfg: high}, {name: "S1_RECOVERY", cfg: od, up: true}, {name: "S1_RESET", cfg: od, up: true},
		{name: "S2_POWER", cfg: low, up: true}, {name: "S2_RECOVERY", cfg: od, up: true},
		{name: "S3_POWER", cfg: high}, {name: "S3_RECOVERY", cfg: low, up: true},
		{name: "S4_POWER", cfg: high}, {name: "S4_RECOVERY", cfg: high}, // through a transistor
		{name: "S1_PASS", cfg: high}, {name: "S1_FAIL", cfg: low, up: true},
	}
}

// newFarSide makes the chip, and follows what its driver is called for from then
// on.
func newFarSide(t *testing.T) *farSide {
	t.Helper()
	b := &farSide{t: t, wires: wiring(), marks: map[string]chan struct{}{}, ended: make(chan struct{})}
	write := func(name, text string) {
		t.Helper()
		// Not created: these are files of the kernel.
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mkdir := func(name string) {
		t.Helper()
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	device := "/sys/kernel/config/gpio-sim/fixture"
	mkdir(device)
	mkdir(device + "/bank")
	write(device+"/bank/num_lines", strconv.Itoa(len(b.wires)+1))
	name := func(n int, name string) {
		line := fmt.Sprintf("%s/bank/line%d", device, n)
		mkdir(line)
		write(line+"/name", name)
	}
	for n, w := range b.wires {
		name(n, w.name)
	}
	name(len(b.wires), lid)
	write(device+"/live", "1")
	found, err := filepath.Glob("/sys/devices/platform/gpio-sim.*/gpiochip*")
	if err != nil || len(found) != 1 {
		t.Fatalf("chips %v, %v", found, err)
	}
	b.sys = found[0]

	// At the entry of the functions that gpiolib calls; the arguments are in the
	// registers that the ABI says.
	write(tracing+"kprobe_events", `
p:chip/output gpio_sim:gpio_sim_direction_output line=%si:u32 value=%dx:s32
p:chip/input gpio_sim:gpio_sim_direction_input line=%si:u32
p:chip/set gpio_sim:gpio_sim_set line=%si:u32 value=%dx:s32
p:chip/several gpio_sim:gpio_sim_set_multiple mask=+0(%si):x64 bits=+0(%dx):x64
p:chip/config gpio_sim:gpio_sim_set_config line=%si:u32 config=%dx:u64
p:chip/free gpio_sim:gpio_sim_free line=%si:u32
`)
	write(tracing+"trace_clock", "mono")
	write(tracing+"buffer_percent", "0")
	write(tracing+"events/chip/enable", "1")
	if b.pipe, err = os.Open(tracing + "trace_pipe"); err != nil {
		t.Fatal(err)
	}
	go b.follow()
	t.Cleanup(func() {
		b.pipe.Close()
		<-b.ended
	})
	return b
}

// setPull sets the chip's pull of a line, as its bias does.
func (b *farSide) setPull(n int, up bool) {
	b.t.Helper()
	text := "pull-down"
	if up {
		text = "pull-up"
	}
	if err := os.WriteFile(fmt.Sprintf("%s/sim_gpio%d/pull", b.sys, n), []byte(text), 0); err != nil {
		b.t.Fatal(err)
	}
}

// pull is the chip's pull of a line.
func (b *farSide) pull(n int) (up bool) {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("%s/sim_gpio%d/pull", b.sys, n))
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(string(text)) == "pull-up"
}

// value is the level of a line as the chip has it.
func (b *farSide) value(n int) bool {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("%s/sim_gpio%d/value", b.sys, n))
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(string(text)) == "1"
}

var (
	tracedCall = regexp.MustCompile(`\s(\d+\.\d+): (\w+): \(.*?\)(.*)$`)
	tracedMark = regexp.MustCompile(`: tracing_mark_write: (.*)$`)
	tracedWord = regexp.MustCompile(`(\w+)=(\S+)`)
)

// follow reads the trace and passes on what it tells.
func (b *farSide) follow() {
	defer close(b.ended)
	for sc := bufio.NewScanner(b.pipe); sc.Scan(); {
		line := sc.Text()
		b.mu.Lock()
		if m := tracedMark.FindStringSubmatch(line); m != nil {
			if c := b.marks[m[1]]; c != nil {
				close(c)
				delete(b.marks, m[1])
			}
		} else if m := tracedCall.FindStringSubmatch(line); m != nil {
			at, err := time.ParseDuration(m[1] + "s")
			if err != nil {
				b.t.Error(err)
			}
			b.heard(at, m[2], m[3])
		} else {
			b.t.Errorf("the trace says %q", line)
		}
		b.mu.Unlock()
	}
}

// heard takes a call of the chip's driver; mu is held.
func (b *farSide) heard(at time.Duration, call, rest string) {
	args := map[string]uint64{}
	for _, m := range tracedWord.FindAllStringSubmatch(rest, -1) {
		v, err := strconv.ParseUint(m[2], 0, 64)
		if err != nil {
			b.t.Errorf("%s: %v", rest, err)
		}
		args[m[1]] = v
	}
	if call == "several" {
		for n, w := range b.wires {
			if args["mask"]>>n&1 == 1 {
				w.level = args["bits"]>>n&1 == 1
				b.felt(at, w)
			}
		}
		return
	}
	if int(args["line"]) >= len(b.wires) {
		return // an input
	}
	w := b.wires[args["line"]]
	switch call {
	case "output":
		w.driven, w.level = true, args["value"] != 0
	case "set":
		w.level = args["value"] != 0
	case "input":
		w.driven = false
	case "free":
		w.driven = w.driven && !b.letsGo
	case "config":
	default:
		b.t.Errorf("the driver was called for %q", call)
	}
	b.felt(at, w)
}

// felt lets the far end see a change, if it is one; mu is held.
func (b *farSide) felt(at time.Duration, w *lead) {
	active := w.see() != w.cfg.ActiveLow
	if active == w.active {
		return
	}
	w.active = active
	b.edges = append(b.edges, edge{at, w, active})
	if w.feel != nil {
		if err := w.feel(active); err != nil {
			b.t.Errorf("%s: %v", w.name, err)
		}
	}
}

// sync returns when all that has happened so far is known here.
func (b *farSide) sync() {
	b.t.Helper()
	seen := make(chan struct{})
	b.mu.Lock()
	mark := fmt.Sprintf("mark %d", time.Now().UnixNano())
	b.marks[mark] = seen
	b.mu.Unlock()
	if err := os.WriteFile(tracing+"trace_marker", []byte(mark), 0); err != nil {
		b.t.Fatal(err)
	}
	select {
	case <-seen:
	case <-time.After(10 * time.Second):
		b.t.Fatal("the trace does not come")
	}
}

// take returns what happened so far and forgets it.
func (b *farSide) take() (edges []edge) {
	b.t.Helper()
	b.sync()
	b.mu.Lock()
	defer b.mu.Unlock()
	edges, b.edges = b.edges, nil
	return edges
}

// What the station file says, and tests compute with.
const (
	settleTime = 100 * time.Millisecond
	offTime    = 400 * time.Millisecond
	turnTime   = 200 * time.Millisecond
	holdCap    = 3 * time.Second
	resetPulse = 60 * time.Millisecond
	// slack is what the tracer's clock may differ from the station's.
	slack = 5 * time.Millisecond
)

// fitting is what is put into the sites, and how the station shall work it.
type fitting struct {
	baud  int
	start string // what the station file says under [start]
	dead  int    // the site with a board that says nothing, if any
	// scenario names one of the demo's, whose boards and recipe are taken in the
	// place of the demo's usual ones.
	scenario string
}

// fit puts new boards into the sites and writes the station's files for them.
func (b *farSide) fit(t *testing.T, l fitting) (config string) {
	t.Helper()
	b.take() // what a test that failed has left
	dir := t.TempDir()
	if _, err := configs.WriteExample(dir); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(dir, "blinky.pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := mcuboot.LoadPublicKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	options := sim.Options{Key: key.Public()}
	recipe := "recipe.toml"
	if l.scenario != "" {
		if options, recipe, err = scenarioOptions(dir, l.scenario); err != nil {
			t.Fatal(err)
		}
	}
	boards, err := sim.NewBench(dir, sites, func(n int) sim.Options {
		o := options
		if o.Baud, o.Seed = l.baud, uint64(n); n == l.dead {
			o.Fault.Kind = sim.FaultSilent
		}
		return o
	})
	if err != nil {
		t.Fatal(err)
	}
	for n, w := range b.wires {
		// The wrong way, so that it is seen whether the station asks for another.
		// A line that lets go gets none: this is the board's resistor then.
		b.setPull(n, w.up == w.cfg.OpenDrain)
	}
	b.setPull(len(b.wires), false)
	b.mu.Lock()
	b.boards = boards
	for _, w := range b.wires {
		site, role, _ := strings.Cut(w.name, "_")
		var n int
		fmt.Sscanf(site, "S%d", &n)
		switch board := boards.Board(n); role {
		case "POWER":
			w.feel = func(on bool) error { return board.Power().Out(gpio.Level(on)) }
		case "RECOVERY":
			w.feel = func(on bool) error { return pullLow(board.Recovery(), on) }
		case "RESET":
			w.feel = func(on bool) error { return pullLow(board.Reset(), on) }
		}
	}
	b.mu.Unlock()
	t.Cleanup(func() {
		b.mu.Lock()
		for _, w := range b.wires {
			w.feel = nil
		}
		b.mu.Unlock()
		if err := boards.Close(); err != nil {
			t.Error(err)
		}
	})

	var st strings.Builder
	fmt.Fprintf(&st, "station = \"kernel\"\nfixture = \"FX-K\"\nrecords = \"k.db\"\nrecipe = %q\n[start]\n%s\n", recipe, l.start)
	fmt.Fprintf(&st, "[timings]\npower_off = \"%v\"\nsettle = \"%v\"\nstagger = \"%v\"\nreset_pulse = \"%v\"\nhold_cap = \"%v\"\n", offTime, settleTime, turnTime, resetPulse, holdCap)
	fmt.Fprintf(&st, "[port]\nbaud = %d\n", l.baud)
	for n := 1; n <= sites; n++ {
		fmt.Fprintf(&st, "[[site]]\nnumber = %d\nport = \"%s/board%d\"\n", n, dir, n)
		for _, w := range b.wires {
			role, mine := strings.CutPrefix(w.name, fmt.Sprintf("S%d_", n))
			if !mine {
				continue
			}
			key := strings.ToLower(role)
			if role == "PASS" || role == "FAIL" {
				key = "lamp_" + key
			}
			fmt.Fprintf(&st, "%s = { pin = \"%s\", active_low = %t, open_drain = %t }\n", key, w.name, w.cfg.ActiveLow, w.cfg.OpenDrain)
		}
	}
	usual, err := os.ReadFile(filepath.Join(dir, "sim-recipe.toml"))
	if err != nil {
		t.Fatal(err)
	}
	// The second unit of a site is the first board again.
	usual = bytes.Replace(usual, []byte("[[image]]\n"), []byte("[[image]]\nrewrite = true\n"), 1)
	// An emulated processor that others keep busy may take its time.
	usual = bytes.Replace(usual, []byte(`chunk = "1s"`), []byte(`chunk = "5s"`), 1)
	config = filepath.Join(dir, "station.toml")
	for name, text := range map[string][]byte{config: []byte(st.String()), filepath.Join(dir, "recipe.toml"): usual} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config
}

// scenarioOptions are the boards of a scenario of the demo, and its recipe.
func scenarioOptions(dir, name string) (o sim.Options, recipe string, err error) {
	all := scenarios()
	s := all[slices.IndexFunc(all, func(s scenario) bool { return s.name == name })].complete()
	keys, err := newForge()
	if err != nil {
		return o, "", err
	}
	dir = filepath.Join(dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return o, "", err
	}
	if _, _, err := s.files(dir, keys); err != nil {
		return o, "", err
	}
	o = s.board
	o.Key = keys.trusted.Public()
	o.Contents, err = keys.contents(s.board, s.slots)
	return o, filepath.Join(dir, "recipe.toml"), err
}

func pullLow(p *sim.Pin, on bool) error {
	if on {
		return p.Out(gpio.Low)
	}
	return p.In(gpio.Float, gpio.NoEdge)
}

// labels are the serials of units from n, a line each.
func labels(n, count int) string {
	var s strings.Builder
	for i := range count {
		fmt.Fprintf(&s, "FL-%06d\n", n+i)
	}
	return s.String()
}

// lineFlags are what the kernel says of a line, as gpioinfo shows it.
func (b *farSide) lineFlags(t *testing.T, name string) (flags uint64, consumer string) {
	t.Helper()
	chip, err := os.Open("/dev/" + filepath.Base(b.sys))
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	for n := range len(b.wires) + 1 {
		// struct gpio_v2_line_info of linux/gpio.h.
		var info [256]byte
		binary.LittleEndian.PutUint32(info[64:], uint32(n))
		const getLineInfo = 0xc100b405 // GPIO_V2_GET_LINEINFO_IOCTL
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, chip.Fd(), getLineInfo, uintptr(unsafe.Pointer(&info))); errno != 0 {
			t.Fatal(errno)
		}
		if string(bytes.TrimRight(info[:32], "\x00")) == name {
			return binary.LittleEndian.Uint64(info[72:]), string(bytes.TrimRight(info[32:64], "\x00"))
		}
	}
	t.Fatalf("no line %s", name)
	return 0, ""
}

// flagNames are those of enum gpio_v2_line_flag, from bit 0.
var flagNames = []string{"used", "active-low", "input", "output", "rising", "falling", "open-drain", "open-source", "pull-up", "pull-down", "no-bias"}

// requested checks how the station asked for a line.
func (b *farSide) requested(t *testing.T, line, want string, p *process) {
	t.Helper()
	flags, consumer := b.lineFlags(t, line)
	if got := flagWords(flags); got != want {
		t.Errorf("%s was asked for as %q, want %q", line, got, want)
	}
	if want := fmt.Sprintf("flashline@%d", p.cmd.Process.Pid); consumer != want {
		t.Errorf("%s is held by %q, want %q", line, consumer, want)
	}
}

// agrees checks that the chip has the levels that the trace says, so that what is
// concluded from the trace is true. A line may be on the move: it gets time.
func (b *farSide) agrees(t *testing.T) {
	t.Helper()
	for n, w := range b.wires {
		for try := 1; ; try++ {
			b.sync()
			b.mu.Lock()
			driven, level := w.driven, w.level
			b.mu.Unlock()
			if !driven || b.value(n) == level {
				break
			}
			if try == 10 {
				t.Errorf("%s is not %v, as the trace says", w.name, level)
				break
			}
		}
	}
}

func flagWords(flags uint64) string {
	var words []string
	for n, name := range flagNames {
		if flags>>n&1 == 1 {
			words = append(words, name)
		}
	}
	return strings.Join(words, " ")
}

// rests checks that every line is safe, as the chip itself has it, and that
// nobody holds it.
func (b *farSide) rests(t *testing.T) {
	t.Helper()
	b.sync()
	for n, w := range b.wires {
		if got := b.value(n); got != w.up {
			t.Errorf("%s is %v after all", w.name, got)
		}
		if flags, consumer := b.lineFlags(t, w.name); flags&1 != 0 {
			t.Errorf("%s is still held by %q", w.name, consumer)
		}
	}
	for n := 1; n <= sites; n++ {
		if s := b.boards.Board(n).State(); s != sim.StateOff {
			t.Errorf("board %d is %v", n, s)
		}
	}
}

// judge checks what must hold whatever happens with an entry by the recovery pin,
// and returns how often each line was at work.
func judge(t *testing.T, edges []edge) (worked map[string]int) {
	t.Helper()
	worked = map[string]int{}
	last := map[string]edge{}
	on := func(name string) bool { return last[name].active }
	powered := time.Duration(-time.Hour)
	for _, e := range edges {
		name := e.wire.name
		site, role, _ := strings.Cut(name, "_")
		before, moved := last[name]
		lamp := role == "PASS" || role == "FAIL"
		// A lamp goes out as soon as the next unit is loaded, which takes nobody's
		// time here.
		if held := e.at - before.at; moved && !lamp && held < resetPulse-slack {
			t.Errorf("%v: a glitch of %v", e, held)
		}
		recovery := last[site+"_RECOVERY"]
		switch {
		case role == "POWER" && e.active:
			if !recovery.active || e.at-recovery.at < settleTime-slack {
				t.Errorf("%v with recovery at %v", e, recovery)
			}
			if moved && e.at-before.at < offTime-slack {
				t.Errorf("%v, %v after power off", e, e.at-before.at)
			}
			if e.at-powered < turnTime-slack {
				t.Errorf("%v, %v after another site", e, e.at-powered)
			}
			powered = e.at
		case role == "RECOVERY" && e.active && on(site+"_POWER"):
			t.Errorf("%v though the board has power", e)
		case lamp && e.active && on(site+"_PASS") && on(site+"_FAIL"):
			t.Errorf("%v: both lamps", e)
		}
		if e.active {
			worked[name]++
		}
		last[name] = e
	}
	for name, e := range last {
		if e.active {
			t.Errorf("%s was left at work: %v", name, e)
		}
	}
	if t.Failed() {
		for _, e := range edges {
			t.Log(e)
		}
	}
	return worked
}

// start runs the station on an order of so many units, whose labels are scanned
// from in, and returns when it first says what is waited for.
func (b *farSide) start(t *testing.T, config string, units int, in io.Reader, until string) *process {
	t.Helper()
	p := startProgram(t, in, nil, "/station", "run", "--config", config, "--order", "WO-1", "--quantity", strconv.Itoa(units))
	p.await(until)
	return p
}

// outcomes are those of the records of a station, in their order.
func outcomes(t *testing.T, config string) (out []string) {
	t.Helper()
	for _, r := range readRecords(t, filepath.Join(filepath.Dir(config), "k.db")) {
		out = append(out, string(r.Outcome()))
	}
	slices.Sort(out)
	return out
}

// halfway is said when an upload is half done.
const halfway = "upload 1"

// testInside is TestKernel inside the kernel.
func testInside(t *testing.T) {
	b := newFarSide(t)
	t.Run("batch", b.testBatch)
	t.Run("dead board and lid", b.testDeadBoard)
	t.Run("application", b.testApplication)
	for _, tt := range []struct {
		name    string
		signals []syscall.Signal
		want    string // the outcome of all
	}{
		{"Ctrl-C", []syscall.Signal{syscall.SIGINT}, "PASS"},
		{"Ctrl-C twice", []syscall.Signal{syscall.SIGINT, syscall.SIGINT}, "ABORTED"},
		{"SIGTERM", []syscall.Signal{syscall.SIGTERM}, "ABORTED"},
		{"SIGHUP", []syscall.Signal{syscall.SIGHUP}, "ABORTED"},
	} {
		t.Run(tt.name, func(t *testing.T) { b.testSignals(t, tt.signals, tt.want) })
	}
	t.Run("kill -9", func(t *testing.T) { b.testKilled(t, false) })
	t.Run("kill -9 on a chip that lets go", func(t *testing.T) { b.testKilled(t, true) })
	t.Run("full disk", b.testFullDisk)
	t.Run("a line that another program has", b.testTaken)
}

// Two units at each site: every line does what is meant, and nothing else.
func (b *farSide) testBatch(t *testing.T) {
	config := b.fit(t, fitting{baud: 1_000_000})
	p := b.start(t, config, 2*sites, strings.NewReader(labels(1, 2*sites)), halfway)
	for n, w := range b.wires {
		want := "used output pull-down"
		if w.cfg.ActiveLow {
			want = "used active-low output pull-up"
		}
		if w.cfg.OpenDrain {
			want = "used active-low output open-drain no-bias"
		}
		b.requested(t, w.name, want, p)
		if up := b.pull(n); up != w.up {
			t.Errorf("%s is pulled up: %t", w.name, up)
		}
	}
	b.agrees(t)
	log, code := p.wait()
	if code != exitPassed {
		t.Fatalf("exit code %d:\n%s", code, log)
	}
	b.rests(t)
	worked := judge(t, b.take())
	want := map[string]int{"S1_PASS": 2, "S1_RESET": 2}
	for n := 1; n <= sites; n++ {
		want[fmt.Sprintf("S%d_POWER", n)], want[fmt.Sprintf("S%d_RECOVERY", n)] = 2, 2
		if will, _, ok := b.boards.Board(n).WillRun(); !ok || will.Version != "1.0.0+0" {
			t.Errorf("board %d will run %v", n, will)
		}
	}
	if diff := cmp.Diff(want, worked); diff != "" {
		t.Errorf("how often each line was at work (-want +got):\n%s", diff)
	}
}

// Site 1 has a dead board: it fails after a retry, and its lamp says so. The lid
// starts the cycle, through an input with the pull that it was asked for.
func (b *farSide) testDeadBoard(t *testing.T) {
	config := b.fit(t, fitting{baud: 1_000_000, dead: 1, start: `trigger = "interlock"
pin = "` + lid + `"
active_low = true`})
	p := b.start(t, config, sites, strings.NewReader(labels(1, sites)), fmt.Sprintf("FL-%06d  loaded", sites))
	b.requested(t, lid, "used active-low input pull-up", p)
	if !b.pull(len(b.wires)) {
		t.Error("the pull of the lid's line was asked for, and is not there")
	}
	time.Sleep(500 * time.Millisecond) // the station looks ten times
	if edges := b.take(); len(edges) > 0 {
		t.Errorf("with the lid open: %v", edges)
	}
	b.setPull(len(b.wires), false)
	log, code := p.wait()
	if code != exitFailed {
		t.Fatalf("exit code %d:\n%s", code, log)
	}
	b.rests(t)
	worked := judge(t, b.take())
	want := map[string]int{"S1_FAIL": 1, "S1_RESET": 3}
	for n := 1; n <= sites; n++ {
		times := 1
		if n == 1 {
			times = 3 // with a retry, and the diagnosis
		}
		want[fmt.Sprintf("S%d_POWER", n)], want[fmt.Sprintf("S%d_RECOVERY", n)] = times, times
	}
	if diff := cmp.Diff(want, worked); diff != "" {
		t.Errorf("how often each line was at work (-want +got):\n%s", diff)
	}
	if got, want := outcomes(t, config), []string{"FAIL", "FAIL", "PASS", "PASS", "PASS"}; !slices.Equal(got, want) {
		t.Errorf("on record is %v", got)
	}
}

// Boards whose application takes the image are meant to boot whenever they get
// power: recovery and reset stay at rest all the time.
func (b *farSide) testApplication(t *testing.T) {
	config := b.fit(t, fitting{baud: 1_000_000, scenario: "application"})
	log, code := b.start(t, config, sites, strings.NewReader(labels(1, sites)), "attempt 1").wait()
	if code != exitPassed {
		t.Fatalf("exit code %d:\n%s", code, log)
	}
	b.rests(t)
	got := map[string]int{}
	for _, e := range b.take() {
		if e.active {
			got[e.wire.name]++
		}
	}
	want := map[string]int{"S1_PASS": 1}
	for n := 1; n <= sites; n++ {
		want[fmt.Sprintf("S%d_POWER", n)] = 1
		if will, _, ok := b.boards.Board(n).WillRun(); !ok || will.Version != "1.0.0+0" {
			t.Errorf("board %d will run %v", n, will)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("how often each line was at work (-want +got):\n%s", diff)
	}
}

// Told to end in the middle of four uploads. Ctrl-C once lets them end.
func (b *farSide) testSignals(t *testing.T, signals []syscall.Signal, want string) {
	config := b.fit(t, fitting{baud: 57600}) // longer than recovery may be held
	p := b.start(t, config, 2*sites, strings.NewReader(labels(1, 2*sites)), halfway)
	for n, s := range signals {
		if n > 0 {
			p.await("Stopping:") // two at once would be one
		}
		p.signal(s)
	}
	told := monotonic(t)
	log, code := p.wait()
	if code != exitFailed { // the order is not complete
		t.Fatalf("exit code %d:\n%s", code, log)
	}
	b.rests(t)
	edges := b.take()
	for name, times := range judge(t, edges) {
		if times > 1 {
			t.Errorf("%s was at work %d times: a new unit was begun", name, times)
		}
	}
	if got := outcomes(t, config); !slices.Equal(got, slices.Repeat([]string{want}, sites)) {
		t.Errorf("on record is %v", got)
	}
	pressed := map[*lead]time.Duration{}
	for _, e := range edges {
		if strings.HasSuffix(e.wire.name, "_RECOVERY") {
			if e.active {
				pressed[e.wire] = e.at
			} else if held := e.at - pressed[e.wire]; held > holdCap {
				t.Errorf("%v, held for %v: not let go at the first answer", e, held)
			}
		}
		if want == "ABORTED" && e.at > told+3*time.Second {
			t.Errorf("%v, %v after the signal", e, e.at-told)
		}
	}
}

// Killed in the middle of four uploads: the kernel takes the lines back, and the
// next start makes everything safe before it does anything else, whatever the chip
// made of that.
func (b *farSide) testKilled(t *testing.T, letsGo bool) {
	b.mu.Lock()
	b.letsGo = letsGo
	b.mu.Unlock()
	config := b.fit(t, fitting{baud: 115200})
	p := b.start(t, config, sites, strings.NewReader(labels(1, sites)), halfway)
	p.signal(syscall.SIGKILL)
	if log, code := p.wait(); code != -1 {
		t.Fatalf("the station ended by itself with %d:\n%s", code, log)
	}
	running := 0
	for _, o := range outcomes(t, config) {
		if o == string(records.Running) {
			running++
		}
	}
	if running == 0 {
		t.Error("killed in the middle, and no attempt was open")
	}
	before := b.take()
	powered := func() (names []string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, w := range b.wires {
			if w.active {
				names = append(names, w.name)
			}
		}
		return names
	}
	left := powered()
	if letsGo != (len(left) == 0) {
		t.Errorf("after the kill these are at work: %q", left)
	}
	if letsGo {
		b.rests(t)
	}

	scanner, scans := io.Pipe()
	defer scans.Close()
	p = b.start(t, config, sites, scanner, "INTERRUPTED")
	start := b.take()
	if len(start) != len(left) || slices.ContainsFunc(start, func(e edge) bool { return e.active }) {
		t.Errorf("%q were left at work, and the start did %v", left, start)
	}
	if _, err := io.WriteString(scans, labels(1, sites)); err != nil {
		t.Error(err)
	}
	scans.Close()
	log, code := p.wait()
	if code != exitPassed {
		t.Fatalf("the second run ended with %d:\n%s", code, log)
	}
	b.mu.Lock()
	b.letsGo = false
	b.mu.Unlock()
	judge(t, slices.Concat(before, start, b.take()))
	b.rests(t)
	var want []string
	for range running {
		want = append(want, "INTERRUPTED")
	}
	for range sites {
		want = append(want, "PASS")
	}
	if got := outcomes(t, config); !slices.Equal(got, want) {
		t.Errorf("on record is %v", got)
	}
}

// The disk is full in the middle of four uploads: without records nothing may go
// on, and every site is switched off.
func (b *farSide) testFullDisk(t *testing.T) {
	config := b.fit(t, fitting{baud: 115200})
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("k.db"), []byte(filepath.Join(disk, "k.db")), 1)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p := b.start(t, config, sites, strings.NewReader(labels(1, sites)), halfway)
	if err := os.WriteFile(filepath.Join(disk, "full"), make([]byte, 8<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	if log, code := p.wait(); code != exitFault {
		t.Errorf("exit code %d:\n%s", code, log)
	}
	b.rests(t)
	for name, times := range judge(t, b.take()) {
		if times > 1 {
			t.Errorf("%s was at work %d times: another attempt was begun", name, times)
		}
	}
}

// The power line of site 2 is another program's: the site is out of order, the
// line is not touched, and the others work.
func (b *farSide) testTaken(t *testing.T) {
	config := b.fit(t, fitting{baud: 1_000_000})
	if _, err := fixtures.OpenHost(); err != nil {
		t.Fatal(err)
	}
	other := gpioioctl.Chips[0].ByName("S2_POWER")
	b.setPull(other.Number(), true) // periph asks for none
	if err := other.Out(gpio.High); err != nil {
		t.Fatal(err)
	}
	if edges := b.take(); len(edges) != 2 {
		t.Errorf("periph's driver has done %v: if it is without its pulse now, fixtures need no driver of their own", edges)
	}
	log, code := b.start(t, config, sites-1, strings.NewReader(labels(1, sites-1)), "site 2  LOCKED").wait()
	if code != exitFault { // for that line cannot be made safe at the end either
		t.Errorf("exit code %d:\n%s", code, log)
	}
	worked := judge(t, b.take())
	for n := 1; n <= sites; n++ {
		want := 1
		if n == 2 {
			want = 0
		}
		if got := worked[fmt.Sprintf("S%d_POWER", n)]; got != want {
			t.Errorf("site %d had power %d times, want %d", n, got, want)
		}
	}
	other.Close()
	b.rests(t)
}

// monotonic is the time on the clock of the trace.
func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}
