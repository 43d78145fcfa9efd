package mcuboot_test

import (
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"flashline/smp/mcuboot"
)

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]mcuboot.Version{
		"1.2.3":                    {Major: 1, Minor: 2, Revision: 3},
		"1.2.3+4":                  {Major: 1, Minor: 2, Revision: 3, Build: 4},
		"1.2.3.4":                  {Major: 1, Minor: 2, Revision: 3, Build: 4},
		"1.2.3.0":                  {Major: 1, Minor: 2, Revision: 3},
		"0.0.0+0":                  {},
		"255.255.65535+4294967295": {Major: 255, Minor: 255, Revision: 65535, Build: 4294967295},
		"255.255.65535.4294967295": {Major: 255, Minor: 255, Revision: 65535, Build: 4294967295},
	} {
		if got, err := mcuboot.ParseVersion(s); err != nil || got != want {
			t.Errorf("ParseVersion(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		"":                   `version "": 1 numbers before the build number, not 3; write it as 1.2.3 or 1.2.3+4`,
		"1.2":                `version "1.2": 2 numbers before the build number, not 3; write it as 1.2.3 or 1.2.3+4`,
		"1.2.3.4+5":          `version "1.2.3.4+5": 4 numbers before the build number, not 3; write it as 1.2.3 or 1.2.3+4`,
		"v1.2.3":             `version "v1.2.3": major "v1" is no number from 0 to 255; write it as 1.2.3 or 1.2.3+4`,
		"256.0.0":            `version "256.0.0": major "256" is no number from 0 to 255; write it as 1.2.3 or 1.2.3+4`,
		"0.256.0":            `version "0.256.0": minor "256" is no number from 0 to 255; write it as 1.2.3 or 1.2.3+4`,
		"0.0.65536":          `version "0.0.65536": revision "65536" is no number from 0 to 65535; write it as 1.2.3 or 1.2.3+4`,
		"0.0.0+4294967296":   `version "0.0.0+4294967296": build "4294967296" is no number from 0 to 4294967295; write it as 1.2.3 or 1.2.3+4`,
		"0.0.0+":             `version "0.0.0+": build "" is no number from 0 to 4294967295; write it as 1.2.3 or 1.2.3+4`,
		"1.02.3":             `version "1.02.3": minor "02" is no number from 0 to 255; write it as 1.2.3 or 1.2.3+4`,
		"1.-2.3":             `version "1.-2.3": minor "-2" is no number from 0 to 255; write it as 1.2.3 or 1.2.3+4`,
		"1.2.3+4+5":          `version "1.2.3+4+5": build "4+5" is no number from 0 to 4294967295; write it as 1.2.3 or 1.2.3+4`,
		"1.2.3-rc1":          `version "1.2.3-rc1": revision "3-rc1" is no number from 0 to 65535; write it as 1.2.3 or 1.2.3+4`,
		" 1.2.3":             `version " 1.2.3": major " 1" is no number from 0 to 255; write it as 1.2.3 or 1.2.3+4`,
		"1.2.+3":             `version "1.2.+3": revision "" is no number from 0 to 65535; write it as 1.2.3 or 1.2.3+4`,
		"1_0.2.3":            `version "1_0.2.3": major "1_0" is no number from 0 to 255; write it as 1.2.3 or 1.2.3+4`,
		"99999999999999.0.0": `version "99999999999999.0.0": major "99999999999999" is no number from 0 to 255; write it as 1.2.3 or 1.2.3+4`,
	} {
		if got, err := mcuboot.ParseVersion(s); err == nil || err.Error() != want {
			t.Errorf("ParseVersion(%q) = %v, %v\nwant %s", s, got, err, want)
		}
	}
}

func TestVersionOrder(t *testing.T) {
	ordered := []string{"0.0.0", "0.0.0+1", "0.0.1", "0.0.2", "0.0.10", "0.1.0", "0.9.0", "0.10.0", "1.0.0", "1.0.0+9", "1.0.0+10", "2.0.0", "10.0.0"}
	for i, a := range ordered {
		for j, b := range ordered {
			v, _ := mcuboot.ParseVersion(a)
			w, _ := mcuboot.ParseVersion(b)
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := v.Compare(w); got != want {
				t.Errorf("%s against %s: %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestVersionForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := mcuboot.Version{
			Major: rapid.Uint8().Draw(t, "major"), Minor: rapid.Uint8().Draw(t, "minor"),
			Revision: rapid.Uint16().Draw(t, "revision"), Build: rapid.Uint32().Draw(t, "build"),
		}
		for _, s := range []string{v.String(), v.ListString()} {
			if got, err := mcuboot.ParseVersion(s); err != nil || got != v {
				t.Fatalf("%q read back as %v, %v", s, got, err)
			}
		}
	})
	var v mcuboot.Version
	if err := json.Unmarshal([]byte(`"1.2.3"`), &v); err != nil {
		t.Fatal(err)
	}
	if b, _ := json.Marshal(v); string(b) != `"1.2.3+0"` || v.ListString() != "1.2.3" {
		t.Errorf("JSON %s, list form %s", b, v.ListString())
	}
	if err := json.Unmarshal([]byte(`"1.2"`), &v); err == nil {
		t.Error("read 1.2")
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"1.2.3", "1.2.3+4", "1.2.3.4", "255.255.65535+4294967295", "", "..."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := mcuboot.ParseVersion(s)
		if err != nil {
			return
		}
		if !slices.Contains([]string{v.String(), v.ListString(), v.ListString() + ".0", v.ListString() + "+0"}, s) {
			t.Errorf("took %q for %v", s, v)
		}
	})
}
