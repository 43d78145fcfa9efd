// Station is the flashline command: it flashes boards through MCUboot's
// serial recovery, proves by the hash that each board reports that the right
// image is there, and keeps a record of every attempt.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/records"
	"flashline/smp/mcuboot"
	"flashline/station/line"
)

// Exit codes are an interface: scripts rely on them.
const (
	exitPassed = 0 // everything asked for was done, all units passed
	exitFailed = 1 // some unit did not pass
	exitInput  = 2 // bad command line, configuration, image or order
	exitFault  = 3 // the station: pins, ports, records
)

// exitError is an error that knows its exit code.
type exitError struct {
	code int
	err  error // nil if everything has been said
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func badInput(err error) error { return withCode(exitInput, err) }

func stationFault(err error) error { return withCode(exitFault, err) }

// withCode gives an error its exit code, unless whoever made it knew better.
func withCode(code int, err error) error {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e
	}
	return &exitError{code, err}
}

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main for tests too.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return exitPassed
	}
	code := exitInput // cobra's own complaints
	if e, ok := errors.AsType[*exitError](err); ok {
		code = e.code
		err = e.err
	}
	if err != nil {
		fmt.Fprintln(errs, explain(err))
	}
	return code
}

// explain is what a person reads of an error: its sentence, and what to do
// where the error knows that.
func explain(err error) string {
	text := err.Error()
	for _, hint := range hints(err) {
		text += "\n" + hint
	}
	return text
}

func hints(err error) []string {
	if e, ok := errors.AsType[*fixtures.PortError](err); ok {
		return []string{e.Hint}
	}
	if e, ok := errors.AsType[*fixtures.PinError](err); ok {
		return []string{e.Hint}
	}
	return nil
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "station",
		Short: "Flash boards on a production line, prove it and keep the record",
		Long: `Station flashes many boards at once through MCUboot's serial recovery (SMP over
UART), proves by the hash that each board reports that the right image is
there, starts it, and keeps a durable record of every attempt.

See it work on simulated boards:     station demo
Check a station's files:             station check --config line-1.toml
Work an order:                       station run --config line-1.toml --order WO-1
Ask the records:                     station records list --db line-1.db --order WO-1

Exit codes: 0 all passed, 1 some unit did not pass, 2 bad input, 3 station fault.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.AddCommand(
		newDemo(), newRun(), newCheck(), newDoctor(), newIdentify(), newFlash(), newExplain(), newImage(),
		newSimulate(), newBenchmark(), newRecords(), newVersion(),
	)
	return root
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "station", version())
			return err
		},
	}
}

// version is what the build knows of itself; it goes into every record.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" {
		v = "(devel)"
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && v == "(devel)":
			v = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true" && v != "(devel)":
			v += "+dirty"
		}
	}
	return v
}

// inputError sorts the errors of loading into bad input and the rest.
func inputError(err error) error {
	var (
		config  configs.Errors
		problem configs.Problem
		fw      *line.FirmwareError
		format  *mcuboot.FormatError
		store   *records.StoreError
		refused *records.RefusedError
	)
	switch {
	case errors.As(err, &config), errors.As(err, &problem), errors.As(err, &fw), errors.As(err, &format), errors.As(err, &refused):
		return badInput(err)
	case errors.As(err, &store):
		return stationFault(err)
	}
	return badInput(err)
}
