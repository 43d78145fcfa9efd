package configs

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Recipe is a recipe file: what a product must be flashed with and how it is
// proven. It is released once and then used unchanged, so it pins its images
// by their hash.
type Recipe struct {
	// Product is the name of what is built, Revision the release of this
	// recipe. Both are in every record.
	Product  string `toml:"product"`
	Revision string `toml:"revision"`
	// SerialPattern is the regular expression that a unit's whole label must
	// match; empty if any label will do. See [Recipe.SerialOK].
	SerialPattern string `toml:"serial_pattern"`

	// Board is the name of the board the images are for, as Zephyr writes it
	// ("nrf5340dk/nrf5340/cpuapp"); empty if nobody is to be asked. The manifest
	// of a .zip and an application that answers must agree with it.
	Board string `toml:"board"`

	// Baud is the speed of the port at which the bootloader of this product
	// listens, in bits per second; 0 leaves it to the station file, over which it
	// goes. See [Station.Fit].
	Baud int `toml:"baud"`

	// Entry is how a board is brought to answer: RecoveryPin, and PowerOn where
	// SlotPolicy is ApplicationPolicy, which goes with no other.
	Entry Entry `toml:"entry"`
	// Framing is how bootloader and application were built to be spoken to:
	// AutoFraming.
	Framing Framing `toml:"framing"`
	// SlotPolicy is AutoPolicy unless the file says otherwise, and holds for
	// all images.
	SlotPolicy SlotPolicy `toml:"slot_policy"`
	// AllowDowngrade lets a board go back to a lower version than the one it
	// holds: false.
	AllowDowngrade bool `toml:"allow_downgrade"`

	// Images are what is flashed, one to eight. Those that are a .bin each have
	// a number of their own.
	Images   []Image  `toml:"image"`
	Timeouts Timeouts `toml:"timeouts"`
	Retries  Retries  `toml:"retries"`
	Check    Check    `toml:"check"`

	// File is the name the recipe was loaded by.
	File string `toml:"-"`
	// SHA256 is the hash of Text, in lower case hex, as sha256sum prints it.
	SHA256 string `toml:"-"`
	// Text is the file as it was read, for the records.
	Text string `toml:"-"`
	// Warnings are not errors: what works but deserves a second look.
	Warnings []Problem `toml:"-"`

	abs string // where Verify finds the file; empty if it was never on disk
}

// Entry says how a board is brought to where its SMP server listens.
type Entry string

// The ways in.
const (
	// RecoveryPin holds the recovery line at power-on, or at a reset where the
	// power is not switched (CONFIG_BOOT_SERIAL_ENTRANCE_GPIO).
	RecoveryPin Entry = "recovery-pin"
	// ResetPin pulses the reset line (CONFIG_BOOT_SERIAL_PIN_RESET).
	ResetPin Entry = "reset-pin"
	// Window talks to the bootloader in the moments after power-on in which it
	// listens (CONFIG_BOOT_SERIAL_WAIT_FOR_DFU).
	Window Entry = "window"
	// BootMode asks the application to restart into recovery
	// (CONFIG_MCUMGR_GRP_OS_RESET_BOOT_MODE and CONFIG_BOOT_SERIAL_BOOT_MODE).
	BootMode Entry = "boot-mode"
	// PowerOn switches the board on and takes what answers: the bootloader of
	// a board without application (CONFIG_BOOT_SERIAL_NO_APPLICATION), or an
	// application with an SMP server.
	PowerOn Entry = "power-on"
)

var entries = []Entry{RecoveryPin, ResetPin, Window, BootMode, PowerOn}

// Framing says how SMP messages go over the line, which a target is built for
// and does not tell.
type Framing string

// The framings.
const (
	// AutoFraming is console framing, and where nothing answers to that the raw
	// protocol; what a board of a job turned out to speak, the next ones of the
	// job are spoken to in at once. With Window, where there is no time to find
	// out, it is ConsoleFraming.
	AutoFraming Framing = "auto"
	// ConsoleFraming is lines of base64 with a checksum.
	ConsoleFraming Framing = "console"
	// RawFraming is the bare message (CONFIG_BOOT_SERIAL_RAW_PROTOCOL,
	// CONFIG_UART_MCUMGR_RAW_PROTOCOL).
	RawFraming Framing = "raw"
)

// Framings lists the framings in the order to show them.
func Framings() []Framing { return slices.Clone(framings) }

var framings = []Framing{AutoFraming, ConsoleFraming, RawFraming}

