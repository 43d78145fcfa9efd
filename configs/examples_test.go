package configs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flashline/configs"
)

// TestShippedFiles loads what is shipped as the program does, so that it
// cannot rot, and asks for no warning in what others will copy.
func TestShippedFiles(t *testing.T) {
	for _, c := range []struct {
		file  string
		sites int
		sim   bool
	}{
		{"sim.toml", 8, true},
		{"line-1.toml", 4, false},
	} {
		t.Run(c.file, func(t *testing.T) {
			st, err := configs.LoadStation(c.file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := configs.LoadRecipe(st.Recipe.Abs)
			if err != nil {
				t.Fatal(err)
			}
			if len(st.Sites) != c.sites || (st.Simulator != nil) != c.sim {
				t.Errorf("%d sites, simulator %v; want %d and %v", len(st.Sites), st.Simulator != nil, c.sites, c.sim)
			}
			wantSentences(t, st.Warnings)
			wantSentences(t, r.Warnings)
			if err := st.CheckRecipe(r); err != nil {
				t.Error(err)
			}
			if err := r.Verify(); err != nil {
				t.Error(err)
			}
			if re, err := r.Check.Pattern("1.0.0+0"); err != nil || !re.MatchString("blinky version 1.0.0+0") {
				t.Errorf("boot text %v does not match what the application prints (%v)", re, err)
			}
			if !r.SerialOK("FL-000001") {
				t.Error("the label FL-000001 is refused")
			}
			if st.Simulator != nil && string(st.Simulator.KeyPEM) != string(r.Images[0].KeyPEM) {
				t.Error("the simulated boards do not trust the recipe's key")
			}
			for _, site := range st.Sites {
				if !site.Recovery.OpenDrain || !site.Recovery.ActiveLow {
					t.Errorf("site %d: recovery %+v is not open drain", site.Number, site.Recovery)
				}
			}
		})
	}
}

// TestCommentsAreTrue: line-1 says that it shows what holds without the lines.
func TestCommentsAreTrue(t *testing.T) {
	st, err := configs.LoadStation("line-1.toml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(station(t, smallest).Timings, st.Timings); diff != "" {
		t.Errorf("timings (-default +shown):\n%s", diff)
	}
	r, err := configs.LoadRecipe("line-1-recipe.toml")
	if err != nil {
		t.Fatal(err)
	}
	plain := recipe(t, smallestRecipe)
	if diff := cmp.Diff(plain.Timeouts, r.Timeouts); diff != "" {
		t.Errorf("timeouts (-default +shown):\n%s", diff)
	}
	if diff := cmp.Diff(plain.Retries, r.Retries); diff != "" {
		t.Errorf("retries (-default +shown):\n%s", diff)
	}
}

// TestEveryKeyIsShown: the files of line 1 are the manual of their keys. A key
// is shown by a value, perhaps commented out, or by a paragraph that begins
// with its name.
func TestEveryKeyIsShown(t *testing.T) {
	for file, root := range map[string]reflect.Type{
		"line-1.toml":        reflect.TypeFor[configs.Station](),
		"line-1-recipe.toml": reflect.TypeFor[configs.Recipe](),
	} {
		text, err := configs.Examples.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		shown := func(key string) bool {
			return regexp.MustCompile(`(?m)^(# )?`+key+` *=|[{,] `+key+` = |^# (\w+, )*`+key+`(,|\b.* Optional\b)`).Match(text) ||
				bytes.Contains(text, []byte("\n["+key+"]\n")) || bytes.Contains(text, []byte("\n[["+key+"]]\n"))
		}
		var look func(reflect.Type)
		look = func(typ reflect.Type) {
			for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
				typ = typ.Elem()
			}
			if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[configs.Simulator]() {
				return // the demo's business
			}
			for i := range typ.NumField() {
				key := typ.Field(i).Tag.Get("toml")
				if key == "" || key == "-" {
					continue
				}
				if key != "simulator" && !shown(key) {
					t.Errorf("%s does not show the key %s", file, key)
				}
				look(typ.Field(i).Type)
			}
		}
		look(root)
	}
}

// TestCommentedOutKeys: a line that is there to be uncommented can be.
func TestCommentedOutKeys(t *testing.T) {
	text, err := configs.Examples.ReadFile("line-1-recipe.toml")
	if err != nil {
		t.Fatal(err)
	}
	commented := regexp.MustCompile(`(?m)^# (\w+ += )`)
	if !commented.Match(text) {
		t.Fatal("there is none")
	}
	r := recipe(t, string(commented.ReplaceAll(text, []byte("$1"))))
	if r.Board == "" {
		t.Error("the board is not read")
	}
}

func TestWriteExample(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "demo")
	file, err := configs.WriteExample(dir)
	if err != nil {
		t.Fatal(err)
	}
	st, err := configs.LoadStation(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := configs.LoadRecipe(st.Recipe.Abs); err != nil {
		t.Fatal(err)
	}
	if _, err := configs.WriteExample(dir); err != nil {
		t.Errorf("the same files are there, but: %v", err)
	}

	key, image := filepath.Join(dir, "blinky.pub.pem"), filepath.Join(dir, "blinky-1.0.0.bin")
	if err := os.WriteFile(key, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	if _, err := configs.WriteExample(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("another file is there, but WriteExample gives %v", err)
	}
	if data, err := os.ReadFile(key); err != nil || string(data) != "mine" {
		t.Errorf("the other file was overwritten: %q, %v", data, err)
	}
	if _, err := os.Stat(image); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was written in spite of the refusal: %v", err)
	}
}

func TestExamplesAreEmbedded(t *testing.T) {
	entries, err := configs.Examples.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"blinky-1.0.0.bin", "blinky.pub.pem", "line-1-recipe.toml", "line-1.toml", "sim-recipe.toml", "sim.toml"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func Example() {
	dir, err := os.MkdirTemp("", "demo")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	file, err := configs.WriteExample(dir)
	if err != nil {
		log.Fatal(err)
	}
	st, err := configs.LoadStation(file)
	if err != nil {
		log.Fatal(err)
	}
	recipe, err := configs.LoadRecipe(st.Recipe.Abs)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %d sites, %s revision %s, %s\n",
		st.Name, len(st.Sites), recipe.Product, recipe.Revision, recipe.Images[0].Path)

	// Before each cycle:
	fmt.Println("changed since:", recipe.Verify())
	// Output:
	// sim: 8 sites, blinky revision A, blinky-1.0.0.bin
	// changed since: <nil>
}

func ExampleParseStation() {
	_, err := configs.ParseStation("line.toml", ".", []byte(`
station = "line-1"
fixture = "FX-8A"
records = "line-1.db"
recipe  = "line-1-recipe.toml"

[port]
baudd = 1000000

[[site]]
number   = 1
port     = "/dev/serial/by-path/usb-1"
power    = { pin = "GPIO17" }
recovery = { pin = "GPIO17", active_low = true }
`))
	fmt.Println(err)
	// Output:
	// line.toml:8: unknown key "baudd" in [port]; did you mean "baud"?
	// line.toml:14: the pin GPIO17 is both the power of site 1 (line 13) and the recovery of site 1; give each its own pin
}
