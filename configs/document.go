package configs

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// document is one TOML file on its way to a Go value.
//
// The strict decoder of go-toml stops at the first wrong type and forgets
// where a value came from. So the file is read twice. The first reading walks
// its expressions beside the Go type: it notes the place of every key,
// complains about whatever does not fit, and blanks that out of a copy. The
// second is the strict decoder's, over what is left of the copy; the checks
// of meaning then run on the decoded value and find their lines by key path.
//
// A key path is written as in "site[2].power.pin", elements counted from 0;
// the path of the whole file is empty.
type document struct {
	file string
	raw  []byte // as read
	text []byte // raw without a byte order mark; offsets are into this
	rest []byte // text with all that was complained about blanked out
	line []int  // offset of the start of each line

	at     map[string]int  // key path -> offset of the key or table header
	tables map[string]bool // key paths that have a header or a value of their own
	count  map[string]int  // array of tables -> elements so far
	told   map[string]bool // key paths with a complaint: another would only repeat it

	problems Errors
	warnings Errors
}

func newDocument(file string, text []byte) *document {
	d := &document{
		file:   file,
		raw:    text,
		text:   bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), // some editors put a byte order mark in front
		line:   []int{0},
		at:     map[string]int{"": 0},
		tables: map[string]bool{},
		count:  map[string]int{},
		told:   map[string]bool{},
	}
	// go-toml finds the place of an error by the capacity of its slice and
	// gives an empty one at the end of the file: spare room would move it.
	d.text = slices.Clip(d.text)
	d.rest = bytes.Clone(d.text)
	for i, c := range d.text {
		if c == '\n' {
			d.line = append(d.line, i+1)
		}
	}
	return d
}

// decode fills into, a pointer to a pre-filled struct. It reports whether the
// value is complete enough for its meaning to be checked: problems may have
// been found even so.
func (d *document) decode(into any) bool {
	if !d.walk(reflect.TypeOf(into).Elem()) {
		return false
	}
	err := toml.NewDecoder(bytes.NewReader(d.rest)).DisallowUnknownFields().Decode(into)
	if err == nil {
		return true
	}
	if len(d.problems) > 0 {
		return false // perhaps only a consequence of the blanks
	}
	// What the walk leaves to the decoder: tables and keys defined twice in
	// different ways, and numbers too big. The decoder knows the place of each.
	offset := 0
	var at *toml.DecodeError
	if errors.As(err, &at) {
		row, col := at.Position()
		offset, err = d.line[row-1]+col-1, at
	}
	d.problem(offset, err, "look for a key or table that is written twice, or a number that is too big",
		"this cannot be used: %s", plain(strings.TrimPrefix(err.Error(), "toml: ")))
	return false
}

// scope is the table that keys belong to: its path and its Go type, nil if
// nothing in it is known and all of it is to be skipped.
type scope struct {
	path string
	typ  reflect.Type
}

func (s scope) child(key string) string {
	if s.path == "" {
		return key
	}
	return s.path + "." + key
}

// walk is the first reading. It reports false if it could not go to the end,
// because the syntax is broken or so much is wrong that nobody would read on:
// the keys after that place are then unknown.
func (d *document) walk(root reflect.Type) bool {
	var p unstable.Parser
	p.Reset(d.text)
	top := scope{typ: root}
	here := top
	for !d.full() && p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.KeyValue {
			d.pair(top, here, e, false)
		} else {
			here = d.header(top, e)
		}
	}
	err := p.Error()
	if err == nil {
		return !d.full()
	}
	offset := max(len(d.text)-1, 0)
	var at *unstable.ParserError
	if errors.As(err, &at) {
		offset = min(offset, int(p.Range(at.Highlight).Offset))
	}
	d.problem(offset, err, "look for a missing quote, = or bracket on this line or the one above",
		"this line is not valid TOML: %s", plain(err.Error()))
	return false
}

