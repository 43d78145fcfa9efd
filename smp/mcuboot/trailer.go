package mcuboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// MagicSize is the size of the magic that ends a trailer (BOOT_MAGIC_SZ in
// bootutil_public.h).
const MagicSize = 16

// Values of the one-byte fields of a trailer (bootutil_public.h). A field that
// was never written holds the flash's erased value.
const (
	FlagSet = 0x01 // BOOT_FLAG_SET, in image_ok and copy_done
	Erased  = 0xff // erased flash, on nearly every part
)

// Swap types, the low four bits of swap_info (BOOT_SWAP_TYPE_* in
// bootutil_public.h); the high four bits are the image's number.
const (
	SwapNone   = 1
	SwapTest   = 2
	SwapPerm   = 3
	SwapRevert = 4
)

// The two forms of the magic (boot_img_magic in bootutil_public.c).
var (
	magic8     = [MagicSize]byte{0x77, 0xc2, 0x95, 0xf3, 0x60, 0xd2, 0xef, 0x7f, 0x35, 0x52, 0x50, 0x0f, 0x2c, 0xb6, 0x79, 0x80}
	magicTail2 = [MagicSize - 2]byte{0x2d, 0xe1, 0x5d, 0x29, 0x41, 0x0b, 0x8d, 0x77, 0x67, 0x9c, 0x11, 0x0f, 0x1f, 0x8a}
)

// MagicTrailer returns the 16 bytes that end the trailer of a slot with the
// given maximum alignment (BOOT_MAX_ALIGN). Up to 8 it is the old fixed value,
// above it the alignment in two bytes and a second fixed value
// (boot_img_magic in bootutil_public.c).
func MagicTrailer(maxAlign int) [MagicSize]byte {
	if maxAlign <= 8 {
		return magic8
	}
	var m [MagicSize]byte
	binary.LittleEndian.PutUint16(m[:], uint16(maxAlign))
	copy(m[2:], magicTail2[:])
	return m
}

// Trailer is what MCUboot and imgtool note at the end of a slot. A field that
// was never written holds the erased value, 0xFF or 0xFFFFFFFF on most flash.
type Trailer struct {
	Magic    [MagicSize]byte
	MaxAlign int // BOOT_MAX_ALIGN: 8 for the first form of the magic, else what the magic says
	ImageOK  byte
	CopyDone byte
	// SwapInfo and SwapSize are the erased value where the image leaves no
	// room for them, as it may in images signed with --overwrite-only.
	SwapInfo byte
	SwapSize uint32
	// KeySize is the room for the two encryption keys of an encrypted image,
	// in bytes, provided that MCUboot is built without BOOT_SWAP_SAVE_ENCTLV;
	// else 0.
	KeySize int
}

// Confirmed reports whether image_ok is set: the image is to stay (imgtool's
// --confirm) instead of being tried once.
func (t *Trailer) Confirmed() bool { return t.ImageOK == FlagSet }

// parseTrailer reads the trailer that ends tail, which are the bytes of a file
// from the end of its TLVs at off. It returns nil when tail ends in no magic.
func parseTrailer(tail []byte, off int64, encrypted bool) (*Trailer, error) {
	if len(tail) < MagicSize {
		return nil, nil
	}
	t := &Trailer{Magic: [MagicSize]byte(tail[len(tail)-MagicSize:]), SwapInfo: Erased, SwapSize: 0xffffffff}
	magicOff := off + int64(len(tail)-MagicSize)
	switch {
	case t.Magic == magic8:
		t.MaxAlign = 8
	case bytes.Equal(t.Magic[2:], magicTail2[:]):
		t.MaxAlign = int(binary.LittleEndian.Uint16(t.Magic[:]))
		// The alignment is a flash's write size. Swapping bootloaders go up to
		// 32 (bootutil_public.h asserts it), others to their flash's page.
		if a := t.MaxAlign; a < 16 || a > maxMaxAlign || a&(a-1) != 0 {
			return nil, &FormatError{
				Field: "alignment in the trailer magic", Offset: magicOff,
				Found: fmt.Sprint(a), Want: fmt.Sprintf("a power of two from 16 to %d", maxMaxAlign),
			}
		}
	default:
		return nil, nil
	}
	o := TrailerLayout{MaxAlign: t.MaxAlign}.Offsets(len(tail))
	if o.CopyDone < 0 {
		return nil, &FormatError{
			Field: "trailer", Offset: off,
			Found: fmt.Sprintf("%d bytes, over the end of the image", len(tail)),
			Want:  fmt.Sprintf("at least %d behind it for alignment %d", len(tail)-o.CopyDone, t.MaxAlign),
		}
	}
	t.ImageOK, t.CopyDone = tail[o.ImageOK], tail[o.CopyDone]
	if o.SwapSize >= 0 {
		t.SwapInfo = tail[o.SwapInfo]
		t.SwapSize = binary.LittleEndian.Uint32(tail[o.SwapSize:])
	}
	if encrypted {
		t.KeySize = 2 * alignUp(16, t.MaxAlign)
	}
	return t, nil
}

const maxMaxAlign = 4096

