package main

import (
	"archive/zip"
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"flashline/fixtures/sim"
	"flashline/smp/mcuboot"
)

// forge makes the images of the scenarios, with keys that live no longer than
// the demo.
type forge struct {
	trusted, foreign *ecdsa.PrivateKey // what the boards trust, and what they do not
	encryption       *ecdh.PrivateKey  // of the boards that decrypt
}

func newForge() (*forge, error) {
	trusted, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	encryption, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return &forge{trusted, foreign, encryption}, nil
}

// firmware describes an image.
type firmware struct {
	version   string
	number    int    // which of the board's images it is
	needs     string // the least version of image 1 that it depends on, if any
	foreign   bool   // signed with a key that no board trusts
	ramLoad   bool   // signed with a load address, as for BOOT_RAM_LOAD
	encrypted bool
	size      int // of its body in bytes, 9000 if zero
}

// key is what an image is signed with.
func (f *forge) key(fw firmware) *ecdsa.PrivateKey {
	if fw.foreign {
		return f.foreign
	}
	return f.trusted
}

// pem is the public half of that, as imgtool getpub writes it.
func (f *forge) pem(fw firmware) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(f.key(fw).Public())
	if err != nil {
		return nil, fmt.Errorf("writing a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// build makes an image.
func (f *forge) build(fw firmware) ([]byte, error) {
	v, err := mcuboot.ParseVersion(fw.version)
	if err != nil {
		return nil, err
	}
	size := fw.size
	if size == 0 {
		size = 9000
	}
	// Bytes that tell the versions and the images apart and do not repeat.
	body := make([]byte, 0, size+sha256.Size)
	for n := 0; len(body) < size; n++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s of image %d, block %d", fw.version, fw.number, n))
		body = append(body, sum[:]...)
	}
	o := mcuboot.BuildOptions{Version: v, Body: body[:size], Key: f.key(fw)}
	if fw.ramLoad {
		o.Flags, o.LoadAddr = mcuboot.FlagRAMLoad, 0x2000_0000
	}
	if fw.needs != "" {
		least, err := mcuboot.ParseVersion(fw.needs)
		if err != nil {
			return nil, err
		}
		o.Protected = append(o.Protected, dependency(1, least))
	}
	image, err := mcuboot.Build(o)
	if err != nil || !fw.encrypted {
		return image, err
	}
	return f.encrypt(image, f.key(fw))
}

// dependency is a TLV that asks for another image (struct image_dependency).
func dependency(image byte, least mcuboot.Version) mcuboot.TLV {
	data := []byte{image, 0, 0, 0, least.Major, least.Minor}
	data = binary.LittleEndian.AppendUint16(data, least.Revision)
	data = binary.LittleEndian.AppendUint32(data, least.Build)
	return mcuboot.TLV{Type: mcuboot.TLVDependency, Data: data}
}

// encrypt makes an image what imgtool's --encrypt makes of it with a key on
// P-256: the flag in the header, which is hashed and signed with the plain
// body, the body in AES-CTR from counter zero, and the key of that in a TLV of
// its own, sealed for the board (ECIES as in bootutil's encrypted.c).
func (f *forge) encrypt(image []byte, key *ecdsa.PrivateKey) ([]byte, error) {
	le := binary.LittleEndian
	head, size := int(le.Uint16(image[8:])), int(le.Uint32(image[12:]))
	plain := bytes.Clone(image[:head+size])
	le.PutUint32(plain[16:], le.Uint32(plain[16:])|uint32(mcuboot.FlagEncryptedAES128))
	digest := sha256.Sum256(plain)
	signature, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing an encrypted image: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("signing an encrypted image: %w", err)
	}
	keyHash := sha256.Sum256(der)

	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("encrypting an image: %w", err)
	}
	sealed, err := seal(secret, f.encryption.PublicKey())
	if err != nil {
		return nil, fmt.Errorf("encrypting an image: %w", err)
	}
	if err := ctr(secret, plain[head:]); err != nil {
		return nil, fmt.Errorf("encrypting an image: %w", err)
	}
	var tlvs []byte
	for _, t := range []mcuboot.TLV{
		{Type: mcuboot.TLVSHA256, Data: digest[:]},
		{Type: mcuboot.TLVKeyHash, Data: keyHash[:]},
		{Type: mcuboot.TLVECDSA, Data: signature},
		{Type: mcuboot.TLVEncEC256, Data: sealed},
	} {
		tlvs = le.AppendUint16(tlvs, uint16(t.Type))
		tlvs = le.AppendUint16(tlvs, uint16(len(t.Data)))
		tlvs = append(tlvs, t.Data...)
	}
	out := le.AppendUint16(plain, mcuboot.MagicTLV)
	out = le.AppendUint16(out, uint16(4+len(tlvs)))
	return append(out, tlvs...), nil
}

