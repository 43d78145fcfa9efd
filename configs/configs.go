// Package configs reads the two files a production line is described by: the
// station file (what is wired to what, see [LoadStation]) and the recipe file
// (what a product must be flashed with, see [LoadRecipe]).
//
// Its one secret is how a written file becomes checked values: the TOML
// syntax, the defaults, the limits, and the line every complaint belongs to.
// It knows only names and numbers. It opens no pin and no port and does not
// look into firmware images; what it promises about an image is that its
// bytes have the SHA-256 the recipe pins.
//
// # Complaints
//
// Nothing wrong is passed over and nothing is guessed: an unknown key, a key
// that has no effect, and a value out of range are all refused. Everything
// found wrong in a file is reported together, as [Errors], one sentence for
// each place:
//
//	line.toml:14: unknown key "baudd" in [port]; did you mean "baud"?
//
// What is allowed but deserves a second look is kept in the Warnings of a
// [Station] or a [Recipe], in the same form.
package configs

import (
	"encoding"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Duration is a length of time, written in a file as text with a unit, such
// as "250ms", "1s" or "1m30s" (the syntax of [time.ParseDuration]).
type Duration time.Duration

var (
	_ encoding.TextUnmarshaler = (*Duration)(nil)
	_ encoding.TextMarshaler   = Duration(0)
	_ encoding.TextUnmarshaler = (*Path)(nil)
	_ encoding.TextMarshaler   = Path{}
)

// UnmarshalText reads the written form. The error is a sentence about the
// text alone; it names no file.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%s is not a time with a unit", quote(string(text)))
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the form that UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is the shortest written form: "1m" where [time.Duration] has "1m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Path is a file named in a station or recipe file. A relative name is
// relative to the folder of the file that names it, not to where the program
// was started.
type Path struct {
	// Written is the name as it stands in the file; empty if none does.
	Written string
	// Abs is the same place as an absolute path; empty if Written is.
	Abs string
}

// UnmarshalText keeps the name as written; loading the file fills in Abs.
func (p *Path) UnmarshalText(text []byte) error {
	switch s := string(text); {
	case s == "":
		return errors.New("the file name is empty")
	case strings.ContainsRune(s, 0):
		return fmt.Errorf("%s is not a file name", quote(s))
	default:
		*p = Path{Written: s}
		return nil
	}
}

// MarshalText gives the name as written.
func (p Path) MarshalText() ([]byte, error) { return []byte(p.Written), nil }

// String is the name as written.
func (p Path) String() string { return p.Written }
