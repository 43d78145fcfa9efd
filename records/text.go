package records

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// WriteTable writes one line per record for people, with a heading; without
// records it says so. Columns are fitted to the first records and pushed aside
// by longer ones later, so that millions of records need no memory.
func WriteTable(w io.Writer, recs iter.Seq2[Record, error]) error {
	t := table{w: bufio.NewWriter(w)}
	t.add([]string{"SEQ", "STARTED (UTC)", "SITE", "ORDER", "UNIT", "ATTEMPT", "OUTCOME", "TIME", "IMAGE", "CAUSE", "ID"})
	n := 0
	for rec, err := range recs {
		if err != nil {
			t.flush()
			return err
		}
		n++
		var took, cause string
		if r := rec.Result; r != nil {
			took, cause = seconds(*r), r.FailureCode
		}
		outcome := string(rec.Outcome())
		if rec.Purpose != Production {
			outcome += " (" + string(rec.Purpose) + ")"
		}
		t.add([]string{
			strconv.FormatInt(rec.Seq, 10), rec.StartedAt.UTC().Format(time.DateTime), strconv.Itoa(rec.Site),
			dash(rec.Order), dash(rec.UnitSerial), strconv.Itoa(rec.AttemptNo), outcome, dash(took),
			dash(rec.ImageVersion), dash(cause), rec.ID,
		})
	}
	if n == 0 {
		_, err := io.WriteString(w, "No attempts match.\n")
		return err
	}
	return t.flush()
}

// table lines up columns. It waits for some rows to learn the widths.
type table struct {
	w      *bufio.Writer
	widths []int
	rows   [][]string
	fitted bool
}

func (t *table) add(row []string) {
	for i, cell := range row {
		row[i] = printable(cell)
	}
	t.rows = append(t.rows, row)
	if t.fitted || len(t.rows) > 200 {
		t.print()
	}
}

func (t *table) print() {
	if !t.fitted {
		t.fitted = true
		for _, row := range t.rows {
			for i, cell := range row {
				if i == len(t.widths) {
					t.widths = append(t.widths, 0)
				}
				t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
			}
		}
	}
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(row)-1 {
				t.w.WriteString(cell + "\n")
				break
			}
			t.w.WriteString(cell + strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(cell))+2))
		}
	}
	t.rows = t.rows[:0]
}

func (t *table) flush() error {
	t.print()
	return t.w.Flush()
}

