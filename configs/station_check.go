package configs

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

var (
	namePattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	// A pin has the name of a line of a gpiochip or of a header position.
	pinPattern = regexp.MustCompile(`^[A-Za-z0-9_.:/+-]{1,64}$`)
	simPattern = regexp.MustCompile(`^sim:[A-Za-z0-9_-]{1,32}$`)
	// These names are given out anew whenever an adapter is plugged in.
	movingPort = regexp.MustCompile(`^/dev/tty(USB|ACM)[0-9]+$`)
)

const (
	// maxSites is far above what one USB host can serve (96 endpoints on an
	// Intel controller) and still leaves room for large simulations.
	maxSites      = 256
	maxSiteNumber = 9999
	// Baud rates from the slowest a UART still has to the fastest FTDI chip.
	minBaud, maxBaud = 1200, 12_000_000
	// CONFIG_BOOT_LINE_BUFS has this range in MCUboot.
	minLineBufs, maxLineBufs = 2, 128
)

// MCUboot waits 50 ms before it begins to watch the recovery pin for
// BOOT_SERIAL_DETECT_DELAY (io_detect_pin), and needs some time before that
// to get there at all.
const detectSlack = 50*time.Millisecond + 200*time.Millisecond

// byPath is the example shown wherever a port is wrong.
const byPath = "/dev/serial/by-path/…"

// check is the meaning of a decoded station file.
func (s *Station) check(d *document) {
	if d.need("station", s.Name, `station = "line-1"`) && !namePattern.MatchString(s.Name) {
		d.refuse("station", "use letters, digits, _ . and - only, at most 64", "%s is not a station name", quote(s.Name))
	}
	if d.need("fixture", s.Fixture, `fixture = "FX-8A", the id on the holder`) && !namePattern.MatchString(s.Fixture) {
		d.refuse("fixture", "use letters, digits, _ . and - only, at most 64", "%s is not a fixture id", quote(s.Fixture))
	}
	d.need("records", s.Records.Written, `records = "line-1.db"`)
	d.need("recipe", s.Recipe.Written, `recipe = "line-1-recipe.toml"`)

	s.checkTimings(d)
	d.number("port.baud", s.Port.Baud, minBaud, maxBaud, "write the speed of the bootloader's port")
	checkFlowControl(d, "port.flow_control", s.Port.FlowControl)
	if len(s.Sites) > 0 && s.Port.FlowControl == RTSCTS && !slices.ContainsFunc(s.Sites, func(site Site) bool { return !site.USB }) {
		d.refuse("port.flow_control", "take flow_control out", "flow_control in [port] has no effect: every port is the board's own (usb = true)")
	}
	if sim := s.Simulator; sim != nil {
		d.need("simulator.part", sim.Part, `part = "nRF52840"`)
		d.number("simulator.line_bufs", sim.LineBufs, minLineBufs, maxLineBufs, "write the CONFIG_BOOT_LINE_BUFS of the bootloader")
	}
	if len(s.Sites) == 0 {
		d.refuse("site", "add a line [[site]] with number, port, power and recovery below it", "this station has no sites")
	}
	if len(s.Sites) > maxSites {
		d.refuse(fmt.Sprintf("site[%d]", maxSites), "give the others to another station", "this station has %d sites, but at most %d can be served", len(s.Sites), maxSites)
		return
	}
	pins := pinUse{}
	s.checkStart(d, pins)
	s.checkSites(d, pins)
}

func (s *Station) checkTimings(d *document) {
	t := &s.Timings
	const ms = time.Millisecond
	d.spans("timings", []span{
		{"power_off", t.PowerOff, 10 * ms, time.Minute},
		{"settle", t.Settle, 0, 5 * time.Second},
		{"detect_delay", t.DetectDelay, 0, 30 * time.Second},
		{"hold_cap", t.HoldCap, detectSlack, 2 * time.Minute},
		{"probe_every", t.ProbeEvery, 10 * ms, 10 * time.Second},
		{"stagger", t.Stagger, 0, 10 * time.Second},
		{"reset_pulse", t.ResetPulse, ms, 5 * time.Second},
		{"enumeration", t.Enumeration, 500 * ms, 2 * time.Minute},
	})
	if d.broken("timings.detect_delay") || d.broken("timings.probe_every") {
		return
	}
	if least := time.Duration(t.DetectDelay) + detectSlack; time.Duration(t.HoldCap) < least {
		d.refuse("timings.hold_cap", "write a longer hold_cap", "hold_cap in [timings] is %s, but with detect_delay %s a board needs the recovery line for at least %s",
			t.HoldCap, t.DetectDelay, Duration(least))
	} else if t.HoldCap < t.ProbeEvery {
		d.refuse("timings.hold_cap", "write a longer hold_cap", "hold_cap in [timings] is %s, too short even for one probe, with probe_every %s", t.HoldCap, t.ProbeEvery)
	}
}

