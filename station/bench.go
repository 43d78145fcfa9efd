package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"flashline/fixtures/sim"
	"flashline/smp"
	"flashline/station/line"
)

func newBenchmark() *cobra.Command {
	var (
		name, format string
		all, phases  bool
		connected    benchPort
	)
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast boards are flashed, simulated ones or one on a port",
		Long: `Bench flashes simulated boards over real pseudo-terminals, one case after the
other, and prints what it measured. The boards have the flash times, the UART
and the line buffers of real parts and run in a process of their own: CPU time
and memory are this process's, which does what a station does. It takes some
minutes; --case runs one case, and "list" lists them.

One board, by part, speed and mode. "stop-and-wait" sends a chunk when the one
before it is answered; "automatic" may send ahead after a test on that very
board; "window" is for applications, which hold several requests. Here the
mode that is printed is the one the upload ended in.

"large-buffers" is "automatic" on a bootloader built with lines of 512 bytes and
a buffer of 4096, told to the station as line_length and message_size in a recipe
do.

Many boards (sites-N-BAUD): what run does with an order, records included, from
the press of start to the last PASS. The share of N times one board compares
their sum with one board worked in the same way in the same run. If not all
ended in the same mode, that is "mixed".

payload_bytes_per_s  bytes of the image over the time of the upload alone; of
                     many boards the sum of their rates
wire_share           of the line: payload over baud/10, the mean of many boards.
                     Console framing sends 127 bytes for 93, so that about 0.71
                     is all there is; in the raw protocol it is 0.95, one chunk
                     at a time
ceiling_share        of what framing and board leave as possible: payload over
                     that of a station which needs no time at all. A message of
                     1020 bytes is 12 lines; each is decoded, the flash erased
                     and written, the chunk answered, in the part's own time.
                     Stop-and-wait does one after the other; for the others
                     lines travel meanwhile, as far as 8 line buffers and a part
                     that is deaf while it erases allow
resends              requests sent again
cpu_s, rss_mb        of this process: time in the case, and the most memory
wall_s               the whole case, power-on and restart included

With --port one connected board is measured: the round trip and the longest
message, which does it no harm. With --image as well it IS FLASHED, as the
command flash does it, whatever it holds, and started. Its flash times are not
known, so that ceiling_share is of framing and answers alone, unless --part
names one that the simulator has.

--baud auto looks for the speed of that board without writing to it: from 3000000
down to 9600 it asks, and where something answers it sends 30 messages as long as
the board takes, until none is lost. The speed of MCUboot is compiled in, so that
one speed answers, or none; a plug that joins TX and RX sends back what it gets at
every speed, and so shows what adapter and cable can do.

  station bench --case nRF52840-115200-automatic
  station bench --port /dev/ttyACM0 --baud auto
  station bench --port /dev/ttyACM0 --baud 115200 --image app.signed.bin --format json

Exit codes: 0 measured, 1 a board failed, 2 bad input, 3 station or port fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return badInput(fmt.Errorf("there is no format %q: use text or json", format))
			}
			out := cmd.OutOrStdout()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			if connected.port == "" && (connected.image != "" || connected.key != "" || connected.part != "") {
				return badInput(errors.New("--image, --key and --part are for a connected board: give its --port, or none of them for simulated boards"))
			}
			if connected.port != "" {
				r, err := connected.measure(ctx)
				if err != nil && len(r.Speeds) == 0 {
					return err
				}
				return errors.Join(printBench(out, format, true, []benchReport{r}), err)
			}
			chosen, err := chooseCases(name, all)
			if err != nil {
				return badInput(err)
			}
			if name == "list" {
				for _, c := range chosen {
					fmt.Fprintln(out, c.name)
				}
				return nil
			}
			b, err := newBenchRun(cmd.ErrOrStderr())
			if err != nil {
				return stationFault(err)
			}
			defer b.Close()
			reports := []benchReport{}
			for _, c := range chosen {
				var r benchReport
				if r, err = b.run(ctx, c); err != nil {
					err = caseError(c, err)
					break
				}
				reports = append(reports, r)
			}
			if err != nil && len(reports) == 0 {
				return err
			}
			// What has been measured is shown even if a later case failed.
			return errors.Join(printBench(out, format, phases || len(chosen) == 1, reports), err)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&name, "case", "", "`name` of one case, or list")
	fl.BoolVar(&all, "all", false, "also 460800 and 3000000 baud, and 128 boards")
	fl.StringVar(&format, "format", "text", "text or json")
	fl.BoolVar(&phases, "phases", false, "the time of each step too")
	fl.StringVar(&connected.port, "port", "", "serial port of a connected board, a `path`")
	fl.StringVar(&connected.speed, "baud", "115200", "speed of that port in bits per second, or auto to find it")
	fl.BoolVar(&connected.usb, "usb", false, "that port is the board's own and comes and goes with its firmware")
	framingFlag(cmd, &connected.framing)
	fl.StringVar(&connected.image, "image", "", "signed image `file` to flash that board with")
	fl.StringVar(&connected.key, "key", "", "public key `file` to check the signature with first")
	fl.StringVar(&connected.part, "part", "", "`microcontroller` of that board")
	fl.DurationVar(&connected.wait, "wait", 10*time.Second, "how long to wait for that board to answer")
	cmd.MarkFlagsMutuallyExclusive("case", "port")
	cmd.MarkFlagsMutuallyExclusive("all", "port")
	return cmd
}

// benchReport is what a case has measured; scripts rely on the JSON names.
type benchReport struct {
	Case    string  `json:"case"`
	Baud    int     `json:"baud"`
	Sites   int     `json:"sites"`
	Mode    string  `json:"mode"`
	Rate    float64 `json:"payload_bytes_per_s"`
	Wire    float64 `json:"wire_share"`
	Ceiling float64 `json:"ceiling_share"`
	CPU     float64 `json:"cpu_s"`
	Wall    float64 `json:"wall_s"`
	RSS     float64 `json:"rss_mb"`

	OfOne   float64      `json:"share_of_one,omitempty"` // many boards: of as many times one board
	Resends int          `json:"resends"`
	Phases  []benchPhase `json:"phases"`
	// Of a connected board.
	RoundTrip float64      `json:"round_trip_s,omitempty"`
	Message   int          `json:"message_size,omitempty"`
	Speeds    []benchSpeed `json:"speeds,omitempty"` // with --baud auto, in the order tried
	Advice    string       `json:"advice,omitempty"` // how to make its adapter faster
}

// round leaves the digits that mean something.
func (r *benchReport) round() {
	for _, v := range []*float64{&r.Wire, &r.Ceiling, &r.CPU, &r.Wall, &r.RSS, &r.OfOne, &r.RoundTrip} {
		*v = math.Round(*v*1e4) / 1e4
	}
	r.Rate = math.Round(r.Rate)
	for i := range r.Phases {
		r.Phases[i].Seconds = math.Round(r.Phases[i].Seconds*1e4) / 1e4
	}
}

// benchPhase is the time of a step, of many boards the mean.
type benchPhase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"s"`
}

