package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"flashline/fixtures"
	"flashline/smp"
	"flashline/smp/mcuboot"
)

// The tests of this file have the station look at and flash genuine servers:
// Zephyr's SMP server and MCUboot, prebuilt by others for QEMU and for Linux.
// They need the folder of those programs, which the source package of the
// Python client smpclient carries under tests/fixtures/smp-server, in the
// environment variable FLASHLINE_SMP_FIXTURES, as well as qemu-system-arm and
// the 32-bit C library. With FLASHLINE_REQUIRE_TOOLS=1 a missing part is a
// failure.

func genuineMissing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("FLASHLINE_REQUIRE_TOOLS") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// genuineFile is the path of one of their files.
func genuineFile(t *testing.T, pattern string) string {
	t.Helper()
	dir := os.Getenv("FLASHLINE_SMP_FIXTURES")
	if dir == "" {
		genuineMissing(t, "FLASHLINE_SMP_FIXTURES does not name the folder of the genuine servers")
	}
	names, _ := filepath.Glob(filepath.Join(dir, pattern))
	if len(names) == 0 {
		genuineMissing(t, "the folder of the genuine servers holds no %s", pattern)
	}
	return names[0]
}

// genuine is a server of others on a serial port.
type genuine struct {
	t    *testing.T
	port string
	// console is a file with what MCUboot says on a second UART, "" if it has
	// none of its own.
	console string

	mu    sync.Mutex
	heard bytes.Buffer // all that came from the server
}

// wire is how fast bytes reach a server: so many at once, then a pause. Neither
// a socket nor a pseudo-terminal has a speed of its own, and a request that
// comes all at once overruns every UART driver's buffers.
type wire struct {
	bytes int
	pause time.Duration
}

var (
	megabaud = wire{32, time.Millisecond}
	// Zephyr's driver for Linux looks at its line every now and then only, and
	// has room for two lines until it does.
	slowWire = wire{16, 3 * time.Millisecond}
)

// run starts a program and ends it with the test.
func (g *genuine) run(out io.Writer, name string, args ...string) {
	g.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		genuineMissing(g.t, "%s is not installed", name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	cmd.Dir = g.t.TempDir() // they leave their flash there
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		genuineMissing(g.t, "%s cannot be started here (%v); a 32-bit program needs the 32-bit C library", name, err)
	}
	g.t.Cleanup(func() {
		cancel()
		cmd.Wait() // it was killed, and says so
	})
}

// attach puts a pseudo-terminal before a server's line, paced as w.
func (g *genuine) attach(line io.ReadWriteCloser, w wire) {
	g.t.Helper()
	blocking, slave, err := pty.Open()
	if err != nil {
		g.t.Fatal(err)
	}
	// Close ends no Read of a file in blocking mode, which is what this is.
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	blocking.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		g.t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	if _, err := term.MakeRaw(int(slave.Fd())); err != nil {
		g.t.Fatal(err)
	}
	g.port = slave.Name()
	var pumps sync.WaitGroup
	pumps.Go(func() {
		buf := make([]byte, w.bytes)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			if _, err := line.Write(buf[:n]); err != nil {
				return
			}
			time.Sleep(w.pause)
		}
	})
	pumps.Go(func() {
		buf := make([]byte, 1024)
		for {
			n, err := line.Read(buf)
			g.mu.Lock()
			g.heard.Write(buf[:n])
			g.mu.Unlock()
			if err != nil {
				return
			}
			if _, err := master.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	g.t.Cleanup(func() {
		line.Close()
		master.Close()
		slave.Close()
		pumps.Wait()
	})
}

// said is all that came from the server so far.
func (g *genuine) said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.heard.String()
}

// inQEMU starts an emulated board. Args are of QEMU, with the board's first
// UART on the character device con.
func inQEMU(t *testing.T, args ...string) *genuine {
	t.Helper()
	g := &genuine{t: t}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// A socket, since its emulated UARTs hold back the last byte on a
	// pseudo-terminal; and QEMU is the client, so that it has no port to race for.
	g.run(os.Stderr, "qemu-system-arm", append([]string{"-display", "none", "-monitor", "none",
		"-chardev", "socket,id=con,host=127.0.0.1,port=" + fmt.Sprint(l.Addr().(*net.TCPAddr).Port),
		"-serial", "chardev:con"}, args...)...)
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	g.attach(conn, megabaud)
	return g
}

// recoveryBoard is the emulated board mps2-an385: MCUboot that loads to RAM and
// has serial recovery, which it enters when asked to by the application or when
// it has none. Its flash is RAM: blank at the start, and what is put there by
// the station stays. (QEMU itself would put an application there, but it would
// do so again at every reset, over what the station has put there.)
func recoveryBoard(t *testing.T, hex string) *genuine {
	t.Helper()
	console := filepath.Join(t.TempDir(), "console")
	g := inQEMU(t, "-serial", "file:"+console, "-cpu", "cortex-m3", "-machine", "mps2-an385", "-device", "loader,file="+genuineFile(t, hex))
	g.console = console
	return g
}

// updateBoard is the emulated board micro:bit: MCUboot that swaps and no
// recovery, with an application that has an SMP server.
func updateBoard(t *testing.T) *genuine {
	t.Helper()
	g := inQEMU(t, "-cpu", "cortex-m0", "-machine", "microbit", "-device", "loader,file="+genuineFile(t, "*_qemu_cortex_m0_serial.merged.hex"))
	// Its emulated UART stays deaf if something comes before it is set up.
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(g.said(), "build time"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the application does not start: %q", g.said())
		}
	}
	return g
}

