package configs

import (
	"errors"
	"fmt"
	"math/bits"
	"path/filepath"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"
	"unicode"
)

var hashPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

const (
	maxLabel     = 64
	maxAttempts  = 5
	maxResends   = 20
	maxWriteSize = 1024
	maxSlotSize  = maxImage
	// An SMP message carries its length in 16 bits, and no server takes less
	// than mynewt's smallest of 64.
	minMessage, maxMessage = 64, 65535
)

// check is the meaning of a decoded recipe file.
func (r *Recipe) check(d *document) {
	for _, l := range []struct{ key, value, example string }{
		{"product", r.Product, `product = "blinky"`},
		{"revision", r.Revision, `revision = "A"`},
	} {
		if d.need(l.key, l.value, l.example) && !isLabel(l.value) {
			d.refuse(l.key, "write a short name without blanks at its ends", "%s is not a usable %s", quote(l.value), l.key)
		}
	}
	if _, err := regexp.Compile(r.SerialPattern); err != nil {
		d.expression("serial_pattern", r.SerialPattern, err)
	} else if r.SerialPattern == "" && d.has("serial_pattern") {
		d.refuse("serial_pattern", "write what a label looks like, or take it out to accept any", "the key \"serial_pattern\" is empty")
	}
	if !slices.Contains(slotPolicies, r.SlotPolicy) {
		d.refuse("slot_policy", choose(slotPolicies), "there is no slot_policy %s", quote(string(r.SlotPolicy)))
	}
	if !slices.Contains(entries, r.Entry) {
		d.refuse("entry", choose(entries), "there is no entry %s", quote(string(r.Entry)))
	}
	if len(r.Images) == 0 {
		d.refuse("image", "add a line [[image]] with file and sha256 below it", "this recipe has no image")
	}
	for i := range r.Images {
		at := fmt.Sprintf("image[%d]", i)
		if i > 0 {
			d.refuse(at, "make a recipe for each, or sign them as one", "this recipe has a second image, but this version flashes exactly one")
			break
		}
		r.Images[i].check(d, at)
	}
	r.checkTimeouts(d)
	d.number("retries.attempts", r.Retries.Attempts, 1, maxAttempts, "write how often a unit is tried in one cycle")
	d.number("retries.chunk", r.Retries.Chunk, 0, maxResends, "write how often one chunk is sent again")
	r.Check.check(d)
}

func (r *Recipe) checkTimeouts(d *document) {
	t := &r.Timeouts
	const ms = time.Millisecond
	d.spans("timeouts", []span{
		{"first_chunk", t.FirstChunk, 100 * ms, 10 * time.Minute},
		{"chunk", t.Chunk, 100 * ms, time.Minute},
		{"last_chunk", t.LastChunk, 100 * ms, 10 * time.Minute},
		{"list", t.List, 100 * ms, 5 * time.Minute},
		{"command", t.Command, 100 * ms, time.Minute},
		{"boot", t.Boot, 100 * ms, 10 * time.Minute},
		{"swap", t.Swap, 100 * ms, 10 * time.Minute},
		{"total", t.Total, time.Second, 2 * time.Hour},
	})
	for _, part := range []span{{key: "first_chunk", value: t.FirstChunk}, {key: "last_chunk", value: t.LastChunk}, {key: "list", value: t.List}, {key: "boot", value: t.Boot}, {key: "swap", value: t.Swap}} {
		if t.Total < part.value && !d.broken("timeouts."+part.key) {
			d.refuse("timeouts.total", "write a longer total", "total in [timeouts] is %s, shorter than its own part %s of %s", t.Total, part.key, part.value)
			return
		}
	}
}

func (c *Check) check(d *document) {
	d.spans("check", []span{{"within", c.Within, 100 * time.Millisecond, 10 * time.Minute}})
	if c.BootText == "" {
		if d.has("check.boot_text") {
			d.refuse("check.boot_text", "write what the board prints, or take it out", "the key \"boot_text\" in [check] is empty")
		} else if d.has("check.within") {
			d.refuse("check.within", "add boot_text, or take within out", "within in [check] has no effect without boot_text")
		}
		return
	}
	if _, err := c.Pattern("1.2.3+4"); err != nil {
		d.expression("check.boot_text", c.BootText, err)
	} else if !strings.Contains(c.BootText, versionMark) {
		d.warn("check.boot_text", "write {version} where the board prints it", "boot_text in [check] does not ask for the version, so a board that still runs another one passes this check")
	}
}

