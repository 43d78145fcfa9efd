package mcuboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Magic numbers that open an image (IMAGE_MAGIC and IMAGE_MAGIC_V1 in
// bootutil's image.h).
const (
	Magic = 0x96f3b83d
	// MagicV1 opened images before MCUboot 1.0 (2017). No MCUboot since then
	// boots one.
	MagicV1 = 0x96f3b83c
)

// HeaderSize is the size of the header's fields (struct image_header). An
// image's own hdr_size counts the padding up to the vector table as well.
const HeaderSize = 32

const hintCut = "the file is cut short: copy it again"

// Flags are the flags of an image's header (IMAGE_F_* in bootutil's image.h).
type Flags uint32

// The flags that MCUboot knows.
const (
	FlagPIC             Flags = 0x0001
	FlagEncryptedAES128 Flags = 0x0004
	FlagEncryptedAES256 Flags = 0x0008
	FlagNonBootable     Flags = 0x0010
	FlagRAMLoad         Flags = 0x0020
	FlagROMFixed        Flags = 0x0100
	FlagLZMA1           Flags = 0x0200
	FlagLZMA2           Flags = 0x0400
	FlagARMThumb        Flags = 0x0800
)

var flagNames = []struct {
	flag Flags
	name string
}{
	{FlagPIC, "PIC"},
	{FlagEncryptedAES128, "ENCRYPTED_AES128"},
	{FlagEncryptedAES256, "ENCRYPTED_AES256"},
	{FlagNonBootable, "NON_BOOTABLE"},
	{FlagRAMLoad, "RAM_LOAD"},
	{FlagROMFixed, "ROM_FIXED"},
	{FlagLZMA1, "COMPRESSED_LZMA1"},
	{FlagLZMA2, "COMPRESSED_LZMA2"},
	{FlagARMThumb, "COMPRESSED_ARM_THUMB"},
}

// String returns imgtool's names joined with "|", unknown bits in hex, "0" for
// no flag.
func (f Flags) String() string {
	if f == 0 {
		return "0"
	}
	var names []string
	for _, n := range flagNames {
		if f&n.flag != 0 {
			names = append(names, n.name)
			f &^= n.flag
		}
	}
	if f != 0 {
		names = append(names, fmt.Sprintf("%#x", uint32(f)))
	}
	return strings.Join(names, "|")
}

// Header is an image's header.
type Header struct {
	Magic            uint32 // Magic or MagicV1
	LoadAddr         uint32 // meaningful with FlagRAMLoad or FlagROMFixed
	Size             uint16 // bytes from the start of the file to the body
	ProtectedTLVSize uint16 // bytes of the protected TLV area
	ImageSize        uint32 // bytes of the body
	Flags            Flags
	Version          Version
}

// Legacy reports whether the image is of the kind before MCUboot 1.0, which
// no current bootloader boots: sign it again with a current imgtool.
func (h Header) Legacy() bool { return h.Magic == MagicV1 }

// Image is a parsed image file. It keeps the bytes given to [Parse], which
// must not change afterwards, and is itself safe for concurrent use.
type Image struct {
	Header    Header
	Protected TLVArea // covered by the hash and the signature; may be absent
	TLVs      TLVArea // hash, key and signature
	// Trailer is what a padded image carries at the end of the slot; nil if
	// there is none. See [Image.Tail].
	Trailer *Trailer

	data []byte
	tail Tail
}

// Tail says what follows an image in its file.
type Tail int

// The kinds of tail.
const (
	TailNone    Tail = iota // the file ends with the TLVs, as most do
	TailTrailer             // padding up to a trailer: imgtool's --pad, --test or --confirm
	TailErased              // 0xFF or 0x00 only, like a slot read back without trailer
	TailUnknown             // something else that MCUboot does not look at
)

// String returns a word or two for a person.
func (t Tail) String() string {
	switch t {
	case TailNone:
		return "none"
	case TailTrailer:
		return "padding and trailer"
	case TailErased:
		return "padding"
	}
	return "unknown data"
}

// Parse reads an image file. The bytes must hold one whole image from its
// first byte; what may follow it is a padded image's trailer or anything else
// ([Image.Tail]). The error is a [*FormatError].
//
// Parse looks at the structure only. Whether the content is whole and by whom
// it is signed is for [Image.Verify] to say.
func Parse(data []byte) (*Image, error) {
	m := &Image{data: data}
	if err := m.parseHeader(); err != nil {
		return nil, err
	}
	off := int(m.Header.Size) + int(m.Header.ImageSize) // fits: parseHeader held it against len(data)
	if n := int(m.Header.ProtectedTLVSize); n != 0 {
		a, err := parseTLVArea(data, off, MagicProtectedTLV, "tlv_hdr_prot")
		if err != nil {
			return nil, err
		}
		if a.Size != n {
			// bootutil_tlv_iter_begin refuses the same.
			return nil, &FormatError{
				Field: "tlv_hdr_prot tlv_tot", Offset: int64(off + 2),
				Found: fmt.Sprint(a.Size), Want: fmt.Sprintf("%d, the header's protected_tlv_size", n),
			}
		}
		m.Protected = a
		off += n
	}
	a, err := parseTLVArea(data, off, MagicTLV, "tlv_hdr")
	if err != nil {
		return nil, err
	}
	m.TLVs = a
	if err := m.checkHashTLVs(); err != nil {
		return nil, err
	}
	if err := m.checkDependencies(); err != nil {
		return nil, err
	}
	if err := m.parseTail(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Image) parseHeader() error {
	data := m.data
	if len(data) < HeaderSize {
		return &FormatError{
			Field: "header", Found: fmt.Sprintf("cut off by the end of the file, %d bytes on", len(data)),
			Want: fmt.Sprintf("the %d bytes of a header", HeaderSize), Hint: hintCut,
		}
	}
	le := binary.LittleEndian
	h := Header{
		Magic:            le.Uint32(data),
		LoadAddr:         le.Uint32(data[4:]),
		Size:             le.Uint16(data[8:]),
		ProtectedTLVSize: le.Uint16(data[10:]),
		ImageSize:        le.Uint32(data[12:]),
		Flags:            Flags(le.Uint32(data[16:])),
		Version:          parseVersion(data[20:]),
	}
	m.Header = h
	if h.Magic != Magic && h.Magic != MagicV1 {
		return &FormatError{
			Field: "magic", Found: fmt.Sprintf("%#08x", h.Magic), Want: fmt.Sprintf("%#08x", uint32(Magic)), Hint: magicHint(data),
		}
	}
	if h.Size < HeaderSize {
		return &FormatError{
			Field: "hdr_size", Offset: 8, Found: fmt.Sprint(h.Size), Want: fmt.Sprintf("at least %d", HeaderSize),
		}
	}
	if int(h.Size) > len(data) {
		return &FormatError{
			Field: "hdr_size", Offset: 8, Found: fmt.Sprint(h.Size), Want: fmt.Sprintf("at most %d, the size of the file", len(data)), Hint: hintCut,
		}
	}
	if h.ImageSize == 0 {
		return &FormatError{Field: "img_size", Offset: 12, Found: "0", Want: "the size of the firmware"}
	}
	if left := uint64(len(data)) - uint64(h.Size); uint64(h.ImageSize) > left {
		return &FormatError{
			Field: "img_size", Offset: 12, Found: fmt.Sprint(h.ImageSize), Want: fmt.Sprintf("at most %d, what is left of the file", left), Hint: hintCut,
		}
	}
	return nil
}

// magicHint guesses what a file is that does not begin like an image: the
// files that lie beside the right one in a build folder.
func magicHint(data []byte) string {
	switch {
	case Detect(data) == KindPackage:
		return "it is a zip: read it as a firmware package"
	case data[0] == ':':
		return "it looks like Intel HEX: use the signed .bin from the same build"
	case bytes.HasPrefix(data, []byte("\x7fELF")):
		return "it is an ELF file: use the signed .bin from the same build"
	case binary.BigEndian.Uint32(data) == Magic:
		return "it was signed as big endian: sign it without --endian big"
	case bytes.Equal(data[:HeaderSize], make([]byte, HeaderSize)):
		return "its header is empty: use the signed .bin from the same build"
	}
	return "use the .bin that imgtool signed"
}

// checkHashTLVs makes sure that an image has at most one hash, of the right
// length and in the unprotected area: it is the image's identity, so there
// must be no choice. (A hash inside the area that it covers is impossible.)
func (m *Image) checkHashTLVs() error {
	for _, t := range m.Protected.TLVs {
		if t.Type.hash() != 0 {
			return &FormatError{
				Field: "TLV " + t.Type.String(), Offset: int64(t.Offset),
				Found: "in the protected area, which it would have to cover", Want: "the image hash in the unprotected area",
			}
		}
	}
	seen := TLVType(0)
	for _, t := range m.TLVs.TLVs {
		h := t.Type.hash()
		if h == 0 {
			continue
		}
		if seen != 0 {
			return &FormatError{
				Field: "TLV " + t.Type.String(), Offset: int64(t.Offset),
				Found: fmt.Sprintf("a second image hash after %s", seen), Want: "one hash only",
			}
		}
		if len(t.Data) != h.Size() {
			return &FormatError{
				Field: "length of TLV " + t.Type.String(), Offset: int64(t.Offset + 2),
				Found: fmt.Sprint(len(t.Data)), Want: fmt.Sprint(h.Size()),
			}
		}
		seen = t.Type
	}
	return nil
}

func (m *Image) parseTail() error {
	tail := m.data[m.end():]
	if len(tail) == 0 {
		return nil
	}
	t, err := parseTrailer(tail, int64(m.end()), m.Encrypted())
	if err != nil {
		return err
	}
	m.Trailer = t
	switch {
	case t != nil:
		m.tail = TailTrailer
	case !slices.ContainsFunc(tail, func(b byte) bool { return b != tail[0] }) && (tail[0] == 0xff || tail[0] == 0):
		m.tail = TailErased
	default:
		m.tail = TailUnknown
	}
	return nil
}

// end is where the TLVs end and with them all that MCUboot looks at.
func (m *Image) end() int { return m.TLVs.Offset + m.TLVs.Size }

// Bytes returns the whole file, padding and trailer included. The caller must
// not modify it.
func (m *Image) Bytes() []byte { return m.data }

// Stripped returns the file up to the end of its TLVs, without padding and
// trailer: what an upload to a slot needs. The caller must not modify it.
func (m *Image) Stripped() []byte { return m.data[:m.end():m.end()] }

// Padded reports whether anything follows the TLVs. A padded file has the
// size of its slot, and an upload of it takes as long as the slot is big.
func (m *Image) Padded() bool { return m.end() < len(m.data) }

// Tail says what follows the TLVs.
func (m *Image) Tail() Tail { return m.tail }

// Body returns the firmware itself, encrypted or compressed as the flags say.
// The caller must not modify it.
func (m *Image) Body() []byte {
	end := int(m.Header.Size) + int(m.Header.ImageSize)
	return m.data[m.Header.Size:end:end]
}

// Encrypted reports whether the image is marked as encrypted. imgtool's
// --clear makes images that are marked so and whose body is plain.
func (m *Image) Encrypted() bool {
	return m.Header.Flags&(FlagEncryptedAES128|FlagEncryptedAES256) != 0
}

// Compressed reports whether the body is compressed. MCUboot unpacks such an
// image into the primary slot, where its hash is then that of the DECOMP_SHA
// TLV and no longer Hash.
func (m *Image) Compressed() bool {
	return m.Header.Flags&(FlagLZMA1|FlagLZMA2|FlagARMThumb) != 0
}

// Hash returns the value of the image's hash TLV, which is what a device's
// image list reports for it: 32, 48 or 64 bytes, or nil for an image without.
// The caller must not modify it.
func (m *Image) Hash() []byte {
	_, h := m.hashTLV()
	return h
}

// hashTLV returns the type and the value of the hash TLV, 0 and nil if there
// is none.
func (m *Image) hashTLV() (TLVType, []byte) {
	for _, t := range m.TLVs.TLVs {
		if t.Type.hash() != 0 {
			return t.Type, t.Data
		}
	}
	return 0, nil
}

// KeyHash returns the value of the first KEYHASH TLV: the hash of the public
// key that is to verify the image; nil if the image names none so.
func (m *Image) KeyHash() []byte {
	h, _ := m.TLVs.Find(TLVKeyHash)
	return h
}

// Kind is what a file is, by its first bytes.
type Kind int

// The kinds of file.
const (
	KindUnknown Kind = iota
	KindImage        // for Parse
	KindPackage      // for ReadPackage
)

// Detect tells an image from a zip by the first bytes, so that a command can
// take either. Anything else is KindUnknown; Parse has a good sentence for it.
func Detect(data []byte) Kind {
	switch {
	case len(data) >= 4 && (binary.LittleEndian.Uint32(data) == Magic || binary.LittleEndian.Uint32(data) == MagicV1):
		return KindImage
	case bytes.HasPrefix(data, []byte("PK\x03\x04")), bytes.HasPrefix(data, []byte("PK\x05\x06")):
		return KindPackage
	}
	return KindUnknown
}
