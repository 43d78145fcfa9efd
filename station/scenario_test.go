package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/station/line"
)

// Every kind of board ends as it must, on record and in truth.
func TestScenarios(t *testing.T) {
	t.Parallel() // it waits most of the time
	var out, errs bytes.Buffer
	code := run([]string{"demo", "--scenario", "all", "--format", "json"}, nil, &out, &errs)
	if errs.Len() > 0 {
		t.Errorf("said beside the JSON: %s", errs.String())
	}
	var reports []map[string]any
	if err := json.Unmarshal(out.Bytes(), &reports); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	all := scenarios()
	if len(reports) != len(all) {
		t.Fatalf("%d reports of %d scenarios", len(reports), len(all))
	}
	for i, s := range all {
		t.Run(s.name, func(t *testing.T) {
			r := reports[i]
			text := func(key string) string {
				v, ok := r[key].(string)
				if !ok {
					t.Errorf("%q is no text: %v", key, r[key])
				}
				return v
			}
			expected, expectedCode := s.expected()
			if text("scenario") != s.name || text("expected") != expected || text("outcome") != expected || text("proof") == "" {
				t.Errorf("%v", r)
			}
			if expectedCode != "" && text("code") != expectedCode {
				t.Errorf("%v", r)
			}
			if ok, is := r["ok"].(bool); !is || !ok {
				t.Errorf("not ok: %v", r)
			}
		})
	}
	if code != exitPassed && !t.Failed() {
		t.Errorf("exit code %d, and every scenario is ok", code)
	}
}

// The table of scenarios is usable by scripts, and complete.
func TestScenarioTable(t *testing.T) {
	name := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	seen := map[string]bool{}
	rows := map[string]bool{}
	codes := map[line.Code]bool{}
	for _, s := range scenarios() {
		if !name.MatchString(s.name) || len(s.name) > nameWidth || seen[s.name] || s.system == "" {
			t.Errorf("scenario %q is misnamed, there twice or not described", s.name)
		}
		if s.name == "all" || s.name == "list" {
			t.Errorf("%q is no name for a scenario", s.name)
		}
		seen[s.name], rows[s.end.row], codes[s.end.code] = true, true, true
	}
	for _, row := range []string{"1", "2", "3", "3b", "4", "5", "5t", "A1", "A2"} {
		if !rows[row] {
			t.Errorf("no scenario follows row %s of the decision table", row)
		}
	}
	for _, code := range []line.Code{
		line.NoRecovery, line.NotRecovery, line.WrongBaud, line.RawProtocol, line.ConsoleProtocol, line.NoUSBPort, line.USBLost, line.ImageNotListed, line.HashNotReported,
		line.NotConfirmed, line.NoDirectUpload, line.NoImageState, line.OtherSlotRuns, line.ErasedAtBoot, line.Reverted, line.NotSwapped, line.NoFreeSlot,
		line.NotApplication, line.NoSuchImage, line.ImageTooLarge, line.MessageTooLong, line.Downgrade, line.WrongBoard, line.DependencyMissing, line.NoBoot,
	} {
		if !codes[code] {
			t.Errorf("no scenario ends in %s", code)
		}
	}
}

