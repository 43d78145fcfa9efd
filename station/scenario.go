package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"flashline/configs"
	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/smp/mcuboot"
	"flashline/station/line"
)

// scenario is a kind of board, the order it is worked by, and how that must
// end.
type scenario struct {
	name, system string
	end          end
	board        sim.Options // Key, Contents and Link are filled in
	decrypts     bool        // the board has the key of encrypted images
	slots        map[int]held
	recipe       scenarioRecipe
}

// end is how an order must end.
type end struct {
	code  line.Code // of the FAIL, "" for PASS
	after line.Code // of a first attempt that fails; the second is the one that counts
	row   string    // of the decision table, "" if it does not come to that
	kept  bool      // a PASS without anything sent
}

// scenarioRecipe is what a scenario's recipe says where it is not the default.
type scenarioRecipe struct {
	images      []firmware // the 1.0.0 of image 0 if empty
	zip         bool       // the images come as one package
	entry       configs.Entry
	framing     configs.Framing
	policy      configs.SlotPolicy
	quiet       bool // no boot text
	board       string
	messageSize int
	downgrade   bool
}

// scenarioReport is how a scenario ended; scripts rely on the JSON names.
type scenarioReport struct {
	Scenario     string   `json:"scenario"`
	System       string   `json:"system"`
	Expected     string   `json:"expected"`                // PASS or FAIL
	ExpectedCode string   `json:"expected_code,omitempty"` // of a FAIL
	Outcome      string   `json:"outcome"`                 // of the attempt that counts, as recorded
	Code         string   `json:"code,omitempty"`
	Attempts     []string `json:"attempts"` // all of them, oldest first
	Policy       string   `json:"policy,omitempty"`
	Row          string   `json:"row,omitempty"`
	Why          string   `json:"why,omitempty"`
	Proof        string   `json:"proof"` // of a PASS as recorded; of a FAIL what showed it
	Truth        string   `json:"truth"` // what the simulated board would really run
	NextStep     string   `json:"next_step,omitempty"`
	Seconds      float64  `json:"seconds"`
	OK           bool     `json:"ok"`
	Problems     []string `json:"problems,omitempty"` // why it is not
}

// scenarioBaud is the speed of the ports of scenarios: fast, since the slow
// ones show nothing more.
const scenarioBaud = 1_000_000

// demoScenarios runs the scenarios of a name, or all, and reports.
func demoScenarios(ctx context.Context, name, format string, out io.Writer) error {
	if format != "text" && format != "json" {
		return badInput(fmt.Errorf("there is no format %q: use text or json", format))
	}
	chosen := scenarios()
	switch name {
	case "list":
		return listScenarios(out, format)
	case "all":
	default:
		chosen = slices.DeleteFunc(chosen, func(s scenario) bool { return s.name != name })
		if len(chosen) == 0 {
			var b bytes.Buffer
			if err := listScenarios(&b, "text"); err != nil {
				return err
			}
			return badInput(fmt.Errorf("there is no scenario %q; use all, or one of these:\n%s", name, strings.TrimRight(b.String(), "\n")))
		}
	}
	dir, err := os.MkdirTemp("", "flashline-demo-")
	if err != nil {
		return stationFault(fmt.Errorf("the demo needs a temporary folder: %w", err))
	}
	screen := io.Discard
	if len(chosen) == 1 && format == "text" {
		screen = out
	}
	start := time.Now()
	reports, err := runScenarios(ctx, dir, chosen, screen)
	if err != nil {
		return stationFault(err)
	}
	bad := 0
	for _, r := range reports {
		if !r.OK {
			bad++
		}
	}
	var b bytes.Buffer
	if format == "json" {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(reports); err != nil {
			return err
		}
	} else {
		tabulate(&b, reports)
		fmt.Fprintf(&b, "\n%d scenarios, %d as expected, in %.1f s.\n", len(reports), len(reports)-bad, time.Since(start).Seconds())
	}
	if bad > 0 && format == "text" {
		fmt.Fprintf(&b, "Their files and records are in %s\n", dir)
	}
	if bad == 0 && screen == io.Discard || format == "json" {
		// Nothing in it that anybody was told of.
		if err := os.RemoveAll(dir); err != nil {
			return stationFault(err)
		}
	}
	if _, err := out.Write(b.Bytes()); err != nil {
		return err
	}
	if bad > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

func listScenarios(out io.Writer, format string) error {
	type named struct {
		Scenario string `json:"scenario"`
		System   string `json:"system"`
		Expected string `json:"expected"`
		Code     string `json:"expected_code,omitempty"`
	}
	var b bytes.Buffer
	all := []named{}
	for _, s := range scenarios() {
		outcome, code := s.expected()
		all = append(all, named{s.name, s.system, outcome, code})
		fmt.Fprintf(&b, "  %-*s %s\n", nameWidth, s.name, s.system)
	}
	if format == "json" {
		b.Reset()
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(all); err != nil {
			return err
		}
	}
	_, err := out.Write(b.Bytes())
	return err
}

// atOnce is how many scenarios run at a time. What takes their time is
// waiting, but the boards of software keep real time, and a computer that is
// too busy makes them late.
const atOnce = 24

// runScenarios runs all. The reports are in the order of the scenarios; an
// error is the demo's own fault.
func runScenarios(ctx context.Context, dir string, all []scenario, screen io.Writer) ([]scenarioReport, error) {
	keys, err := newForge()
	if err != nil {
		return nil, err
	}
	reports, errs := make([]scenarioReport, len(all)), make([]error, len(all))
	var wg sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for i, s := range all {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			reports[i], errs[i] = s.run(ctx, filepath.Join(dir, s.name), keys, screen)
		})
	}
	wg.Wait()
	return reports, errors.Join(errs...)
}