// benchCase is what is measured at a time.
type benchCase struct {
	name        string
	part        sim.Part
	baud, sites int
	overlap     smp.Overlap
	window      bool
	application bool
	raw         bool // the bootloader takes messages without frames
	many        bool // the way of run, with records
	extra       bool // only with --all
	size        int  // of the image's body in bytes, enough for some ten seconds if zero
	lineLength  int  // of a bootloader built with larger lines, 128 if zero
	message     int  // and with a larger buffer: its messages in bytes, those it takes by default if zero
}

// complete fills in what is not said.
func (c benchCase) complete() benchCase {
	if c.size == 0 {
		if c.size = 256 << 10; c.baud <= 115200 {
			c.size = 64 << 10
		}
	}
	return c
}

// slots is how many an image has. STM32F4 has three sectors for one, and for an
// image that is swapped one of them would be left.
func (c benchCase) slots() int {
	if c.part.SlotSize < 8*c.part.SectorSize {
		return 1
	}
	return 2
}

// bound is what limits the upload of the case.
func (c benchCase) bound(message int) bound {
	return bound{part: c.part, baud: c.baud, message: message, writeSize: benchWriteSize, slots: c.slots(), application: c.application, lineLength: c.lineLength, raw: c.raw}
}

// benchWriteSize is what chunks are a multiple of, as where nobody says
// anything else.
const benchWriteSize = 32