// WriteAttempt writes one record in full for people.
func WriteAttempt(w io.Writer, rec Record) error {
	b := bufio.NewWriter(w)
	field := func(name, format string, args ...any) {
		fmt.Fprintf(b, "%-10s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	field("attempt", "%s", rec.ID)
	if r := rec.Result; r == nil {
		field("outcome", "%s", Running)
	} else {
		field("outcome", "%s", strings.TrimSpace(string(r.Outcome)+" "+r.FailureCode))
		if r.FailedStep != "" {
			field("failed at", "%s", r.FailedStep)
		}
		if r.Detail != "" {
			field("detail", "%s", r.Detail)
		}
		if r.NextStep != "" {
			field("do next", "%s", r.NextStep)
		}
	}
	b.WriteString("\n")
	field("unit", "%s", from(dash(rec.UnitSerial), string(rec.SerialSource)))
	field("order", "%s", dash(rec.Order))
	field("attempt no", "%d of this unit in this order, try %d of cycle %s, %s", rec.AttemptNo, rec.CycleTry, dash(rec.CycleID), rec.Purpose)
	field("operator", "%s", dash(rec.Operator))
	field("where", "station %s, fixture %s, site %d, port %s at %d baud", rec.Station, dash(rec.Fixture), rec.Site, dash(rec.Port), rec.Baud)
	field("when", "%s", when(rec))
	field("record", "number %d of station %s", rec.Seq, rec.Station)
	b.WriteString("\n")
	field("recipe", "%s revision %s", dash(rec.Product), dash(rec.RecipeRevision))
	field("", "file sha256 %s", dash(rec.RecipeSHA256))
	field("image", "%s version %s, %d bytes", dash(rec.ImageName), dash(rec.ImageVersion), rec.ImageSize)
	field("", "file sha256 %s", dash(rec.ImageFileSHA256))
	field("", "image hash  %s", rec.ImageHash)
	if r := rec.Result; r != nil && r.Outcome != Interrupted {
		if r.DeviceHash == "" {
			field("device", "reported no hash at the end")
		} else {
			field("device", "%s version %s", dash(string(r.Target)), dash(r.DeviceVersion))
			field("", "image hash  %s", r.DeviceHash)
		}
		if r.PrevHash != "" {
			field("", "before      %s", r.PrevHash)
		}
	}
	for _, img := range rec.Further {
		field(fmt.Sprintf("image %d", img.Number), "%s version %s, %d bytes", dash(img.Name), dash(img.Version), img.Size)
		field("", "file sha256 %s", dash(img.FileSHA256))
		field("", "image hash  %s", img.Hash)
		if r := rec.Result; r == nil || r.Outcome == Interrupted {
			continue
		}
		d := rec.reported(img.Number)
		if d.DeviceHash == "" {
			field("", "reported    no hash at the end")
		} else {
			field("", "reported    %s version %s", d.DeviceHash, dash(d.DeviceVersion))
		}
		if d.PrevHash != "" {
			field("", "before      %s", d.PrevHash)
		}
	}
	if r := rec.Result; r != nil && r.Outcome != Interrupted {
		if r.Policy != "" {
			field("policy", "%s, row %s of the decision table", r.Policy, dash(r.PolicyRow))
		}
		if r.PolicyWhy != "" {
			field("why", "%s", r.PolicyWhy)
		}
		if r.Proof != "" {
			field("proof", "%s", r.Proof)
		}
		field("transfer", "%d bytes in chunks of %d, messages up to %d bytes, requests repeated: %d", r.BytesSent, r.ChunkSize, r.MessageSize, r.Retries)
		if r.UploadMode != "" {
			field("", "%s, %d bytes/s, a faster way given up: %d", r.UploadMode, r.UploadRate, r.UploadRewinds)
		}
	}
	field("station", "software %s on host %s", dash(rec.SoftwareVersion), rec.Host)
	field("", "start %s, station file sha256 %s", rec.BootID, dash(rec.ConfigSHA256))
	if rec.Result != nil && len(rec.Result.Steps) > 0 {
		b.WriteString("\n")
		t := table{w: b}
		t.add([]string{"STEP", "START", "TIME", "OUTCOME", "RETRIES", "BYTES", "DETAIL"})
		for _, s := range rec.Result.Steps {
			t.add([]string{
				s.Name, fmt.Sprintf("%.3f s", s.Start.Seconds()), fmt.Sprintf("%.3f s", s.Duration.Seconds()),
				string(s.Outcome), strconv.Itoa(s.Retries), strconv.FormatInt(s.Bytes, 10), dash(s.Detail),
			})
		}
		t.print()
	}
	return b.Flush()
}

func when(rec Record) string {
	if rec.Result == nil {
		return formatTime(rec.StartedAt) + ", not ended"
	}
	if rec.Result.Outcome == Interrupted {
		return formatTime(rec.StartedAt) + ", found interrupted at " + formatTime(rec.Result.EndedAt)
	}
	return fmt.Sprintf("%s to %s, %s", formatTime(rec.StartedAt), formatTime(rec.Result.EndedAt), seconds(*rec.Result))
}

// seconds returns the duration of an attempt, or nothing where it is unknown.
func seconds(r Result) string {
	if r.Outcome == Interrupted {
		return ""
	}
	return fmt.Sprintf("%.1f s", r.Duration.Seconds())
}

func from(value, source string) string {
	if source == "" {
		return value
	}
	return value + " (" + source + ")"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printable keeps what a label or a device said from moving the cursor.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 && utf8.ValidString(s) {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}
