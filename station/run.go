package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// muteEcho keeps a terminal from showing what the scanner types, which would
// push the rows that are redrawn in place out of their place: every label
// shows up in the row of its site anyway. Lines and Ctrl-C work as before.
func muteEcho(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("cannot read the terminal's settings: %w", err)
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO | unix.ECHONL
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return nil, fmt.Errorf("cannot change the terminal's settings: %w", err)
	}
	return func() {
		// Nothing is left to do for a terminal that is gone.
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, old)
	}, nil
}

func newRun() *cobra.Command {
	var o order
	cmd := &cobra.Command{
		Use:   "run --config line.toml --order WO-1",
		Short: "Work an order: scan units, flash every site, keep the record",
		Long: `Run works one order at the station that the file describes. Serials come from
the scanner, a keyboard that types a label and presses Enter, on standard
input. Each unit goes to the site that is announced. What starts the loaded
sites is set in the station file (start.trigger): the last scan, Enter, or an
interlock such as a lid switch; Enter alone always starts.

The run ends when the order has all its units, or with the end of the input.
Ctrl-C once takes no new units and finishes those that run; a second Ctrl-C
switches every site off at once. Either way every attempt has its record.

Scans from a terminal are refused while no site is free; lines from a pipe
wait for one.

Exit codes: 0 all passed, 1 some unit did not pass, 2 bad input, 3 station fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.config == "":
				return badInput(errors.New("no station file: give one with --config, as --config line-1.toml"))
			case o.id == "":
				return badInput(errors.New("no order: give its number with --order, as --order WO-1"))
			case o.quantity < 0:
				return badInput(errors.New("--quantity is negative: give the number of units, or leave it out"))
			}
			o.scans, o.out = cmd.InOrStdin(), cmd.OutOrStdout()
			if f, ok := o.scans.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
				o.attended = true
				restore, err := muteEcho(f)
				if err != nil {
					return stationFault(err)
				}
				defer restore()
			}
			return o.run(cmd.Context())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.config, "config", "", "station `file`")
	fl.StringVar(&o.id, "order", "", "work order `number`")
	fl.IntVar(&o.quantity, "quantity", 0, "units to build; 0 for what is on file, else for as many as are scanned")
	fl.StringVar(&o.recipe, "recipe", "", "recipe `file` instead of the station's")
	fl.StringVar(&o.db, "db", "", "records `file` instead of the station's")
	fl.StringVar(&o.operator, "operator", "", "`name` or badge of the operator, for the record")
	return cmd
}