// SlotPolicy says which slot an image is sent to and what makes it stay.
type SlotPolicy string

// The policies.
const (
	// AutoPolicy is what the target reveals to be right: PrimarySlot for a
	// bootloader, ApplicationPolicy for an application.
	AutoPolicy SlotPolicy = "auto"
	// PrimarySlot sends the image to the primary slot, where it boots at once
	// and for good; nothing has to be confirmed.
	PrimarySlot SlotPolicy = "primary"
	// SecondaryConfirm sends the image to the secondary slot, marks it to stay
	// and lets the bootloader swap it in. It is for bootloaders built with
	// direct upload, slot info and image state.
	SecondaryConfirm SlotPolicy = "secondary-confirm"
	// SecondaryTestConfirm sends the image to the secondary slot, lets it start
	// on trial, and keeps it once the application runs: by telling the
	// application, or by finding that it has done so itself.
	SecondaryTestConfirm SlotPolicy = "secondary-test-confirm"
	// ApplicationPolicy updates through the SMP server of the application that
	// runs: to the slot that is free, on trial, kept once it has started.
	ApplicationPolicy SlotPolicy = "application"
)

// SlotPolicies lists the policies in the order to show them.
func SlotPolicies() []SlotPolicy { return slices.Clone(slotPolicies) }

var slotPolicies = []SlotPolicy{AutoPolicy, PrimarySlot, SecondaryConfirm, SecondaryTestConfirm, ApplicationPolicy}

// Image is one firmware image of a recipe.
type Image struct {
	// Path is the file: a signed .bin or a .zip such as nRF's
	// dfu_application.zip.
	Path Path `toml:"file"`
	// SHA256 pins the content of the file, in lower case hex. For a .zip it
	// is the hash of the archive.
	SHA256 string `toml:"sha256"`
	// Key is the public key that the signature of the image must verify
	// against before anything is flashed. Without one there is a warning.
	Key Path `toml:"key"`
	// Number is which of the board's images this is: 0, the application; a
	// network core's is 1. It stays 0 for a .zip, whose manifest says it.
	Number int `toml:"number"`
	// UploadNumber is the image number to send in the upload, for bootloaders
	// that do not tell: 0 means to find it out. On some builds a wrong one
	// erases a foreign partition. It stays 0 for a .zip.
	UploadNumber int `toml:"upload_number"`
	// SlotSize is the size of the slot in bytes, 0 if it is not known. A .bin
	// bigger than the slot is refused; how much of the slot MCUboot keeps for
	// itself is for those who read the image.
	SlotSize int `toml:"slot_size"`
	// SectorSize is the size of a flash sector in bytes, a power of two that
	// divides SlotSize; 0 if it is not known. Bootloaders that erase as they go
	// also erase the sector in which the trailer begins (MCUboot issue 1862), so
	// with it known an image that reaches there is refused.
	SectorSize int `toml:"sector_size"`
	// WriteSize is the write alignment of the part's flash in bytes, a power
	// of two: 32, which is a multiple of what common parts need.
	WriteSize int `toml:"write_size"`
	// MessageSize is the greatest SMP message to send, in bytes; 0 to find
	// out from the device.
	MessageSize int `toml:"message_size"`
	// LineLength is the bootloader's line buffer in bytes
	// (CONFIG_BOOT_MAX_LINE_INPUT_LEN), 128 to 512; 0 is the 128 that every build
	// has at least. A board that does not answer to the longer lines is sent
	// short ones.
	LineLength int `toml:"line_length"`
	// LineBuffers is how many such lines the bootloader can hold
	// (CONFIG_BOOT_LINE_BUFS), 2 to 128; 0 is MCUboot's 8. One less may be sent
	// ahead of an answer.
	LineBuffers int `toml:"line_buffers"`
	// SendAhead is whether the next chunk may set out before the board has
	// answered to the one before it: AheadAuto.
	SendAhead SendAhead `toml:"send_ahead"`
	// Rewrite sends the image also to a board that already reports it as its
	// own; else such a board is only verified and started: false. Through an
	// application a board that runs the image is never sent it again.
	Rewrite bool `toml:"rewrite"`

	// Data is the content of the file. Flash this, not the file: it is what
	// was compared with the pin.
	Data []byte `toml:"-"`
	// KeyPEM is the content of Key, nil without one.
	KeyPEM []byte `toml:"-"`
}

// SendAhead says whether chunks may set out before the one before is answered.
type SendAhead string

