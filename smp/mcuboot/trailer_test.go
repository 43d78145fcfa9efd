package mcuboot_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flashline/smp/mcuboot"
)

// TestPadAsImgtool makes the slots that imgtool made, byte for byte.
func TestPadAsImgtool(t *testing.T) {
	for _, tt := range []struct {
		file    string
		layout  mcuboot.TrailerLayout
		confirm bool
	}{
		{"images/app-3.1.0.padded-confirmed", mcuboot.TrailerLayout{WriteSize: 4}, true},
		{"more/align8-padded-p256", mcuboot.TrailerLayout{WriteSize: 8, MaxSectors: 4}, false},
		{"more/align16-confirmed-p256", mcuboot.TrailerLayout{MaxAlign: 16, WriteSize: 16, MaxSectors: 4}, true},
		{"more/align32-test-p256", mcuboot.TrailerLayout{MaxAlign: 32, WriteSize: 32, MaxSectors: 4}, false},
		{"more/encrypted-x25519-padded-ed25519", mcuboot.TrailerLayout{MaxAlign: 16, WriteSize: 16, MaxSectors: 4, KeySize: 16}, true},
	} {
		t.Run(tt.file, func(t *testing.T) {
			want := read(t, tt.file+".bin")
			m := parse(t, want)
			got, err := tt.layout.Pad(m.Stripped(), len(want), tt.confirm)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error("the slot differs from imgtool's")
			}
			if m.Trailer.Confirmed() != tt.confirm {
				t.Errorf("confirmed %t, want %t", m.Trailer.Confirmed(), tt.confirm)
			}

			// The image may grow up to the trailer, and not by a byte more.
			room := len(want) - tt.layout.Size()
			if _, err := tt.layout.Pad(make([]byte, room), len(want), false); err != nil {
				t.Error(err)
			}
			if _, err := tt.layout.Pad(make([]byte, room+1), len(want), false); err == nil {
				t.Error("an image over the trailer was taken")
			}
		})
	}
}

// TestTrailerOffsets compares with offsets worked out by hand from
// bootutil_misc.h and bootutil_area.c.
func TestTrailerOffsets(t *testing.T) {
	const slot = 0x20000
	for _, tt := range []struct {
		name   string
		layout mcuboot.TrailerLayout
		size   int
		want   mcuboot.TrailerOffsets
	}{
		{"nRF52, swap", mcuboot.TrailerLayout{WriteSize: 4},
			128*3*4 + 4*8 + 16,
			mcuboot.TrailerOffsets{Magic: slot - 16, ImageOK: slot - 24, CopyDone: slot - 32, SwapInfo: slot - 40, SwapSize: slot - 48, Status: slot - 1584}},
		{"nRF52, single slot", mcuboot.TrailerLayout{WriteSize: 4, NoStatus: true},
			4*8 + 16,
			mcuboot.TrailerOffsets{Magic: slot - 16, ImageOK: slot - 24, CopyDone: slot - 32, SwapInfo: slot - 40, SwapSize: slot - 48, Status: slot - 48}},
		{"swap using offset", mcuboot.TrailerLayout{WriteSize: 4, MaxSectors: 256, SwapOffset: true},
			256*3*4 + 5*8 + 16,
			mcuboot.TrailerOffsets{Magic: slot - 16, ImageOK: slot - 24, CopyDone: slot - 32, SwapInfo: slot - 40, TLVSizes: slot - 48, SwapSize: slot - 56, Status: slot - 3128}},
		{"STM32H5, encrypted", mcuboot.TrailerLayout{MaxAlign: 16, WriteSize: 16, KeySize: 16},
			128*3*16 + 4*16 + 16 + 2*16,
			mcuboot.TrailerOffsets{Magic: slot - 16, ImageOK: slot - 32, CopyDone: slot - 48, SwapInfo: slot - 64, SwapSize: slot - 80, Status: slot - 6256}},
		{"STM32H7, saved key TLV", mcuboot.TrailerLayout{MaxAlign: 32, WriteSize: 32, MaxSectors: 16, KeySize: 113},
			16*3*32 + 4*32 + 32 + 2*128,
			mcuboot.TrailerOffsets{Magic: slot - 16, ImageOK: slot - 64, CopyDone: slot - 96, SwapInfo: slot - 128, SwapSize: slot - 160, Status: slot - 1952}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.layout.Size(); got != tt.size {
				t.Errorf("size %d, want %d", got, tt.size)
			}
			if d := cmp.Diff(tt.want, tt.layout.Offsets(slot)); d != "" {
				t.Errorf("offsets (-want +got):\n%s", d)
			}
		})
	}
}