// header enters the table that a [table] or [[table]] line opens.
func (d *document) header(top scope, e *unstable.Node) scope {
	skip := scope{}
	here := top
	keys := e.Key()
	written := ""
	for keys.Next() {
		n := keys.Node()
		key, offset, last := string(n.Data), int(n.Raw.Offset), keys.IsLast()
		if written != "" {
			written += "."
		}
		written += key
		refuse := func(path, fix, format string, args ...any) scope {
			if !d.told[path] {
				d.told[path] = true
				d.problem(offset, nil, fix, format, args...)
			}
			d.blankLine(offset)
			return skip
		}
		path := here.child(key)
		typ, ok := fieldType(here.typ, key)
		if !ok {
			if d.told[path] {
				return refuse(path, "", "")
			}
			fix := d.suggest(top.typ, here, key)
			return refuse(path, fix, "unknown table %s", quote(written))
		}
		switch kindOf(typ) {
		case aTable:
			if last && e.Kind == unstable.ArrayTable {
				return refuse(path, fmt.Sprintf("write [%s]", written), "%s can be there only once, so it stands in single brackets", written)
			}
			if last && d.tables[path] {
				return refuse(path+" again", "merge the two", "[%s] is written a second time (first on line %d)", written, d.lineOf(d.at[path]))
			}
			if last {
				d.tables[path] = true
			}
			d.note(path, offset)
			here = scope{path, indirect(typ)}
		case aList:
			if last && e.Kind == unstable.Table {
				return refuse(path, fmt.Sprintf("write [[%s]]", written), "%s can be there several times, so it stands in double brackets", written)
			}
			if last {
				d.note(path, offset)
				d.count[path]++
			} else if d.count[path] == 0 {
				return refuse(path+" first", fmt.Sprintf("move it below the [[%s]] it belongs to", written), "this table stands before the first [[%s]]", written)
			}
			element := fmt.Sprintf("%s[%d]", path, d.count[path]-1)
			d.note(element, offset)
			here = scope{element, indirect(typ.Elem())}
		default:
			return refuse(path, fmt.Sprintf("write it as %s = …", key), "%s is %s, not a table", key, kindOf(typ))
		}
	}
	return here
}

// pair checks one key = value line of the table it stands in, here.
func (d *document) pair(top, here scope, e *unstable.Node, inline bool) {
	start, end := int(e.Raw.Offset), int(e.Raw.Offset+e.Raw.Length)
	drop := func() { d.blank(start, end, inline) }
	if here.typ == nil {
		drop()
		return
	}
	keys := e.Key()
	for keys.Next() {
		n := keys.Node()
		key, offset := string(n.Data), int(n.Raw.Offset)
		path := here.child(key)
		typ, ok := fieldType(here.typ, key)
		if !ok {
			fix := d.suggest(top.typ, here, key)
			d.problem(offset, nil, fix, "unknown key %s%s", quote(key), in(here.path))
			d.told[path] = true
			drop()
			return
		}
		if keys.IsLast() {
			if first, again := d.at[path]; again {
				d.problem(offset, nil, "keep one", "%s%s is written a second time (first on line %d)", key, in(here.path), d.lineOf(first))
				drop()
				return
			}
			d.note(path, offset)
			d.tables[path] = true
			d.value(top, scope{path, typ}, e.Value(), drop)
			return
		}
		if kindOf(typ) != aTable {
			d.problem(offset, nil, fmt.Sprintf("write %s = …", key), "%s is %s, so no dot can follow it", key, kindOf(typ))
			d.told[path] = true
			drop()
			return
		}
		d.note(path, offset)
		here = scope{path, indirect(typ)}
	}
}

// value checks that the value v can become here.typ; drop takes the whole key
// out of what the decoder will see.
func (d *document) value(top, here scope, v *unstable.Node, drop func()) {
	want := kindOf(here.typ)
	refuse := func(fix, format string, args ...any) {
		d.problem(d.at[here.path], nil, fix, format, args...)
		d.told[here.path] = true
		drop()
	}
	key := here.path[strings.LastIndexByte(here.path, '.')+1:]
	if !want.accepts(v.Kind) {
		refuse(want.how(key), "%s is %s where %s is needed", key, written(v.Kind), want)
		return
	}
	switch want {
	case aDuration, aPath:
		// A pointer to one of our own types, and both have the method.
		text := reflect.New(indirect(here.typ)).Interface().(interface{ UnmarshalText([]byte) error })
		if err := text.UnmarshalText(v.Data); err != nil {
			refuse(want.how(key), "%s cannot be used: %s", key, err)
		}
	case aTable:
		here.typ = indirect(here.typ)
		for it := v.Children(); !d.full() && it.Next(); {
			d.pair(top, here, it.Node(), true)
		}
	case aList:
		for it := v.Children(); !d.full() && it.Next(); d.count[here.path]++ {
			n := it.Node()
			if n.Kind != unstable.InlineTable {
				refuse(want.how(key), "%s holds %s where a table is needed", key, written(n.Kind))
				return
			}
			element := scope{fmt.Sprintf("%s[%d]", here.path, d.count[here.path]), indirect(here.typ.Elem())}
			d.note(element.path, int(n.Raw.Offset))
			for kv := n.Children(); !d.full() && kv.Next(); {
				d.pair(top, element, kv.Node(), true)
			}
		}
	}
}

