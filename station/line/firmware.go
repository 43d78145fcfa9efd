package line

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"flashline/configs"
	"flashline/smp/mcuboot"
)

// Firmware is an image that has been looked at and may be flashed.
type Firmware struct {
	Number     int    // which of the board's images it is
	Name       string // of the file
	FileSHA256 string // of the whole file, hex
	File       []byte
	Version    mcuboot.Version
	Hash       []byte // the hash TLV: what a device must report
	Data       []byte // what is sent: the image without padding
	Encrypted  bool
	RAMLoad    bool                 // made to be copied to RAM by its bootloader
	Requires   []mcuboot.Dependency // of other images

	// As the recipe says; see configs.Image.
	UploadNumber, SlotSize, SectorSize, WriteSize, MessageSize int
	LineLength, LineBuffers                                    int
	SendAhead                                                  configs.SendAhead
	Rewrite                                                    bool
}

// FirmwareError says why a file may not be flashed, in one sentence.
type FirmwareError struct {
	File string
	Err  error
}

func (e *FirmwareError) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }

func (e *FirmwareError) Unwrap() error { return e.Err }

// LoadFirmware examines the images of one file of a recipe as a bootloader
// would, before any board is touched: well-formed, undamaged, signed with the
// recipe's key, for the recipe's board, and no larger than the slot.
func LoadFirmware(img *configs.Image, board string) ([]*Firmware, error) {
	fws, err := loadFirmware(img, board)
	if err != nil {
		return nil, &FirmwareError{File: img.Path.Written, Err: err}
	}
	return fws, nil
}

func loadFirmware(cfg *configs.Image, board string) ([]*Firmware, error) {
	var key *mcuboot.PublicKey
	if cfg.KeyPEM != nil {
		var err error
		if key, err = mcuboot.LoadPublicKey(cfg.KeyPEM); err != nil {
			return nil, fmt.Errorf("key %s: %w", cfg.Key.Written, err)
		}
	}
	name := filepath.Base(cfg.Path.Written)
	if mcuboot.Detect(cfg.Data) != mcuboot.KindPackage {
		img, err := mcuboot.Parse(cfg.Data)
		if err != nil {
			return nil, err
		}
		fw, err := newFirmware(cfg, img, key, name, cfg.Number)
		return []*Firmware{fw}, err
	}
	pkg, err := mcuboot.ReadPackage(cfg.Data)
	if err != nil {
		return nil, err
	}
	var fws []*Firmware
	for _, p := range pkg.Images {
		if board != "" && p.Board != "" && !sameBoard(board, p.Board) {
			return nil, fmt.Errorf("the package's %s is for the board %s, the recipe for %s; use the package of this product, or correct board", p.File, p.Board, board)
		}
		if slices.ContainsFunc(fws, func(f *Firmware) bool { return f.Number == p.ImageIndex }) {
			return nil, fmt.Errorf("the package has image %d for either slot, as for direct execution in place; name the .bin that is linked for slot 0 instead", p.ImageIndex)
		}
		fw, err := newFirmware(cfg, p.Image, key, name+"/"+p.File, p.ImageIndex)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.File, err)
		}
		fws = append(fws, fw)
	}
	return fws, nil
}

func newFirmware(cfg *configs.Image, img *mcuboot.Image, key *mcuboot.PublicKey, name string, number int) (*Firmware, error) {
	if err := img.Verify(key); err != nil {
		return nil, err
	}
	// Padding ends in a trailer for a slot that nobody asks to swap: in the
	// primary slot it is dead weight on the wire.
	fw := &Firmware{
		Number: number, Name: name, File: cfg.Data, Version: img.Header.Version, Hash: img.Hash(),
		Data: img.Stripped(), Encrypted: img.Encrypted(), RAMLoad: img.Header.Flags&mcuboot.FlagRAMLoad != 0, Requires: img.Dependencies(),
		UploadNumber: cfg.UploadNumber, SlotSize: cfg.SlotSize, SectorSize: cfg.SectorSize,
		WriteSize: cfg.WriteSize, MessageSize: cfg.MessageSize,
		LineLength: cfg.LineLength, LineBuffers: cfg.LineBuffers, SendAhead: cfg.SendAhead, Rewrite: cfg.Rewrite,
	}
	sum := sha256.Sum256(cfg.Data)
	fw.FileSHA256 = hex.EncodeToString(sum[:])
	if room := fw.room(fw.SlotSize); fw.SlotSize > 0 && len(fw.Data) > room {
		return nil, fmt.Errorf("the image has %d bytes, a slot of %d has room for %d; build it smaller, or correct slot_size", len(fw.Data), fw.SlotSize, room)
	}
	return fw, nil
}

// room is how much of a slot the image may take.
func (f *Firmware) room(slot int) int {
	return mcuboot.TrailerLayout{WriteSize: f.WriteSize}.Room(slot, f.SectorSize)
}

// loadAll examines all images of a recipe, by number.
func loadAll(r *configs.Recipe) ([]*Firmware, error) {
	var all []*Firmware
	for i := range r.Images {
		fws, err := LoadFirmware(&r.Images[i], r.Board)
		if err != nil {
			return nil, err
		}
		all = append(all, fws...)
	}
	slices.SortStableFunc(all, func(a, b *Firmware) int { return a.Number - b.Number })
	for i, f := range all {
		if i > 0 && all[i-1].Number == f.Number {
			return nil, &FirmwareError{File: f.Name, Err: fmt.Errorf("the recipe has image %d twice, the other is %s; give each its own number", f.Number, all[i-1].Name)}
		}
		for _, d := range f.Requires {
			j := slices.IndexFunc(all, func(o *Firmware) bool { return o.Number == d.Image })
			if j >= 0 && all[j].Version.Compare(d.Min) < 0 {
				return nil, &FirmwareError{File: f.Name, Err: fmt.Errorf("it needs image %d in version %s or higher, and %s is %s; release the two together", d.Image, d.Min, all[j].Name, all[j].Version)}
			}
		}
	}
	return all, nil
}

// sameBoard compares names of boards as Zephyr writes them: with the SoC and
// core behind slashes, with a revision behind @, or without either.
func sameBoard(a, b string) bool {
	cut := func(s string) (name, rest string) {
		name, rest, _ = strings.Cut(s, "/")
		name, _, _ = strings.Cut(name, "@")
		return name, rest
	}
	an, ar := cut(a)
	bn, br := cut(b)
	return an == bn && (ar == "" || br == "" || ar == br)
}
