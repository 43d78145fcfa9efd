package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"flashline/records"
	"flashline/station/line"
)

// screen shows a run. On a terminal that is a block of one row a site, redrawn
// in place, with what has happened scrolling above it; elsewhere one plain
// line an event.
//
// The line must never wait for it: events are queued, and a goroutine of the
// screen's own writes them, however slow the terminal is.
type screen struct {
	out    io.Writer
	tty    bool
	color  bool
	width  func() int
	height func() int

	mu     sync.Mutex
	queue  []string // lines to print above the block
	rows   map[int]*row
	closed bool
	wake   chan struct{}
	ended  chan struct{}
	drawn  int
}

// row is what the block shows of a site.
type row struct {
	site    int
	serial  string
	try     int
	step    string
	sent    int
	total   int
	began   time.Time // of the upload
	quarter int       // of the upload, last said on a plain screen
	verdict string    // of the last unit: PASS, FAIL …
	note    string
}

// redrawEvery is how often the block changes at most.
const redrawEvery = 100 * time.Millisecond

func newScreen(out io.Writer) *screen {
	s := &screen{out: out, rows: map[int]*row{}, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	s.width = func() int { return 80 }
	s.height = func() int { return 24 }
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.tty = os.Getenv("TERM") != "dumb"
		s.color = s.tty && os.Getenv("NO_COLOR") == ""
		s.width = func() int {
			if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
				return w
			}
			return 80
		}
		s.height = func() int {
			if _, h, err := term.GetSize(int(f.Fd())); err == nil && h > 5 {
				return h
			}
			return 24
		}
	}
	go s.loop()
	return s
}

// Close prints what is left, leaves the block's last state away and waits.
func (s *screen) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.wake)
	}
	s.mu.Unlock()
	select {
	case <-s.ended:
	case <-time.After(closeTime):
	}
}

// closeTime is how long Close waits for a terminal that takes nothing: it may
// be held with Ctrl-S, and must not hold the station.
const closeTime = 2 * time.Second

// Printf prints a line above the block.
func (s *screen) Printf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.say(fmt.Sprintf(format, args...))
}

// say queues a line; mu is held.
func (s *screen) say(text string) {
	s.queue = append(s.queue, text)
	s.poke()
}

// log queues a line where there is no block that shows the same; elsewhere it
// only redraws. mu is held.
func (s *screen) log(format string, args ...any) {
	if s.tty {
		s.poke()
		return
	}
	s.say(fmt.Sprintf(format, args...))
}