// note remembers where a key path was first seen.
func (d *document) note(path string, offset int) {
	if _, seen := d.at[path]; !seen {
		d.at[path] = offset
	}
}

// has reports whether the file mentions the key, which tells a written zero
// from a default one.
func (d *document) has(path string) bool {
	_, ok := d.at[path]
	return ok
}

// broken reports whether the key, or a table around it, already has a
// complaint, so that its decoded value means nothing.
func (d *document) broken(path string) bool {
	for {
		if d.told[path] {
			return true
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return false
		}
		path = path[:i]
	}
}

// refuse complains about the meaning of a key. The place is that of the key
// or, if it is not written, of the table it is missing from. What is already
// broken is not complained about twice.
func (d *document) refuse(path, fix, format string, args ...any) {
	d.refuseCause(path, nil, fix, format, args...)
}

func (d *document) refuseCause(path string, cause error, fix, format string, args ...any) {
	if d.broken(path) {
		return
	}
	d.told[path] = true
	d.problem(d.find(path), cause, fix, format, args...)
}

// warn notes what is allowed but deserves a second look.
func (d *document) warn(path, fix, format string, args ...any) {
	d.warnings = append(d.warnings, d.place(d.find(path), nil, fix, format, args...))
}

// find gives the offset of the key path or of the nearest table around it.
func (d *document) find(path string) int {
	for {
		if offset, ok := d.at[path]; ok {
			return offset
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

func (d *document) problem(offset int, cause error, fix, format string, args ...any) {
	d.problems = append(d.problems, d.place(offset, cause, fix, format, args...))
}

func (d *document) place(offset int, cause error, fix, format string, args ...any) Problem {
	line := d.lineOf(offset)
	return Problem{
		File: d.file, Line: line, Col: offset - d.line[line-1] + 1,
		Message: fmt.Sprintf(format, args...), Fix: fix, Err: cause,
	}
}

// full reports whether there is already more to say than anybody would read.
func (d *document) full() bool { return len(d.problems) > maxProblems }

func (d *document) lineOf(offset int) int {
	return sort.SearchInts(d.line, offset+1)
}

// err is everything found wrong, nil if nothing was.
func (d *document) err() error {
	if len(d.problems) == 0 {
		return nil
	}
	return d.problems.ordered()
}

// blank takes a key = value out of what the decoder will see, and in an
// inline table one of the commas beside it. Line ends stay, so that the
// decoder's own lines stay right.
func (d *document) blank(start, end int, inline bool) {
	if inline {
		after := end
		for after < len(d.rest) && isBlank(d.rest[after]) {
			after++
		}
		if after < len(d.rest) && d.rest[after] == ',' {
			end = after + 1
		} else { // the last of its table, so this looks back once only
			before := start
			for before > 0 && isBlank(d.rest[before-1]) {
				before--
			}
			if before > 0 && d.rest[before-1] == ',' {
				start = before - 1
			}
		}
	}
	for i := start; i < end; i++ {
		if d.rest[i] != '\n' && d.rest[i] != '\r' {
			d.rest[i] = ' '
		}
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// blankLine takes out a table header, which always has a line of its own.
func (d *document) blankLine(offset int) {
	d.blank(d.line[d.lineOf(offset)-1], d.endOfLine(offset), false)
}

// endOfLine gives the offset behind the line that holds offset.
func (d *document) endOfLine(offset int) int {
	if n := d.lineOf(offset); n < len(d.line) {
		return d.line[n]
	}
	return len(d.text)
}
