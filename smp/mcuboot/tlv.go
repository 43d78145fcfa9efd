package mcuboot

import (
	"crypto"
	"encoding/binary"
	"fmt"
)

// Magic numbers that open the two TLV areas (IMAGE_TLV_INFO_MAGIC and
// IMAGE_TLV_PROT_INFO_MAGIC in bootutil's image.h).
const (
	MagicTLV          = 0x6907
	MagicProtectedTLV = 0x6908
)

const (
	tlvInfoSize  = 4 // struct image_tlv_info: magic, total size with these 4
	tlvEntrySize = 4 // struct image_tlv: type, length of the data that follows
)

// TLVType says what a TLV holds (IMAGE_TLV_* in bootutil's image.h).
type TLVType uint16

// The TLV types that MCUboot and imgtool know. Types xxA0 to xxFE are the
// vendor's own.
const (
	TLVKeyHash       TLVType = 0x01 // hash of the public key
	TLVPublicKey     TLVType = 0x02 // the whole public key, for MCUBOOT_HW_KEY
	TLVSHA256        TLVType = 0x10 // image hash
	TLVSHA384        TLVType = 0x11 // image hash
	TLVSHA512        TLVType = 0x12 // image hash
	TLVRSA2048       TLVType = 0x20 // signature, PSS
	TLVECDSA         TLVType = 0x22 // signature, ASN.1
	TLVRSA3072       TLVType = 0x23 // signature, PSS
	TLVEd25519       TLVType = 0x24 // signature
	TLVPure          TLVType = 0x25 // the signature is over the image, not over its hash
	TLVEncRSA2048    TLVType = 0x30 // image key, encrypted with RSA-OAEP
	TLVEncKW         TLVType = 0x31 // image key, encrypted with AES key wrap
	TLVEncEC256      TLVType = 0x32 // image key, encrypted with ECIES-P256
	TLVEncX25519     TLVType = 0x33 // image key, encrypted with ECIES-X25519
	TLVEncX25519S512 TLVType = 0x34 // the same with SHA-512
	TLVDependency    TLVType = 0x40 // least version of another image
	TLVSecurityCount TLVType = 0x50 // rollback counter, 4 bytes
	TLVBootRecord    TLVType = 0x60 // measured boot, CBOR
	TLVDecompSize    TLVType = 0x70 // size after decompression
	TLVDecompSHA     TLVType = 0x71 // hash after decompression
	TLVDecompSig     TLVType = 0x72 // signature after decompression
	TLVCompDecSize   TLVType = 0x73 // compressed size after decryption
	TLVVendorUUID    TLVType = 0x74
	TLVClassUUID     TLVType = 0x75
)

// Name returns the type's name as imgtool prints it, "UNKNOWN" for one that
// imgtool has no name for.
func (t TLVType) Name() string {
	switch t {
	case TLVKeyHash:
		return "KEYHASH"
	case TLVPublicKey:
		return "PUBKEY"
	case TLVSHA256:
		return "SHA256"
	case TLVSHA384:
		return "SHA384"
	case TLVSHA512:
		return "SHA512"
	case TLVRSA2048:
		return "RSA2048"
	case TLVECDSA:
		return "ECDSASIG"
	case TLVRSA3072:
		return "RSA3072"
	case TLVEd25519:
		return "ED25519"
	case TLVPure:
		return "SIG_PURE"
	case TLVEncRSA2048:
		return "ENCRSA2048"
	case TLVEncKW:
		return "ENCKW"
	case TLVEncEC256:
		return "ENCEC256"
	case TLVEncX25519:
		return "ENCX25519"
	case TLVEncX25519S512:
		return "ENCX25519_SHA512"
	case TLVDependency:
		return "DEPENDENCY"
	case TLVSecurityCount:
		return "SEC_CNT"
	case TLVBootRecord:
		return "BOOT_RECORD"
	case TLVDecompSize:
		return "DECOMP_SIZE"
	case TLVDecompSHA:
		return "DECOMP_SHA"
	case TLVDecompSig:
		return "DECOMP_SIGNATURE"
	case TLVCompDecSize:
		return "COMP_DEC_SIZE"
	case TLVVendorUUID:
		return "UUID_VID"
	case TLVClassUUID:
		return "UUID_CID"
	}
	return "UNKNOWN"
}

// String returns the name, or the number in hex for a type without one.
func (t TLVType) String() string {
	if n := t.Name(); n != "UNKNOWN" {
		return n
	}
	return fmt.Sprintf("0x%02x", uint16(t))
}

// hash returns the hash function of an image hash TLV, 0 for another type.
func (t TLVType) hash() crypto.Hash {
	switch t {
	case TLVSHA256:
		return crypto.SHA256
	case TLVSHA384:
		return crypto.SHA384
	case TLVSHA512:
		return crypto.SHA512
	}
	return 0
}

// TLV is one entry of a TLV area.
type TLV struct {
	Type   TLVType
	Offset int    // where the entry begins in the file; Data lies 4 bytes on
	Data   []byte // part of the file: not to be modified
}

