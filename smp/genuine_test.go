package smp_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.bug.st/serial"

	"flashline/smp"
	"flashline/smp/mcuboot"
)

// The tests of this file talk to genuine servers: Zephyr's SMP server and
// MCUboot's serial recovery, prebuilt by others for QEMU and for Linux. They
// need the folder of those programs, which the source package of the Python
// client smpclient carries under tests/fixtures/smp-server, in the environment
// variable FLASHLINE_SMP_FIXTURES, as well as qemu-system-arm and the 32-bit C
// library. With FLASHLINE_REQUIRE_TOOLS=1 a missing part is a failure.

func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("FLASHLINE_REQUIRE_TOOLS") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func fixture(t *testing.T, pattern string) string {
	t.Helper()
	dir := os.Getenv("FLASHLINE_SMP_FIXTURES")
	if dir == "" {
		missing(t, "FLASHLINE_SMP_FIXTURES does not name the folder of the genuine servers")
	}
	names, _ := filepath.Glob(filepath.Join(dir, pattern))
	if len(names) == 0 {
		missing(t, "the folder of the genuine servers holds no %s", pattern)
	}
	return names[0]
}

// start runs a server and ends it with the test.
func start(t *testing.T, out io.Writer, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	cmd.Dir = t.TempDir() // they leave their flash there
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		missing(t, "%s cannot be started here (%v); a 32-bit program needs the 32-bit C library", name, err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
	})
}

// inQEMU starts an image for the emulated board mps2-an385 and returns its
// serial line.
func inQEMU(t *testing.T, hex, app string) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	start(t, os.Stderr, "qemu-system-arm", "-cpu", "cortex-m3", "-machine", "mps2-an385", "-display", "none",
		"-chardev", "socket,id=con,host=127.0.0.1,port="+fmt.Sprint(l.Addr().(*net.TCPAddr).Port),
		"-serial", "chardev:con", "-serial", "null", "-monitor", "none",
		"-device", "loader,file="+hex, "-device", "loader,file="+app+",addr=0x20050000")
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept() // QEMU is the client: it has no port to race for
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// paced writes like a wire of a megabaud, a few bytes at a time: a socket
// hands a whole request over at once, which no line buffer of a UART driver
// survives.
type paced struct{ net.Conn }

func (p paced) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		k, err := p.Conn.Write(b[:min(len(b), 32)])
		n += k
		if err != nil {
			return n, err
		}
		b = b[k:]
		time.Sleep(time.Millisecond)
	}
	return n, nil
}

// MCUboot's serial recovery, entered from the application by boot mode: the
// whole way of an image, ending in the hash that the bootloader itself
// computed to be right.
func TestGenuineRecovery(t *testing.T) {
	for _, size := range []int{400, 1024} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			stem := fmt.Sprintf("zephyr_4.4.0_*_mps2_an385_serial_recovery_buf%d", size)
			app := fixture(t, stem+".signed.bin")
			file, err := os.ReadFile(app)
			if err != nil {
				t.Fatal(err)
			}
			img, err := mcuboot.Parse(file)
			if err != nil {
				t.Fatal(err)
			}
			c := smp.NewClient(paced{inQEMU(t, fixture(t, stem+".hex"), app)}, smp.Options{Timeout: 5 * time.Second})
			defer c.Close()
			ctx := t.Context()

			target, err := c.AwaitTarget(ctx, 200*time.Millisecond, 30*time.Second)
			if err != nil || target != smp.TargetApplication {
				t.Fatalf("after the start: %v, %v; want the application", target, err)
			}
			if got, err := c.Echo(ctx, "flashline"); err != nil || got != "flashline" {
				t.Errorf("echo: %q, %v", got, err)
			}
			if err := c.Reset(ctx, smp.BootBootloader); err != nil {
				t.Fatal(err)
			}
			deadline := time.Now().Add(30 * time.Second)
			for target != smp.TargetBootloader {
				if time.Now().After(deadline) {
					t.Fatalf("no bootloader after a reset into it: %v", target)
				}
				time.Sleep(300 * time.Millisecond)
				target, _ = c.Probe(ctx, 500*time.Millisecond)
			}

			found, err := c.FindMessageSize(ctx, smp.Lines{})
			if err != nil {
				t.Fatal(err)
			}
			var refused *smp.ServerError
			if _, err := c.Params(ctx); err == nil && found > size {
				t.Errorf("messages of %d bytes for a buffer of %d", found, size)
			} else if err != nil && !errors.As(err, &refused) {
				t.Errorf("params: %v", err)
			}
			r, err := c.Upload(ctx, file, smp.UploadOptions{MessageSize: found, WriteSize: 4})
			if err != nil {
				t.Fatal(err)
			}
			list, err := c.Images(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			slot, ok := list.Find(0, 0)
			if !ok || !bytes.Equal(slot.Hash, img.Hash()) {
				t.Errorf("after the upload the bootloader lists %+v, want hash %x", list, img.Hash())
			}
			t.Logf("%d bytes in %d requests of up to %d bytes", r.Sent, r.Requests, r.MessageSize)

			if err := c.Reset(ctx, smp.BootNormal); err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
			if target, err := c.AwaitTarget(ctx, 200*time.Millisecond, 30*time.Second); err != nil || target != smp.TargetApplication {
				t.Errorf("after the reset: %v, %v; want the new application", target, err)
			}
		})
	}
}

