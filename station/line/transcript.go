package line

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

const (
	maxLines    = 400 // kept of what a board prints
	maxLineText = 200 // bytes kept of one line
)

// transcript is what a board printed, line by line, bounded: a board that
// never stops talking costs no more memory than one that says hello.
type transcript struct {
	mu    sync.Mutex
	lines []string
	total int           // lines ever added
	more  chan struct{} // closed and replaced at every line
}

func newTranscript() *transcript { return &transcript{more: make(chan struct{})} }

// add is a smp.Options.Text: it never blocks.
func (t *transcript) add(line []byte) {
	text := strings.ToValidUTF8(string(line[:min(len(line), maxLineText)]), "?")
	text = strings.Map(func(r rune) rune {
		if r < ' ' {
			return -1
		}
		return r
	}, text)
	if strings.TrimSpace(text) == "" {
		return // noise of a reset is nothing that a board has said
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines = append(t.lines, text); len(t.lines) > maxLines {
		t.lines = append([]string(nil), t.lines[maxLines/2:]...)
	}
	t.total++
	close(t.more)
	t.more = make(chan struct{})
}

// len is how many lines there have been.
func (t *transcript) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// since returns what is kept of the lines from number n on, and what is
// closed when another comes.
func (t *transcript) since(n int) ([]string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := t.total - len(t.lines)
	return t.lines[min(max(n-first, 0), len(t.lines)):], t.more
}

// wait returns the first line from number n on that matches, any if match is
// nil; false when ctx or the line ends first.
func (t *transcript) wait(ctx context.Context, gone <-chan struct{}, n int, match *regexp.Regexp) (string, bool) {
	for {
		lines, more := t.since(n)
		for _, l := range lines {
			if match == nil || match.MatchString(l) {
				return l, true
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return "", false
		case <-gone:
			return "", false
		}
	}
}

// quote shows the end of what was printed from line n on.
func (t *transcript) quote(n int) string {
	lines, _ := t.since(n)
	if len(lines) == 0 {
		return "nothing"
	}
	if len(lines) > 3 {
		lines = lines[len(lines)-3:]
	}
	return strconv.Quote(strings.Join(lines, " / "))
}
