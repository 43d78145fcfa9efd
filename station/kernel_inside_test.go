package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
	cmd := exec.Command("/proc/self/exe", "-test.run", os.Getenv("FLASHLINE_RUN"), "-test.v")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.Env = append(os.Environ(), insideKernel+"=1", "PATH=/", "HOME=/tmp", "TMPDIR=/tmp")
	return cmd.Run()
}

func testInside(t *testing.T) {
	dir := "/sys/kernel/config/gpio-sim/fix"
	if err := os.MkdirAll(dir+"/bank0", 0o755); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(dir+"/bank0/num_lines", []byte("8"), 0)
	for i := range 8 {
		d := fmt.Sprintf("%s/bank0/line%d", dir, i)
		os.Mkdir(d, 0o755)
		os.WriteFile(d+"/name", fmt.Appendf(nil, "S%d_POWER", i), 0)
	}
	if err := os.WriteFile(dir+"/live", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	g, _ := filepath.Glob("/sys/devices/platform/gpio-sim.*/gpiochip*/sim_gpio*/value")
	t.Log(strings.Join(g, "\n"))
	g, _ = filepath.Glob("/dev/gpiochip*")
	t.Log(g)
	tr := "/sys/kernel/tracing/"
	if err := os.WriteFile(tr+"kprobe_events", []byte(`p:sim/out gpio_sim:gpio_sim_direction_output line=%si:u32 value=%dx:s32
p:sim/in gpio_sim:gpio_sim_direction_input line=%si:u32
p:sim/set gpio_sim:gpio_sim_set line=%si:u32 value=%dx:s32
p:sim/multiple gpio_sim:gpio_sim_set_multiple mask=+0(%si):x64 bits=+0(%dx):x64
p:sim/config gpio_sim:gpio_sim_set_config line=%si:u32 config=%dx:x64
p:sim/free gpio_sim:gpio_sim_free line=%si:u32
`), 0); err != nil {
		t.Error(err)
	}
	os.WriteFile(tr+"trace_clock", []byte("mono"), 0)
	os.WriteFile(tr+"events/sim/enable", []byte("1"), 0)
	os.WriteFile(tr+"events/gpio/enable", []byte("1"), 0)
	out, err := exec.Command("/station", "version").CombinedOutput()
	t.Logf("%v %s", err, out)
	out, err = os.ReadFile(tr + "trace")
	t.Logf("%v %s", err, out)
}
