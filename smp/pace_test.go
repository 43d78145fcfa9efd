package smp

import (
	"testing"
	"time"
)

// The erase unit shows in which chunks take longer, whatever the size of the
// chunks, and a single slow answer teaches nothing that lasts.
func TestPaceFindsSectors(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name         string
		told         int // sector size told beforehand
		sector       int // real one, 0 if nothing is erased
		chunk        int
		plain, erase time.Duration
		want         int
	}{
		{"nRF52840", 0, 4096, 992, 14 * ms, 85 * ms, 4096},
		{"nRF52840 at 3 Mbaud, short messages", 0, 4096, 96, 2 * ms, 85 * ms, 4096},
		{"progressive pages of 22 ms", 0, 2048, 992, 14 * ms, 22 * ms, 2048},
		{"large sectors", 0, 65536, 992, 14 * ms, 500 * ms, 65536},
		{"no erase", 0, 0, 992, 5 * ms, 0, 0},
		{"no erase, told a sector", 4096, 0, 992, 5 * ms, 0, 0},
		{"told a half", 2048, 4096, 240, 14 * ms, 85 * ms, 2048},   // right often enough
		{"told right", 12288, 12288, 992, 14 * ms, 85 * ms, 12288}, // no power of two
		{"every chunk erases", 0, 512, 992, 14 * ms, 22 * ms, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := pace{sector: tt.told}
			for off := 0; off < 200_000; off += tt.chunk {
				end := off + tt.chunk
				d := tt.plain
				if tt.sector > 0 && (off == 0 || (end-1)/tt.sector > (off-1)/tt.sector) {
					d += tt.erase
					if off > 3*tt.sector && p.sector == tt.sector && !p.erases(off, end) {
						t.Fatalf("the erase at %d is not foreseen", off)
					}
				}
				p.note(off, end, d)
			}
			if p.sector != tt.want {
				t.Errorf("found %d, want %d", p.sector, tt.want)
			}
		})
	}
}

// An answer that some hiccup of the computer held back is no sector for long.
func TestPaceForgetsAccidents(t *testing.T) {
	var p pace
	for off := 0; off < 60_000; off += 992 {
		d := 5 * time.Millisecond
		if off < 2048 && off+992 > 2048 {
			d = 300 * time.Millisecond
		}
		p.note(off, off+992, d)
		if off == 5*992 && p.sector != 2048 {
			t.Fatalf("sector %d: the accident went unnoticed, and the test with it", p.sector)
		}
	}
	if p.sector != 0 || p.slowErase != 0 {
		t.Errorf("sector %d, erase %s: want none", p.sector, p.slowErase)
	}
}
