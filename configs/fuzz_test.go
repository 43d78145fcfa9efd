package configs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"flashline/configs"
)

// seeds adds every shipped file and every wrong one of the given kind.
func seeds(f *testing.F, kind string, shipped ...string) {
	files, err := filepath.Glob("testdata/bad/" + kind + "-*.toml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range append(files, shipped...) {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
}

// wantSayable fails unless the error is what a technician can use: each
// problem with its file and a line that is there, in one printable line.
func wantSayable(t *testing.T, text []byte, err error) {
	t.Helper()
	var problems configs.Errors
	if !errors.As(err, &problems) || len(problems) == 0 {
		t.Fatalf("not an Errors with a problem: %v", err)
	}
	lines := strings.Count(string(text), "\n") + 1
	for _, p := range problems {
		if p.File != "f.toml" || p.Line < 1 || p.Line > lines || p.Col < 1 || p.Message == "" {
			t.Errorf("no good place or message: %+v", p)
		}
		if strings.ContainsFunc(p.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("not one printable line: %q", p.Error())
		}
	}
}

func FuzzParseStation(f *testing.F) {
	seeds(f, "station", "sim.toml", "line-1.toml")
	f.Fuzz(func(t *testing.T, text []byte) {
		st, err := configs.ParseStation("f.toml", "/", text)
		if err != nil {
			wantSayable(t, text, err)
			return
		}
		if err := st.CheckRecipe(&configs.Recipe{File: "r.toml", Entry: configs.RecoveryPin}); err != nil {
			wantSayable(t, text, err)
		}
		if len(st.Sites) == 0 || st.Name == "" || st.Recipe.Abs == "" || st.Records.Abs == "" {
			t.Errorf("accepted without what is required: %+v", st)
		}
		pins, ports, numbers := map[string]bool{}, map[string]bool{}, map[int]bool{}
		for _, site := range st.Sites {
			for _, out := range []*configs.Output{&site.Power, site.VBUS, &site.Recovery, site.Reset, site.LampBusy, site.LampPass, site.LampFail} {
				if out == nil || *out == (configs.Output{}) { // not wired
					continue
				}
				if out.Pin == "" || pins[out.Pin] || out.OpenDrain && !out.ActiveLow {
					t.Errorf("accepted output %+v of site %d", out, site.Number)
				}
				pins[out.Pin] = true
			}
			if site.Port == "" || ports[site.Port] || numbers[site.Number] || site.Baud <= 0 {
				t.Errorf("accepted site %+v", site)
			}
			ports[site.Port], numbers[site.Number] = true, true
		}
	})
}

func FuzzParseRecipe(f *testing.F) {
	seeds(f, "recipe", "sim-recipe.toml", "line-1-recipe.toml")
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := configs.ParseRecipe("f.toml", "/", text)
		if err != nil {
			wantSayable(t, text, err)
			return
		}
		if r.Product == "" || r.Revision == "" || len(r.Images) == 0 || len(r.Images) > 8 {
			t.Errorf("accepted without what is required: %+v", r)
		}
		numbers := map[int]bool{}
		for _, img := range r.Images {
			if len(img.SHA256) != 64 || img.SectorSize > 0 && img.SlotSize%img.SectorSize != 0 {
				t.Errorf("accepted image %+v", img)
			}
			if strings.EqualFold(filepath.Ext(img.Path.Written), ".zip") {
				continue
			}
			if numbers[img.Number] {
				t.Errorf("accepted two images with the number %d", img.Number)
			}
			numbers[img.Number] = true
		}
		if r.SlotPolicy == configs.ApplicationPolicy && r.Entry != configs.PowerOn {
			t.Errorf("accepted entry %q for an application", r.Entry)
		}
		if r.Check.BootText != "" {
			for _, version := range []string{"1.2.3", "1.2.3+4"} {
				if _, err := r.Check.Pattern(version); err != nil {
					t.Errorf("accepted boot text has no pattern for %s: %v", version, err)
				}
			}
		}
		r.SerialOK("FL-000001")
	})
}
