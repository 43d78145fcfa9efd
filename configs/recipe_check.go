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
	// From the pages of small parts to the sectors of external flash; what is
	// inside most parts has 2 to 8 KiB, an STM32F4 up to 128 KiB.
	minSectorSize, maxSectorSize = 128, 1 << 20
	// These are far above what boards have: MCUboot's direct upload knows the
	// numbers 0 to 6 (flash_area_id_from_direct_image).
	maxImages                       = 8
	maxImageNumber, maxUploadNumber = 15, 255
	// An SMP message carries its length in 16 bits, and no server takes less
	// than mynewt's smallest of 64.
	minMessage, maxMessage = 64, 65535
	// CONFIG_BOOT_MAX_LINE_INPUT_LEN is 128 unless changed; the 512 of releases up
	// to 1.9 is the longest in use.
	minLineLength, maxLineLength = 128, 512
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
	if r.Board == "" && d.has("board") {
		d.refuse("board", "write the name of the board, or take it out to ask none", "the key \"board\" is empty")
	} else if !isLabel(r.Board) {
		d.refuse("board", "write a short name without blanks at its ends", "%s is not a usable board", quote(r.Board))
	}
	if d.has("baud") {
		d.number("baud", r.Baud, minBaud, maxBaud, "write the speed of the bootloader's port, or take it out to leave it to the station file")
	}
	r.checkEntry(d)
	r.checkImages(d)
	r.checkTimeouts(d)
	d.number("retries.attempts", r.Retries.Attempts, 1, maxAttempts, "write how often a unit is tried in one cycle")
	d.number("retries.chunk", r.Retries.Chunk, 0, maxResends, "write how often one chunk is sent again")
	r.Check.check(d)
	r.checkProof(d)
}

// checkEntry looks at the way in and at the slot policy, which must meet the
// same target.
func (r *Recipe) checkEntry(d *document) {
	if !slices.Contains(slotPolicies, r.SlotPolicy) {
		d.refuse("slot_policy", choose(slotPolicies), "there is no slot_policy %s", quote(string(r.SlotPolicy)))
	}
	if !slices.Contains(entries, r.Entry) {
		d.refuse("entry", choose(entries), "there is no entry %s", quote(string(r.Entry)))
	}
	if !slices.Contains(framings, r.Framing) {
		d.refuse("framing", choose(framings), "there is no framing %s", quote(string(r.Framing)))
	}
	if r.SlotPolicy == ApplicationPolicy && r.Entry != PowerOn && !d.broken("slot_policy") {
		d.refuse("entry", `take entry out, or choose another slot_policy`,
			"entry = %q leads to the bootloader, but slot_policy = %q needs the application, which is reached by switching the board on", r.Entry, r.SlotPolicy)
	}
}

// checkProof looks at whether what the recipe does leads to its proof.
func (r *Recipe) checkProof(d *document) {
	const at = "check.proof"
	switch r.Check.Proof {
	case BootTextProof:
		if !d.has("check.boot_text") && !d.broken("check.boot_text") {
			d.refuse(at, "add boot_text = 'version {version}', or what the board prints", "proof = %q in [check] needs a boot_text", r.Check.Proof)
		}
	case RecoveryProof:
		if r.SlotPolicy == ApplicationPolicy {
			d.refuse(at, choose([]Proof{AutoProof, ApplicationProof}), "proof = %q in [check] asks the bootloader, but slot_policy = %q never meets it", r.Check.Proof, r.SlotPolicy)
		} else if r.Entry == PowerOn {
			d.refuse(at, "choose another proof, or another entry",
				"proof = %q in [check] cannot go with entry = %q: a board that has an application does not come back to recovery when it is switched on", r.Check.Proof, r.Entry)
		}
	case NoProof:
		switch {
		case r.SlotPolicy == ApplicationPolicy || r.SlotPolicy == SecondaryTestConfirm: // the image is kept only once it has started
		case r.Check.BootText == "":
			d.warn(at, "add boot_text with what the board prints, or take proof out", "with proof = %q in [check] and no boot_text, nothing shows that the image starts", r.Check.Proof)
		}
	case AutoProof, ApplicationProof:
	default:
		d.refuse(at, choose(proofs), "there is no proof %s", quote(string(r.Check.Proof)))
	}
}

