package smp

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
)

// Console framing, as MCUboot's boot_serial and Zephyr's serial_util.c do it:
// a packet is length, message and CRC; it travels as lines of base64, each
// opened by two marker bytes and closed by one line feed.
const (
	// lineLength is the line buffer that every server has at least
	// (CONFIG_BOOT_MAX_LINE_INPUT_LEN, CONFIG_UART_MCUMGR_RX_BUF_SIZE), and
	// maxLineLength the longest that lines are made for.
	lineLength    = 128
	maxLineLength = 512
	// maxLine bounds what the decoder keeps of one line. MCUboot up to 1.9
	// answers in a single unsplit line, and its longest image list stays far
	// below this.
	maxLine = 8 << 10
	// maxPacket bounds a packet, which announces its own length in 16 bits.
	maxPacket = 16 << 10

	packetOverhead = 4 // length field and CRC
	minPacketLen   = HeaderSize + 2
)

var (
	markStart    = [2]byte{0x06, 0x09}
	markContinue = [2]byte{0x04, 0x14}
)

// crc16 continues a CRC-16/XMODEM (polynomial 0x1021, start 0, nothing
// reflected) over p, eight bits at a step.
func crc16(crc uint16, p []byte) uint16 {
	for _, b := range p {
		crc = crc>>8 | crc<<8
		crc ^= uint16(b)
		crc ^= crc & 0xff >> 4
		crc ^= crc << 12
		crc ^= crc & 0xff << 5
	}
	return crc
}

// framing is the length of the lines that a frame is made of: the line buffer
// they have to fit, in bytes. 0 means lineLength, and bare no lines at all.
type framing int

// bare is the framing of the raw protocol: none.
const bare framing = -1

// raw is how many packet bytes one full line carries. A line is a whole number
// of base64 groups, because each is decoded by itself; with marker and line
// feed it stays a byte below the buffer: 124 characters, 93 bytes, for 128.
func (f framing) raw() int {
	if f == 0 {
		f = lineLength
	}
	return (int(f) - 4) / 4 * 3
}

// lines returns how many lines a message of n bytes takes. Not for bare.
func (f framing) lines(n int) int { return (n + packetOverhead + f.raw() - 1) / f.raw() }

// size returns how many bytes a message of n bytes takes on the wire.
func (f framing) size(n int) int {
	if f == bare {
		return n
	}
	return (n+packetOverhead+2)/3*4 + 3*f.lines(n)
}

// full returns how many bytes a full line takes on the wire. Not for bare.
func (f framing) full() int { return f.raw()/3*4 + 3 }

// append appends msg to dst as it goes over the wire.
func (f framing) append(dst, msg []byte) []byte {
	if f == bare {
		return append(dst, msg...)
	}
	var (
		head, tail [2]byte
		buf        [maxLineLength / 4 * 3]byte
		raw        = buf[:f.raw()]
		mark       = markStart
		rest       = msg
	)
	binary.BigEndian.PutUint16(head[:], uint16(len(msg)+2))
	binary.BigEndian.PutUint16(tail[:], crc16(0, msg))
	n, ended := copy(raw, head[:]), 0
	for {
		k := copy(raw[n:], rest)
		n, rest = n+k, rest[k:]
		if len(rest) == 0 {
			k = copy(raw[n:], tail[ended:])
			n, ended = n+k, ended+k
		}
		dst = append(dst, mark[:]...)
		dst = base64.StdEncoding.AppendEncode(dst, raw[:n])
		dst = append(dst, '\n')
		if ended == len(tail) {
			return dst
		}
		mark, n = markContinue, 0
	}
}

// AppendFrame appends msg to dst as console lines, ready to be written. It
// allocates nothing when dst has room.
func AppendFrame(dst, msg []byte) []byte { return framing(0).append(dst, msg) }

// WireSize returns how many bytes a message of n bytes takes on the wire with
// console framing.
func WireSize(n int) int { return framing(0).size(n) }

// DecoderStats counts what a [Decoder] has met.
type DecoderStats struct {
	Messages  int // whole packets with a good CRC
	BadLine   int // marked lines that were not base64, or over-long
	BadPacket int // packets with a wrong CRC or length, or cut short by another; raw answers that were damaged or cut short
}

// Decoder finds SMP packets in whatever a console line carries: boot banners,
// log lines, prompts and echoes before, between and on the same line as a
// frame. It resynchronises by itself at the next start marker. The zero value
// is ready to use; it is not safe for concurrent use.
type Decoder struct {
	line     []byte
	overlong bool // the current line exceeds maxLine: skip to its end
	packet   []byte
	open     bool // a start marker was seen and the packet is not complete
	stats    DecoderStats
}

// Stats returns the counts so far.
func (d *Decoder) Stats() DecoderStats { return d.stats }

// Feed takes the next bytes from the line. It calls message for every packet
// that completes and text for every other line (without its line end, empty
// lines left out), in order. The slices are valid only during the call;
// either function may be nil.
func (d *Decoder) Feed(p []byte, message, text func([]byte)) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		switch {
		case d.overlong:
		case len(d.line)+len(part) > maxLine:
			d.overlong = true
			d.stats.BadLine++
			d.line = d.line[:0]
		default:
			d.line = append(d.line, part...)
		}
		if i < 0 {
			return
		}
		p = p[i+1:]
		if !d.overlong {
			d.endLine(message, text)
		}
		d.line, d.overlong = d.line[:0], false
	}
}

func (d *Decoder) endLine(message, text func([]byte)) {
	line := d.line
	// The last marker counts: base64 holds no marker bytes, so what stands
	// between two is a frame that a reset of the target cut short.
	at := lastMark(line)
	before := line
	if at >= 0 {
		before = line[:at]
		for i := lastMark(before); i >= 0; i = lastMark(before) {
			d.stats.BadPacket++
			d.open = false
			before = before[:i]
		}
	}
	// MCUboot up to 1.9 ends its lines with LF CR, so that a stray CR opens
	// the next one.
	if before = bytes.Trim(before, "\r"); len(before) > 0 && text != nil {
		text(before)
	}
	if at < 0 {
		return
	}
	start := line[at] == markStart[0]
	body := bytes.TrimRight(line[at+2:], "\r")
	if start {
		if d.open {
			d.stats.BadPacket++
		}
		d.packet, d.open = d.packet[:0], true
	} else if !d.open {
		return
	}
	grown, err := base64.StdEncoding.AppendDecode(d.packet, body)
	if err != nil {
		d.stats.BadLine++
		d.open = false
		return
	}
	d.packet = grown
	if len(d.packet) < 2 {
		return
	}
	want := int(binary.BigEndian.Uint16(d.packet))
	got := len(d.packet) - 2
	switch {
	case want < minPacketLen || want > maxPacket || got > want:
		d.stats.BadPacket++
		d.open = false
	case got == want:
		d.open = false
		// A CRC run over message and CRC yields zero.
		if crc16(0, d.packet[2:]) != 0 {
			d.stats.BadPacket++
			return
		}
		d.stats.Messages++
		if message != nil {
			message(d.packet[2 : len(d.packet)-2])
		}
	}
}

func lastMark(line []byte) int {
	return max(bytes.LastIndex(line, markStart[:]), bytes.LastIndex(line, markContinue[:]))
}