// Dependency says that an image is made for another image of the same board,
// such as a network core's, of at least a version (struct image_dependency in
// bootutil's image.h; imgtool's --dependencies).
type Dependency struct {
	Image int     // the number of the other image, from 0
	Min   Version // the least version of it
}

// dependencySize is the size of struct image_dependency: the image's number,
// three bytes that mean nothing, a version.
const dependencySize = 12

// Dependencies returns what the image depends on, in the order of the file;
// nil if it depends on nothing. MCUboot built for several images looks at those
// in the protected area only, which is where imgtool puts them; while one of
// them is not met it updates none of the images (boot_verify_dependencies).
func (m *Image) Dependencies() []Dependency {
	var deps []Dependency
	for _, a := range []TLVArea{m.Protected, m.TLVs} {
		for _, t := range a.TLVs {
			if t.Type == TLVDependency {
				deps = append(deps, Dependency{Image: int(t.Data[0]), Min: parseVersion(t.Data[4:])})
			}
		}
	}
	return deps
}

// checkDependencies makes sure that every dependency can be read
// (boot_verify_slot_dependencies refuses another length).
func (m *Image) checkDependencies() error {
	for _, a := range []TLVArea{m.Protected, m.TLVs} {
		for _, t := range a.TLVs {
			if t.Type == TLVDependency && len(t.Data) != dependencySize {
				return &FormatError{
					Field: "length of TLV " + t.Type.String(), Offset: int64(t.Offset + 2),
					Found: fmt.Sprint(len(t.Data)), Want: fmt.Sprint(dependencySize),
				}
			}
		}
	}
	return nil
}

// TLVArea is one of an image's two lists of TLVs.
type TLVArea struct {
	Magic  uint16 // MagicTLV or MagicProtectedTLV; 0 if the image has no such area
	Size   int    // bytes of the area, its 4 bytes of head included; 0 if there is none
	Offset int    // where the area begins in the file
	TLVs   []TLV  // in the order of the file
}

// Find returns the data of the first TLV of the type.
func (a TLVArea) Find(t TLVType) ([]byte, bool) {
	for _, e := range a.TLVs {
		if e.Type == t {
			return e.Data, true
		}
	}
	return nil, false
}

// parseTLVArea reads the area that begins at off and must not reach beyond
// data. name is what imgtool calls the area's head.
func parseTLVArea(data []byte, off int, magic uint16, name string) (TLVArea, error) {
	if len(data)-off < tlvInfoSize {
		return TLVArea{}, &FormatError{
			Field: name, Offset: int64(off),
			Found: fmt.Sprintf("cut off by the end of the file, %d bytes on", len(data)-off),
			Want:  fmt.Sprintf("the %d bytes that begin the TLVs", tlvInfoSize), Hint: hintCut,
		}
	}
	a := TLVArea{
		Magic:  binary.LittleEndian.Uint16(data[off:]),
		Size:   int(binary.LittleEndian.Uint16(data[off+2:])),
		Offset: off,
	}
	if a.Magic != magic {
		return TLVArea{}, &FormatError{
			Field: name + " magic", Offset: int64(off),
			Found: fmt.Sprintf("%#04x", a.Magic), Want: fmt.Sprintf("%#04x", magic),
			Hint: "the file is damaged, or was changed after it was signed: build it again",
		}
	}
	if a.Size < tlvInfoSize {
		return TLVArea{}, &FormatError{
			Field: name + " tlv_tot", Offset: int64(off + 2),
			Found: fmt.Sprint(a.Size), Want: fmt.Sprintf("at least %d, the size of the area's own head", tlvInfoSize),
		}
	}
	if a.Size > len(data)-off {
		return TLVArea{}, &FormatError{
			Field: name + " tlv_tot", Offset: int64(off + 2),
			Found: fmt.Sprint(a.Size), Want: fmt.Sprintf("at most %d, what is left of the file", len(data)-off), Hint: hintCut,
		}
	}
	end := off + a.Size
	for p := off + tlvInfoSize; p < end; {
		if end-p < tlvEntrySize {
			return TLVArea{}, &FormatError{
				Field: "TLV", Offset: int64(p),
				Found: fmt.Sprintf("cut off after %d bytes by the end of its area", end-p),
				Want:  fmt.Sprintf("%d bytes of type and length", tlvEntrySize),
			}
		}
		t := TLVType(binary.LittleEndian.Uint16(data[p:]))
		n := int(binary.LittleEndian.Uint16(data[p+2:]))
		if n > end-p-tlvEntrySize {
			return TLVArea{}, &FormatError{
				Field: fmt.Sprintf("length of TLV %s", t), Offset: int64(p + 2),
				Found: fmt.Sprint(n), Want: fmt.Sprintf("at most %d, what is left of its area", end-p-tlvEntrySize),
			}
		}
		next := p + tlvEntrySize + n
		a.TLVs = append(a.TLVs, TLV{Type: t, Offset: p, Data: data[p+tlvEntrySize : next : next]})
		p = next
	}
	return a, nil
}