func (s *Station) checkStart(d *document, pins pinUse) {
	switch {
	case d.broken("start.trigger"):
	case !slices.Contains(triggers, s.Start.Trigger):
		d.refuse("start.trigger", choose(triggers), "there is no trigger %s", quote(string(s.Start.Trigger)))
	case s.Start.Trigger == Interlock:
		if d.need("start.pin", s.Start.Pin, `pin = "GPIO26", the input of the lid or clamp`) {
			pins.claim(d, "start.pin", s.Start.Pin, "the start input")
		}
	default:
		for _, key := range []string{"pin", "active_low"} {
			if d.has("start." + key) {
				d.refuse("start."+key, `take it out, or write trigger = "interlock"`, "%s in [start] has no effect with trigger = %q", key, s.Start.Trigger)
			}
		}
	}
}

func (s *Station) checkSites(d *document, pins pinUse) {
	numbers := map[int]string{} // number -> key path
	ports := map[string]int{}   // port -> site number
	for i := range s.Sites {
		site := &s.Sites[i]
		at := fmt.Sprintf("site[%d]", i)
		who := fmt.Sprintf("site %d", site.Number)
		if !d.has(at + ".number") {
			who = fmt.Sprintf("the site of line %d", d.lineOf(d.find(at)))
		}
		site.checkNumber(d, at+".number", who, numbers)
		if site.checkPort(d, at+".port", who, s.Simulator != nil) {
			port := path.Clean(site.Port)
			if first, again := ports[port]; again {
				d.refuse(at+".port", "give each site its own", "sites %d and %d both use the port %s", first, site.Number, plain(site.Port))
			} else {
				ports[port] = site.Number
			}
		}
		if d.has(at + ".baud") {
			d.number(at+".baud", site.Baud, minBaud, maxBaud, "write the speed of the bootloader's port, or leave it to [port]")
		}
		if at := at + ".flow_control"; d.has(at) {
			checkFlowControl(d, at, site.FlowControl)
			if site.USB && site.FlowControl == RTSCTS {
				d.refuse(at, "take flow_control out, or usb", "the port of %s is the board's own (usb = true), which has no RTS and CTS", who)
			}
		}
		site.checkPins(d, at, who, pins)
	}
}

func checkFlowControl(d *document, at string, f FlowControl) {
	if !slices.Contains(flowControls, f) && !d.broken(at) {
		d.refuse(at, choose(flowControls), "there is no flow_control %s", quote(string(f)))
	}
}

func (site *Site) checkNumber(d *document, at, who string, numbers map[int]string) {
	first, again := numbers[site.Number]
	switch {
	case !d.has(at):
		d.refuse(at, "add number = and the one painted on the fixture", "%s has no number", who)
	case d.broken(at):
	case site.Number < 1 || site.Number > maxSiteNumber:
		d.refuse(at, "write the number painted on the fixture", "%d is not a site number, which must be from 1 to %d", site.Number, maxSiteNumber)
	case again:
		d.refuse(at, "give each its own, as painted on the fixture", "two sites have the number %d (the first on line %d)", site.Number, d.lineOf(d.find(first)))
	default:
		numbers[site.Number] = at
	}
}