// TestRoom compares with sectors counted by hand.
func TestRoom(t *testing.T) {
	swap := mcuboot.TrailerLayout{WriteSize: 4} // a trailer of 1584 bytes
	for _, tt := range []struct {
		name         string
		layout       mcuboot.TrailerLayout
		slot, sector int
		want         int
	}{
		{"nRF52, one sector holds the trailer", swap, 0x76000, 4096, 0x75000},
		{"two do", mcuboot.TrailerLayout{WriteSize: 4, MaxSectors: 512}, 0x76000, 4096, 0x74000},
		{"the trailer begins with a sector", mcuboot.TrailerLayout{WriteSize: 4, MaxSectors: 4}, 960, 96, 864},
		{"and a byte before it", mcuboot.TrailerLayout{WriteSize: 1, MaxSectors: 17}, 960, 96, 768}, // 99 bytes
		{"STM32F4, a whole sector is lost", mcuboot.TrailerLayout{WriteSize: 1, MaxSectors: 3}, 3 << 17, 1 << 17, 2 << 17},
		{"single slot", mcuboot.TrailerLayout{WriteSize: 4, NoStatus: true}, 0x76000, 4096, 0x75000},
		{"sectors not known", swap, 0x76000, 0, 0x76000 - 48},
		{"nor those of another alignment", mcuboot.TrailerLayout{MaxAlign: 32, WriteSize: 32}, 0xc0000, 0, 0xc0000 - 160},
		{"no room", swap, 1000, 4096, 0},
		{"no room at all", swap, 40, 0, 0},
	} {
		if got := tt.layout.Room(tt.slot, tt.sector); got != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.name, got, tt.want)
		}
	}
}

func TestMagicTrailer(t *testing.T) {
	for align, want := range map[int]string{
		1:  "77c295f360d2ef7f3552500f2cb67980",
		4:  "77c295f360d2ef7f3552500f2cb67980",
		8:  "77c295f360d2ef7f3552500f2cb67980",
		16: "10002de15d29410b8d77679c110f1f8a",
		32: "20002de15d29410b8d77679c110f1f8a",
	} {
		m := mcuboot.MagicTrailer(align)
		if got := hex.EncodeToString(m[:]); got != want {
			t.Errorf("alignment %d: %s, want %s", align, got, want)
		}
	}
}

// TestTrailerFields reads back a trailer in which every field was written, as
// a bootloader leaves it in the middle of a swap.
func TestTrailerFields(t *testing.T) {
	image := read(t, "more/everything-p256.bin")
	for _, align := range []int{8, 16, 32} {
		l := mcuboot.TrailerLayout{MaxAlign: align, WriteSize: 4, MaxSectors: 8}
		slot, err := l.Pad(image, 0x1000, true)
		if err != nil {
			t.Fatal(err)
		}
		o := l.Offsets(len(slot))
		slot[o.CopyDone] = mcuboot.FlagSet
		slot[o.SwapInfo] = 1<<4 | mcuboot.SwapTest
		copy(slot[o.SwapSize:], []byte{0x78, 0x56, 0x34, 0x12})
		want := &mcuboot.Trailer{
			Magic: mcuboot.MagicTrailer(align), MaxAlign: align,
			ImageOK: 1, CopyDone: 1, SwapInfo: 0x12, SwapSize: 0x12345678,
		}
		if d := cmp.Diff(want, parse(t, slot).Trailer); d != "" {
			t.Errorf("alignment %d (-want +got):\n%s", align, d)
		}
	}
}

// TestTightTrailer: overwrite-only images may reach up to image_ok and
// copy_done; the fields that would lie in the image are then not read from it.
func TestTightTrailer(t *testing.T) {
	image := read(t, "more/everything-p256.bin")
	magic := mcuboot.MagicTrailer(8)
	tail := append(bytes.Repeat([]byte{0xff}, 16), magic[:]...)
	tail[8] = mcuboot.FlagSet
	m := parse(t, append(bytes.Clone(image), tail...))
	want := &mcuboot.Trailer{Magic: magic, MaxAlign: 8, ImageOK: 1, CopyDone: 0xff, SwapInfo: 0xff, SwapSize: 0xffffffff}
	if d := cmp.Diff(want, m.Trailer); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
