package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"periph.io/x/conn/v3/gpio"

	"flashline/fixtures/sim"
	"flashline/smp/mcuboot"
)

func newSimulate() *cobra.Command {
	var (
		boards, baud       int
		dir, part, key     string
		fault, recovery    string
		mode, release      string
		image, slot1       string
		usb, server, shell bool
		o                  sim.Options
	)
	build := &o.Build
	cmd := &cobra.Command{
		Use:   "simulate --boards 4 --dir D",
		Short: "Leave simulated boards running for any SMP client",
		Long: `Simulate makes boards of software, powers them with the recovery pin held, and
leaves them running: D/board1, D/board2 … are serial ports that any SMP client
can open. Each path is printed when its board is in recovery. The boards are as
strict as the real ones: silent where MCUboot is silent. A reset starts the
application if there is a good one, on a Nordic part; others look at the
recovery pin, which stays held, at every reset, until you say "boot N".

The flags are how the bootloader was built, by the names of its options without
CONFIG_, and what the boards hold. With --server their application has Zephyr's
SMP server: to meet it, start it with --recovery released and an --image. With
--usb the port is the board's own: it is there while something runs that shows
it, and goes with every reset.

Commands on standard input, a line each: "recover N" powers board N off and on
with its recovery pin held, "boot N" with the pin released, "reset N" pulses its
reset line, "off N", "state N" tells what it is doing, "truth N" what it would
run if it were switched on now. "pin NAME high", "low" or "float" is what a
fixture does to one of their pins, SIM1_POWER, SIM1_RECOVERY or SIM1_RESET and
so on, and is answered by the name and the level. Ctrl-C ends.

  station simulate --dir /tmp/b --mode overwrite-only --image-state --direct-upload --slot-info
  station simulate --dir /tmp/b --image app.bin --recovery released --server --shell`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if recovery != "held" && recovery != "released" {
				return badInput(fmt.Errorf("--recovery is %q: say held or released", recovery))
			}
			if boards < 1 || boards > 256 {
				return badInput(fmt.Errorf("--boards is %d: use a number from 1 to 256", boards))
			}
			if dir == "" {
				return badInput(errors.New("give the folder for the ports with --dir, as --dir /tmp/boards"))
			}
			var err error
			if o.Build.Mode, err = sim.ParseMode(mode); err != nil {
				return badInput(fmt.Errorf("--mode: %w", err))
			}
			if o.Build.Release, err = sim.ParseRelease(release); err != nil {
				return badInput(fmt.Errorf("--release: %w", err))
			}
			if o.Contents, err = slotFiles(image, slot1); err != nil {
				return badInput(err)
			}
			if o.Baud = baud; usb {
				o.Baud = 0
				o.USB = &sim.USBOptions{Bootloader: sim.USBID{Vendor: 0x2fe3, Product: 0x0100}, Application: sim.USBID{Vendor: 0x2fe3, Product: 0x0001}}
			}
			if server || shell {
				o.Server = &sim.ServerOptions{Shell: shell, Params: build.Params, BootloaderInfo: true, BootMode: build.BootMode, Info: &sim.InfoOptions{Board: part}}
			}
			if o.Part, err = sim.PartByName(part); err != nil {
				return badInput(err)
			}
			if o.Fault, err = sim.ParseFault(fault); err != nil {
				return badInput(fmt.Errorf("--fault: %w", err))
			}
			if key != "" {
				pem, err := readLimited(key, 64<<10)
				if err != nil {
					return badInput(err)
				}
				k, err := mcuboot.LoadPublicKey(pem)
				if err != nil {
					return badInput(fmt.Errorf("%s: %w", key, err))
				}
				o.Key = k.Public()
			}
			// On a line of its own first: what cannot be built is bad input, not
			// a fault of the folder.
			if err := tryBuild(o); err != nil {
				return badInput(err)
			}
			bench, err := sim.NewBench(dir, boards, func(n int) sim.Options {
				b := o
				b.Seed = uint64(n)
				return b
			})
			if err != nil {
				return stationFault(err)
			}
			defer bench.Close()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			for n := 1; n <= boards; n++ {
				if err := powerCycle(bench.Board(n), recovery == "held"); err != nil {
					return stationFault(err)
				}
			}
			for n := 1; n <= boards; n++ {
				awaitBoot(ctx, bench.Board(n))
				awaitPort(ctx, bench.Board(n), usb)
				fmt.Fprintln(cmd.OutOrStdout(), bench.Board(n).Port())
			}
			return serveBench(ctx, bench, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&boards, "boards", 1, "how many boards")
	fl.StringVar(&dir, "dir", "", "`folder` for the links to the ports")
	fl.IntVar(&baud, "baud", 115200, "speed of the ports in bits per second; -1 for no limit")
	fl.StringVar(&part, "part", "nRF52840", "`microcontroller`")
	fl.StringVar(&key, "key", "", "public key `file` that the bootloaders trust; without one they check hashes only")
	fl.StringVar(&fault, "fault", "", "`kind` of fault of every board, as in demo")
	fl.StringVar(&recovery, "recovery", "held", "recovery pin at power-on: held or released")
	fl.StringVar(&image, "image", "", "image `file` in slot 0 of every board at its start")
	fl.StringVar(&slot1, "slot1", "", "image `file` in slot 1")
	fl.StringVar(&release, "release", "", "`release` of MCUboot: "+list(sim.Releases()))
	fl.StringVar(&mode, "mode", "", "`how` updates come into use: "+list(sim.Modes()))
	fl.IntVar(&o.Slots, "slots", 0, "slots of an image, 1 or 2 (default 2)")
	fl.IntVar(&build.Images, "images", 1, "UPDATEABLE_IMAGE_NUMBER, 1 or 2")
	fl.BoolVar(&build.Echo, "echo", false, "BOOT_MGMT_ECHO")
	fl.BoolVar(&build.Params, "params", false, "BOOT_MGMT_MCUMGR_PARAMS")
	fl.BoolVar(&build.ImageState, "image-state", false, "BOOT_SERIAL_IMG_GRP_IMAGE_STATE")
	fl.BoolVar(&build.SlotInfo, "slot-info", false, "BOOT_SERIAL_IMG_GRP_SLOT_INFO")
	fl.BoolVar(&build.DirectUpload, "direct-upload", false, "MCUBOOT_SERIAL_DIRECT_IMAGE_UPLOAD")
	fl.BoolVar(&build.Raw, "raw", false, "BOOT_SERIAL_RAW_PROTOCOL")
	fl.BoolVar(&build.NoApplication, "no-application", false, "BOOT_SERIAL_NO_APPLICATION")
	fl.BoolVar(&build.PinReset, "pin-reset", false, "BOOT_SERIAL_PIN_RESET")
	fl.BoolVar(&build.BootMode, "boot-mode", false, "BOOT_SERIAL_BOOT_MODE, and the application's half of it")
	fl.IntVar(&build.ReceiveSize, "receive-size", 0, "BOOT_SERIAL_MAX_RECEIVE_SIZE in bytes")
	fl.IntVar(&build.LineLength, "line-length", 0, "BOOT_MAX_LINE_INPUT_LEN in bytes")
	fl.IntVar(&build.LineBuffers, "line-bufs", 0, "BOOT_LINE_BUFS")
	fl.DurationVar(&build.WaitForDFU, "wait-for-dfu", 0, "BOOT_SERIAL_WAIT_FOR_DFU with this `time`, such as 500ms")
	fl.BoolVar(&server, "server", false, "the application has Zephyr's SMP server")
	fl.BoolVar(&shell, "shell", false, "it is behind the UART of a shell (implies --server)")
	fl.BoolVar(&usb, "usb", false, "the port is a USB one of the board's own")
	return cmd
}

// list is what a flag may say.
func list[T ~string](all []T) string {
	var names []string
	for _, v := range all {
		names = append(names, string(v))
	}
	return strings.Join(names, ", ")
}

// slotFiles reads what the slots of image 0 hold.
func slotFiles(names ...string) (map[int][]byte, error) {
	contents := map[int][]byte{}
	for slot, name := range names {
		if name == "" {
			continue
		}
		data, err := readLimited(name, maxImageFile)
		if err != nil {
			return nil, err
		}
		if mcuboot.Detect(data) == mcuboot.KindPackage {
			return nil, fmt.Errorf("%s: it is a package; unpack it and name the .bin in it", name)
		}
		contents[slot] = data
	}
	return contents, nil
}

// tryBuild makes a board that nobody sees, and tells why it cannot be made.
func tryBuild(o sim.Options) error {
	host, far := net.Pipe()
	defer host.Close()
	o.Line = far
	b, err := sim.New(o)
	if err != nil {
		far.Close()
		return err
	}
	return b.Close()
}

// powerCycle switches a board off and on again.
func powerCycle(b *sim.Board, recovery bool) error {
	if err := b.Power().Out(gpio.Low); err != nil {
		return err
	}
	hold := b.Recovery().In(gpio.Float, gpio.NoEdge)
	if recovery {
		hold = b.Recovery().Out(gpio.Low)
	}
	return errors.Join(hold, b.Power().Out(gpio.High))
}

// pulse resets a board by its reset line.
func pulse(b *sim.Board) error {
	if err := b.Reset().Out(gpio.Low); err != nil {
		return err
	}
	time.Sleep(20 * time.Millisecond)
	return b.Reset().In(gpio.Float, gpio.NoEdge)
}

// awaitBoot waits until a board has decided what to do.
func awaitBoot(ctx context.Context, b *sim.Board) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for b.State() == sim.StateBooting {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// portTime is how long the port of a USB board is waited for: one that shows
// none is no reason not to go on.
const portTime = 2 * time.Second

// awaitPort waits for the port of a USB board.
func awaitPort(ctx context.Context, b *sim.Board, usb bool) {
	ctx, cancel := context.WithTimeout(ctx, portTime)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for usb {
		if _, err := os.Stat(b.Port()); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// serveBench obeys the commands until ctx ends; the end of the input is not
// the end of the boards.
func serveBench(ctx context.Context, bench *sim.Bench, in io.Reader, out io.Writer) error {
	lines := make(chan string)
	// Not waited for: a read from a terminal cannot be ended, the process
	// ends it.
	go func() {
		sc := bufio.NewScanner(in)
		for sc.Scan() {
			select {
			case lines <- sc.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-lines:
			if err := obey(bench, l, out); err != nil {
				fmt.Fprintln(out, err)
			}
		}
	}
}

func obey(bench *sim.Bench, command string, out io.Writer) error {
	words := strings.Fields(command)
	if len(words) == 0 {
		return nil
	}
	if words[0] == "pin" {
		return drive(bench, words[1:], out)
	}
	var b *sim.Board
	if len(words) == 2 {
		if n, err := strconv.Atoi(words[1]); err == nil {
			b = bench.Board(n)
		}
	}
	if b == nil {
		return fmt.Errorf("%q: say recover, boot, reset, off, state or truth, and the number of a board from 1 to %d, or pin", command, bench.Len())
	}
	switch words[0] {
	case "recover":
		return powerCycle(b, true)
	case "boot":
		return powerCycle(b, false)
	case "off":
		return b.Power().Out(gpio.Low)
	case "reset":
		return pulse(b)
	case "state":
		fmt.Fprintln(out, b.State())
		return nil
	case "truth":
		fmt.Fprintln(out, outlook(b.WillRunAll()))
		return nil
	}
	return fmt.Errorf("%q: there is no such command; say recover, boot, reset, off, state, truth or pin", words[0])
}

// drive does to a pin what a fixture does, and says so.
func drive(bench *sim.Bench, words []string, out io.Writer) error {
	if len(words) != 2 {
		return errors.New("say pin, its name, and high, low or float")
	}
	name, level := words[0], words[1]
	p := bench.Pin(name)
	if p == nil {
		return fmt.Errorf("there is no pin %q; board 1 has SIM1_POWER, SIM1_RECOVERY and SIM1_RESET", name)
	}
	var err error
	switch level {
	case "high":
		err = p.Out(gpio.High)
	case "low":
		err = p.Out(gpio.Low)
	case "float":
		err = p.In(gpio.Float, gpio.NoEdge)
	default:
		err = fmt.Errorf("a pin cannot be %q: say high, low or float", level)
	}
	if err == nil {
		fmt.Fprintln(out, name, level)
	}
	return err
}
