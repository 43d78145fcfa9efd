package configs

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxProblems bounds what one file can make us print: past it the reader is
// better served by mending what is shown and trying again.
const maxProblems = 100

// Problem is one thing wrong at one place of a file, said for the technician
// who has to mend it.
type Problem struct {
	// File is the name the file was loaded by.
	File string
	// Line and Col are the place, counted from 1, Col in bytes. Both are 0
	// when the file as a whole is meant, for instance because it is missing.
	Line, Col int
	// Message says what is wrong, Fix what to do about it; together they are
	// one sentence.
	Message, Fix string
	// Err is the cause where the operating system or the TOML decoder gave
	// one, else nil.
	Err error
}

// Error is the sentence with its place in front: "file:line: message; fix".
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(plain(p.File))
	if p.Line > 0 {
		b.WriteString(":" + strconv.Itoa(p.Line))
	}
	b.WriteString(": " + p.Message)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Unwrap gives the cause, so that errors.Is(err, fs.ErrNotExist) holds for a
// file that is not there.
func (p Problem) Unwrap() error { return p.Err }

// Errors is everything found wrong, in the order of the lines. Every error
// returned by the loaders of this package is one, and has at least one
// element.
type Errors []Problem

// Error is one line for each problem.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single problems to [errors.Is] and [errors.As].
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, p := range e {
		errs[i] = p
	}
	return errs
}

// ordered sorts by place and cuts off what nobody would read.
func (e Errors) ordered() Errors {
	slices.SortStableFunc(e, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	if len(e) > maxProblems {
		last := e[maxProblems]
		last.Message = "from here on there are more problems than are shown"
		last.Fix = "mend those above and try again"
		last.Err = nil
		e = append(e[:maxProblems:maxProblems], last)
	}
	return e
}

// maxShown is how much of a written value is repeated in a sentence.
const maxShown = 160

// quote shows a written value in quotes, cut if long.
func quote(s string) string { return strconv.Quote(shorten(s)) }

// plain shows a written value as it is, or in quotes if it holds anything
// that would break the line or drive the terminal.
func plain(s string) string {
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return quote(s)
		}
	}
	return shorten(s)
}

func shorten(s string) string {
	if len(s) <= maxShown {
		return s
	}
	cut := maxShown
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
