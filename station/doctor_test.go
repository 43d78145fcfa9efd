package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flashline/configs"
	"flashline/fixtures"
)

func TestDescriptors(t *testing.T) {
	sites := func(n int) *configs.Station {
		st := &configs.Station{}
		for range n {
			st.Sites = append(st.Sites, configs.Site{Power: configs.Output{Pin: "P"}, Reset: &configs.Output{Pin: "R"}})
		}
		return st
	}
	for _, tt := range []struct {
		sites int
		limit uint64
		state fixtures.FindingState
		says  string
	}{
		{8, 1024, fixtures.FindingOK, "about 120 are needed, 1024 are allowed"},
		{8, 120, fixtures.FindingOK, ""},
		{8, 119, fixtures.FindingFailed, "ulimit"},
		{137, 1 << 20, fixtures.FindingOK, "1023"},
		{138, 1 << 20, fixtures.FindingFailed, "another station"},
	} {
		f := descriptors(sites(tt.sites), tt.limit)
		if f.State != tt.state || !strings.Contains(f.Detail+f.Cure, tt.says) || (f.Cure == "") != (f.State == fixtures.FindingOK) {
			t.Errorf("%d sites, %d allowed: %+v", tt.sites, tt.limit, f)
		}
	}
}

func TestDiskSpace(t *testing.T) {
	for free, want := range map[uint64]fixtures.FindingState{
		0: fixtures.FindingFailed, 64<<20 - 1: fixtures.FindingFailed, 64 << 20: fixtures.FindingWarning,
		1<<30 - 1: fixtures.FindingWarning, 1 << 30: fixtures.FindingOK, 1 << 40: fixtures.FindingOK,
	} {
		if f := diskSpace("/srv", free); f.State != want || (f.Cure == "") != (want == fixtures.FindingOK) {
			t.Errorf("%d bytes free: %+v", free, f)
		}
	}
}

func TestExamineRecords(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "line.db")
	states := func(file string) (out string) {
		for _, f := range examineRecords(file) {
			out += fmt.Sprintf("%s %s (%s) ", f.Check, f.State, f.Detail)
		}
		return out
	}
	if got := states(file); !strings.Contains(got, "records ok (will be made") || !strings.Contains(got, checkSpace) {
		t.Error(got)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := states(file); !strings.Contains(got, "records ok (can be written)") {
		t.Error(got)
	}
	for _, nowhere := range []string{filepath.Join(dir, "none", "line.db"), filepath.Join(file, "line.db")} {
		if got := states(nowhere); !strings.Contains(got, "records failed (the folder") {
			t.Errorf("%s: %s", nowhere, got)
		}
	}
	if os.Geteuid() == 0 {
		return // root writes what it likes
	}
	if err := os.Chmod(file, 0o444); err != nil {
		t.Fatal(err)
	}
	if got := states(file); !strings.Contains(got, "records failed (the file") {
		t.Error(got)
	}
}

func TestClock(t *testing.T) {
	now := time.Date(2027, 3, 4, 5, 6, 7, 0, time.UTC)
	for name, tt := range map[string]struct {
		now, changed time.Time
		kept         bool
		state        fixtures.FindingState
	}{
		"well":                      {now, now.AddDate(0, -1, 0), true, fixtures.FindingOK},
		"no file":                   {now, time.Time{}, true, fixtures.FindingOK},
		"file of another clock":     {now, now.Add(30 * time.Second), true, fixtures.FindingOK},
		"before the file":           {now, now.Add(time.Hour), true, fixtures.FindingWarning},
		"nobody keeps it":           {now, now.AddDate(0, -1, 0), false, fixtures.FindingWarning},
		"battery of the clock died": {time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), now, false, fixtures.FindingFailed},
	} {
		if f := clock(tt.now, tt.changed, tt.kept); f.State != tt.state || (f.Cure == "") != (tt.state == fixtures.FindingOK) {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func TestVerdict(t *testing.T) {
	finding := func(check string, state fixtures.FindingState) fixtures.Finding {
		return fixtures.Finding{Check: check, State: state}
	}
	file, pin := finding(checkConfig, fixtures.FindingFailed), finding("pin", fixtures.FindingFailed)
	for _, tt := range []struct {
		found []fixtures.Finding
		code  int
	}{
		{nil, exitPassed},
		{[]fixtures.Finding{finding(checkConfig, fixtures.FindingWarning), finding("port", fixtures.FindingSkipped), finding("pin", fixtures.FindingOK)}, exitPassed},
		{[]fixtures.Finding{file}, exitInput},
		{[]fixtures.Finding{file, pin}, exitFault},
		{[]fixtures.Finding{pin, file}, exitFault},
	} {
		code := exitPassed
		if e, ok := errors.AsType[*exitError](verdict(tt.found)); ok {
			code = e.code
		}
		if code != tt.code {
			t.Errorf("%v ends with %d, want %d", tt.found, code, tt.code)
		}
	}
}

// The hint names the sockets of ports that are written by names that move.
func TestFixHintNamesSockets(t *testing.T) {
	dir := t.TempDir()
	byPath := filepath.Join(dir, "by-path")
	err := errors.Join(os.Mkdir(byPath, 0o755), os.WriteFile(filepath.Join(dir, "ttyUSB0"), nil, 0o644), os.WriteFile(filepath.Join(dir, "ttyUSB1"), nil, 0o644),
		os.Symlink("../ttyUSB0", filepath.Join(byPath, "pci-usb-0:1.1:1.0-port0")),
		os.Symlink("../ttyUSB1", filepath.Join(byPath, "pci-usb-0:1.2:1.0-port0")))
	if err != nil {
		t.Fatal(err)
	}
	text := "station = \"s\"\nfixture = \"F\"\nrecords = \"s.db\"\nrecipe = \"s.toml\"\n"
	for i, port := range []string{dir + "/ttyUSB1", byPath + "/pci-usb-0:1.1:1.0-port0", dir + "/ttyUSB7", dir + "/ttyUSB[0]"} {
		text += fmt.Sprintf("[[site]]\nnumber = %d\nport = %q\n", i+1, port)
	}
	file := filepath.Join(dir, "s.toml") // its own recipe, which nobody reads here
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := printFixHint(&out, file, byPath); err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(out.String(), "# For s.toml: the same ports by the names of their sockets.\n")
	want := fmt.Sprintf("# site 1, now %s/ttyUSB1: port = %q\n# site 4, now %s/ttyUSB[0]: port = %q\n", dir, byPath+"/pci-usb-0:1.2:1.0-port0", dir, byPath+"/pci-usb-0:1.1:1.0-port0")
	if got != want || !strings.HasPrefix(out.String(), fixtures.UdevRules) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
