package mcuboot

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"
)

// Limits of a package, far above what a microcontroller's flash can hold:
// they bound what a hostile zip can make ReadPackage allocate.
const (
	// MaxPackageImages is the most images a package may list.
	MaxPackageImages = 16
	// MaxImageSize is the most bytes an image in a package may have.
	MaxImageSize = 16 << 20

	maxPackageBytes = 32 << 20 // all images together, unpacked
	maxEntries      = 256
	maxManifest     = 256 << 10
	manifestName    = "manifest.json"
)

// Package is a zip of images with a manifest, as the nRF Connect SDK builds it
// (dfu_application.zip, by scripts/bootloader/generate_zip.py of sdk-nrf).
type Package struct {
	FormatVersion int       // "format-version": 0 in old SDKs, 1 now
	Name          string    // "name", mostly ""
	Time          time.Time // "time", when the zip was made; zero if not given
	Images        []PackageImage
}

// PackageImage is one image of a package, with what the manifest says of it.
type PackageImage struct {
	File string // name in the zip
	// ImageIndex is "image_index": which of the device's images this is. A
	// manifest without it, as of old SDKs, is taken for image 0 if it lists one
	// file only.
	ImageIndex int
	// Slot is "slot", given for devices that run from either slot (direct XIP),
	// for which a package has an image for each; -1 if not given. Some SDK
	// versions count slots within the image, others over all images.
	Slot int
	// SlotIndexPrimary and SlotIndexSecondary are "slot_index_primary" and
	// "slot_index_secondary": the numbers under which MCUboot's serial recovery
	// takes an upload to the one or the other slot, from 1; 0 if not given.
	SlotIndexPrimary, SlotIndexSecondary int
	Type                                 string // "type": "application", "mcuboot"
	Board, SoC                           string // "board", "soc"
	LoadAddress                          uint64 // "load_address", 0 if not given
	// ManifestVersion is the version that the manifest states, "" if it states
	// none. It comes from the build's settings and may differ from the image's
	// header; the header is what a device reports.
	ManifestVersion string
	Image           *Image
}

// number is an integer of the manifest. generate_zip.py writes what it got as
// hex as a number and all else as a string, and null where the build had no
// value.
type number struct {
	value int64
	set   bool
}

// UnmarshalJSON reads a number, a decimal or hex string, or null.
func (n *number) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "null" || s == "" {
		return nil
	}
	base := 10
	if h, ok := strings.CutPrefix(s, "0x"); ok {
		s, base = h, 16
	}
	v, err := strconv.ParseInt(s, base, 64)
	if err != nil {
		return fmt.Errorf("%s is no whole number", b)
	}
	*n = number{v, true}
	return nil
}

type manifest struct {
	FormatVersion *int           `json:"format-version"`
	Time          number         `json:"time"`
	Name          string         `json:"name"`
	Files         []manifestFile `json:"files"`
}

type manifestFile struct {
	File          string  `json:"file"`
	Size          number  `json:"size"`
	ImageIndex    number  `json:"image_index"`
	Slot          number  `json:"slot"`
	SlotPrimary   number  `json:"slot_index_primary"`
	SlotSecondary number  `json:"slot_index_secondary"`
	Type          string  `json:"type"`
	Board         string  `json:"board"`
	SoC           string  `json:"soc"`
	LoadAddress   number  `json:"load_address"`
	Version       *string `json:"version_MCUBOOT"`
	VersionXIP    *string `json:"version_MCUBOOT+XIP"`
}

// ReadPackage reads a zip of images and parses every image that its manifest
// lists; other files in it are left alone. Nothing is written to disk. The
// error is a [*PackageError].
func ReadPackage(data []byte) (*Package, error) {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // entries checks the paths
		return nil, &PackageError{Problem: "not a readable zip; copy it again from the build", Err: err}
	}
	files, err := entries(z)
	if err != nil {
		return nil, err
	}
	mf := files[manifestName]
	if mf == nil {
		return nil, &PackageError{Entry: manifestName, Problem: "missing; use the dfu_application.zip of the build"}
	}
	text, err := readEntry(mf, maxManifest)
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, &PackageError{Entry: manifestName, Problem: "not readable", Err: err}
	}
	if err := m.check(); err != nil {
		return nil, err
	}

	p := &Package{FormatVersion: *m.FormatVersion, Name: m.Name}
	if m.Time.set {
		p.Time = time.Unix(m.Time.value, 0).UTC()
	}
	left := int64(maxPackageBytes)
	for _, f := range m.Files {
		img, err := f.read(files[f.File], &left)
		if err != nil {
			return nil, err
		}
		p.Images = append(p.Images, *img)
	}
	return p, nil
}

// entries returns the zip's files by name. Names that lead out of a folder or
// stand for two files have no place in an honest package, listed or not.
func entries(z *zip.Reader) (map[string]*zip.File, error) {
	if len(z.File) > maxEntries {
		return nil, &PackageError{Problem: fmt.Sprintf("%d files in the zip, at most %d expected", len(z.File), maxEntries)}
	}
	files := make(map[string]*zip.File, len(z.File))
	for _, f := range z.File {
		name := strings.TrimSuffix(f.Name, "/") // a folder's own entry
		if name == "" || path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../") ||
			strings.ContainsAny(name, "\\:\x00") {
			return nil, &PackageError{Entry: f.Name, Problem: "a name that leads outside the package; the zip was tampered with"}
		}
		if files[name] != nil {
			return nil, &PackageError{Entry: f.Name, Problem: "twice in the zip, so it is not clear which one is meant"}
		}
		files[name] = f
	}
	return files, nil
}

