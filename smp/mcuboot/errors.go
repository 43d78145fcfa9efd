package mcuboot

import (
	"fmt"
	"strings"
)

// FormatError says that a file is no usable MCUboot image: which field is
// wrong, where it lies, what was found there and what should be there.
type FormatError struct {
	Field  string // the field, as imgtool dumpinfo names it: "hdr_size"
	Offset int64  // where the field begins, in bytes from the start of the file
	Found  string // what is there
	Want   string // what a good image has there
	Hint   string // what to do about it, when the cause can be guessed; or ""
}

func (e *FormatError) Error() string {
	s := fmt.Sprintf("not a usable MCUboot image: %s at offset %#x is %s, expected %s", e.Field, e.Offset, e.Found, e.Want)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// PackageError says what is wrong with a zip of images.
type PackageError struct {
	Entry   string // the file inside the zip, or "" for the zip itself
	Problem string
	Err     error // the cause: a *FormatError for an entry that is no image; or nil
}

func (e *PackageError) Error() string {
	var b strings.Builder
	b.WriteString("firmware package: ")
	if e.Entry != "" {
		fmt.Fprintf(&b, "%q: ", e.Entry)
	}
	b.WriteString(e.Problem)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *PackageError) Unwrap() error { return e.Err }
