package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"flashline/configs"
	"flashline/fixtures"
)

// The checks of doctor besides those of fixtures.Examine. Scripts rely on them.
const (
	checkConfig      = "config"
	checkDescriptors = "descriptors"
	checkRecords     = "records"
	checkSpace       = "disk-space"
	checkClock       = "clock"
)

func newDoctor() *cobra.Command {
	var config, recipe, format string
	var fixHint bool
	cmd := &cobra.Command{
		Use:   "doctor --config line.toml",
		Short: "Look at everything a station needs, and say what to do about each fault",
		Long: `Doctor walks the whole station: its files, the kernel, the GPIO drivers and
devices, every pin and who has it, every port and who has it, open files, the
folder of the records and the clock. No pin is switched, no port opened and no
record written: it may be run while boards are connected.

Each line is ok, a warning (works, and deserves a look), failed (a run would fail
over it, at one site at least) or skipped, with the reason. --format json prints
an array of check, subject, state, detail and cure.

--fix-hint prints a file of udev rules, which says how to put it in place, and
looks at nothing but the names of the ports.

Exit codes: 0 nothing has failed, 2 a file has to be mended, 3 something else has
failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case format != "table" && format != "json":
				return badInput(fmt.Errorf("there is no format %q: use table or json", format))
			case fixHint && format == "json":
				return badInput(errors.New("--fix-hint prints a file and no findings: leave --format out"))
			case fixHint:
				return printFixHint(cmd.OutOrStdout(), config, "/dev/serial/by-path")
			case config == "":
				return badInput(errors.New("no station file: give one with --config, as --config line-1.toml"))
			}
			found := examine(config, recipe)
			if err := printFindings(cmd.OutOrStdout(), found, format); err != nil {
				return err
			}
			return verdict(found)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "station `file`")
	cmd.Flags().StringVar(&recipe, "recipe", "", "recipe `file` instead of the station's")
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.Flags().BoolVar(&fixHint, "fix-hint", false, "print udev rules and group set-up, ready to be put in place")
	return cmd
}

// examine looks at everything. A station file that cannot be read leaves the
// computer to look at.
func examine(config, recipe string) []fixtures.Finding {
	found, station := examineFiles(config, recipe)
	found = append(found, fixtures.Examine(station)...)
	if station != nil {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
			found = append(found, descriptors(station, limit.Cur))
		}
		found = append(found, examineRecords(station.Records.Abs)...)
	}
	return append(found, examineClock(config))
}

// examineFiles is what station check does. The station is nil if its file cannot
// be used.
func examineFiles(config, recipe string) ([]fixtures.Finding, *configs.Station) {
	station, err := configs.LoadStation(config)
	if err != nil {
		return fileFaults(config, err), nil
	}
	f, err := load(config, recipe)
	if err != nil {
		return fileFaults(config, err), station
	}
	found := []fixtures.Finding{{Check: checkConfig, Subject: config, State: fixtures.FindingOK,
		Detail: fmt.Sprintf("station %s, %d sites, %s revision %s", f.station.Name, len(f.station.Sites), f.recipe.Product, f.recipe.Revision)}}
	for _, p := range slices.Concat(f.station.Warnings, f.recipe.Warnings) {
		found = append(found, fileFinding(p, fixtures.FindingWarning))
	}
	return found, f.station
}

// fileFaults is one finding for each place that has to be mended.
func fileFaults(config string, err error) (found []fixtures.Finding) {
	if problems, ok := errors.AsType[configs.Errors](err); ok {
		for _, p := range problems {
			found = append(found, fileFinding(p, fixtures.FindingFailed))
		}
		return found
	}
	if p, ok := errors.AsType[configs.Problem](err); ok {
		return []fixtures.Finding{fileFinding(p, fixtures.FindingFailed)}
	}
	return []fixtures.Finding{{Check: checkConfig, Subject: config, State: fixtures.FindingFailed, Detail: err.Error(),
		Cure: "Mend it, or name another image in the recipe; station image shows what is in one."}}
}

func fileFinding(p configs.Problem, state fixtures.FindingState) fixtures.Finding {
	f := fixtures.Finding{Check: checkConfig, Subject: p.File, State: state, Detail: p.Message, Cure: "Mend it."}
	if p.Line > 0 {
		f.Subject = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Fix != "" { // the end of a sentence becomes one of its own
		f.Cure = strings.ToUpper(p.Fix[:1]) + p.Fix[1:] + "."
	}
	return f
}

const (
	// An open port is its device, its lock and the two ends of a pipe; a simulated
	// board has the far end of its terminal besides. Every pin is a descriptor.
	descriptorsPerSite = 5
	// What the program has open besides: GPIO devices, records, terminal, polling.
	descriptorsBesides = 64
	// The serial library calls select, which knows no descriptor from here on
	// (FD_SETSIZE).
	selectLimit = 1024
)

// descriptors compares what a station opens with what the system allows.
func descriptors(st *configs.Station, limit uint64) fixtures.Finding {
	need := uint64(descriptorsBesides)
	for i := range st.Sites {
		need += descriptorsPerSite + uint64(len(st.Sites[i].Outputs()))
	}
	f := fixtures.Finding{Check: checkDescriptors, Subject: "open files", State: fixtures.FindingOK,
		Detail: fmt.Sprintf("about %d are needed, %d are allowed", need, limit)}
	switch {
	case limit < need:
		f.State, f.Cure = fixtures.FindingFailed, "Allow more: ulimit -n 4096 in the shell that starts the station, or LimitNOFILE=4096 in its systemd unit."
	case need > selectLimit:
		f.State, f.Cure = fixtures.FindingFailed, "Give some of the sites to another station."
		f.Detail = fmt.Sprintf("about %d are needed, and a serial port must be among the first %d", need, selectLimit)
	}
	return f
}

const (
	// Free bytes of the disk of the records. An attempt takes some kilobytes there,
	// so below the first there is time to make room; the second is kept from other
	// programs that write to the same disk.
	roomyDisk, fullDisk = 1 << 30, 64 << 20
)

// examineRecords looks whether the records can be written, and for how long.
func examineRecords(file string) []fixtures.Finding {
	folder := filepath.Dir(file)
	f := fixtures.Finding{Check: checkRecords, Subject: file, State: fixtures.FindingFailed}
	if err := unix.Access(folder, unix.W_OK|unix.X_OK); err != nil {
		f.Detail, f.Cure = fmt.Sprintf("the folder %s cannot be written: %v", folder, err), "Give this user the folder, or name another one in the station file."
		return []fixtures.Finding{f}
	}
	switch err := unix.Access(file, unix.R_OK|unix.W_OK); {
	case errors.Is(err, unix.ENOENT):
		f.State, f.Detail = fixtures.FindingOK, "will be made by the first run"
	case err != nil:
		f.Detail, f.Cure = fmt.Sprintf("the file cannot be written: %v", err), "Give this user the file, as the user who made it or as root."
		return []fixtures.Finding{f}
	default:
		f.State, f.Detail = fixtures.FindingOK, "can be written"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(folder, &fs); err != nil {
		f.State, f.Detail, f.Cure = fixtures.FindingFailed, fmt.Sprintf("the disk of %s cannot be asked: %v", folder, err), "Check the disk."
		return []fixtures.Finding{f}
	}
	switch int64(fs.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC:
		f.State, f.Detail = fixtures.FindingWarning, "on a disk of the network, where SQLite's locks do not always hold"
		f.Cure = "Name a file on a local disk in the station file."
	}
	return []fixtures.Finding{f, diskSpace(folder, fs.Bavail*uint64(fs.Bsize))}
}

// diskSpace judges the free bytes of a disk.
func diskSpace(folder string, free uint64) fixtures.Finding {
	f := fixtures.Finding{Check: checkSpace, Subject: folder, State: fixtures.FindingOK, Detail: fmt.Sprintf("%d MB free", free/1e6)}
	switch {
	case free < fullDisk:
		f.State, f.Cure = fixtures.FindingFailed, "Make room: an attempt that cannot be recorded does not start."
	case free < roomyDisk:
		f.State, f.Cure = fixtures.FindingWarning, "Make room before it is full."
	}
	return f
}

// examineClock asks the system what time it is, and whether that is kept right.
func examineClock(config string) fixtures.Finding {
	var changed time.Time
	if info, err := os.Stat(config); err == nil {
		changed = info.ModTime()
	}
	var kept unix.Timex // with no mode, it is only read
	_, err := unix.Adjtimex(&kept)
	return clock(time.Now(), changed, err != nil || kept.Status&unix.STA_UNSYNC == 0)
}

// clock judges the time. The station file was changed in the past, and this
// program is newer than 2026.
func clock(now, changed time.Time, kept bool) fixtures.Finding {
	const cure = "Set the clock, and have it kept right (timedatectl set-ntp true): every record has its time from it."
	f := fixtures.Finding{Check: checkClock, Subject: "clock", State: fixtures.FindingOK, Detail: now.UTC().Format("2006-01-02 15:04:05 UTC")}
	switch {
	case now.Year() < 2026:
		f.State, f.Cure = fixtures.FindingFailed, cure
		f.Detail += ", before this program was made"
	case changed.After(now.Add(time.Minute)):
		f.State, f.Cure = fixtures.FindingWarning, cure
		f.Detail += fmt.Sprintf(", before the station file was changed (%s)", changed.UTC().Format("2006-01-02 15:04"))
	case !kept:
		f.State, f.Cure = fixtures.FindingWarning, cure
		f.Detail += ", not kept right by a time server"
	}
	return f
}

// verdict is the exit code of what was found.
func verdict(found []fixtures.Finding) error {
	code := exitPassed
	for _, f := range found {
		switch {
		case f.State != fixtures.FindingFailed:
		case f.Check == checkConfig:
			code = max(code, exitInput)
		default:
			code = exitFault
		}
	}
	if code == exitPassed {
		return nil
	}
	return &exitError{code: code} // it has been said
}

func printFindings(out io.Writer, found []fixtures.Finding, format string) error {
	var b strings.Builder
	if format == "json" {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(found); err != nil {
			return err
		}
	} else {
		count := map[fixtures.FindingState]int{}
		for _, f := range found {
			count[f.State]++
			fmt.Fprintf(&b, "%-8s %-16s %s: %s\n", f.State, f.Check, f.Subject, f.Detail)
			if f.Cure != "" {
				fmt.Fprintf(&b, "%26sDo: %s\n", "", f.Cure)
			}
		}
		fmt.Fprintf(&b, "%d ok, %d warning, %d failed, %d skipped.\n", count[fixtures.FindingOK], count[fixtures.FindingWarning], count[fixtures.FindingFailed], count[fixtures.FindingSkipped])
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// printFixHint prints the udev rules, and for the ports of a station file the
// names that stay with their sockets; byPath is where these are.
func printFixHint(out io.Writer, config, byPath string) error {
	text := fixtures.UdevRules
	if config != "" {
		st, err := configs.LoadStation(config)
		if err != nil {
			return inputError(err)
		}
		names := ""
		for _, s := range st.Sites {
			if name := placeOf(byPath, s.Port); name != "" {
				names += fmt.Sprintf("# site %d, now %s: port = %q\n", s.Number, s.Port, name)
			}
		}
		if names != "" {
			text += "\n# For " + filepath.Base(config) + ": the same ports by the names of their sockets.\n" + names
		}
	}
	_, err := io.WriteString(out, text)
	return err
}

// placeOf is the name in the folder byPath of a port that has another name; empty
// if there is none.
func placeOf(byPath, port string) string {
	path, err := fixtures.ResolvePort(port)
	if err != nil || filepath.Dir(path) == byPath {
		return ""
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	entries, err := os.ReadDir(byPath)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		name := filepath.Join(byPath, e.Name())
		if to, err := filepath.EvalSymlinks(name); err == nil && to == real {
			return name
		}
	}
	return ""
}