var ptyLine = regexp.MustCompile(`connected to pseudotty: (\S+)`)

// onPTY starts a server that runs as a Linux program and returns its serial
// line.
func onPTY(t *testing.T, program string) serial.Port {
	t.Helper()
	r, w := io.Pipe()
	start(t, w, program)
	t.Cleanup(func() { r.Close() })
	found := make(chan string, 1)
	go func() {
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			if m := ptyLine.FindStringSubmatch(sc.Text()); m != nil {
				select {
				case found <- m[1]:
				default:
				}
			}
		}
	}()
	select {
	case name := <-found:
		p, err := serial.Open(name, &serial.Mode{BaudRate: 115200})
		if err != nil {
			t.Fatal(err)
		}
		return p
	case <-time.After(20 * time.Second):
		t.Fatal("the server named no pseudo-terminal")
		return nil
	}
}

// Zephyr's application server, with and without the command that tells its
// buffer size.
func TestGenuineApplication(t *testing.T) {
	for name, largest := range map[string]int{"serial": 380, "serial_buf1024": 1020, "serial_noparams": 252} {
		t.Run(name, func(t *testing.T) {
			c := smp.NewClient(slowly{onPTY(t, fixture(t, "zephyr_4.4.0_*_native_sim_"+name+".exe"))}, smp.Options{Baud: 115200, Timeout: 5 * time.Second})
			defer c.Close()
			ctx := t.Context()
			target, err := c.AwaitTarget(ctx, 200*time.Millisecond, 20*time.Second)
			if err != nil || target != smp.TargetApplication {
				t.Fatalf("%v, %v", target, err)
			}
			for _, text := range []string{"x", strings.Repeat("flashline ", 10)} {
				if got, err := c.Echo(ctx, text); err != nil || got != text {
					t.Errorf("echo of %d characters: %q, %v", len(text), got, err)
				}
			}
			if size, err := c.FindMessageSize(ctx, smp.Lines{}); err != nil || size != largest {
				t.Errorf("message size %d, %v; want %d", size, err, largest)
			}
			if info, err := c.Info(ctx, "s"); err != nil || !strings.Contains(info, "Zephyr") {
				t.Errorf("info: %q, %v", info, err)
			}
			// This server is built without image management.
			_, err = c.Images(ctx, time.Second)
			if e, ok := errors.AsType[*smp.ServerError](err); !ok || !e.NotSupported() {
				t.Errorf("image list: %v", err)
			}
		})
	}
}

// slowly writes line by line with a pause, as a wire would: the server has
// two line buffers, and a pseudo-terminal no speed.
type slowly struct{ io.ReadWriteCloser }

func (s slowly) Write(b []byte) (int, error) {
	n := 0
	for line := range bytes.Lines(b) {
		k, err := s.ReadWriteCloser.Write(line)
		n += k
		if err != nil {
			return n, err
		}
		time.Sleep(12 * time.Millisecond)
	}
	return n, nil
}
