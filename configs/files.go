package configs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Limits of what is read into memory. A file beyond its limit is the wrong
// file: no station of ours has a thousand sites, and no part that MCUboot
// serves has a slot of 64 MiB.
const (
	maxFile  = 1 << 20
	maxImage = 64 << 20
	maxKey   = 64 << 10
)

// maxPEMBlocks bounds the search for a key: openssl puts one block of curve
// parameters in front, nobody puts more than a few.
const maxPEMBlocks = 8

// readFile reads a regular file of at most limit bytes. Its errors are
// sentences without the name, which the caller has already said. A device or
// a pipe is refused before it is opened, for that alone could block.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, bare(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, bare(err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("it is bigger than %s", byteSize(limit))
	}
	return data, nil
}

func byteSize(n int64) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// bare takes the operation and the path off an error of package os.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// load reads the text of a station or recipe file.
func load(path string) (*document, string, error) {
	whole := func(err error, fix string) error {
		return Errors{{File: path, Message: "this file cannot be read: " + err.Error(), Fix: fix, Err: err}}
	}
	text, err := readFile(path, maxFile)
	if err != nil {
		return nil, "", whole(err, "check its name and that this user may read it")
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, "", whole(err, "give the file by its full path")
	}
	return newDocument(path, text), dir, nil
}

// parse makes a document of a text that is already in memory.
func parse(name, dir string, text []byte) (*document, string, error) {
	if len(text) > maxFile {
		return nil, "", Errors{{File: name, Line: 1, Col: 1,
			Message: "this file is bigger than " + byteSize(maxFile), Fix: "give the station or recipe file"}}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, "", Errors{{File: name, Line: 1, Col: 1, Message: "the folder of this file cannot be found: " + err.Error(),
			Fix: "start in a folder that exists", Err: err}}
	}
	return newDocument(name, text), abs, nil
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// resolve fills in where a written file name leads.
func (p *Path) resolve(dir string) {
	if p.Written == "" {
		return
	}
	p.Abs = filepath.Clean(p.Written)
	if !filepath.IsAbs(p.Abs) {
		p.Abs = filepath.Join(dir, p.Written)
	}
}

// publicKey reads the file of a public key and looks at its armour only; what
// kind of key it is, is for those who verify with it.
func (d *document) publicKey(path string, p Path) []byte {
	if p.Abs == "" || d.broken(path) {
		return nil
	}
	const extract = "give the public key that imgtool getpub --encoding pem writes"
	data, err := readFile(p.Abs, maxKey)
	if err != nil {
		d.refuseCause(path, err, extract, "the key file %s cannot be read: %s", plain(p.Written), err)
		return nil
	}
	public := false
	rest := data
	for range maxPEMBlocks {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.Contains(block.Type, "PRIVATE KEY") {
			d.refuse(path, extract+", and keep the private one away from the line", "the file %s holds a private key", plain(p.Written))
			return nil
		}
		public = public || strings.HasSuffix(block.Type, "PUBLIC KEY")
	}
	if !public {
		d.refuse(path, extract, "the file %s holds no public key in PEM form", plain(p.Written))
		return nil
	}
	return data
}

// need complains if a required text is missing or empty.
func (d *document) need(path, value, example string) bool {
	key := path[strings.LastIndexByte(path, '.')+1:]
	switch {
	case value != "":
		return true
	case d.has(path):
		d.refuse(path, "write "+example, "the key %q%s is empty", key, in(path[:max(strings.LastIndexByte(path, '.'), 0)]))
	default:
		d.refuse(path, "add "+example, "the key %q%s is missing", key, in(path[:max(strings.LastIndexByte(path, '.'), 0)]))
	}
	return false
}

// span is a time and the limits outside of which it is surely a slip.
type span struct {
	key      string
	value    Duration
	min, max time.Duration
}

func (d *document) spans(table string, spans []span) {
	for _, s := range spans {
		if v := time.Duration(s.value); v < s.min || v > s.max {
			d.refuse(table+"."+s.key, "write a time within these limits", "%s in [%s] is %s, but must be from %s to %s",
				s.key, table, s.value, Duration(s.min), Duration(s.max))
		}
	}
}

func (d *document) number(path string, value, low, high int, fix string) {
	if value < low || value > high {
		dot := strings.LastIndexByte(path, '.')
		d.refuse(path, fix, "%s%s is %d, but must be from %d to %d", path[dot+1:], in(path[:max(dot, 0)]), value, low, high)
	}
}
