package main

import (
	"time"

	"flashline/fixtures/sim"
	"flashline/smp"
)

// bound is what limits an upload from outside of the station: the line, the
// framing, and the board.
type bound struct {
	part        sim.Part
	baud        int
	message     int // the longest message the board takes, bytes
	writeSize   int // chunks are a multiple of it, bytes
	slots       int // of a bootloader's image, of which two have a trailer to erase
	application bool
	lineLength  int  // of the bootloader's line buffers in bytes, 128 if 0
	raw         bool // no framing: one at a time whatever the mode
}

// lineBuffers is MCUboot's CONFIG_BOOT_LINE_BUFS. One holds the line being
// worked on, and a line takes one at its first byte.
const lineBuffers = 8

// line is a full console line: its bytes on the wire, those of the packet in it,
// and the time in which the board decodes it. One of 128 bytes has 124 characters
// of base64, which are 93 bytes, two of a marker and a line feed.
func (b bound) line() (bytes, data int, decoding time.Duration) {
	length := max(b.lineLength, 128)
	data = (length - 4) / 4 * 3
	return data/3*4 + 3, data, b.part.LineTime * time.Duration(length) / 128
}

// least is the shortest time in which the board can have taken an image of size
// bytes, with a station that needs none at all: the moment at which each line
// can leave, has been decoded, and each chunk been erased for, written and
// answered, one after the other. A window is how many requests may wait for
// their answers.
//
// When overlapping, a line leaves as soon as there is a line buffer for it, but
// none while the part is deaf: it stands still for an erase, or for words that
// take longer than its FIFO lasts.
func (b bound) least(size int, mode smp.UploadMode, window int) time.Duration {
	perByte := 10 * time.Second / time.Duration(b.baud)
	deafToWrites := b.part.Stalls && time.Duration(b.part.FIFODepth)*perByte < b.part.WriteTime
	var (
		sent, decoder, cpu, deaf time.Duration   // when each is free again
		released                 []time.Duration // by line
		answered                 []time.Duration // by chunk
	)
	lineBytes, lineData, decoding := b.line()
	framing := smp.Lines{Length: b.lineLength}
	if b.raw {
		mode, decoding = smp.ModeStopAndWait, 0 // there are no lines to be decoded
	}
	erased := 0
	for off := 0; off < size; {
		head := b.overhead(off, size)
		n := (b.message - head) / b.writeSize * b.writeSize
		if n <= 0 {
			return 0
		}
		last := off+n >= size
		n = min(n, size-off)
		message := head + n
		lines := (message + 4 + lineData - 1) / lineData
		wire := framing.WireSize(message)
		if b.raw {
			lines, wire = 1, message
		}
		for i := range lines {
			start := sent
			switch mode {
			case smp.ModeWindow:
				if k := len(answered) - max(window, 1); k >= 0 {
					start = max(start, answered[k])
				}
			case smp.ModeOverlapped:
				start = max(start, deaf)
				if k := len(released) - lineBuffers; k >= 0 {
					start = max(start, released[k])
				}
			default:
				if i == 0 {
					start = max(start, cpu)
				}
			}
			length := lineBytes
			if i == lines-1 {
				length = wire - i*lineBytes
			}
			sent = start + time.Duration(length)*perByte
			if b.application {
				// Its lines are decoded above all threads, while they write.
				decoder = max(sent, decoder) + decoding
			} else {
				cpu = max(sent, cpu) + decoding
				decoder = cpu
			}
			released = append(released, decoder)
		}
		cpu = max(cpu, decoder)
		if erase := b.erase(&erased, off, n, last); erase > 0 {
			cpu += erase
			if b.part.Stalls {
				deaf = cpu
			}
		}
		if write := time.Duration((n+b.part.WriteSize-1)/b.part.WriteSize) * b.part.WriteTime; write > 0 {
			cpu += write
			if deafToWrites {
				deaf = cpu
			}
		}
		off += n
		answer := answerSize(off)
		if !b.raw {
			answer = smp.WireSize(answer)
		}
		cpu += time.Duration(answer) * perByte
		released[len(released)-1] = cpu
		answered = append(answered, cpu)
	}
	return cpu
}

// erase is the time of what the board erases for a chunk. A slot that an
// application uploads to is thought to be blank.
func (b bound) erase(erased *int, off, n int, last bool) (d time.Duration) {
	switch {
	case b.part.NoErase || b.application:
		return 0
	case !b.part.Progressive:
		if off == 0 {
			d = time.Duration(b.part.SlotSize/b.part.SectorSize) * b.part.EraseTime
		}
		return d
	}
	sectors := (off + n + b.part.SectorSize - 1) / b.part.SectorSize
	d = time.Duration(sectors-*erased) * b.part.EraseTime
	*erased = sectors
	if last && b.slots > 1 {
		d += b.part.EraseTime // of the trailer
	}
	return d
}

// overhead is what a request to upload has besides the bytes of the image: the
// header, a map, "off" and "data", at first "len" and for an application the
// SHA-256.
func (b bound) overhead(off, size int) int {
	n := smp.HeaderSize + 1 + 4 + cborSize(off) + 5 + 3
	if off == 0 {
		n += 4 + cborSize(size)
		if b.application {
			n += 4 + 2 + 32
		}
	}
	return n
}

// answerSize is the length of an answer: {"rc":0,"off":n} in a map without a
// length.
func answerSize(off int) int { return smp.HeaderSize + 1 + 4 + 4 + cborSize(off) + 1 }

// cborSize is the length of an unsigned integer in CBOR.
func cborSize(n int) int {
	switch {
	case n < 24:
		return 1
	case n < 1<<8:
		return 2
	case n < 1<<16:
		return 3
	}
	return 5
}