// TrailerLayout says how a bootloader was built as far as its trailers go.
// The zero value with WriteSize set is a Zephyr build with default settings
// for flash that writes up to 8 bytes at a time.
type TrailerLayout struct {
	// MaxAlign is BOOT_MAX_ALIGN, the distance from field to field: 8, 16 or
	// 32; 0 is 8.
	MaxAlign int
	// WriteSize is the flash's least write (flash_area_align): 1 to 32. The
	// swap status takes 3 times as much per sector.
	WriteSize int
	// MaxSectors is BOOT_MAX_IMG_SECTORS (CONFIG_BOOT_MAX_IMG_SECTORS, and
	// imgtool's --max-sectors): 0 is 128.
	MaxSectors int
	// NoStatus is set for builds with a single slot, which have no swap status
	// (boot_status_entry_sz in bootutil_area.c).
	NoStatus bool
	// KeySize is what one encryption key takes in builds with
	// MCUBOOT_ENC_IMAGES, before alignment: 16 or 32 bytes, or the whole TLV
	// with BOOT_SWAP_SAVE_ENCTLV; 0 in builds without encryption.
	KeySize int
	// SwapOffset is set for builds with MCUBOOT_SWAP_USING_OFFSET, which keep
	// the TLV sizes of both slots as one field more.
	SwapOffset bool
}

// TrailerOffsets says where a trailer's fields begin, in bytes from the start
// of the slot.
type TrailerOffsets struct {
	Magic    int // 16 bytes, boot_magic_off
	ImageOK  int // 1 byte, boot_image_ok_off
	CopyDone int // 1 byte, boot_copy_done_off
	SwapInfo int // 1 byte, boot_swap_info_off
	TLVSizes int // 4 bytes, boot_unprotected_tlv_sizes_off; only with SwapOffset, else 0
	SwapSize int // 4 bytes, boot_swap_size_off
	Status   int // boot_status_off: where the trailer begins
}

func (l TrailerLayout) maxAlign() int {
	if l.MaxAlign == 0 {
		return 8
	}
	return l.MaxAlign
}

// Size returns the size of the trailer in bytes: boot_trailer_sz in
// bootutil_area.c. What does not fit before it is too big an image.
func (l TrailerLayout) Size() int {
	a := l.maxAlign()
	n := 4*a + alignUp(MagicSize, a) + 2*alignUp(l.KeySize, a)
	if l.SwapOffset {
		n += a
	}
	if !l.NoStatus {
		sectors := l.MaxSectors
		if sectors == 0 {
			sectors = 128
		}
		n += sectors * statusStates * l.WriteSize
	}
	return n
}

// statusStates is how many writes record the progress of one sector's swap
// (BOOT_STATUS_STATE_COUNT in bootutil_area.h).
const statusStates = 3

// Offsets returns where the fields lie in a slot of the given size. Offsets
// below 0 do not fit in the slot. Source: the boot_*_off functions of
// bootutil_misc.h, which the layout in bootutil_priv.h draws.
func (l TrailerLayout) Offsets(slotSize int) TrailerOffsets {
	a := l.maxAlign()
	var o TrailerOffsets
	o.Magic = slotSize - MagicSize
	// bootutil aligns image_ok down to the alignment, counted from the start
	// of the slot. A slot is a multiple of its alignment, so counting from its
	// end is the same, and right for a piece of a slot too.
	o.ImageOK = slotSize - alignUp(MagicSize, a) - a
	o.CopyDone = o.ImageOK - a
	o.SwapInfo = o.CopyDone - a
	o.SwapSize = o.SwapInfo - a
	if l.SwapOffset {
		o.TLVSizes = o.SwapSize
		o.SwapSize -= a
	}
	o.Status = slotSize - l.Size()
	return o
}

// Room returns how many bytes of a slot an image may take so that nothing that
// happens to the trailer touches it. That is more than the trailer's own bytes:
// a bootloader built with CONFIG_BOOT_ERASE_PROGRESSIVELY erases the whole
// sector in which the trailer begins after an upload, whatever lies there
// (MCUboot issue 1862). With sectorSize 0, for flash whose sectors are not
// known, Room stays clear of the trailer without its status area only, which
// every bootloader writes. Room is 0 for a slot with no room.
//
// Builds that swap by move or by offset keep one sector more for the swap, and
// take no image for good that reaches into it (app_max_size in swap_move.c).
func (l TrailerLayout) Room(slotSize, sectorSize int) int {
	if sectorSize <= 0 {
		l.NoStatus = true
		return max(slotSize-l.Size(), 0)
	}
	return max((slotSize-l.Size())/sectorSize*sectorSize, 0)
}

// Pad returns a whole slot: the image, erased bytes (0xFF) and a trailer, as
// imgtool's --pad makes it. With confirm, image_ok is set: MCUboot then keeps
// the image for good instead of trying it once. It fails if the image does not
// leave the trailer its place.
func (l TrailerLayout) Pad(image []byte, slotSize int, confirm bool) ([]byte, error) {
	if room := slotSize - l.Size(); len(image) > room {
		return nil, fmt.Errorf("pad image: %d bytes do not fit: a slot of %d bytes has room for %d before its trailer", len(image), slotSize, max(room, 0))
	}
	slot := bytes.Repeat([]byte{Erased}, slotSize)
	copy(slot, image)
	o := l.Offsets(slotSize)
	magic := MagicTrailer(l.maxAlign())
	copy(slot[o.Magic:], magic[:])
	if confirm {
		slot[o.ImageOK] = FlagSet
	}
	return slot, nil
}

// alignUp rounds n up to a multiple of align.
func alignUp(n, align int) int { return (n + align - 1) / align * align }