// run works the order of a scenario in a folder of its own, as the command run
// does it, and compares what is on record with what must be, and with what the
// board knows.
func (s scenario) run(ctx context.Context, dir string, keys *forge, screen io.Writer) (scenarioReport, error) {
	fail := func(err error) (scenarioReport, error) {
		return scenarioReport{}, fmt.Errorf("scenario %s: %w", s.name, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fail(err)
	}
	s = s.complete()
	config, images, err := s.files(dir, keys)
	if err != nil {
		return fail(err)
	}
	contents, err := keys.contents(s.board, s.slots)
	if err != nil {
		return fail(err)
	}
	var bench *sim.Bench
	o := order{
		config: config, db: filepath.Join(dir, "demo.db"), id: "DEMO", quantity: 1, operator: "demo", whole: true,
		scans: strings.NewReader("FL-000001\n"), out: screen,
		boards: func(_ int, o *sim.Options) {
			name, seed := o.Name, o.Seed
			*o = s.board
			o.Name, o.Seed, o.Key, o.Contents = name, seed, keys.trusted.Public(), contents
			if o.USB != nil {
				o.Link = filepath.Join(dir, "port")
			}
			if s.decrypts {
				o.EncryptionKey = keys.encryption
			}
		},
		simulated: func(b *sim.Bench) { bench = b },
	}
	start := time.Now()
	ended := o.run(ctx)
	r := scenarioReport{Scenario: s.name, System: s.system, Attempts: []string{}, Seconds: time.Since(start).Round(100 * time.Millisecond).Seconds()}
	r.Expected, r.ExpectedCode = s.expected()
	if bench == nil {
		return fail(ended) // the scenario itself is wrong
	}
	recorded, err := attempts(ctx, o.db)
	if err != nil {
		return fail(errors.Join(err, ended))
	}
	s.judge(&r, recorded, images, bench.Board(1), ended)
	return r, nil
}

// complete fills in what most scenarios have in common.
func (s scenario) complete() scenario {
	if len(s.recipe.images) == 0 {
		s.recipe.images = []firmware{{version: "1.0.0"}}
	}
	s.recipe.policy = cmp.Or(s.recipe.policy, configs.AutoPolicy)
	if s.board.Part.Name == "" {
		s.board.Part = sim.NRF52840()
	}
	if s.board.SlotSize == 0 {
		// Small, for a swap moves all of it.
		s.board.SlotSize = max(16, 64<<10/s.board.Part.SectorSize) * s.board.Part.SectorSize
	}
	if s.board.Baud == 0 && s.board.USB == nil {
		s.board.Baud = scenarioBaud
	}
	return s
}

// files writes station, recipe, images and keys into dir.
func (s scenario) files(dir string, keys *forge) (config string, hashes [][]byte, err error) {
	write := func(name string, data []byte) string {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o644)
		}
		return name
	}
	var station, recipe strings.Builder
	fmt.Fprintf(&station, `station = "demo"
fixture = "FX-SIM"
records = "demo.db"
recipe  = "recipe.toml"

[timings]
power_off   = "50ms"
settle      = "10ms"
hold_cap    = "2s"
probe_every = "50ms"
reset_pulse = "20ms"
enumeration = "3s"

[port]
baud = %d
usb  = %t

[simulator]
part = %q

[[site]]
number   = 1
port     = "sim:1"
power    = { pin = "S1_POWER" }
recovery = { pin = "S1_RECOVERY", active_low = true, open_drain = true }
reset    = { pin = "S1_RESET", active_low = true, open_drain = true }
`, scenarioBaud, s.board.USB != nil, s.board.Part.Name)

	w := s.recipe
	fmt.Fprintf(&recipe, "product = \"demo\"\nrevision = \"A\"\nslot_policy = %q\nallow_downgrade = %t\n", w.policy, w.downgrade)
	if w.entry != "" {
		fmt.Fprintf(&recipe, "entry = %q\n", w.entry)
	}
	if w.framing != "" {
		fmt.Fprintf(&recipe, "framing = %q\n", w.framing)
	}
	if w.board != "" {
		fmt.Fprintf(&recipe, "board = %q\n", w.board)
	}
	var built [][]byte
	for _, fw := range w.images {
		image, err := keys.build(fw)
		if err != nil {
			return "", nil, err
		}
		parsed, err := mcuboot.Parse(image)
		if err != nil {
			return "", nil, err
		}
		built, hashes = append(built, image), append(hashes, parsed.Hash())
	}
	describe := func(file string, data []byte, fw firmware) {
		pem, pemErr := keys.pem(fw)
		err = errors.Join(err, pemErr)
		fmt.Fprintf(&recipe, "\n[[image]]\nfile = %q\nsha256 = \"%x\"\nkey = %q\nwrite_size = %d\nsector_size = %d\nmessage_size = %d\n",
			write(file, data), sha256.Sum256(data), write(file+".pem", pem), s.board.Part.WriteSize, s.board.Part.SectorSize, w.messageSize)
	}
	if w.zip {
		data, packErr := pack(w.images, built)
		err = errors.Join(err, packErr)
		describe("dfu_application.zip", data, w.images[0])
	} else {
		for i, fw := range w.images {
			describe(fmt.Sprintf("image%d.bin", fw.number), built[i], fw)
			fmt.Fprintf(&recipe, "number = %d\n", fw.number)
		}
	}
	tries := 1
	if s.end.after != "" {
		tries = 2
	}
	fmt.Fprintf(&recipe, `
[timeouts]
first_chunk = "10s"
chunk   = "1s"
list    = "5s"
command = "1s"
boot    = "4s"
swap    = "15s"
total   = "1m"

[retries]
attempts = %d
`, tries)
	if !w.quiet {
		recipe.WriteString("\n[check]\nboot_text = 'version {version}'\nwithin = \"2s\"\n")
	}
	write("recipe.toml", []byte(recipe.String()))
	return filepath.Join(dir, write("station.toml", []byte(station.String()))), hashes, err
}