// expression complains about a bad regular expression.
func (d *document) expression(path, expr string, err error) {
	reason := err.Error()
	var se *syntax.Error
	if errors.As(err, &se) {
		reason = string(se.Code)
		if se.Expr != expr && strings.Contains(expr, se.Expr) {
			reason += " at " + quote(se.Expr)
		}
	}
	key := path[strings.LastIndexByte(path, '.')+1:]
	d.refuseCause(path, err, "mend it, with a backslash before each sign that stands for itself", "%s is not a regular expression: %s", key, plain(reason))
}

func (img *Image) check(d *document, at string) {
	if d.need(at+".file", img.Path.Written, `file = "app.bin"`) {
		switch ext := strings.ToLower(filepath.Ext(img.Path.Written)); ext {
		case ".bin", ".zip":
		case ".hex", ".elf":
			d.refuse(at+".file", "name the signed .bin that the build made beside it", "the image %s is for a debug probe, not for the bootloader", plain(img.Path.Written))
		default:
			d.refuse(at+".file", "name a signed .bin, or a .zip such as dfu_application.zip", "the image %s is of no known kind", plain(img.Path.Written))
		}
	}
	const pin = "run sha256sum FILE and put the result here"
	if d.need(at+".sha256", img.SHA256, `sha256 = "…" with what sha256sum prints for the released file`) && !hashPattern.MatchString(img.SHA256) {
		d.refuse(at+".sha256", strings.Replace(pin, "FILE", plain(img.Path.Written), 1), "sha256 has %d characters, but must be 64 of 0-9 and a-f", len(img.SHA256))
	}
	if d.has(at + ".slot_size") {
		d.number(at+".slot_size", img.SlotSize, 1, maxSlotSize, "write the size of the slot in bytes, or take it out if it is not known")
	}
	if w := img.WriteSize; w < 1 || w > maxWriteSize || bits.OnesCount(uint(w)) != 1 {
		d.refuse(at+".write_size", "write the write size of the part's flash in bytes, such as 4, or take it out", "write_size in [[image]] is %d, but must be a power of two from 1 to %d", w, maxWriteSize)
	}
	if img.MessageSize != 0 {
		d.number(at+".message_size", img.MessageSize, minMessage, maxMessage, "write 0 to find it out from the device")
	}
	if !d.has(at + ".key") {
		d.warn(at, `add key = "…" with the public key of the product`, "the image has no key, so its signature is not verified before it is flashed")
	}
}

// loadFiles reads what the recipe names and compares it with the pins.
func (r *Recipe) loadFiles(d *document) {
	for i := range r.Images {
		img := &r.Images[i]
		at := fmt.Sprintf("image[%d]", i)
		img.KeyPEM = d.publicKey(at+".key", img.Key)
		if img.Path.Abs == "" || d.broken(at+".file") {
			continue
		}
		name := plain(img.Path.Written)
		data, err := readFile(img.Path.Abs, maxImage)
		if err != nil {
			d.refuseCause(at+".file", err, "check the name, which is looked for in the folder of this file", "the image %s cannot be read: %s", name, err)
			continue
		}
		if len(data) == 0 {
			d.refuse(at+".file", "put the released file there", "the image %s is empty", name)
			continue
		}
		if got := hashOf(data); hashPattern.MatchString(img.SHA256) && got != img.SHA256 {
			d.refuse(at+".sha256", fmt.Sprintf("run sha256sum %s and put the result here if this is really the released file", name),
				"the image %s is not the pinned one: its sha256 begins %s, the recipe's %s", name, brief(got), brief(img.SHA256))
		}
		if img.SlotSize > 0 && len(data) > img.SlotSize && strings.EqualFold(filepath.Ext(img.Path.Written), ".bin") {
			d.refuse(at+".slot_size", "check both, for this image cannot go into that slot", "the image %s has %d bytes, the slot only %d", name, len(data), img.SlotSize)
		}
		img.Data = data
	}
}

// isLabel reports whether a text is fit for records, screens and file names
// in reports: printable, not long, no blanks at its ends.
func isLabel(s string) bool {
	return len(s) <= maxLabel && strings.TrimSpace(s) == s && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
