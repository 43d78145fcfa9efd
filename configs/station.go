package configs

import (
	"fmt"
	"time"
)

// Station is a station file: the fixture, its sites, and what is wired to
// them. Everything in it holds until the wiring is changed; what changes with
// the product is in the [Recipe].
type Station struct {
	// Name identifies the station in every record: letters, digits, _ . -
	Name string `toml:"station"`
	// Fixture is the id on the mechanical holder, in every record too, so
	// that a worn fixture can be told from a bad product.
	Fixture string `toml:"fixture"`
	// Records is the SQLite file of the evidence. It need not exist yet, the
	// folder around it must.
	Records Path `toml:"records"`
	// Recipe is what the station flashes.
	Recipe Path `toml:"recipe"`

	Start   Start   `toml:"start"`
	Timings Timings `toml:"timings"`
	Port    Port    `toml:"port"`
	// Simulator is set if the sites are boards of software, else nil.
	Simulator *Simulator `toml:"simulator"`
	// Sites is in the order of the file, at least one, numbers unique.
	Sites []Site `toml:"site"`

	// File is the name the station was loaded by.
	File string `toml:"-"`
	// SHA256 is the hash of Text, in lower case hex, as sha256sum prints it.
	SHA256 string `toml:"-"`
	// Text is the file as it was read, for the records.
	Text string `toml:"-"`
	// Warnings are not errors: what works but deserves a second look.
	Warnings []Problem `toml:"-"`
}

// Trigger is what starts a cycle.
type Trigger string

// The triggers of [Start].
const (
	// LastScan starts when every site that will be used has its label scanned.
	LastScan Trigger = "last-scan"
	// Enter starts at the enter key, or the barcode that types it.
	Enter Trigger = "enter"
	// Interlock starts when the input of the lid or clamp closes.
	Interlock Trigger = "interlock"
)

var triggers = []Trigger{LastScan, Enter, Interlock}

// Start says what starts a cycle.
type Start struct {
	// Trigger is LastScan if the file does not say.
	Trigger Trigger `toml:"trigger"`
	// Pin is the input of the lid or clamp, set exactly if Trigger is
	// Interlock.
	Pin string `toml:"pin"`
	// ActiveLow is true if a closed lid pulls the pin to ground.
	ActiveLow bool `toml:"active_low"`
}

// Timings are the times of the fixture's hardware, alike for all sites.
type Timings struct {
	// PowerOff is how long a board stays without power, so that its
	// capacitors empty and it wakes from a true power-on: 1s. Nordic parts
	// honour the recovery pin only then (MCUboot, io_boot_skip_serial_recovery).
	PowerOff Duration `toml:"power_off"`
	// Settle is the wait after a line is changed and before the next one is,
	// so that the board never sees a line in between: 50ms.
	Settle Duration `toml:"settle"`
	// DetectDelay is MCUboot's CONFIG_BOOT_SERIAL_DETECT_DELAY of this
	// product's bootloader: 0s, as there.
	DetectDelay Duration `toml:"detect_delay"`
	// HoldCap is how long the recovery line is held and the board probed
	// before it is given up: 5s.
	HoldCap Duration `toml:"hold_cap"`
	// ProbeEvery is the pause from one probe to the next: 10ms. At 115200 baud
	// that is a probe every 14 ms, so that a bootloader that begins to listen has
	// answered within 20 ms.
	ProbeEvery Duration `toml:"probe_every"`
	// Stagger is the pause between the power-on of two sites, for the sake of
	// the supply and of the USB host: 200ms.
	Stagger Duration `toml:"stagger"`
	// ResetPulse is the length of a pulse on the reset line: 50ms.
	ResetPulse Duration `toml:"reset_pulse"`
	// Enumeration is how long a board's own USB port may take to appear after
	// power-on or a restart: 10s.
	Enumeration Duration `toml:"enumeration"`
}

// Port is what holds for the serial ports of all sites.
type Port struct {
	// Baud is the speed in bits per second where a site gives no other:
	// 115200. MCUboot's is compiled in (current-speed of zephyr,uart-mcumgr).
	Baud int `toml:"baud"`
	// USB is what holds where a site says nothing: false.
	USB bool `toml:"usb"`
	// FlowControl is what holds where a site says nothing: NoFlowControl.
	FlowControl FlowControl `toml:"flow_control"`
}