func (site *Site) checkPins(d *document, at, who string, pins pinUse) {
	for _, out := range []struct {
		key    string
		pin    *Output
		supply bool
	}{
		{"power", &site.Power, true},
		{"vbus", site.VBUS, true},
		{"recovery", &site.Recovery, false},
		{"reset", site.Reset, false},
		{"lamp_busy", site.LampBusy, false},
		{"lamp_pass", site.LampPass, false},
		{"lamp_fail", site.LampFail, false},
	} {
		at := at + "." + out.key
		if !d.has(at) || out.pin == nil { // written, but not as a table
			continue
		}
		out.pin.check(d, at, out.key, who, pins)
		if out.supply && out.pin.ActiveLow && !out.pin.OpenDrain && !d.broken(at) {
			d.warn(at, "wire the supply switch so that high level means on", "the %s of %s is active at low level, and many pins are low while the computer starts: the board then has power with nobody in control", out.key, who)
		}
	}
	if !d.has(at + ".power") {
		fix := `switch the supply and add power = { pin = "…" }`
		if site.VBUS != nil {
			fix = "if the board is fed by USB alone, write power in place of vbus"
		}
		d.warn(at+".power", fix, "%s has no power pin: its board is never switched off, and a board that is hung stays so", who)
	}
	if in := site.Interlock; in != nil {
		at := at + ".interlock.pin"
		if d.need(at, in.Pin, `pin = "…", the input it is wired to`) {
			pins.claim(d, at, in.Pin, "the interlock of "+who)
		}
	}
}

// CheckRecipe compares the station with the recipe it is to flash: each site
// must have the pins that the recipe's entry works with, and a speed that the
// recipe names needs a port that has one. The error is an [Errors] and names the
// lines of the station file.
func (s *Station) CheckRecipe(r *Recipe) error {
	// The text was accepted once, so this only finds the lines again.
	d := newDocument(s.File, []byte(s.Text))
	d.walk(reflect.TypeFor[Station]())
	by := fmt.Sprintf("the recipe %s enters by it (entry = %q)", plain(filepath.Base(r.File)), r.Entry)
	for i := range s.Sites {
		site, at := &s.Sites[i], fmt.Sprintf("site[%d]", i)
		power, recovery, reset := site.Power.Pin != "", site.Recovery.Pin != "", site.Reset != nil
		lack := func(key string) {
			d.refuse(at+"."+key, fmt.Sprintf(`wire it and add %s = { pin = "…" }, or choose another entry`, key), "site %d has no %s pin, and %s", site.Number, key, by)
		}
		if r.Entry == RecoveryPin && !recovery {
			lack("recovery")
		}
		if r.Entry == ResetPin && !reset {
			lack("reset")
		}
		if (r.Entry == RecoveryPin || r.Entry == Window) && !power && !reset {
			d.refuse(at+".power", `wire one and add power = { pin = "…" } or reset = { pin = "…" }, or choose another entry`,
				"site %d has neither a power pin nor a reset pin to restart its board with, and the recipe %s needs one of them (entry = %q)", site.Number, plain(filepath.Base(r.File)), r.Entry)
		}
	}
	if r.Baud != 0 && !slices.ContainsFunc(s.Sites, func(site Site) bool { return !site.USB }) {
		d.refuse("site[0]", "take baud out of the recipe", "every port of this station is the board's own (usb = true), which has no speed, and the recipe %s says baud = %d", plain(filepath.Base(r.File)), r.Baud)
	}
	return d.err()
}

// IsPattern reports whether the path of a port is a pattern as a shell has it,
// which stands for the one device that matches ([path/filepath.Match]).
func IsPattern(port string) bool { return strings.ContainsAny(port, "*?[") }

func badPattern(port string) bool {
	// Match does not look at what follows a star if the rest cannot match.
	_, err := filepath.Match(strings.ReplaceAll(port, "*", "x"), "")
	return err != nil
}