func (s *screen) poke() {
	if s.closed {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *screen) loop() {
	defer close(s.ended)
	for open := true; open; {
		_, open = <-s.wake
		s.mu.Lock()
		lines, block := s.queue, []string(nil)
		s.queue = nil
		if s.tty && open {
			block = s.block()
		}
		s.mu.Unlock()
		s.draw(lines, block)
		if s.tty && open {
			time.Sleep(redrawEvery) // the only clock here: what comes meanwhile is drawn at once
		}
	}
}

// draw replaces the block on the terminal.
func (s *screen) draw(lines, block []string) {
	var b bytes.Buffer
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r\x1b[J", s.drawn)
	}
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	for _, l := range block {
		b.WriteString(l + "\n")
	}
	s.drawn = len(block)
	if b.Len() > 0 {
		s.out.Write(b.Bytes()) // a terminal that is gone must not stop the line
	}
}

// Event takes one event of the line; it is a line.Options.Notify.
func (s *screen) Event(e line.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.row(e.Site)
	stamp := e.At.Format("15:04:05.000")
	unit := fmt.Sprintf("site %d  %s", e.Site, e.Serial)
	switch e.Kind {
	case line.Awaiting:
		r.note, r.verdict = strings.TrimSpace(r.verdict+" "+r.serial), ""
		if r.note != "" {
			r.note = "  (last: " + r.note + ")"
		}
		r.serial, r.step, r.note = "", "", "<-- load a unit and scan it"+r.note
		s.log("%s  site %d  load a unit and scan it", stamp, e.Site)
	case line.Refused:
		bell := ""
		if s.tty {
			bell = "\a"
		}
		s.say(fmt.Sprintf("%s%s  REFUSED  %s", bell, stamp, e.Text))
	case line.Assigned:
		*r = row{site: e.Site, serial: e.Serial, note: "loaded"}
		s.log("%s  %s  loaded", stamp, unit)
	case line.Locked:
		*r = row{site: e.Site, verdict: "LOCKED", note: e.Text}
		s.say(fmt.Sprintf("%s  site %d  LOCKED  %s", stamp, e.Site, e.Text))
	case line.Started:
		s.log("%s  cycle %s", stamp, e.Text)
	case line.Attempt:
		*r = row{site: e.Site, serial: e.Serial, try: e.Try}
		s.log("%s  %s  attempt %d", stamp, unit, e.Try)
	case line.Step:
		s.step(e, r, stamp, unit)
	case line.Upload:
		if r.total == 0 {
			r.began = e.At
		}
		r.sent, r.total = e.Progress.Sent, e.Progress.Total
		if q := 4 * r.sent / r.total; q > r.quarter {
			r.quarter = q
			s.log("%s  %s  upload %d of %d bytes", stamp, unit, r.sent, r.total)
		}
		s.poke()
	case line.Recorded:
		s.recorded(e, r, stamp, unit)
	case line.Dropped:
		*r = row{site: e.Site, serial: e.Serial, note: "not started"}
		s.say(fmt.Sprintf("%s  %s  was loaded and is not started; flash it in another run", stamp, unit))
	case line.Advice:
		s.say(fmt.Sprintf("%s  site %d  ADVICE  %s", stamp, e.Site, e.Text))
	case line.Stopping:
		s.say(fmt.Sprintf("%s  %s", stamp, e.Text))
	case line.LineFault:
		s.say(fmt.Sprintf("%s  %s  %s", stamp, s.paint("ERROR"), e.Text))
	}
}

func (s *screen) step(e line.Event, r *row, stamp, unit string) {
	p := e.Progress
	switch {
	case !p.Done:
		r.step = p.Step
		s.log("%s  %s  %s", stamp, unit, p.Step)
	case p.Outcome != records.Pass && p.Outcome != records.Skipped:
		s.log("%s  %s  %s: %s", stamp, unit, p.Step, p.Outcome)
	}
	s.poke()
}

func (s *screen) recorded(e line.Event, r *row, stamp, unit string) {
	res := e.Result
	word := string(res.Outcome)
	*r = row{site: e.Site, serial: e.Serial, verdict: word, note: res.FailureCode}
	if res.Outcome == records.Pass {
		s.say(fmt.Sprintf("%s  %s  %s  %.1f s, hash %.16s…", stamp, unit, s.paint(word), res.Duration.Seconds(), res.DeviceHash))
		return
	}
	next := res.NextStep
	if e.Retry {
		next = "Trying again after a power cycle."
	}
	s.say(fmt.Sprintf("%s  %s  %s  %s: %s %s", stamp, unit, s.paint(word), res.FailureCode, res.Detail, next))
}

func (s *screen) row(site int) *row {
	r := s.rows[site]
	if r == nil {
		r = &row{site: site}
		s.rows[site] = r
	}
	return r
}

// block draws a row for every site; mu is held.
func (s *screen) block() []string {
	width := s.width() - 1
	var out []string
	for _, n := range slices.Sorted(maps.Keys(s.rows)) {
		r := s.rows[n]
		if n == 0 {
			continue // events of the whole station
		}
		text := fmt.Sprintf("site %-3d %-14s ", r.site, r.serial)
		switch {
		case r.verdict != "":
			out = append(out, cut(text, width-20)+s.paint(r.verdict)+" "+cut(r.note, max(0, width-utf8.RuneCountInString(text)-12)))
			continue
		case r.step == line.StepUpload && r.total > 0:
			text += fmt.Sprintf("%-14s %s %3d %%  %s", r.step, bar(r.sent, r.total, 20), 100*r.sent/r.total, rate(r))
		case r.step != "":
			text += r.step
		default:
			text += r.note
		}
		out = append(out, cut(text, width))
	}
	// More rows than the terminal has cannot be redrawn in place.
	if most := s.height() - 2; len(out) > most {
		more := len(out) - most + 1
		out = append(out[:most-1], fmt.Sprintf("… and %d more sites", more))
	}
	return out
}

func bar(done, total, width int) string {
	n := width * done / max(total, 1)
	return "[" + strings.Repeat("#", n) + strings.Repeat("-", width-n) + "]"
}

func rate(r *row) string {
	d := time.Since(r.began).Seconds()
	if d < 0.2 || r.sent == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f kB/s", float64(r.sent)/d/1000)
}

func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(width, 0)])
}

// paint colours an outcome; the word says the same without colour.
func (s *screen) paint(word string) string {
	if !s.color {
		return word
	}
	code := map[string]string{"PASS": "32", "FAIL": "31", "ERROR": "33", "LOCKED": "33"}[word]
	if code == "" {
		return word
	}
	return "\x1b[1;" + code + "m" + word + "\x1b[0m"
}

// printSummary tells how an order's run ended; the verdict is the worst unit.
func printSummary(out io.Writer, o records.Order, s line.Summary, took time.Duration) {
	for _, u := range s.Units {
		if r := u.Result; r.Outcome != records.Pass {
			fmt.Fprintf(out, "%s  %s at site %d: %s. %s %s\n", r.Outcome, u.Serial, u.Site, r.FailureCode, r.Detail, r.NextStep)
		}
	}
	parts := []string{fmt.Sprintf("%d passed", s.Passed)}
	for _, p := range []struct {
		n    int
		what string
	}{{s.Failed, "failed"}, {s.Errors, "ended in a station error"}, {s.Aborted, "aborted"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	fmt.Fprintf(out, "Order %s: %d units, %s, in %.1f s.\n", o.ID, len(s.Units), strings.Join(parts, ", "), took.Seconds())
}