// FlowControl is what stops a sender whose receiver has no room.
type FlowControl string

// The kinds of flow control.
const (
	// NoFlowControl is right wherever RTS and CTS are not wired.
	NoFlowControl FlowControl = "none"
	// RTSCTS is for boards whose UART has both lines wired to the adapter's and
	// hw-flow-control in its devicetree: a port sends nothing while its CTS is
	// not asserted.
	RTSCTS FlowControl = "rts-cts"
)

var flowControls = []FlowControl{NoFlowControl, RTSCTS}

// Simulator describes the boards of software that stand in the sites.
type Simulator struct {
	// Part is the microcontroller, such as "nRF52840". Which ones there are
	// is for the simulator to say.
	Part string `toml:"part"`
	// Seed makes everything random in the simulation repeatable: 1.
	Seed int64 `toml:"seed"`
	// Key is the public key that the bootloader of the boards trusts. Without
	// one it checks the hash of an image only.
	Key Path `toml:"key"`
	// LineBufs is how many received lines the bootloader can hold: MCUboot's
	// CONFIG_BOOT_LINE_BUFS, 2 to 128, and like there 8 if not written.
	LineBufs int `toml:"line_bufs"`

	// KeyPEM is the content of Key, nil without one.
	KeyPEM []byte `toml:"-"`
}

// Site is one position of the fixture, where one board is flashed.
type Site struct {
	// Number is the one painted on the fixture.
	Number int `toml:"number"`
	// Port is the absolute path of the serial port, or a pattern for it (see
	// [IsPattern]) or, in a simulator file, "sim:" and a name.
	Port string `toml:"port"`
	// Baud is the speed in bits per second, that of [Port] if the file gives
	// the site none.
	Baud int `toml:"baud"`
	// USB says that the port is the board's own, not an adapter's: it comes
	// with the firmware that shows it and goes with every restart. That of
	// [Port] if the file does not say.
	USB bool `toml:"usb"`
	// FlowControl is that of [Port] if the file does not say, and NoFlowControl
	// where USB is true: such a port has its own.
	FlowControl FlowControl `toml:"flow_control"`

	// Power switches the supply of the board. Its Pin is empty if nothing does;
	// then there is a warning. Which pins a recipe needs is for
	// [Station.CheckRecipe] to say.
	Power Output `toml:"power"`
	// VBUS switches the USB supply of the board, nil if that is not wired
	// apart. It is on and off with Power.
	VBUS *Output `toml:"vbus"`
	// Recovery is the line that MCUboot reads as its button (mcuboot-button0).
	// Its Pin is empty if it is not wired.
	Recovery Output `toml:"recovery"`
	// Reset is the reset line, nil if it is not wired.
	Reset *Output `toml:"reset"`
	// The lamps of the site, nil where there is none.
	LampBusy *Output `toml:"lamp_busy"`
	LampPass *Output `toml:"lamp_pass"`
	LampFail *Output `toml:"lamp_fail"`
	// Interlock must be active when the site's power is switched on; it is no
	// safety device and not looked at later. nil if there is none.
	Interlock *Input `toml:"interlock"`
}

// WiredOutput is an output of a site and what it is there for: "power", "busy lamp".
type WiredOutput struct {
	Role string
	*Output
}

// Outputs are the outputs of the site that are wired, in the order in which the
// README lists them.
func (site *Site) Outputs() (wired []WiredOutput) {
	for _, o := range []WiredOutput{
		{"power", &site.Power}, {"USB supply", site.VBUS}, {"recovery", &site.Recovery}, {"reset", site.Reset},
		{"busy lamp", site.LampBusy}, {"pass lamp", site.LampPass}, {"fail lamp", site.LampFail},
	} {
		if o.Output != nil && o.Pin != "" {
			wired = append(wired, o)
		}
	}
	return wired
}

