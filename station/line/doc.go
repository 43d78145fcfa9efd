// Package line runs a work order: it gives scanned units to sites, flashes
// every site on its own, and writes down what happened.
//
// Its secret is what an attempt is: which steps it has, which error ends it
// with which outcome and failure code, what may be tried again, and that
// nobody is told PASS before the record of it is on the disk. A failing board
// is a record here and never a Go error; an error means that the station
// itself cannot go on.
package line
