package line

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"

	"flashline/configs"
	"flashline/smp/mcuboot"
)

// Firmware is an image that has been looked at and may be flashed.
type Firmware struct {
	Name       string // of the file
	FileSHA256 string // of the whole file, hex
	File       []byte
	Version    mcuboot.Version
	Hash       []byte // the hash TLV: what a device must report
	Data       []byte // what is sent: the image without padding
	Encrypted  bool
}

// FirmwareError says why a file may not be flashed, in one sentence.
type FirmwareError struct {
	File string
	Err  error
}

func (e *FirmwareError) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }

func (e *FirmwareError) Unwrap() error { return e.Err }

// LoadFirmware examines the image of a recipe as a bootloader would, before
// any board is touched: well-formed, undamaged, signed with the recipe's key,
// and no larger than the slot.
func LoadFirmware(img *configs.Image) (*Firmware, error) {
	fw, err := loadFirmware(img)
	if err != nil {
		return nil, &FirmwareError{File: img.Path.Written, Err: err}
	}
	return fw, nil
}

func loadFirmware(cfg *configs.Image) (*Firmware, error) {
	var img *mcuboot.Image
	name := filepath.Base(cfg.Path.Written)
	if mcuboot.Detect(cfg.Data) == mcuboot.KindPackage {
		pkg, err := mcuboot.ReadPackage(cfg.Data)
		if err != nil {
			return nil, err
		}
		if n := len(pkg.Images); n != 1 {
			return nil, fmt.Errorf("the package holds %d images, this version flashes one; build a package with the application alone", n)
		}
		if n := pkg.Images[0].ImageIndex; n != 0 {
			return nil, fmt.Errorf("the package is for image %d of the board (such as a network core), this version flashes image 0; use the package of the application", n)
		}
		img = pkg.Images[0].Image
		name += "/" + pkg.Images[0].File
	} else {
		var err error
		if img, err = mcuboot.Parse(cfg.Data); err != nil {
			return nil, err
		}
	}
	var key *mcuboot.PublicKey
	if cfg.KeyPEM != nil {
		var err error
		if key, err = mcuboot.LoadPublicKey(cfg.KeyPEM); err != nil {
			return nil, fmt.Errorf("key %s: %w", cfg.Key.Written, err)
		}
	}
	if err := img.Verify(key); err != nil {
		return nil, err
	}
	// Padding ends in a trailer for a slot that nobody asks to swap: in the
	// primary slot it is dead weight on the wire.
	data := img.Stripped()
	if cfg.SlotSize > 0 {
		room := cfg.SlotSize - mcuboot.TrailerLayout{WriteSize: cfg.WriteSize, NoStatus: true}.Size()
		if len(data) > room {
			return nil, fmt.Errorf("the image has %d bytes, a slot of %d has room for %d; build it smaller, or correct slot_size", len(data), cfg.SlotSize, room)
		}
	}
	sum := sha256.Sum256(cfg.Data)
	return &Firmware{
		Name: name, FileSHA256: hex.EncodeToString(sum[:]), File: cfg.Data,
		Version: img.Header.Version, Hash: img.Hash(), Data: data, Encrypted: img.Encrypted(),
	}, nil
}