// Output is a pin that the station drives.
type Output struct {
	// Pin is the name the operating system has for it, such as "GPIO5".
	Pin string `toml:"pin"`
	// ActiveLow is true if the line does its work at low level.
	ActiveLow bool `toml:"active_low"`
	// OpenDrain is true if the line is pulled low or let go, never driven
	// high: the board has its own pull-up, and an unpowered board must not be
	// fed through the line. Only with ActiveLow.
	OpenDrain bool `toml:"open_drain"`
}

// Input is a pin that the station reads.
type Input struct {
	// Pin is the name the operating system has for it, such as "GPIO26".
	Pin string `toml:"pin"`
	// ActiveLow is true if low level means yes.
	ActiveLow bool `toml:"active_low"`
}

// newStation is a station as if nothing were written.
func newStation() *Station {
	return &Station{
		Start: Start{Trigger: LastScan},
		Timings: Timings{
			PowerOff:    Duration(time.Second),
			Settle:      Duration(50 * time.Millisecond),
			DetectDelay: 0,
			HoldCap:     Duration(5 * time.Second),
			ProbeEvery:  Duration(10 * time.Millisecond),
			Stagger:     Duration(200 * time.Millisecond),
			ResetPulse:  Duration(50 * time.Millisecond),
			Enumeration: Duration(10 * time.Second),
		},
		Port: Port{Baud: 115200, FlowControl: NoFlowControl},
	}
}

// What a [simulator] without these keys has. They cannot be filled in before
// decoding, for there is no simulator then.
const (
	defaultSeed     = 1
	defaultLineBufs = 8
)

// LoadStation reads a station file and the simulator's key beside it, and
// checks that the recipe and the folder of the records exist. It does not
// load the recipe: see [LoadRecipe]. The error is an [Errors].
func LoadStation(path string) (*Station, error) {
	doc, dir, err := load(path)
	if err != nil {
		return nil, err
	}
	s := decodeStation(doc, dir)
	if s != nil {
		s.checkFiles(doc)
	}
	return s.done(doc)
}

// ParseStation is [LoadStation] for a text in memory that would have the
// given name and stand in the folder dir. It touches no file: whether those
// named exist is not checked, and the simulator's KeyPEM stays nil.
func ParseStation(name, dir string, text []byte) (*Station, error) {
	doc, dir, err := parse(name, dir, text)
	if err != nil {
		return nil, err
	}
	return decodeStation(doc, dir).done(doc)
}

// decodeStation gives nil if not even the syntax holds; what else is wrong is
// in doc.
func decodeStation(doc *document, dir string) *Station {
	s := newStation()
	if !doc.decode(s) {
		return nil
	}
	if sim := s.Simulator; sim != nil {
		sim.Key.resolve(dir)
		if !doc.has("simulator.seed") {
			sim.Seed = defaultSeed
		}
		if !doc.has("simulator.line_bufs") {
			sim.LineBufs = defaultLineBufs
		}
	}
	for i := range s.Sites {
		if !doc.has(fmt.Sprintf("site[%d].baud", i)) {
			s.Sites[i].Baud = s.Port.Baud
		}
		if !doc.has(fmt.Sprintf("site[%d].usb", i)) {
			s.Sites[i].USB = s.Port.USB
		}
		if !doc.has(fmt.Sprintf("site[%d].flow_control", i)) {
			s.Sites[i].FlowControl = s.Port.FlowControl
			if s.Sites[i].USB {
				s.Sites[i].FlowControl = NoFlowControl
			}
		}
	}
	s.Records.resolve(dir)
	s.Recipe.resolve(dir)
	s.check(doc)
	return s
}

// Fit sets what a recipe that [Station.CheckRecipe] has accepted says about the
// sites: the speed of their ports. A board's own USB port has none, and keeps what
// the station file says.
func (s *Station) Fit(r *Recipe) {
	for i := range s.Sites {
		if site := &s.Sites[i]; r.Baud != 0 && !site.USB {
			site.Baud = r.Baud
		}
	}
}

// done adds what is known of the file itself.
func (s *Station) done(doc *document) (*Station, error) {
	if err := doc.err(); err != nil {
		return nil, err
	}
	s.File, s.Text, s.SHA256, s.Warnings = doc.file, string(doc.raw), hashOf(doc.raw), doc.warnings.ordered()
	return s, nil
}