// seal closes an image's key for a board: the sender's public key, a MAC, and
// the key in AES-CTR under keys that HKDF derives from the shared secret.
func seal(secret []byte, to *ecdh.PublicKey) ([]byte, error) {
	sender, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	shared, err := sender.ECDH(to)
	if err != nil {
		return nil, err
	}
	derived, err := hkdf.Key(sha256.New, shared, nil, "MCUBoot_ECIES_v1", len(secret)+sha256.Size)
	if err != nil {
		return nil, err
	}
	sealed := bytes.Clone(secret)
	if err := ctr(derived[:len(secret)], sealed); err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, derived[len(secret):])
	mac.Write(sealed)
	return append(append(sender.PublicKey().Bytes(), mac.Sum(nil)...), sealed...), nil
}

// ctr encrypts in place, from counter zero.
func ctr(key, data []byte) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	cipher.NewCTR(block, make([]byte, aes.BlockSize)).XORKeyStream(data, data)
	return nil
}

// pack makes a package of images, as the nRF Connect SDK builds its
// dfu_application.zip.
func pack(fws []firmware, images [][]byte) ([]byte, error) {
	type entry struct {
		File  string `json:"file"`
		Size  int    `json:"size"`
		Image string `json:"image_index"`
		Type  string `json:"type"`
	}
	manifest := struct {
		Format int     `json:"format-version"`
		Time   int     `json:"time"`
		Files  []entry `json:"files"`
	}{Format: 1, Time: 1}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	add := func(name string, data []byte) error {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	}
	for i, fw := range fws {
		name := fmt.Sprintf("image%d.signed.bin", fw.number)
		manifest.Files = append(manifest.Files, entry{name, len(images[i]), fmt.Sprint(fw.number), "application"})
		if err := add(name, images[i]); err != nil {
			return nil, fmt.Errorf("making a package: %w", err)
		}
	}
	text, err := json.Marshal(manifest)
	if err == nil {
		err = add("manifest.json", text)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("making a package: %w", err)
	}
	return b.Bytes(), nil
}

// mark is what the trailer behind an image says.
type mark int

const (
	unmarked mark = iota
	onTrial       // to be swapped in for one start (imgtool --pad)
	forGood       // to stay (imgtool --pad --confirm)
)

// held is what a slot of a board holds before the station comes.
type held struct {
	firmware
	mark mark
}

// contents fills the slots of a board.
func (f *forge) contents(o sim.Options, slots map[int]held) (map[int][]byte, error) {
	all := map[int][]byte{}
	for n, h := range slots {
		image, err := f.build(h.firmware)
		if err != nil {
			return nil, err
		}
		if h.mark != unmarked {
			layout := mcuboot.TrailerLayout{MaxAlign: max(8, o.Part.WriteSize), WriteSize: o.Part.WriteSize, MaxSectors: o.SlotSize / o.Part.SectorSize}
			if image, err = layout.Pad(image, o.SlotSize, h.mark == forGood); err != nil {
				return nil, err
			}
		}
		all[n] = image
	}
	return all, nil
}