func (r *Recipe) checkImages(d *document) {
	if len(r.Images) == 0 {
		d.refuse("image", "add a line [[image]] with file and sha256 below it", "this recipe has no image")
	}
	numbers := map[int]string{} // number of a .bin -> key path of its table
	uploads := map[int]string{} // upload number that is not 0 -> key path of its table
	for i := range r.Images {
		img, at := &r.Images[i], fmt.Sprintf("image[%d]", i)
		if i == maxImages {
			d.refuse(at, "take out those that are not of this board", "this recipe has %d images, but at most %d can be flashed", len(r.Images), maxImages)
			return
		}
		img.check(d, at)
		if img.isZip() {
			continue
		}
		unique := func(key string, n int, taken map[int]string, fix string) {
			if d.broken(at + "." + key) {
				return
			}
			if first, again := taken[n]; again {
				d.refuse(at+"."+key, fix, "two images have the %s %d (the first on line %d)", key, n, d.lineOf(d.find(first+"."+key)))
				return
			}
			taken[n] = at
		}
		unique("number", img.Number, numbers, "give each its own, such as number = 1 for a network core; without the line it is 0")
		if img.UploadNumber != 0 {
			unique("upload_number", img.UploadNumber, uploads, "give each its own, for the second would be written over the first")
		}
	}
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
	img.checkNumbers(d, at)
	if d.has(at + ".slot_size") {
		d.number(at+".slot_size", img.SlotSize, 1, maxSlotSize, "write the size of the slot in bytes, or take it out if it is not known")
	}
	img.checkSectors(d, at)
	if w := img.WriteSize; !powerOfTwo(w, 1, maxWriteSize) {
		d.refuse(at+".write_size", "write the write size of the part's flash in bytes, such as 4, or take it out", "write_size in [[image]] is %d, but must be a power of two from 1 to %d", w, maxWriteSize)
	}
	if img.MessageSize != 0 {
		d.number(at+".message_size", img.MessageSize, minMessage, maxMessage, "write 0 to find it out from the device")
	}
	if img.LineLength != 0 {
		d.number(at+".line_length", img.LineLength, minLineLength, maxLineLength, "write the CONFIG_BOOT_MAX_LINE_INPUT_LEN of the bootloader, or 0 for 128")
	}
	if img.LineBuffers != 0 {
		d.number(at+".line_buffers", img.LineBuffers, minLineBufs, maxLineBufs, "write the CONFIG_BOOT_LINE_BUFS of the bootloader, or 0 for 8")
	}
	if !slices.Contains(sendAheads, img.SendAhead) {
		d.refuse(at+".send_ahead", choose(sendAheads), "there is no send_ahead %s", quote(string(img.SendAhead)))
	}
	if !d.has(at + ".key") {
		d.warn(at, `add key = "…" with the public key of the product`, "the image has no key, so its signature is not verified before it is flashed")
	}
}

// checkNumbers looks at the two numbers of an image, which a .zip brings along.
func (img *Image) checkNumbers(d *document, at string) {
	for _, n := range []struct {
		key        string
		value, max int
		fix        string
	}{
		{"number", img.Number, maxImageNumber, "write which of the board's images this is: 0 is the application"},
		{"upload_number", img.UploadNumber, maxUploadNumber, "write 0 to find it out from the device"},
	} {
		at := at + "." + n.key
		if img.isZip() && d.has(at) {
			d.refuse(at, "take it out", "%s in [[image]] has no effect on a .zip, whose manifest numbers the images in it", n.key)
			continue
		}
		d.number(at, n.value, 0, n.max, n.fix)
	}
}

// checkSectors looks at the sectors and at how they divide the slot.
func (img *Image) checkSectors(d *document, at string) {
	sector, slot := at+".sector_size", at+".slot_size"
	switch {
	case img.SectorSize == 0:
	case !powerOfTwo(img.SectorSize, minSectorSize, maxSectorSize):
		d.refuse(sector, "write the size of a flash sector in bytes, such as 4096, or take it out if it is not known",
			"sector_size in [[image]] is %d, but must be a power of two from %d to %d", img.SectorSize, minSectorSize, maxSectorSize)
	case img.SlotSize == 0 || d.broken(slot):
	case img.SectorSize > img.SlotSize:
		d.refuse(sector, "check both, for a slot has at least one sector", "sector_size in [[image]] is %d, but the slot has only %d bytes", img.SectorSize, img.SlotSize)
	case img.SlotSize%img.SectorSize != 0:
		d.refuse(slot, "check both, for a slot begins and ends with a sector", "slot_size in [[image]] is %d, which is no whole number of sectors of %d bytes", img.SlotSize, img.SectorSize)
	}
}

func powerOfTwo(n, low, high int) bool {
	return n >= low && n <= high && bits.OnesCount(uint(n)) == 1
}

// loadFiles reads what the recipe names and compares it with the pins. Images
// beyond the limit are refused already and not worth their memory.
func (r *Recipe) loadFiles(d *document) {
	for i := range min(len(r.Images), maxImages) {
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
		if img.SlotSize > 0 && len(data) > img.SlotSize && !img.isZip() {
			d.refuse(at+".slot_size", "check both, for this image cannot go into that slot", "the image %s has %d bytes, the slot only %d", name, len(data), img.SlotSize)
		}
		img.Data = data
	}
}

// isZip reports whether the image is an archive by its name, the only thing
// that tells.
func (img *Image) isZip() bool { return strings.EqualFold(filepath.Ext(img.Path.Written), ".zip") }

// isLabel reports whether a text is fit for records, screens and file names
// in reports: printable, not long, no blanks at its ends.
func isLabel(s string) bool {
	return len(s) <= maxLabel && strings.TrimSpace(s) == s && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