var pseudoTerminal = regexp.MustCompile(`connected to pseudotty: (\S+)`)

// onLinux starts a server that runs as a Linux program.
func onLinux(t *testing.T, config string) *genuine {
	t.Helper()
	g := &genuine{t: t}
	r, w := io.Pipe()
	g.run(w, genuineFile(t, "*_native_sim_"+config+".exe"))
	t.Cleanup(func() { r.Close() })
	found := make(chan string, 1)
	go func() { // ends with the pipe
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			if m := pseudoTerminal.FindStringSubmatch(sc.Text()); m != nil {
				select {
				case found <- m[1]:
				default:
				}
			}
		}
	}()
	select {
	case name := <-found:
		line, err := fixtures.OpenPort(name, fixtures.Mode{Baud: 115200})
		if err != nil {
			t.Fatal(err)
		}
		g.attach(line, slowWire)
	case <-time.After(20 * time.Second):
		t.Fatal("the server named no pseudo-terminal")
	}
	return g
}

// station runs a command on the server's port.
func (g *genuine) station(command string, args ...string) (code int, out, errs string) {
	g.t.Helper()
	var o, e bytes.Buffer
	code = run(append([]string{command, "--port", g.port}, args...), nil, &o, &e)
	return code, o.String(), e.String()
}

// flash flashes an image and wants an exit code and texts.
func (g *genuine) flash(want int, texts []string, image string, args ...string) {
	g.t.Helper()
	began := time.Now()
	code, out, errs := g.station("flash", append([]string{"--image", image}, args...)...)
	g.t.Logf("flash %s %q: exit code %d after %.1f s", filepath.Base(image), args, code, time.Since(began).Seconds())
	if code != want {
		g.t.Fatalf("exit code %d, want %d\n%s%s", code, want, out, errs)
	}
	for _, text := range texts {
		if !strings.Contains(out+errs, text) {
			g.t.Errorf("flash does not say %q:\n%s%s", text, out, errs)
		}
	}
}

// explain is what the station finds out.
func (g *genuine) explain(want int) explanation {
	g.t.Helper()
	code, out, errs := g.station("explain", "--format", "json")
	if code != want {
		g.t.Fatalf("explain: exit code %d, want %d\n%s%s", code, want, out, errs)
	}
	var e explanation
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		g.t.Fatalf("%v in %s", err, out)
	}
	return e
}

// runs fails unless the application says that the image runs, for good, and
// nothing is pending.
func (g *genuine) runs(image testImage) {
	g.t.Helper()
	e := g.explain(exitPassed)
	for _, i := range e.Images {
		if strings.Contains(strings.Join(i.Flags, " "), "active") {
			if i.Hash != image.hash || !strings.Contains(strings.Join(i.Flags, " "), "confirmed") {
				g.t.Errorf("the application runs %+v, want hash %s, confirmed", i, image.hash)
			}
			return
		}
	}
	g.t.Errorf("no image is active: %+v", e)
}

// testImage is an image file.
type testImage struct {
	path, hash string
	data       []byte
}

