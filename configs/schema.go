package configs

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// kind is what may be written for a Go type, named as a reader of the file
// would.
type kind string

const (
	aText     kind = "text"
	aNumber   kind = "a whole number"
	aSwitch   kind = "true or false"
	aDuration kind = "a time"
	aPath     kind = "a file name"
	aTable    kind = "a table"
	aList     kind = "a list of tables"
)

// kindOf panics for a Go type that no file can fill: a mistake in this
// package, not in a file, and found by loading any file at all.
func kindOf(t reflect.Type) kind {
	t = indirect(t)
	switch t {
	case reflect.TypeFor[Duration]():
		return aDuration
	case reflect.TypeFor[Path]():
		return aPath
	}
	switch t.Kind() {
	case reflect.String:
		return aText
	case reflect.Int, reflect.Int64:
		return aNumber
	case reflect.Bool:
		return aSwitch
	case reflect.Struct:
		return aTable
	case reflect.Slice:
		return aList
	default:
		panic(fmt.Sprintf("configs: no kind for %s", t))
	}
}

func (k kind) accepts(v unstable.Kind) bool {
	switch k {
	case aNumber:
		return v == unstable.Integer
	case aSwitch:
		return v == unstable.Bool
	case aTable:
		return v == unstable.InlineTable
	case aList:
		return v == unstable.Array
	default:
		return v == unstable.String
	}
}

// how tells how a value of this kind is written.
func (k kind) how(key string) string {
	switch k {
	case aNumber:
		return fmt.Sprintf("write %s = and the number, without quotes or a point", key)
	case aSwitch:
		return fmt.Sprintf("write %s = true or %s = false, without quotes", key, key)
	case aDuration:
		return fmt.Sprintf(`write it in quotes and with its unit, such as %s = "250ms" or "1s"`, key)
	case aTable:
		return fmt.Sprintf(`write its keys in braces, such as %s = { pin = "GPIO5" }, or below a line with its name in brackets`, key)
	case aList:
		return fmt.Sprintf("write a line [[%s]] with the keys of one below it, again for each", key)
	default:
		return fmt.Sprintf(`write it in quotes: %s = "…"`, key)
	}
}

// written names what stands in the file.
func written(v unstable.Kind) string {
	switch v {
	case unstable.String:
		return "text"
	case unstable.Integer:
		return "a number"
	case unstable.Float:
		return "a number with a point"
	case unstable.Bool:
		return "true or false"
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	default:
		return "a date or a time of day"
	}
}

// indirect takes the pointer off an optional table.
func indirect(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// fieldType finds the field of a struct that a key fills. Keys are exact:
// go-toml alone would let "Port" pass for "port", and a second spelling is a
// second thing to search for.
func fieldType(t reflect.Type, key string) (reflect.Type, bool) {
	for f := range fields(t) {
		if f.Tag.Get("toml") == key {
			return f.Type, true
		}
	}
	return nil, false
}

// fields gives the fields of a struct that a file can fill.
func fields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			if tag := f.Tag.Get("toml"); tag == "" || tag == "-" {
				continue
			}
			if !yield(f) {
				return
			}
		}
	}
}

// suggest says what to do about a key that the table here does not have. If
// it is a slip of the pen or stands too far down, the key that was meant
// counts as told about, so that nobody is also told that it is missing.
func (d *document) suggest(root reflect.Type, here scope, key string) string {
	var known []string
	for f := range fields(here.typ) {
		known = append(known, f.Tag.Get("toml"))
	}
	if near := nearest(key, known); near != "" {
		d.told[here.child(near)] = true
		return fmt.Sprintf("did you mean %q?", near)
	}
	if homes := homesOf(root, key, ""); len(homes) > 0 {
		if _, top := fieldType(root, key); top && !d.has(key) {
			d.told[key] = true
		}
		return "it belongs " + strings.Join(homes, " or ")
	}
	slices.Sort(known)
	return "the keys known here are " + strings.Join(known, ", ")
}

// homesOf lists the tables that do have the key: in TOML a key written too
// far down silently belongs to the last table opened above it.
func homesOf(t reflect.Type, key, name string) []string {
	var homes []string
	for f := range fields(t) {
		tag := f.Tag.Get("toml")
		if tag == key {
			if name == "" {
				homes = append(homes, "above the first [table]")
			} else {
				homes = append(homes, "in "+name)
			}
		}
		switch kindOf(f.Type) {
		case aTable:
			if name == "" { // the small tables of a site are clear from its keys
				homes = append(homes, homesOf(indirect(f.Type), key, "["+tag+"]")...)
			}
		case aList:
			homes = append(homes, homesOf(f.Type.Elem(), key, "[["+tag+"]]")...)
		}
	}
	return homes
}

// in names the table of a key path for a sentence: " in [port]".
func in(path string) string {
	if path == "" {
		return ""
	}
	last := path[strings.LastIndexByte(path, '.')+1:]
	if name, _, list := strings.Cut(last, "["); list {
		return " in [[" + name + "]]"
	}
	if last == path {
		return " in [" + path + "]"
	}
	return " in " + last
}

// nearest gives the known key that the written one is most likely a slip of,
// or "": one letter wrong in a short word, two in a longer one.
func nearest(key string, known []string) string {
	const longest = 40 // no key is longer, and the distance costs its square
	if len(key) > longest {
		return ""
	}
	key = strings.ReplaceAll(strings.ToLower(key), "-", "_")
	best, at := "", 3
	for _, k := range known {
		limit := 2
		if len(k) < 5 {
			limit = 1
		}
		if n := distance(key, k); n <= limit && n < at {
			best, at = k, n
		}
	}
	return best
}

// distance counts the letters to insert, drop, change or swap with their
// neighbour to make a into b (optimal string alignment).
func distance(a, b string) int {
	var old []int
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := prev[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, prev[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], old[j-2]+1)
			}
		}
		old, prev = prev, row
	}
	return prev[len(b)]
}
