package configs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flashline/configs"
)

const (
	ms = configs.Duration(time.Millisecond)
	s  = configs.Duration(time.Second)
)

// smallest is a station file with nothing but what is required.
const smallest = `station = "line-1"
fixture = "FX-8A"
records = "line-1.db"
recipe = "line-1-recipe.toml"

[[site]]
number = 1
port = "/dev/serial/by-path/usb-1"
power = { pin = "GPIO17" }
recovery = { pin = "GPIO4" }
`

const smallestRecipe = `product = "blinky"
revision = "A"

[[image]]
file = "app.bin"
sha256 = "110009dcee21620b166f3abfecb5eff7a873be729d1c2d53822e7acc5f34eb9b"
`

func station(t *testing.T, text string) *configs.Station {
	t.Helper()
	st, err := configs.ParseStation("s.toml", "/etc/line", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func recipe(t *testing.T, text string) *configs.Recipe {
	t.Helper()
	r, err := configs.ParseRecipe("r.toml", "/etc/line", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDefaults(t *testing.T) {
	st := station(t, smallest)
	want := configs.Station{
		Name: "line-1", Fixture: "FX-8A",
		Records: configs.Path{Written: "line-1.db", Abs: "/etc/line/line-1.db"},
		Recipe:  configs.Path{Written: "line-1-recipe.toml", Abs: "/etc/line/line-1-recipe.toml"},
		Start:   configs.Start{Trigger: configs.LastScan},
		Timings: configs.Timings{
			PowerOff: 1 * s, Settle: 50 * ms, DetectDelay: 0, HoldCap: 5 * s,
			ProbeEvery: 10 * ms, Stagger: 200 * ms, ResetPulse: 50 * ms, Enumeration: 10 * s,
		},
		Port: configs.Port{Baud: 115200, FlowControl: configs.NoFlowControl},
		Sites: []configs.Site{{
			Number: 1, Port: "/dev/serial/by-path/usb-1", Baud: 115200, FlowControl: configs.NoFlowControl,
			Power: configs.Output{Pin: "GPIO17"}, Recovery: configs.Output{Pin: "GPIO4"},
		}},
		File: "s.toml", Text: smallest, SHA256: sum(t, smallest),
	}

	if diff := cmp.Diff(&want, st); diff != "" {
		t.Errorf("station (-want +got):\n%s", diff)
	}

	r := recipe(t, smallestRecipe)
	if diff := cmp.Diff([]configs.Image{{
		Path:      configs.Path{Written: "app.bin", Abs: "/etc/line/app.bin"},
		SHA256:    "110009dcee21620b166f3abfecb5eff7a873be729d1c2d53822e7acc5f34eb9b",
		WriteSize: 32, SendAhead: configs.AheadAuto,
	}}, r.Images); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(configs.Timeouts{
		FirstChunk: 60 * s, Chunk: 3 * s, LastChunk: 10 * s, List: 15 * s, Command: 2 * s, Boot: 10 * s, Swap: 60 * s, Total: 600 * s,
	}, r.Timeouts); diff != "" {
		t.Errorf("timeouts (-want +got):\n%s", diff)
	}
	if want := (configs.Retries{Attempts: 2, Chunk: 5}); r.Retries != want {
		t.Errorf("retries %+v, want %+v", r.Retries, want)
	}
	if want := (configs.Check{Within: 5 * s, Proof: configs.AutoProof}); r.Check != want {
		t.Errorf("check %+v, want %+v", r.Check, want)
	}
	if r.Framing != configs.AutoFraming {
		t.Errorf("framing %q, want auto", r.Framing)
	}
	if r.Entry != configs.RecoveryPin || r.SlotPolicy != configs.AutoPolicy || r.AllowDowngrade || r.Board != "" {
		t.Errorf("entry %q, slot policy %q, downgrade %v, board %q; want recovery-pin, auto, false and none", r.Entry, r.SlotPolicy, r.AllowDowngrade, r.Board)
	}
}

// TestApplicationIsSwitchedOn: where the application is updated, the way in
// need not be written.
func TestApplicationIsSwitchedOn(t *testing.T) {
	for _, entry := range []string{"", "entry = \"power-on\"\n"} {
		r := recipe(t, entry+"slot_policy = \"application\"\n"+smallestRecipe)
		if r.Entry != configs.PowerOn {
			t.Errorf("entry %q, want power-on", r.Entry)
		}
	}
}

// TestAllowed holds for what the rules about entry, policy and proof leave
// alone, and for several images.
func TestAllowed(t *testing.T) {
	const second = "[[image]]\nfile = \"net.bin\"\nnumber = 1\nsha256 = \"110009dcee21620b166f3abfecb5eff7a873be729d1c2d53822e7acc5f34eb9b\"\n"
	second3 := strings.Replace(second, "number = 1", "number = 15\nupload_number = 255", 1)
	zip := strings.NewReplacer("net.bin", "DFU.ZIP", "number = 1\n", "").Replace(second)
	for name, text := range map[string]string{
		"swap without a pin":         "entry = \"power-on\"\nslot_policy = \"secondary-confirm\"\n" + smallestRecipe,
		"trial without a pin":        "entry = \"power-on\"\nslot_policy = \"secondary-test-confirm\"\n" + smallestRecipe,
		"recovery by boot mode":      "entry = \"boot-mode\"\n" + smallestRecipe + "[check]\nproof = \"recovery\"\n",
		"recovery by window":         "entry = \"window\"\nslot_policy = \"primary\"\n" + smallestRecipe + "[check]\nproof = \"recovery\"\n",
		"application in any case":    "entry = \"reset-pin\"\nallow_downgrade = true\nboard = \"nrf5340dk/nrf5340/cpuapp\"\n" + smallestRecipe + "[check]\nproof = \"application\"\n",
		"boot text":                  smallestRecipe + "[check]\nproof = \"boot-text\"\nboot_text = 'version {version}'\n",
		"three images":               "slot_policy = \"secondary-test-confirm\"\n" + smallestRecipe + second + second3,
		"a package and an image":     smallestRecipe + zip,
		"two packages":               smallestRecipe[:strings.Index(smallestRecipe, "[[image]]")] + zip + zip,
		"one sector":                 smallestRecipe + "slot_size = 131072\nsector_size = 131072\n",
		"smallest sectors":           smallestRecipe + "slot_size = 384\nsector_size = 128\n",
		"sectors of an unknown slot": smallestRecipe + "sector_size = 1048576\n",
		"everything unknown":         smallestRecipe + "number = 0\nupload_number = 0\nsector_size = 0\n",
	} {
		t.Run(name, func(t *testing.T) {
			recipe(t, text)
		})
	}
}

// TestWrittenZeroIsNotDefault holds for the keys in which zero means something.
func TestWrittenZeroIsNotDefault(t *testing.T) {
	st := station(t, smallest+"[timings]\nsettle = \"0s\"\nstagger = \"0s\"\n")
	if st.Timings.Settle != 0 || st.Timings.Stagger != 0 {
		t.Errorf("written zeros became %s and %s", st.Timings.Settle, st.Timings.Stagger)
	}
	r := recipe(t, smallestRecipe+"message_size = 0\n[retries]\nchunk = 0\n")
	if r.Retries.Chunk != 0 || r.Images[0].MessageSize != 0 {
		t.Errorf("written zeros became %d and %d", r.Retries.Chunk, r.Images[0].MessageSize)
	}
	sim := strings.Replace(smallest, "/dev/serial/by-path/usb-1", "sim:1", 1) + "[simulator]\npart = \"nRF52840\"\n"
	if got := station(t, sim).Simulator; got.Seed != 1 || got.LineBufs != 8 {
		t.Errorf("simulator defaults: seed %d, line_bufs %d; want 1 and 8", got.Seed, got.LineBufs)
	}
	if got := station(t, sim+"seed = 0\n").Simulator; got.Seed != 0 {
		t.Errorf("written seed 0 became %d", got.Seed)
	}
}

func TestSiteBaud(t *testing.T) {
	second := strings.NewReplacer("number = 1", "number = 2\nbaud = 460800", "usb-1", "usb-2", "GPIO17", "GPIO27", "GPIO4", "GPIO5").
		Replace(smallest[strings.Index(smallest, "[[site]]"):])
	st := station(t, smallest+second+"[port]\nbaud = 1000000\n")
	if a, b := st.Sites[0].Baud, st.Sites[1].Baud; a != 1000000 || b != 460800 {
		t.Errorf("bauds %d and %d, want that of [port], 1000000, and the site's own, 460800", a, b)
	}
}

// TestFit: the recipe's baud goes over the station's at every port that has a
// speed; a recipe without one changes nothing.
func TestFit(t *testing.T) {
	second := strings.NewReplacer("number = 1", "number = 2\nusb = true", "usb-1", "usb-2", "GPIO17", "GPIO27", "GPIO4", "GPIO5").
		Replace(smallest[strings.Index(smallest, "[[site]]"):])
	for _, c := range []struct {
		recipe   string
		adapter  int
		boardUSB int
	}{{"", 1000000, 1000000}, {"baud = 460800\n", 460800, 1000000}} {
		st, r := station(t, smallest+second+"[port]\nbaud = 1000000\n"), recipe(t, c.recipe+smallestRecipe)
		if err := st.CheckRecipe(r); err != nil {
			t.Fatal(err)
		}
		st.Fit(r)
		if a, b := st.Sites[0].Baud, st.Sites[1].Baud; a != c.adapter || b != c.boardUSB {
			t.Errorf("%q: bauds %d and %d, want %d and %d", c.recipe, a, b, c.adapter, c.boardUSB)
		}
	}
}

// TestSiteFlowControl: a site has what [port] says, unless it says otherwise
// itself or its port is the board's own.
func TestSiteFlowControl(t *testing.T) {
	further := func(n, extra string) string {
		return strings.NewReplacer("number = 1", "number = "+n+"\n"+extra, "usb-1", "usb-"+n, "GPIO17", "GPIO2"+n, "GPIO4", "GPIO1"+n).
			Replace(smallest[strings.Index(smallest, "[[site]]"):])
	}
	st := station(t, smallest+further("2", `flow_control = "none"`)+further("3", "usb = true")+"[port]\nflow_control = \"rts-cts\"\n")
	for i, want := range []configs.FlowControl{configs.RTSCTS, configs.NoFlowControl, configs.NoFlowControl} {
		if got := st.Sites[i].FlowControl; got != want {
			t.Errorf("site %d has %q, want %q", i+1, got, want)
		}
	}
}

// TestSiteUSB: a site has what [port] says, unless it says otherwise itself.
func TestSiteUSB(t *testing.T) {
	second := strings.NewReplacer("number = 1", "number = 2\nusb = false\nvbus = { pin = \"GPIO6\" }", "usb-1", "usb-2", "GPIO17", "GPIO27", "GPIO4", "GPIO5").
		Replace(smallest[strings.Index(smallest, "[[site]]"):])
	st := station(t, smallest+second+"[port]\nusb = true\n")
	if !st.Sites[0].USB || st.Sites[1].USB {
		t.Errorf("usb %v and %v, want that of [port], true, and the site's own, false", st.Sites[0].USB, st.Sites[1].USB)
	}
	if diff := cmp.Diff(&configs.Output{Pin: "GPIO6"}, st.Sites[1].VBUS); diff != "" || st.Sites[0].VBUS != nil {
		t.Errorf("vbus (-want +got):\n%s\nand %v where there is none", diff, st.Sites[0].VBUS)
	}
}

// TestSameMeaning holds one station written in all the ways TOML has.
func TestSameMeaning(t *testing.T) {
	head := smallest[:strings.Index(smallest, "[[site]]")]
	for name, text := range map[string]string{
		"tables":       head + "[[site]]\nnumber = 1\nport = \"/dev/serial/by-path/usb-1\"\n[site.power]\npin = \"GPIO17\"\n[site.recovery]\npin = \"GPIO4\"\n",
		"dotted":       head + "[[site]]\nnumber = 1\nport = '/dev/serial/by-path/usb-1'\npower.pin = \"GPIO17\"\nrecovery.\"pin\" = \"GPIO4\"\n",
		"inline":       head + `site = [{ number = 0x1, port = "/dev/serial/by-path/usb-1", power = { pin = "GPIO17" }, recovery = { pin = "GPIO4" } }]`,
		"windows":      "\ufeff" + strings.ReplaceAll(smallest, "\n", "\r\n"),
		"no final end": strings.TrimSpace(smallest),
	} {
		t.Run(name, func(t *testing.T) {
			want, got := station(t, smallest), station(t, text)
			if got.Text != text || got.SHA256 != sum(t, text) {
				t.Error("the text or its hash is not that of the file")
			}
			got.Text, got.SHA256 = want.Text, want.SHA256
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	st := station(t, strings.Replace(smallest, "/dev/serial/by-path/usb-1", "/dev/ttyUSB0", 1))
	wantSentences(t, st.Warnings, "s.toml:8: the port /dev/ttyUSB0 of site 1 can become another board's when an adapter is plugged in anew; write the name of the same port that ls -l /dev/serial/by-path shows")

	st = station(t, strings.Replace(smallest, `{ pin = "GPIO17" }`, `{ pin = "GPIO17", active_low = true }`, 1))
	wantSentences(t, st.Warnings, "s.toml:9: the power of site 1 is active at low level, and many pins are low while the computer starts: the board then has power with nobody in control; wire the supply switch so that high level means on")

	const noPower = "s.toml:6: site 1 has no power pin: its board is never switched off, and a board that is hung stays so; "
	st = station(t, strings.Replace(smallest, `power = { pin = "GPIO17" }`, "", 1))
	wantSentences(t, st.Warnings, noPower+`switch the supply and add power = { pin = "…" }`)

	st = station(t, strings.Replace(smallest, `power = { pin = "GPIO17" }`, `vbus = { pin = "GPIO17", active_low = true }`, 1))
	wantSentences(t, st.Warnings, noPower+"if the board is fed by USB alone, write power in place of vbus",
		"s.toml:9: the vbus of site 1 is active at low level, and many pins are low while the computer starts: the board then has power with nobody in control; wire the supply switch so that high level means on")

	st = station(t, strings.Replace(smallest, "by-path/usb-1\"", "by-id/usb-Zephyr_Project_1234-if00\"\nusb = true", 1))
	wantSentences(t, st.Warnings, "s.toml:8: the port /dev/serial/by-id/usb-Zephyr_Project_1234-if00 of site 1 is named after one board and its firmware, and the next board has another name; write the name of the same port that ls -l /dev/serial/by-path shows")

	keyed := smallestRecipe + "key = \"key.pem\"\n"
	r := recipe(t, keyed+"[check]\nproof = \"none\"\n")
	wantSentences(t, r.Warnings, `r.toml:9: with proof = "none" in [check] and no boot_text, nothing shows that the image starts; add boot_text with what the board prints, or take proof out`)
	for _, shown := range []string{
		keyed + "[check]\nproof = \"none\"\nboot_text = 'version {version}'\n",
		"slot_policy = \"application\"\n" + keyed + "[check]\nproof = \"none\"\n",
		"slot_policy = \"secondary-test-confirm\"\n" + keyed + "[check]\nproof = \"none\"\n",
	} {
		wantSentences(t, recipe(t, shown).Warnings)
	}

	r = recipe(t, smallestRecipe+"[check]\nboot_text = 'ready'\n")
	wantSentences(t, r.Warnings,
		`r.toml:4: the image has no key, so its signature is not verified before it is flashed; add key = "…" with the public key of the product`,
		"r.toml:8: boot_text in [check] does not ask for the version, so a board that still runs another one passes this check; write {version} where the board prints it")
}

func wantSentences(t *testing.T, got []configs.Problem, want ...string) {
	t.Helper()
	var lines []string
	for _, p := range got {
		lines = append(lines, p.Error())
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUnreadableFiles(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.toml")
	if err := os.WriteFile(big, []byte(strings.Repeat("#", 1<<20+1)), 0o644); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "gone.toml")
	for _, load := range []func(string) error{
		func(p string) error { _, err := configs.LoadStation(p); return err },
		func(p string) error { _, err := configs.LoadRecipe(p); return err },
	} {
		err := load(missing)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a missing file gives %v, want fs.ErrNotExist", err)
		}
		if want := missing + ": this file cannot be read: no such file or directory; check its name and that this user may read it"; err.Error() != want {
			t.Errorf("got  %s\nwant %s", err, want)
		}
		if err := load(big); err == nil || !strings.Contains(err.Error(), "bigger than 1 MiB") {
			t.Errorf("a file over 1 MiB gives %v", err)
		}
		if err := load(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("a folder gives %v", err)
		}
	}
	if _, err := configs.ParseStation("big", dir, make([]byte, 1<<20+1)); err == nil || !strings.Contains(err.Error(), "bigger than 1 MiB") {
		t.Errorf("a text over 1 MiB gives %v", err)
	}
}

// TestManyProblems: however much is wrong, what is printed stays bounded, and
// the last line says that it is not all.
func TestManyProblems(t *testing.T) {
	for name, text := range map[string]string{
		"keys":         strings.Repeat("k = 1\n", 1<<17),
		"tables":       many("[t%d]\n", 1<<16),
		"inline table": "port = {" + strings.Repeat("k=1, ", 1<<17) + "k=1}",
		"list":         "site = [" + strings.Repeat("{k=1}, ", 1<<17) + "{}]",
		"meaning":      smallest + strings.Repeat("[[site]]\n", 200),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := configs.ParseStation("s.toml", "/", []byte(text))
			var problems configs.Errors
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want an Errors", err)
			}
			if len(problems) != 101 {
				t.Fatalf("%d problems, want 100 and one line for the rest", len(problems))
			}
			if last := problems[100]; last.Message != "from here on there are more problems than are shown" {
				t.Errorf("last line %q", last)
			}
		})
	}
}

// many repeats a line with a number in it.
func many(line string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, line, i)
	}
	return b.String()
}

// TestColumn: editors that take file:line:col must land on the key.
func TestColumn(t *testing.T) {
	text := strings.Replace(smallest, `power = { pin =`, `power = { pim =`, 1)
	_, err := configs.ParseStation("s.toml", "/", []byte(text))
	var problems configs.Errors
	if !errors.As(err, &problems) || len(problems) != 1 {
		t.Fatalf("got %v, want one problem", err)
	}
	if p := problems[0]; p.Line != 9 || p.Col != 11 || p.Fix != `did you mean "pin"?` {
		t.Errorf("got %d:%d %q, want 9:11 and a suggestion", p.Line, p.Col, p.Fix)
	}
}

func TestDuration(t *testing.T) {
	for written, want := range map[string]string{
		"250ms": "250ms", "1000ms": "1s", "60s": "1m", "90s": "1m30s", "1h": "1h", "60m1s": "1h0m1s", "0s": "0s", "-1m": "-1m", "20m": "20m",
	} {
		var d configs.Duration
		if err := d.UnmarshalText([]byte(written)); err != nil {
			t.Errorf("%s: %v", written, err)
			continue
		}
		text, err := d.MarshalText()
		if err != nil || string(text) != want {
			t.Errorf("%s is written back as %s (%v), want %s", written, text, err, want)
		}
		var back configs.Duration
		if err := back.UnmarshalText(text); err != nil || back != d {
			t.Errorf("%s read back as %s (%v)", text, back, err)
		}
	}
	for _, wrong := range []string{"", "1", "1 s", "1d", "s", "1e3s"} {
		var d configs.Duration
		if err := d.UnmarshalText([]byte(wrong)); err == nil {
			t.Errorf("%q was taken for %s", wrong, d)
		}
	}
}