// reversioned makes an image that differs from a genuine one in its version, and
// in size by extra bytes. The genuine ones are not signed, and the bootloaders
// ask for no signature.
func reversioned(t *testing.T, pattern, version string, extra int) testImage {
	t.Helper()
	data, err := os.ReadFile(genuineFile(t, pattern))
	if err != nil {
		t.Fatal(err)
	}
	img, err := mcuboot.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	h := img.Header
	v, err := mcuboot.ParseVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	body := data[h.Size : uint32(h.Size)+h.ImageSize]
	data, err = mcuboot.Build(mcuboot.BuildOptions{
		Version: v, Body: append(bytes.Clone(body), make([]byte, extra)...),
		HeaderSize: int(h.Size), LoadAddr: h.LoadAddr, Flags: h.Flags,
	})
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mcuboot.Parse(data); err != nil {
		t.Fatal(err)
	}
	i := testImage{filepath.Join(t.TempDir(), version+".bin"), hex.EncodeToString(img.Hash()), data}
	if err := os.WriteFile(i.path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

// What explain says of each server.
func TestGenuineExplain(t *testing.T) {
	const recovery = "*_27c54835_mps2_an385_serial_recovery.hex"
	application := func(name string, size, buffer int) func(explanation) bool {
		return func(e explanation) bool {
			return e.Target == "application" && e.MessageSize == size && e.BufferSize == buffer && e.Echo && len(e.Images) == 0 && strings.HasPrefix(e.Board, name)
		}
	}
	tests := []struct {
		name  string
		start func(t *testing.T) *genuine
		code  int
		want  func(e explanation) bool
	}{
		{"application", func(t *testing.T) *genuine { return onLinux(t, "serial") }, exitPassed, application("native_sim", 380, 384)},
		{"application with large buffers", func(t *testing.T) *genuine { return onLinux(t, "serial_buf1024") }, exitPassed, application("native_sim", 1020, 1024)},
		{"application with small buffers", func(t *testing.T) *genuine { return onLinux(t, "serial_buf96") }, exitPassed, application("native_sim", 92, 96)},
		{"application that tells no buffers", func(t *testing.T) *genuine { return onLinux(t, "serial_noparams") }, exitPassed, application("native_sim", 252, 0)},
		{"application, raw", func(t *testing.T) *genuine { return onLinux(t, "serial_raw") }, exitPassed, func(e explanation) bool {
			return application("native_sim", 380, 384)(e) && e.Framing == "raw"
		}},
		{"application behind a shell", func(t *testing.T) *genuine { return onLinux(t, "shell") }, exitPassed, application("native_sim", 380, 384)},
		{"application that is updated", updateBoard, exitPassed, func(e explanation) bool {
			return e.Target == "application" && e.Policy == "application" && e.Row == "A1" && e.MessageSize == 380 &&
				e.ImageState && e.Hashes && len(e.Images) == 1 && e.Images[0].Version == "0.0.0" &&
				e.SlotInfo && len(e.Slots) == 2 && e.Slots[0].Size == 106496
		}},
		{"recovery, blank", func(t *testing.T) *genuine { return recoveryBoard(t, recovery) }, exitPassed, func(e explanation) bool {
			return e.Target == "bootloader" && e.Policy == "primary" && e.Row == "1" && e.MessageSize == 1020 && e.BufferSize == 1024 && e.BufferCount == 1 &&
				!e.Echo && !e.SlotInfo && len(e.Images) == 0 && e.Release == "newer than 2.4"
		}},
		{"recovery of an older release, blank", func(t *testing.T) *genuine {
			return recoveryBoard(t, "zephyr_4.4.0_*_mps2_an385_serial_recovery_buf400.hex")
		}, exitPassed, func(e explanation) bool {
			return e.Target == "bootloader" && e.Policy == "primary" && e.MessageSize == 1020 && e.BufferSize == 0 && len(e.Images) == 0
		}},
		{"recovery, raw", func(t *testing.T) *genuine {
			return recoveryBoard(t, "*_mps2_an385_serial_recovery_raw.hex")
		}, exitPassed, func(e explanation) bool {
			return e.Target == "bootloader" && e.Framing == "raw" && e.Policy == "primary" && e.MessageSize == 1020 && len(e.Images) == 0 && e.Release == "newer than 2.4"
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := tt.start(t)
			if e := g.explain(tt.code); !tt.want(e) {
				t.Errorf("explained as %+v, silence %+v; the server said %q", e, e.Silence, g.said())
			}
		})
	}
}

// Updates through a genuine application and a bootloader that swaps, with
// nothing but the port. The bootloader speaks on the same line.
func TestGenuineUpdate(t *testing.T) {
	const image = "*_qemu_cortex_m0_serial.signed.bin"
	g := updateBoard(t)
	first, foreign, second := reversioned(t, image, "1.2.3", 0), reversioned(t, image, "1.2.4", 0), reversioned(t, image, "1.2.5", 0)

	g.flash(exitPassed, []string{"VERIFIED: the board reports hash " + first.hash + " (version 1.2.3)", "active and confirmed"}, first.path)
	g.runs(first)
	for _, text := range []string{"Image version: v1.2.3", "Swap type: revert"} { // swapped in on trial
		if !strings.Contains(g.said(), text) {
			t.Errorf("MCUboot did not say %q: %q", text, g.said())
		}
	}
	g.flash(exitPassed, []string{"held the image already", "VERIFIED"}, first.path)
	g.flash(exitFailed, []string{"DOWNGRADE"}, genuineFile(t, image))

	// Somebody else's update waits for the next restart: it is let swap in and
	// back, and is never kept.
	port, err := fixtures.OpenPort(g.port, fixtures.Mode{Baud: 115200})
	if err != nil {
		t.Fatal(err)
	}
	c := smp.NewClient(port, smp.Options{Baud: 115200, Timeout: 5 * time.Second})
	if _, err := c.Upload(t.Context(), foreign.data, smp.UploadOptions{MessageSize: 380, WriteSize: 4}); err != nil {
		t.Fatal(err)
	}
	hash, err := hex.DecodeString(foreign.hash)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := c.SetImageState(t.Context(), hash, false, 5*time.Second); err != nil || len(list.Slots) != 2 || !list.Slots[1].Pending {
		t.Fatalf("the mark: %+v, %v", list, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	g.flash(exitPassed, []string{"VERIFIED: the board reports hash " + second.hash}, second.path)
	g.runs(second)
	if n := strings.Count(g.said(), "Image version: v1.2.4"); n != 1 {
		t.Errorf("MCUboot started somebody else's image %d times, want once", n)
	}
}

// Genuine serial recovery, from a blank board on. This bootloader loads images
// to RAM.
func TestGenuineStation(t *testing.T) {
	const image = "*_27c54835_mps2_an385_serial_recovery.signed.bin"
	g := recoveryBoard(t, "*_27c54835_mps2_an385_serial_recovery.hex")
	first, second := reversioned(t, image, "1.2.3", 0), reversioned(t, image, "1.2.4", 4096)
	started := func(version string) {
		t.Helper()
		text, err := os.ReadFile(g.console)
		if err != nil {
			t.Fatal(err)
		}
		versions := regexp.MustCompile(`Image version: v(\S+)`).FindAllSubmatch(text, -1)
		if len(versions) == 0 || string(versions[len(versions)-1][1]) != version {
			t.Errorf("MCUboot says that it has started %q, want %s at last", versions, version)
		}
	}
	// Without a running application there is only the recovery, and nothing to
	// be asked for it.
	g.flash(exitPassed, []string{"VERIFIED: the board reports hash " + first.hash + " (version 1.2.3)"}, first.path)
	started("1.2.3")
	g.runs(first)
	g.flash(exitPassed, []string{"held the image already", "VERIFIED"}, first.path, "--boot-mode")
	g.flash(exitPassed, []string{"VERIFIED: the board reports hash " + second.hash + " (version 1.2.4)", "active and confirmed"}, second.path, "--boot-mode")
	started("1.2.4")
	g.runs(second)
	g.flash(exitFailed, []string{"DOWNGRADE"}, first.path, "--boot-mode")
}

// What these servers cannot do ends in a failure that says so, and in nothing
// written.
func TestGenuineRefusals(t *testing.T) {
	image := genuineFile(t, "*_qemu_cortex_m0_serial.signed.bin")
	t.Run("no image management", func(t *testing.T) {
		onLinux(t, "serial").flash(exitFailed, []string{"LIST_REFUSED", "CONFIG_MCUMGR_GRP_IMG=y"}, image)
	})
	t.Run("no boot mode", func(t *testing.T) {
		updateBoard(t).flash(exitFailed, []string{"NOT_RECOVERY", "CONFIG_MCUMGR_GRP_OS_RESET_BOOT_MODE=y"}, image, "--boot-mode")
	})
	t.Run("raw recovery", func(t *testing.T) {
		recoveryBoard(t, rawRecovery).flash(exitFailed, []string{"NO_RECOVERY", "--framing"}, image, "--wait", "2s", "--framing", "console")
	})
}

const rawRecovery = "*_27c54835_mps2_an385_serial_recovery_raw.hex"

// Genuine recovery without frames, found out and told.
func TestGenuineRaw(t *testing.T) {
	const image = "*_27c54835_mps2_an385_serial_recovery_raw.signed.bin"
	first, second := reversioned(t, image, "1.2.3", 0), reversioned(t, image, "1.2.4", 4096)
	for _, framing := range []string{"auto", "raw"} {
		t.Run(framing, func(t *testing.T) {
			t.Parallel()
			g := recoveryBoard(t, rawRecovery)
			g.flash(exitPassed, []string{"VERIFIED: the board reports hash " + first.hash + " (version 1.2.3)"}, first.path, "--framing", framing)
			g.runs(first)
			g.flash(exitPassed, []string{"VERIFIED: the board reports hash " + second.hash + " (version 1.2.4)", "active and confirmed"}, second.path, "--boot-mode", "--framing", framing)
			g.runs(second)
		})
	}
}