// attempts are all on record, oldest first.
func attempts(ctx context.Context, db string) (all []records.Record, err error) {
	r, err := records.OpenReadOnly(ctx, db)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for rec, err := range r.Attempts(ctx, records.Filter{}) {
		if err != nil {
			return nil, err
		}
		all = append(all, rec)
	}
	return all, nil
}

// expected is how the order must end, in the terms of a report.
func (s scenario) expected() (outcome, code string) {
	if s.end.code == "" {
		return string(records.Pass), ""
	}
	return string(records.Fail), string(s.end.code)
}

// judge compares what is on record with what must be there, and a PASS with
// the board.
func (s scenario) judge(r *scenarioReport, recorded []records.Record, hashes [][]byte, board *sim.Board, ended error) {
	wrong := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	defer func() { r.OK = len(r.Problems) == 0 }()
	truth := board.WillRunAll()
	r.Truth = outlook(truth)
	for _, v := range board.Violations() {
		wrong("the board has suffered: %v", v)
	}

	for _, rec := range recorded {
		said := string(rec.Outcome())
		if rec.Result != nil && rec.Result.FailureCode != "" {
			said += " " + rec.Result.FailureCode
		}
		r.Attempts = append(r.Attempts, said)
	}
	want := []string{strings.TrimSpace(r.Expected + " " + r.ExpectedCode)}
	if s.end.after != "" {
		want = append([]string{string(records.Fail) + " " + string(s.end.after)}, want...)
	}
	if !slices.Equal(r.Attempts, want) {
		wrong("the attempts on record are %q instead of %q", r.Attempts, want)
	}
	if len(recorded) == 0 || recorded[len(recorded)-1].Result == nil {
		r.Outcome = string(records.Error)
		wrong("nothing is on record as ended: %v", ended)
		return
	}
	last := recorded[len(recorded)-1]
	res := last.Result
	r.Outcome, r.Code = string(res.Outcome), res.FailureCode
	r.Policy, r.Row, r.Why = res.Policy, res.PolicyRow, res.PolicyWhy
	r.NextStep, r.Proof = res.NextStep, res.Proof
	if r.Row != s.end.row {
		wrong("the decision table's row on record is %q instead of %q", r.Row, s.end.row)
	}
	code := exitPassed
	if e, ok := errors.AsType[*exitError](ended); ok {
		code = e.code
	}
	if res.Outcome != records.Pass {
		r.Proof = res.Detail
		if res.Detail == "" || res.NextStep == "" {
			wrong("the record does not say why it failed, or what to do: %q, %q", res.Detail, res.NextStep)
		}
		if code == exitPassed {
			wrong("the order ended with exit code %d", code)
		}
		return
	}
	// Green is a claim about the board: hold it against the board.
	if code != exitPassed {
		wrong("the order ended with exit code %d", code)
	}
	if r.Proof == "" {
		wrong("the record does not say how the image was proven")
	}
	if kept := res.BytesSent == 0; kept != s.end.kept {
		wrong("%d bytes were sent", res.BytesSent)
	}
	for i, fw := range s.recipe.images {
		hash := fmt.Sprintf("%x", hashes[i])
		if got := reportedHash(last, fw.number); got != hash {
			wrong("the hash on record for image %d is %q instead of %s", fw.number, got, hash)
		}
		if fw.number >= len(truth) || fmt.Sprintf("%x", truth[fw.number].Image.Hash) != hash || !truth[fw.number].Permanent {
			wrong("PASS is on record, but of image %d the board will not run %s for good", fw.number, fw.version)
		}
	}
}