// checkPort reports whether the port is fit to be compared with others.
func (site *Site) checkPort(d *document, at, who string, simulated bool) bool {
	sim := strings.HasPrefix(site.Port, "sim:")
	example := "port = \"" + byPath + "\""
	if simulated {
		example = fmt.Sprintf("port = \"sim:%d\"", max(site.Number, 1))
	}
	switch {
	case d.broken(at):
		return false
	case site.Port == "" && !d.has(at):
		d.refuse(at, "add "+example, "%s has no port", who)
		return false
	case site.Port == "":
		d.refuse(at, "write "+example, "the port of %s is empty", who)
		return false
	case d.broken("simulator"):
	case sim && !simulated:
		d.refuse(at, "add a table [simulator], or write the path of a real port", "the port %s of %s is a simulated one, but this file has no [simulator]", plain(site.Port), who)
	case sim && !simPattern.MatchString(site.Port):
		d.refuse(at, "write "+example, "%s is not the name of a simulated port", quote(site.Port))
	case simulated && !sim:
		d.refuse(at, "write "+example+", or take [simulator] out", "the port %s of %s is a real one, but this file has a [simulator]", plain(site.Port), who)
	}
	if sim {
		return true
	}
	switch {
	case !strings.HasPrefix(site.Port, "/"):
		if !simulated {
			d.refuse(at, "write the full path, "+byPath+"; ls -l /dev/serial/by-path shows them", "the port %s of %s is not a full path", plain(site.Port), who)
		}
	case IsPattern(site.Port) && badPattern(site.Port):
		d.refuse(at, "close its brackets", "the port %s of %s is no pattern that can be read", quote(site.Port), who)
	case site.USB && strings.HasPrefix(path.Clean(site.Port), "/dev/serial/by-id/"):
		d.warn(at, "write the name of the same port that ls -l /dev/serial/by-path shows", "the port %s of %s is named after one board and its firmware, and the next board has another name", plain(site.Port), who)
	case movingPort.MatchString(site.Port):
		d.warn(at, "write the name of the same port that ls -l /dev/serial/by-path shows", "the port %s of %s can become another board's when an adapter is plugged in anew", site.Port, who)
	}
	return true
}

func (o *Output) check(d *document, at, key, who string, pins pinUse) {
	role := key
	if lamp, ok := strings.CutPrefix(key, "lamp_"); ok {
		role = lamp + " lamp"
	}
	if d.need(at+".pin", o.Pin, `pin = "…", the output it is wired to`) {
		pins.claim(d, at+".pin", o.Pin, "the "+role+" of "+who)
	}
	if o.OpenDrain && !o.ActiveLow && !d.broken(at+".active_low") {
		d.refuse(at+".open_drain", "add active_low = true, or take open_drain out", "the %s of %s is open_drain, which can only pull low, but it is active at high level", role, who)
	}
}

// pinUse knows who has which pin, and by which line.
type pinUse map[string]string

// claim complains about a pin that has no usable name or is already taken.
func (u pinUse) claim(d *document, at, pin, role string) {
	if !pinPattern.MatchString(pin) {
		d.refuse(at, "write its name as gpioinfo shows it, such as GPIO5", "%s is not the name of a pin", quote(pin))
		return
	}
	// GPIO5, gpio5 and 5 are one pin to those who look it up.
	same := strings.ToUpper(pin)
	if strings.Trim(same, "0123456789") == "" {
		same = "GPIO" + same
	}
	if first, taken := u[same]; taken {
		d.refuse(at, "give each its own pin", "the pin %s is both %s and %s", pin, first, role)
		return
	}
	u[same] = fmt.Sprintf("%s (line %d)", role, d.lineOf(d.find(at)))
}

// choose lists what may be written.
func choose[T ~string](known []T) string {
	texts := make([]string, len(known))
	for i, k := range known {
		texts[i] = `"` + string(k) + `"`
	}
	if n := len(texts); n > 1 {
		return "write " + strings.Join(texts[:n-1], ", ") + " or " + texts[n-1]
	}
	return "write " + texts[0]
}

// checkFiles looks at what the station file names, as far as the station
// needs it to be there when it starts.
func (s *Station) checkFiles(d *document) {
	if p := s.Recipe; p.Abs != "" {
		if info, err := os.Stat(p.Abs); err != nil {
			d.refuseCause("recipe", bare(err), "check the name, which is looked for in the folder of this file", "the recipe %s cannot be read: %s", plain(p.Written), bare(err))
		} else if !info.Mode().IsRegular() {
			d.refuse("recipe", "name the recipe file", "the recipe %s is not a file", plain(p.Written))
		}
	}
	if p := s.Records; p.Abs != "" {
		folder := filepath.Dir(p.Abs)
		if info, err := os.Stat(folder); err != nil {
			d.refuseCause("records", bare(err), "make that folder, or name another place", "the folder of the records %s cannot be used: %s", plain(p.Written), bare(err))
		} else if !info.IsDir() {
			d.refuse("records", "name another place", "the folder of the records %s is not a folder", plain(p.Written))
		} else if info, err := os.Stat(p.Abs); err == nil && !info.Mode().IsRegular() {
			d.refuse("records", "add the name of a file", "the records %s are not a file", plain(p.Written))
		}
	}
	if s.Simulator != nil {
		s.Simulator.KeyPEM = d.publicKey("simulator.key", s.Simulator.Key)
	}
}
