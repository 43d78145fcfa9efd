package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"flashline/records"
)

func newRecords() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "records",
		Short: "Ask the records: what was flashed, where, by whom, and how it ended",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRecordsList(), newRecordsShow(), newRecordsExport())
	return cmd
}

// filterFlags are the questions that list and export share.
type filterFlags struct {
	db, outcome, since, until, format string
	filter                            records.Filter
}

func (f *filterFlags) add(cmd *cobra.Command, format string) {
	fl := cmd.Flags()
	fl.StringVar(&f.db, "db", "", "records `file`")
	fl.StringVar(&f.filter.Order, "order", "", "only this order")
	fl.StringVar(&f.filter.Serial, "serial", "", "only this unit")
	fl.StringVar(&f.outcome, "outcome", "", "only PASS, FAIL, ERROR, ABORTED, INTERRUPTED or RUNNING")
	fl.IntVar(&f.filter.Site, "site", 0, "only this site")
	fl.StringVar(&f.filter.ImageHash, "image-hash", "", "only attempts with this image (the hash that boards report, hex)")
	fl.StringVar(&f.since, "since", "", "only attempts started at or after this `time`: 2026-01-31, 2026-01-31T14:00:00Z, or 24h for the last day")
	fl.StringVar(&f.until, "until", "", "only attempts started before this `time`")
	fl.IntVar(&f.filter.Limit, "limit", 0, "at most so many")
	fl.BoolVar(&f.filter.Newest, "newest", false, "newest first")
	fl.StringVar(&f.format, "format", format, "table, json or csv")
}

// ask opens the records and runs write over what the flags ask for.
func (f *filterFlags) ask(cmd *cobra.Command, out io.Writer) error {
	write := map[string]func(io.Writer, iter.Seq2[records.Record, error]) error{
		"table": records.WriteTable, "json": records.WriteJSON, "csv": records.WriteCSV,
	}[f.format]
	if write == nil {
		return badInput(fmt.Errorf("there is no format %q: use table, json or csv", f.format))
	}
	f.filter.Outcome = records.Outcome(strings.ToUpper(f.outcome))
	switch f.filter.Outcome {
	case "", records.Pass, records.Fail, records.Error, records.Aborted, records.Interrupted, records.Running:
	default:
		return badInput(fmt.Errorf("there is no outcome %q: use PASS, FAIL, ERROR, ABORTED, INTERRUPTED or RUNNING", f.outcome))
	}
	var err error
	if f.filter.Since, err = parseTime(f.since); err != nil {
		return badInput(fmt.Errorf("--since: %w", err))
	}
	if f.filter.Until, err = parseTime(f.until); err != nil {
		return badInput(fmt.Errorf("--until: %w", err))
	}
	r, err := openRecords(cmd, f.db)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := write(out, r.Attempts(cmd.Context(), f.filter)); err != nil {
		return stationFault(err)
	}
	return nil
}

func openRecords(cmd *cobra.Command, db string) (*records.Reader, error) {
	if db == "" {
		return nil, badInput(errors.New("no records file: give one with --db, as --db line-1.db"))
	}
	r, err := records.OpenReadOnly(cmd.Context(), db)
	if errors.Is(err, records.NoSuchFile) || errors.Is(err, records.NotRecords) {
		return nil, badInput(err)
	}
	if err != nil {
		return nil, stationFault(err)
	}
	return r, nil
}

// parseTime reads a moment: a day or a time in RFC 3339, or how long ago.
func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return time.Now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: write 2026-01-31, 2026-01-31T14:00:00Z, or 24h for the last day", s)
}

func newRecordsList() *cobra.Command {
	var f filterFlags
	cmd := &cobra.Command{
		Use:   "list --db F",
		Short: "List attempts",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return f.ask(cmd, cmd.OutOrStdout()) },
	}
	f.add(cmd, "table")
	return cmd
}

func newRecordsExport() *cobra.Command {
	var f filterFlags
	var name string
	cmd := &cobra.Command{
		Use:   "export --db F --out FILE",
		Short: "Write attempts to a file, whole or not at all",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if name == "" {
				return badInput(errors.New("no file to write: give one with --out, as --out wo-1.csv"))
			}
			// Under another name until it is complete: a reader never finds
			// half an export.
			tmp, err := os.CreateTemp(filepath.Dir(name), ".export-*")
			if err != nil {
				return stationFault(fmt.Errorf("cannot write %s: %w", name, err))
			}
			defer func() {
				if err != nil {
					tmp.Close()
					os.Remove(tmp.Name())
				}
			}()
			if err := f.ask(cmd, tmp); err != nil {
				return err
			}
			if err := errors.Join(tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
				return stationFault(fmt.Errorf("cannot write %s: %w", name, err))
			}
			if err := os.Rename(tmp.Name(), name); err != nil {
				return stationFault(err)
			}
			return nil
		},
	}
	f.add(cmd, "csv")
	cmd.Flags().StringVar(&name, "out", "", "the `file`")
	return cmd
}

func newRecordsShow() *cobra.Command {
	var db, format string
	cmd := &cobra.Command{
		Use:   "show --db F ATTEMPT",
		Short: "Show one attempt with all its steps",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := openRecords(cmd, db)
			if err != nil {
				return err
			}
			defer r.Close()
			rec, err := r.Attempt(cmd.Context(), args[0])
			if errors.Is(err, records.NotFound) {
				return badInput(err)
			}
			if err != nil {
				return stationFault(err)
			}
			var b bytes.Buffer
			switch format {
			case "text":
				err = records.WriteAttempt(&b, rec)
			case "json":
				err = records.WriteJSON(&b, func(yield func(records.Record, error) bool) { yield(rec, nil) })
			default:
				return badInput(fmt.Errorf("there is no format %q: use text or json", format))
			}
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(b.Bytes())
			return err
		},
	}
	cmd.Flags().StringVar(&db, "db", "", "records `file`")
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	return cmd
}
