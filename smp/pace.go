package smp

import (
	"math/bits"
	"time"
)

// pace is what the answers tell of a device: how long it takes over a chunk,
// and where in its flash it stops to erase. Delays are counted from the moment
// at which a request has left the line.
type pace struct {
	sector    int           // the erase unit, 0 while not known
	usual     time.Duration // of chunks that erase nothing, on the average
	slowest   time.Duration // the longest of these
	slowErase time.Duration // the longest of those that erase
	quickRuns int           // chunks in a row that should have erased and did not
	// entered is the delay of the chunk with which the upload reached a power of
	// two, by its exponent. An erase unit is one, so that the smallest at which
	// the device took long is the unit.
	entered [bits.UintSize]time.Duration
}

// erases reports whether the write of [off, end) makes the device erase, or
// may: it reaches into a new sector or, while the size of sectors is not known,
// to a power of two that the upload has not been at before.
func (p *pace) erases(off, end int) bool {
	if off == 0 {
		return true
	}
	if p.sector > 0 {
		return (end-1)/p.sector > (off-1)/p.sector
	}
	return bits.Len(uint(end-1)) > bits.Len(uint(off-1))
}

// needless is how many chunks in a row that did not erase where they should
// have end the belief in a sector size.
const needless = 8

// slow reports whether a delay stands out.
func (p *pace) slow(d time.Duration) bool {
	return d > p.usual+p.usual/2+5*time.Millisecond
}

// stops reports whether some chunk took so long that the device must have erased
// for it, foreseen or not.
func (p *pace) stops() bool { return p.sector > 0 || p.slowest > 2*p.usual+slack }

// note learns from the delay of the answer to [off, end).
func (p *pace) note(off, end int, d time.Duration) {
	d = max(d, 1) // a line that is faster than its baud, as USB is, answers too soon
	switch {
	case off == 0: // the one in which a whole slot may have been erased
		return
	case !p.erases(off, end):
		if p.usual == 0 {
			p.usual = d
		}
		p.usual += (d - p.usual) / 8
		p.slowest = max(p.slowest, d)
	case p.sector == 0:
		p.entered[bits.Len(uint(end-1))-1] = d
	case p.usual == 0:
		p.slowErase = max(p.slowErase, d)
	case p.slow(d):
		p.quickRuns = 0
		p.slowErase = max(p.slowErase, d)
	default:
		// Told wrong, taken for an erase what was none, or memory that needs
		// none. Not at once: told a fraction of the sector, it is right at every
		// second or fourth.
		if p.quickRuns++; p.quickRuns == needless {
			p.sector, p.slowErase = 0, 0
			clear(p.entered[:])
		}
	}
	if p.sector > 0 || p.usual == 0 {
		return
	}
	for i, d := range p.entered {
		if p.slow(d) {
			p.sector, p.quickRuns, p.slowErase = 1<<i, 0, d
			return
		}
	}
}

// slack is what a computer with much else to do may add to any delay.
const slack = 20 * time.Millisecond

// expect is how long to wait for the answer to a chunk that erases nothing.
func (p *pace) expect() time.Duration { return p.slowest + p.slowest/2 + slack }

// patience is the same for any chunk, going by the slowest so far.
func (p *pace) patience() time.Duration { return 2*max(p.slowest, p.slowErase) + 4*slack }
