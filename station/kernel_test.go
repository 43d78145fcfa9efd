package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKernel boots a Linux kernel that has a simulated GPIO chip (gpio-sim), and
// runs the station there: its own binary, through the kernel's own GPIO
// interface, with simulated boards behind the chip's lines. What it does to the
// lines is then seen from the far side, in the chip's driver.
//
// It needs qemu-system-x86_64, and the folder with vmlinuz, configfs.ko and
// gpio-sim.ko in the environment variable FLASHLINE_KERNEL; see step_kernel of
// .ci/run for how they are made. With FLASHLINE_REQUIRE_TOOLS=1 a missing part is
// a failure. The processor is emulated: no KVM is needed.
//
// This test binary is also what runs inside: as /init, the first process of the
// kernel, and then as the test of the same name. kernel_inside_test.go has that.
func TestKernel(t *testing.T) {
	if os.Getenv(insideKernel) != "" {
		testInside(t)
		return
	}
	dir := os.Getenv("FLASHLINE_KERNEL")
	if dir == "" {
		genuineMissing(t, "FLASHLINE_KERNEL does not name the folder of a kernel with gpio-sim")
	}
	if runtime.GOARCH != "amd64" {
		genuineMissing(t, "the kernel is one for amd64, and so must the programs be")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		genuineMissing(t, "qemu-system-x86_64 is not installed")
	}
	tmp := t.TempDir()
	station := filepath.Join(tmp, "station")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", station, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"init":        self,
		"station":     station,
		"configfs.ko": filepath.Join(dir, "configfs.ko"),
		"gpio-sim.ko": filepath.Join(dir, "gpio-sim.ko"),
	}
	for _, program := range []string{self, station} {
		for _, lib := range libraries(t, program) {
			files[strings.TrimPrefix(lib, "/")] = lib
		}
	}
	initrd := filepath.Join(tmp, "initrd")
	if err := os.WriteFile(initrd, archive(t, files), 0o600); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), kernelTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu,
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024", "-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "stdio", "-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1")
	cmd.WaitDelay = time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := ""
	for sc := bufio.NewScanner(out); sc.Scan(); {
		line := strings.TrimRight(sc.Text(), "\r")
		t.Log(line)
		if end, ok := strings.CutPrefix(line, insideEnded); ok {
			ended = end
		}
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		t.Fatalf("the kernel was still at it after %v", kernelTime)
	case err != nil:
		t.Fatalf("qemu: %v", err)
	case ended != "well":
		t.Fatalf("the test inside the kernel ended %q", ended)
	}
}

// kernelTime bounds all that happens inside the kernel.
const kernelTime = 8 * time.Minute

// libraries are the files that the dynamic linker loads for a program, and the
// linker.
func libraries(t *testing.T, program string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ldd", program).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", program, err)
	}
	return regexp.MustCompile(`/\S*\.so\S*`).FindAllString(string(out), -1)
}

// archive makes an initramfs of files, each by its path inside and here: a cpio
// archive of the "new" format, with the folders before what they hold.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	made := map[string]bool{".": true}
	number := 0
	add := func(name string, mode uint32, data []byte) {
		number++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		pad := func() {
			for b.Len()%4 != 0 {
				b.WriteByte(0)
			}
		}
		pad()
		b.Write(data)
		pad()
	}
	var folder func(name string)
	folder = func(name string) {
		if made[name] {
			return
		}
		folder(filepath.Dir(name))
		made[name] = true
		add(name, unix.S_IFDIR|0o755, nil)
	}
	for _, name := range []string{"proc", "sys", "dev", "tmp"} {
		folder(name)
	}
	for name, from := range files {
		data, err := os.ReadFile(from)
		if err != nil {
			genuineMissing(t, "%v", err)
		}
		folder(filepath.Dir(name))
		add(name, unix.S_IFREG|uint32(fs.FileMode(0o755)), data)
	}
	add("TRAILER!!!", 0, nil)
	return b.Bytes()
}