// reportedHash is what a device reported of one of its images, as recorded.
func reportedHash(rec records.Record, number int) string {
	for _, f := range rec.Result.Further {
		if f.Number == number {
			return f.DeviceHash
		}
	}
	return rec.Result.DeviceHash
}

// outlook says what a board would run.
func outlook(all []sim.Outlook) string {
	if len(all) == 0 {
		return "the board starts nothing"
	}
	var parts []string
	for _, o := range all {
		what := "runs " + o.Image.Version
		if len(all) > 1 {
			what = fmt.Sprintf("runs %s of image %d", o.Image.Version, o.Image.Number)
		}
		if !o.Permanent {
			what += " once"
		} else {
			what += " at every start"
		}
		parts = append(parts, what)
	}
	return "the board " + strings.Join(parts, " and ")
}

// nameWidth is the width of a scenario's name, systemWidth of the lines below.
const nameWidth, textWidth = 36, 96

// tabulate prints reports for a person.
func tabulate(b *bytes.Buffer, reports []scenarioReport) {
	fmt.Fprintf(b, "     %-*s %-26s %s\n", nameWidth, "SCENARIO AND SYSTEM", "EXPECTED", "WHAT HAPPENED, AND HOW IT WAS PROVEN")
	for _, r := range reports {
		sign := map[bool]string{true: "ok", false: "BAD"}[r.OK]
		happened := strings.Join(r.Attempts, ", then ")
		if r.Row != "" {
			happened += fmt.Sprintf(" (%s, row %s)", r.Policy, r.Row)
		}
		fmt.Fprintf(b, "%-4s %-*s %-26s %s, %.1f s\n", sign, nameWidth, r.Scenario, strings.TrimSpace(r.Expected+" "+r.ExpectedCode), happened, r.Seconds)
		fold(b, "       ", r.System)
		fold(b, "       ", r.Proof)
		if r.NextStep != "" {
			fold(b, "       ", "Next: "+r.NextStep)
		}
		fold(b, "       ", "Truth: "+r.Truth+".")
		for _, p := range r.Problems {
			fold(b, "       ", "NOT AS EXPECTED: "+p)
		}
	}
}

// fold prints a text in lines of textWidth.
func fold(b *bytes.Buffer, indent, text string) {
	width := 0
	for _, word := range strings.Fields(text) {
		switch n := len([]rune(word)); {
		case width == 0:
			b.WriteString(indent)
			width = n
		case width+1+n > textWidth:
			b.WriteString("\n" + indent)
			width = n
		default:
			b.WriteByte(' ')
			width += 1 + n
		}
		b.WriteString(word)
	}
	if width > 0 {
		b.WriteByte('\n')
	}
}
