package line

import (
	"cmp"
	"sync"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/smp"
)

// givenUp is how many boards in a row must have lost what was sent ahead before
// the others of the job are not tried with it any more: one may have a bad
// contact, several have a part that cannot.
const givenUp = 3

// lessons are what the boards of a job have taught about sending to the next:
// they are alike. The zero value knows nothing. It may be used by all sites.
type lessons struct {
	mu     sync.Mutex
	sector map[int]int // by image number: the erase unit that was found out
	lost   int         // boards in a row on which sending ahead failed
	size   int         // the largest message that the last board took
	alike  int         // boards in a row of which that is true
	modes  bool        // an application has restarted its board into recovery
	// framing is what the last board spoke that answered, configs.AutoFraming
	// until one has.
	framing configs.Framing
}

// restarts reports whether applications of this job restart their boards into
// recovery when they are asked to.
func (l *lessons) restarts() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.modes
}

// restarted notes that one has.
func (l *lessons) restarted() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.modes = true
}

// entry makes what may be found out anew with every board what the boards
// before it have shown.
func (l *lessons) entry(e fixtures.Entry) fixtures.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Framing == configs.AutoFraming {
		e.Framing = cmp.Or(l.framing, configs.AutoFraming)
	}
	return e
}

// spoke notes the framing in which a board answered.
func (l *lessons) spoke(f smp.Framing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.framing = configs.ConsoleFraming
	if f == smp.FramingRaw {
		l.framing = configs.RawFraming
	}
}

// silent notes that a board did not answer: it may be dead, or speak otherwise
// than those before it, which its next try is to find out.
func (l *lessons) silent() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.framing = configs.AutoFraming
}

// message is the largest message that boards of this job take, 0 while it is
// not known: one board may have a line that loses what is long.
func (l *lessons) message() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.alike < 2 {
		return 0
	}
	return l.size
}

// took notes the largest message that a board took.
func (l *lessons) took(size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size != size {
		l.size, l.alike = size, 0
	}
	l.alike++
}

// apply adds what is known to the options of an upload.
func (l *lessons) apply(image int, o *smp.UploadOptions) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.SectorSize == 0 {
		o.SectorSize = l.sector[image]
	}
	if l.lost >= givenUp {
		o.Overlap, o.Window = smp.OverlapOff, 1
	}
}

// learn takes in how an upload went that came to its end.
func (l *lessons) learn(image int, r smp.UploadResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.SectorSize > 0 {
		if l.sector == nil {
			l.sector = map[int]int{}
		}
		l.sector[image] = r.SectorSize
	}
	switch {
	case r.Rewinds > 0 && r.Mode == smp.ModeStopAndWait:
		l.lost++
	case r.Mode != smp.ModeStopAndWait:
		l.lost = 0
	}
}