func benchCases() (all []benchCase) {
	for _, baud := range []int{115200, 460800, 1_000_000, 3_000_000} {
		extra := baud == 460800 || baud == 3_000_000
		for _, part := range []sim.Part{sim.NRF52840(), sim.STM32F4(), sim.NRF54L15()} {
			c := benchCase{name: fmt.Sprintf("%s-%d-stop-and-wait", part.Name, baud), part: part, baud: baud, sites: 1, extra: extra}
			all = append(all, c)
			c.name, c.overlap = fmt.Sprintf("%s-%d-automatic", part.Name, baud), smp.OverlapAuto
			all = append(all, c)
		}
		// CONFIG_BOOT_MAX_LINE_INPUT_LEN=512, CONFIG_BOOT_SERIAL_MAX_RECEIVE_SIZE=4096.
		large := benchCase{name: fmt.Sprintf("nRF54L15-%d-large-buffers", baud), part: sim.NRF54L15(), baud: baud, sites: 1, extra: extra, overlap: smp.OverlapAuto, lineLength: 512, message: 4092}
		all = append(all, large)
		all = append(all, benchCase{name: fmt.Sprintf("nRF54L15-%d-raw", baud), part: sim.NRF54L15(), baud: baud, sites: 1, raw: true, extra: extra})
		c := benchCase{name: fmt.Sprintf("application-%d-stop-and-wait", baud), part: sim.NRF54L15(), baud: baud, sites: 1, application: true, extra: extra}
		all = append(all, c)
		c.name, c.window = fmt.Sprintf("application-%d-window", baud), true
		all = append(all, c)
	}
	many := func(n, baud int) benchCase {
		return benchCase{name: fmt.Sprintf("sites-%d-%d", n, baud), part: sim.NRF52840(), baud: baud, sites: n, many: true, extra: n == 128}
	}
	for _, n := range []int{1, 8, 16, 32, 64, 128} {
		all = append(all, many(n, 115200))
	}
	return append(all, many(64, 1_000_000))
}

// chooseCases finds the cases of a name, or those that are run without one.
func chooseCases(name string, extra bool) ([]benchCase, error) {
	all := benchCases()
	switch name {
	case "list":
		return all, nil
	case "":
		return slices.DeleteFunc(all, func(c benchCase) bool { return c.extra && !extra }), nil
	}
	i := slices.IndexFunc(all, func(c benchCase) bool { return c.name == name })
	if i < 0 {
		return nil, fmt.Errorf("there is no case %q: --case list lists them", name)
	}
	return all[i : i+1], nil
}

// printBench writes the reports as a table or as JSON.
func printBench(out io.Writer, format string, phases bool, reports []benchReport) error {
	var b bytes.Buffer
	if format == "json" {
		for i := range reports {
			reports[i].round()
		}
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(reports); err != nil {
			return err
		}
		_, err := out.Write(b.Bytes())
		return err
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "case\tmode\tbytes/s\tof wire\tof ceiling\tof n×1\tresends\tCPU s\twall s\tMB\t\n")
	for _, r := range reports {
		of := ""
		if r.OfOne > 0 {
			of = percent(r.OfOne)
		}
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%s\t%s\t%s\t%d\t%.2f\t%.1f\t%.0f\t\n",
			r.Case, r.Mode, r.Rate, percent(r.Wire), percent(r.Ceiling), of, r.Resends, r.CPU, r.Wall, r.RSS)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range reports {
		if !phases {
			break
		}
		var parts []string
		for _, p := range r.Phases {
			parts = append(parts, fmt.Sprintf("%s %.3f s", p.Name, p.Seconds))
		}
		fmt.Fprintf(&b, "\n%s: %s\n", r.Case, strings.Join(parts, ", "))
		if r.RoundTrip > 0 {
			fmt.Fprintf(&b, "round trip %.1f ms, messages of up to %d bytes\n", 1000*r.RoundTrip, r.Message)
		}
		if len(r.Speeds) > 0 {
			printSpeeds(&b, r)
		}
		if r.Advice != "" {
			fmt.Fprintf(&b, "\n%s\n", r.Advice)
		}
	}
	_, err := out.Write(b.Bytes())
	return err
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

// caseError says in which case an error came up.
func caseError(c benchCase, err error) error {
	code := exitFault
	if e, ok := errors.AsType[*exitError](err); ok {
		code = e.code
	}
	return &exitError{code, fmt.Errorf("%s: %w", c.name, err)}
}

// failed is the error of a board that did not pass.
func failed(f error) error { return &exitError{exitFailed, f} }

// phase times a step of a board that is worked by hand.
func (r *benchReport) phase(ctx context.Context, name string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return failed(fmt.Errorf("%s: %w", name, line.ErrAborted))
	}
	start := time.Now()
	err := do(ctx)
	r.Phases = append(r.Phases, benchPhase{name, time.Since(start).Round(time.Microsecond).Seconds()})
	if err != nil {
		return failed(fmt.Errorf("%s: %w", name, err))
	}
	return nil
}