// What is on record counts for nothing if it is not what must be there, or not
// true of the board.
func TestJudge(t *testing.T) {
	keys, err := newForge()
	if err != nil {
		t.Fatal(err)
	}
	s := scenario{name: "test", end: end{row: "1"}}.complete()
	_, hashes, err := s.files(t.TempDir(), keys)
	if err != nil {
		t.Fatal(err)
	}
	board := func(slots map[int]held) *sim.Board {
		contents, err := keys.contents(s.board, slots)
		if err != nil {
			t.Fatal(err)
		}
		b, err := sim.New(sim.Options{SlotSize: s.board.SlotSize, Key: keys.trusted.Public(), Contents: contents})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		return b
	}
	right := held{firmware: firmware{version: "1.0.0"}}
	good := func() records.Result {
		return records.Result{Outcome: records.Pass, PolicyRow: "1", Proof: "Seen.", BytesSent: 1, DeviceHash: hex.EncodeToString(hashes[0])}
	}
	failed := records.Result{Outcome: records.Fail, FailureCode: string(line.NoBoot), PolicyRow: "1", Detail: "It is dead.", NextStep: "Bury it."}
	tests := []struct {
		name  string
		end   end
		slots map[int]held
		edit  func(*records.Result)
		ended error
		bad   string // "" for ok
	}{
		{"right", end{row: "1"}, map[int]held{0: right}, nil, nil, ""},
		{"the board runs another image", end{row: "1"}, map[int]held{0: {firmware: firmware{version: "0.9.0"}}}, nil, nil, "will not run 1.0.0 for good"},
		{"the board runs nothing", end{row: "1"}, nil, nil, nil, "will not run 1.0.0 for good"},
		{"the board runs it once", end{row: "1"}, map[int]held{0: right, 1: {firmware{version: "0.9.0"}, forGood}}, nil, nil, "will not run 1.0.0 for good"},
		{"another hash on record", end{row: "1"}, map[int]held{0: right}, func(r *records.Result) { r.DeviceHash = strings.Repeat("0", 64) }, nil, "the hash on record"},
		{"another row", end{row: "2"}, map[int]held{0: right}, nil, nil, "row on record"},
		{"no proof", end{row: "1"}, map[int]held{0: right}, func(r *records.Result) { r.Proof = "" }, nil, "how the image was proven"},
		{"sent nothing", end{row: "1"}, map[int]held{0: right}, func(r *records.Result) { r.BytesSent = 0 }, nil, "0 bytes were sent"},
		{"sent something", end{row: "1", kept: true}, map[int]held{0: right}, nil, nil, "1 bytes were sent"},
		{"exit code", end{row: "1"}, map[int]held{0: right}, nil, &exitError{code: exitFailed}, "exit code 1"},
		{"PASS in the place of FAIL", end{code: line.NoBoot, row: "1"}, map[int]held{0: right}, nil, nil, "the attempts on record"},
		{"FAIL in the place of PASS", end{row: "1"}, map[int]held{0: right}, func(r *records.Result) { *r = failed }, &exitError{code: exitFailed}, "the attempts on record"},
		{"the right FAIL", end{code: line.NoBoot, row: "1"}, nil, func(r *records.Result) { *r = failed }, &exitError{code: exitFailed}, ""},
		{"another FAIL", end{code: line.NoRecovery, row: "1"}, nil, func(r *records.Result) { *r = failed }, &exitError{code: exitFailed}, "the attempts on record"},
		{"FAIL without a word", end{code: line.NoBoot, row: "1"}, nil, func(r *records.Result) { *r = failed; r.NextStep = "" }, &exitError{code: exitFailed}, "does not say why"},
		{"FAIL and exit code 0", end{code: line.NoBoot, row: "1"}, nil, func(r *records.Result) { *r = failed }, nil, "exit code 0"},
		{"one attempt too few", end{after: line.Replaced, row: "1"}, map[int]held{0: right}, nil, nil, "the attempts on record"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := good()
			if tt.edit != nil {
				tt.edit(&res)
			}
			s := s
			s.end = tt.end
			var r scenarioReport
			r.Expected, r.ExpectedCode = s.expected()
			s.judge(&r, []records.Record{{Result: &res}}, hashes, board(tt.slots), tt.ended)
			said := slices.ContainsFunc(r.Problems, func(p string) bool { return strings.Contains(p, tt.bad) })
			if r.OK != (tt.bad == "") || tt.bad != "" && !said {
				t.Errorf("ok %v: %q, want %q", r.OK, r.Problems, tt.bad)
			}
		})
	}
	var r scenarioReport
	if s.judge(&r, nil, hashes, board(nil), nil); r.OK || r.Outcome != string(records.Error) {
		t.Errorf("nothing on record is %+v", r)
	}
}