// The ways to send.
const (
	// AheadAuto sends ahead where a test on the very board, in each upload, has
	// shown that nothing is lost.
	AheadAuto SendAhead = "auto"
	// AheadProven leaves out that test, for a product on which sending ahead has
	// been proven before. A board that loses something all the same is sent one
	// chunk at a time, and tested before more.
	AheadProven SendAhead = "proven"
	// AheadNever sends one chunk at a time.
	AheadNever SendAhead = "never"
)

var sendAheads = []SendAhead{AheadAuto, AheadProven, AheadNever}

// Timeouts are how long the station waits for what a board must do.
type Timeouts struct {
	// FirstChunk is for the answer to the first chunk of an upload, before
	// which some bootloaders erase the whole slot: 60s.
	FirstChunk Duration `toml:"first_chunk"`
	// Chunk is for the answer to any other chunk: 3s.
	Chunk Duration `toml:"chunk"`
	// LastChunk is for the answer to the last one, before which an encrypted
	// image is decrypted in place: 10s.
	LastChunk Duration `toml:"last_chunk"`
	// List is for the image list, before which MCUboot verifies the
	// signatures: 15s.
	List Duration `toml:"list"`
	// Command is for the answer to any other request: 2s.
	Command Duration `toml:"command"`
	// Boot is for the application to start after the reset: 10s.
	Boot Duration `toml:"boot"`
	// Swap is for the bootloader to exchange the slots before that, where it
	// has to: 60s.
	Swap Duration `toml:"swap"`
	// Total is for a whole attempt, whatever happens in it: 10m.
	Total Duration `toml:"total"`
}

// Retries are how often something is done again before it counts as failed.
type Retries struct {
	// Attempts is how often a unit is tried in one cycle, each time from a
	// power-on of its own, 1 to 5: 2. Every one is recorded.
	Attempts int `toml:"attempts"`
	// Chunk is how often one chunk is sent again, 0 to 20: 5.
	Chunk int `toml:"chunk"`
}

// Check is what must be seen of the application after the board was flashed
// and restarted.
type Check struct {
	// BootText is a regular expression for what the board prints, in which
	// {version} stands for the version of the image; empty if nothing is
	// asked for. See [Check.Pattern].
	BootText string `toml:"boot_text"`
	// Within is how long the board has to print it: 5s.
	Within Duration `toml:"within"`
	// Proof is what must show, after the restart, that the image runs:
	// AutoProof. The boot text is asked for whatever it is.
	Proof Proof `toml:"proof"`
}

// Proof is how a board is seen to run its image, after its own hash was
// verified and it was restarted.
type Proof string

// The proofs.
const (
	// AutoProof is the strongest that the board offers: the boot text if it
	// names the version, else the application's image list, else recovery
	// entered once more, else none.
	AutoProof Proof = "auto"
	// BootTextProof is what the board prints: it needs a boot text, and one
	// with {version} where nothing but that tells which image runs; else it is
	// as AutoProof.
	BootTextProof Proof = "boot-text"
	// ApplicationProof is the image list of the application.
	ApplicationProof Proof = "application"
	// RecoveryProof is the bootloader's image list, in recovery once more.
	RecoveryProof Proof = "recovery"
	// NoProof asks for nothing after the restart but that the board leaves
	// recovery.
	NoProof Proof = "none"
)

var proofs = []Proof{AutoProof, BootTextProof, ApplicationProof, RecoveryProof, NoProof}

// DefaultTimeouts are the waits of a recipe that says nothing about them.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		FirstChunk: Duration(60 * time.Second),
		Chunk:      Duration(3 * time.Second),
		LastChunk:  Duration(10 * time.Second),
		List:       Duration(15 * time.Second),
		Command:    Duration(2 * time.Second),
		Boot:       Duration(10 * time.Second),
		Swap:       Duration(60 * time.Second),
		Total:      Duration(10 * time.Minute),
	}
}

// newRecipe is a recipe as if nothing were written.
func newRecipe() *Recipe {
	return &Recipe{
		Entry:      RecoveryPin,
		Framing:    AutoFraming,
		SlotPolicy: AutoPolicy,
		Timeouts:   DefaultTimeouts(),
		Retries:    Retries{Attempts: 2, Chunk: 5},
		Check:      Check{Within: Duration(5 * time.Second), Proof: AutoProof},
	}
}

// defaultWriteSize is a multiple of the write size of common parts: 4 on
// nRF52 and nRF53, 8 and 16 on many STM32 and on nRF54L, 32 on STM32H7.
const defaultWriteSize = 32

