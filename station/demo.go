package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"flashline/configs"
	"flashline/fixtures/sim"
	"flashline/station/line"
)

type demo struct {
	units, sites, baud int
	seed               int64
	fault, db, order   string
	scenario, format   string
}

func newDemo() *cobra.Command {
	d := demo{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Work a small order on simulated boards, over real pseudo-terminals",
		Long: `Demo works an order as run does, with boards of software in place of the
hardware: each behind a real pseudo-terminal, powered and put into recovery
through GPIO pins, with a bootloader as strict as MCUboot's. A simulated
operator loads a new board for every unit and scans its label. Everything else
is what a factory runs, and so are the records.

With --fault, one of the boards is bad, so that you see a FAIL and what it
says. The faults:

` + faultList() + `
With --scenario, one board of one kind is worked instead, or, with "all", one of
every kind that the station is made for and of every kind it must refuse, all at
once: bootloaders built in different ways, one slot and two, UART and USB,
updates through applications. Each must end as it should, with a PASS that is
true of the board or a FAIL that says why; "list" lists them.

Exit codes: 0 all passed, 1 some unit did not pass, 2 bad input, 3 station fault;
with --scenario, 0 all ended as they should, 1 some did not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case d.scenario != "":
				return demoScenarios(cmd.Context(), d.scenario, d.format, cmd.OutOrStdout())
			case cmd.Flags().Changed("format"):
				return badInput(errors.New("--format is for --scenario: give one, as --scenario all"))
			}
			return d.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&d.units, "units", 16, "units in the order")
	fl.IntVar(&d.sites, "sites", 8, "sites of the fixture")
	fl.IntVar(&d.baud, "baud", 115200, "speed of the boards' ports in bits per second")
	fl.Int64Var(&d.seed, "seed", 1, "makes everything random repeatable")
	fl.StringVar(&d.fault, "fault", "", "`kind` of fault of one board, see above")
	fl.StringVar(&d.db, "db", "", "records `file` (default: a new one in the temporary folder)")
	fl.StringVar(&d.order, "order", "", "order `number` (default: a new one)")
	fl.StringVar(&d.scenario, "scenario", "", "`name` of a kind of board, all, or list")
	fl.StringVar(&d.format, "format", "text", "of the scenarios' reports: text or json")
	for _, other := range []string{"units", "sites", "baud", "seed", "fault", "db", "order"} {
		cmd.MarkFlagsMutuallyExclusive("scenario", other)
	}
	return cmd
}

func faultList() string {
	var b strings.Builder
	for _, f := range sim.Faults() {
		if f.Name == string(sim.FaultUSBDrop) {
			continue // the demo's boards have adapters
		}
		fmt.Fprintf(&b, "  %-17s %s\n", f.Name, f.Description)
	}
	return b.String()
}

const maxDemo = 10000 // units and sites: more is a typing mistake

func (d *demo) run(ctx context.Context, out io.Writer) error {
	for _, v := range []struct {
		flag          string
		n, least, max int
	}{{"units", d.units, 1, maxDemo}, {"sites", d.sites, 1, 256}, {"baud", d.baud, 9600, 12_000_000}} {
		if v.n < v.least || v.n > v.max {
			return badInput(fmt.Errorf("--%s is %d: use a number from %d to %d", v.flag, v.n, v.least, v.max))
		}
	}
	fault, err := sim.ParseFault(d.fault)
	if err != nil {
		return badInput(fmt.Errorf("--fault: %w", err))
	}
	if fault.Kind == sim.FaultUSBDrop {
		return badInput(errors.New("--fault usb-drop is for boards with a USB port of their own, which this demo has not: use --scenario recovery-usb-lost"))
	}
	dir, err := os.MkdirTemp("", "flashline-demo-")
	if err != nil {
		return stationFault(fmt.Errorf("the demo needs a temporary folder: %w", err))
	}
	config, err := d.files(dir)
	if err != nil {
		return stationFault(err)
	}
	if d.db == "" {
		d.db = filepath.Join(dir, "demo.db")
	} else {
		defer os.RemoveAll(dir) // nothing in it that is worth keeping
	}
	if d.order == "" {
		d.order = time.Now().Format("DEMO-20060102-150405")
	}

	op := newOperator(d.units, fault)
	o := order{
		config: config, db: d.db, id: d.order, quantity: d.units, operator: "demo",
		whole: true, scans: op.labels, out: out, simulated: op.fixture, watch: op.watch,
	}
	defer op.Close()
	return o.run(ctx)
}

// files writes the shipped simulator station, for as many sites as asked for,
// with its recipe into dir.
func (d *demo) files(dir string) (string, error) {
	config, err := configs.WriteExample(dir)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(config)
	if err != nil {
		return "", err
	}
	head, _, found := strings.Cut(string(text), "[[site]]")
	if !found {
		return "", errors.New("the shipped simulator station has no sites")
	}
	var b strings.Builder
	b.WriteString(strings.Replace(head, "seed = 1 ", fmt.Sprintf("seed = %d ", d.seed), 1))
	fmt.Fprintf(&b, "[port]\nbaud = %d\n", d.baud)
	for n := 1; n <= d.sites; n++ {
		fmt.Fprintf(&b, "\n[[site]]\nnumber   = %d\nport     = \"sim:%d\"\npower    = { pin = \"S%d_POWER\" }\nrecovery = { pin = \"S%d_RECOVERY\", active_low = true, open_drain = true }\n", n, n, n, n)
	}
	return config, os.WriteFile(config, []byte(b.String()), 0o644)
}

// operator is the demo's person at the fixture: told where the next unit
// goes, it takes the old board out, puts a new one in and scans its label.
type operator struct {
	units  int
	fault  sim.Fault
	labels *io.PipeReader // what the scanner types
	scan   *io.PipeWriter

	mu    sync.Mutex
	bench *sim.Bench
	next  int      // where the next unit goes
	sites chan int // the same, once for each unit asked for
	wg    sync.WaitGroup
	quit  chan struct{}
}

func newOperator(units int, fault sim.Fault) *operator {
	op := &operator{units: units, fault: fault, sites: make(chan int, 2*units+1), quit: make(chan struct{})}
	op.labels, op.scan = io.Pipe()
	op.wg.Go(op.work)
	return op
}

// fixture shows the operator the boards.
func (op *operator) fixture(b *sim.Bench) {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.bench = b
}

// watch listens to the station. A refused unit leaves its site free for the
// next one.
func (op *operator) watch(e line.Event) {
	op.mu.Lock()
	defer op.mu.Unlock()
	switch e.Kind {
	case line.Awaiting:
		op.next = e.Site
	case line.Refused:
	default:
		return
	}
	select {
	case op.sites <- op.next:
	default: // cannot be: there is room for every unit
	}
}

// bad is which unit has the faulty board: the third, or the last of fewer.
func (op *operator) bad() int { return min(3, op.units) }

func (op *operator) work() {
	defer op.scan.Close()
	for n := 1; n <= op.units; n++ {
		var site int
		select {
		case site = <-op.sites:
		case <-op.quit:
			return
		}
		op.mu.Lock()
		bench := op.bench
		op.mu.Unlock()
		fault := sim.Fault{}
		if n == op.bad() {
			fault = op.fault
		}
		if err := bench.Replace(site, func(o *sim.Options) { o.Fault, o.Seed = fault, o.Seed+uint64(n)<<16 }); err != nil {
			op.scan.CloseWithError(fmt.Errorf("loading site %d: %w", site, err))
			return
		}
		if _, err := fmt.Fprintf(op.scan, "FL-%06d\n", n); err != nil {
			return
		}
	}
}

// Close sends the operator home.
func (op *operator) Close() {
	close(op.quit)
	op.labels.Close()
	op.wg.Wait()
}