// check looks at the manifest by itself.
func (m *manifest) check() error {
	bad := func(format string, args ...any) error {
		return &PackageError{Entry: manifestName, Problem: fmt.Sprintf(format, args...)}
	}
	switch {
	case m.FormatVersion == nil:
		return bad(`no "format-version"; use the dfu_application.zip of an nRF Connect SDK build`)
	case *m.FormatVersion < 0 || *m.FormatVersion > 1:
		return bad(`"format-version" is %d, expected 0 or 1`, *m.FormatVersion)
	case len(m.Files) == 0:
		return bad("it lists no files")
	case len(m.Files) > MaxPackageImages:
		return bad("it lists %d files, at most %d expected", len(m.Files), MaxPackageImages)
	}
	type place struct{ image, slot number }
	byName, byPlace := map[string]bool{}, map[place]string{}
	for i, f := range m.Files {
		switch {
		case f.File == "":
			return bad(`entry %d of "files" has no "file"`, i)
		case strings.ContainsAny(f.File, "/\\:\x00") || f.File == "." || f.File == "..":
			return bad("file name %q is no plain name", f.File)
		case byName[f.File]:
			return bad("%q is listed twice", f.File)
		case !f.Size.set || f.Size.value <= 0:
			return bad(`%q has no "size"`, f.File)
		case f.Size.value > MaxImageSize:
			return bad("%q is listed with %d bytes, more than the %d that an image may have", f.File, f.Size.value, MaxImageSize)
		case !f.ImageIndex.set && len(m.Files) > 1:
			return bad(`%q has no "image_index", so it is not clear which of the device's images it is`, f.File)
		case f.ImageIndex.value < 0 || f.ImageIndex.value > 255:
			return bad(`%q has "image_index" %d, expected 0 to 255`, f.File, f.ImageIndex.value)
		}
		for _, n := range []number{f.Slot, f.SlotPrimary, f.SlotSecondary} {
			if n.value < 0 || n.value > 511 {
				return bad("%q has slot number %d, expected 0 to 511", f.File, n.value)
			}
		}
		if f.LoadAddress.value < 0 {
			return bad(`%q has "load_address" %d`, f.File, f.LoadAddress.value)
		}
		at := place{f.ImageIndex, f.Slot}
		if other := byPlace[at]; other != "" {
			return bad("%q and %q are both for image %d", other, f.File, f.ImageIndex.value)
		}
		byName[f.File], byPlace[at] = true, f.File
	}
	return nil
}

// read unpacks and parses one image; left is how many bytes all images may
// still take.
func (f *manifestFile) read(entry *zip.File, left *int64) (*PackageImage, error) {
	if entry == nil {
		return nil, &PackageError{Entry: f.File, Problem: "listed in the manifest and missing in the zip"}
	}
	if *left -= f.Size.value; *left < 0 {
		return nil, &PackageError{Entry: f.File, Problem: fmt.Sprintf("the images together have more than %d bytes", maxPackageBytes)}
	}
	data, err := readEntry(entry, f.Size.value)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != f.Size.value {
		return nil, &PackageError{Entry: f.File, Problem: fmt.Sprintf("%d bytes, but the manifest says %d", len(data), f.Size.value)}
	}
	img, err := Parse(data)
	if err != nil {
		return nil, &PackageError{Entry: f.File, Problem: "cannot be loaded by MCUboot", Err: err}
	}
	p := &PackageImage{
		File: f.File, ImageIndex: int(f.ImageIndex.value), Slot: -1,
		SlotIndexPrimary: int(f.SlotPrimary.value), SlotIndexSecondary: int(f.SlotSecondary.value),
		Type: f.Type, Board: f.Board, SoC: f.SoC, LoadAddress: uint64(f.LoadAddress.value), Image: img,
	}
	if f.Slot.set {
		p.Slot = int(f.Slot.value)
	}
	for _, v := range []*string{f.Version, f.VersionXIP} {
		if v != nil {
			p.ManifestVersion = *v
		}
	}
	return p, nil
}

// readEntry unpacks a file of at most limit bytes. It believes the size that
// the zip states only to refuse the file, not to allocate.
func readEntry(f *zip.File, limit int64) ([]byte, error) {
	fail := func(problem string, err error) ([]byte, error) {
		return nil, &PackageError{Entry: f.Name, Problem: problem, Err: err}
	}
	if f.Flags&1 != 0 { // general purpose bit 0
		return fail("encrypted in the zip; make the zip without a password", nil)
	}
	tooBig := fmt.Sprintf("unpacks to more than the %d bytes expected", limit)
	if f.UncompressedSize64 > uint64(limit) {
		return fail(tooBig, nil)
	}
	r, err := f.Open()
	if err != nil {
		return fail("cannot be unpacked", err)
	}
	defer r.Close()
	// One byte more than allowed, so that reading reaches the end of the entry,
	// where its checksum is compared.
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return fail("cannot be unpacked; copy the zip again", err)
	}
	if int64(len(data)) > limit {
		return fail(tooBig, nil)
	}
	return data, nil
}
