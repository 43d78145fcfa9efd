package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
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
		boards, baud    int
		dir, part, key  string
		fault, recovery string
		build           sim.BuildOptions
	)
	cmd := &cobra.Command{
		Use:   "simulate --boards 4 --dir D",
		Short: "Leave simulated boards running for any SMP client",
		Long: `Simulate makes boards of software, powers them with the recovery pin held, and
leaves them running: D/board1, D/board2 … are serial ports that any SMP client
can open. Each path is printed when its board is in recovery. The boards are as
strict as the real ones: silent where MCUboot is silent. A reset starts the
application if there is a good one, on a Nordic part; others look at the
recovery pin, which stays held, at every reset, until you say "boot N".

Commands on standard input, a line each: "recover N" powers board N off and on
with its recovery pin held, "boot N" with the pin released, "off N", "state N"
tells what it is doing. Ctrl-C ends.`,
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
			o := sim.Options{Baud: baud, Build: build}
			var err error
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
	fl.BoolVar(&build.Echo, "echo", false, "built with BOOT_MGMT_ECHO")
	fl.BoolVar(&build.Params, "params", false, "built with BOOT_MGMT_MCUMGR_PARAMS")
	fl.BoolVar(&build.SlotInfo, "slot-info", false, "built with BOOT_SERIAL_IMG_GRP_SLOT_INFO")
	fl.BoolVar(&build.NoApplication, "no-application", false, "built with BOOT_SERIAL_NO_APPLICATION")
	return cmd
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
	var b *sim.Board
	if len(words) == 2 {
		if n, err := strconv.Atoi(words[1]); err == nil {
			b = bench.Board(n)
		}
	}
	if b == nil {
		return fmt.Errorf("%q: say recover, boot, off or state, and the number of a board from 1 to %d", command, bench.Len())
	}
	switch words[0] {
	case "recover":
		return powerCycle(b, true)
	case "boot":
		return powerCycle(b, false)
	case "off":
		return b.Power().Out(gpio.Low)
	case "state":
		fmt.Fprintln(out, b.State())
		return nil
	}
	return fmt.Errorf("%q: there is no such command; say recover, boot, off or state", words[0])
}