// LoadRecipe reads a recipe file with the images and keys it names, and
// compares each image with its pin. The error is an [Errors].
func LoadRecipe(path string) (*Recipe, error) {
	doc, dir, err := load(path)
	if err != nil {
		return nil, err
	}
	r := decodeRecipe(doc, dir)
	if r != nil {
		r.abs = absolute(path, dir)
		r.loadFiles(doc)
	}
	return r.done(doc)
}

// ParseRecipe is [LoadRecipe] for a text in memory that would have the given
// name and stand in the folder dir. It touches no file: the Data and KeyPEM of
// the images stay nil, and [Recipe.Verify] has nothing to look at.
func ParseRecipe(name, dir string, text []byte) (*Recipe, error) {
	doc, dir, err := parse(name, dir, text)
	if err != nil {
		return nil, err
	}
	return decodeRecipe(doc, dir).done(doc)
}

// decodeRecipe gives nil if not even the syntax holds; what else is wrong is
// in doc.
func decodeRecipe(doc *document, dir string) *Recipe {
	r := newRecipe()
	if !doc.decode(r) {
		return nil
	}
	if r.SlotPolicy == ApplicationPolicy && !doc.has("entry") {
		r.Entry = PowerOn
	}
	for i := range r.Images {
		img := &r.Images[i]
		img.Path.resolve(dir)
		img.Key.resolve(dir)
		img.SHA256 = strings.ToLower(img.SHA256)
		at := fmt.Sprintf("image[%d].", i)
		if !doc.has(at + "write_size") {
			img.WriteSize = defaultWriteSize
		}
		if !doc.has(at + "send_ahead") {
			img.SendAhead = AheadAuto
		}
	}
	r.check(doc)
	return r
}

// done adds what is known of the file itself.
func (r *Recipe) done(doc *document) (*Recipe, error) {
	if err := doc.err(); err != nil {
		return nil, err
	}
	r.File, r.Text, r.SHA256, r.Warnings = doc.file, string(doc.raw), hashOf(doc.raw), doc.warnings.ordered()
	return r, nil
}

// SerialOK reports whether a label can be the serial of a unit of this
// product. The pattern must match all of it, anchored or not; an empty label
// never will.
func (r *Recipe) SerialOK(serial string) bool {
	if serial == "" || r.SerialPattern == "" {
		return serial != ""
	}
	ok, err := regexp.MatchString(`\A(?:`+r.SerialPattern+`)\z`, serial)
	return err == nil && ok
}

// versionMark stands for the image's version in a boot text.
const versionMark = "{version}"

// versionText is a version as imgtool prints it, the build number optional.
var versionText = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(\+[0-9]+)?$`)

// ErrVersion is wrapped by the error of [Check.Pattern] for a text that is no
// version of an MCUboot image.
var ErrVersion = errors.New("not a version such as 1.0.0 or 1.0.0+7")

// Pattern makes BootText the expression for an image of the given version,
// written as imgtool does: "1.0.0" or "1.0.0+7". Build number 0 may be printed
// or left out, any other must be printed. It is nil if there is no BootText.
//
// The expression is meant for one complete line, or for all that was printed:
// in it ^ and $ are the ends of lines. Half a line can match too soon, since
// "1.0.0" is also how "1.0.0+7" begins.
func (c *Check) Pattern(version string) (*regexp.Regexp, error) {
	if c.BootText == "" {
		return nil, nil
	}
	if !versionText.MatchString(version) {
		return nil, fmt.Errorf("boot text for version %s: %w", quote(version), ErrVersion)
	}
	base, build, _ := strings.Cut(version, "+")
	v := regexp.QuoteMeta(base)
	if strings.Trim(build, "0") == "" {
		v += `(?:\+0)?`
	} else {
		v += regexp.QuoteMeta("+" + build)
	}
	expr := c.BootText
	// Where the pattern ends with the version, or begins with it, nothing
	// bounds it, and a longer one must not pass: 1.0.0 is not in 11.0.0,
	// 1.0.01 or 1.0.0+7.
	if rest, ok := strings.CutSuffix(expr, versionMark); ok {
		expr = rest + versionMark + `(?:[^0-9A-Za-z.+_-]|\.?$|\.[^0-9])`
	}
	if strings.HasPrefix(expr, versionMark) {
		expr = `(?:^|[^0-9.])` + expr
	}
	re, err := regexp.Compile(`(?m)` + strings.ReplaceAll(expr, versionMark, v))
	if err != nil {
		return nil, fmt.Errorf("boot text %s: %w", quote(c.BootText), err)
	}
	return re, nil
}
