package mcuboot

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"math"
)

// BuildOptions says what image to build.
type BuildOptions struct {
	Version Version
	Body    []byte // the firmware; at least 1 byte
	// HeaderSize is the space from the start of the image to the body: 32 to
	// 65535, 0 is 0x200, which Zephyr's boards use most.
	HeaderSize int
	LoadAddr   uint32
	Flags      Flags // not the encryption and compression flags: Build does neither
	// Protected are the TLVs of the protected area, in order; their Offset is
	// not looked at.
	Protected []TLV
	// Key signs the image: ECDSA on P-256 or P-384, Ed25519, RSA with 2048 or
	// 3072 bits. Nil leaves it unsigned, with a hash only.
	Key crypto.Signer
	// Pure signs the image instead of its hash; Ed25519 only.
	Pure bool
}

// Build makes an image for simulations and tests, laid out and signed as
// imgtool does, so that imgtool verifies it. It knows none of imgtool's
// encryption, compression and boot records, and makes no padding (see
// [TrailerLayout.Pad]): production images come from imgtool.
//
// The same options give the same bytes, but for RSA keys and for ECDSA keys
// that are no *ecdsa.PrivateKey.
func Build(o BuildOptions) ([]byte, error) {
	if o.HeaderSize == 0 {
		o.HeaderSize = 0x200
	}
	switch {
	case o.HeaderSize < HeaderSize || o.HeaderSize > math.MaxUint16:
		return nil, fmt.Errorf("build image: header of %d bytes is not from %d to %d", o.HeaderSize, HeaderSize, math.MaxUint16)
	case len(o.Body) == 0 || uint64(len(o.Body)) > math.MaxUint32:
		return nil, fmt.Errorf("build image: body of %d bytes is not from 1 to %d", len(o.Body), uint32(math.MaxUint32))
	case o.Flags&(FlagEncryptedAES128|FlagEncryptedAES256|FlagLZMA1|FlagLZMA2|FlagARMThumb) != 0:
		return nil, fmt.Errorf("build image: flags %s need imgtool", o.Flags)
	}
	protected, err := appendTLVArea(nil, MagicProtectedTLV, o.Protected)
	if err != nil {
		return nil, err
	}

	le := binary.LittleEndian
	image := make([]byte, o.HeaderSize, o.HeaderSize+len(o.Body)+len(protected)+1024)
	le.PutUint32(image, Magic)
	le.PutUint32(image[4:], o.LoadAddr)
	le.PutUint16(image[8:], uint16(o.HeaderSize))
	le.PutUint16(image[10:], uint16(len(protected)))
	le.PutUint32(image[12:], uint32(len(o.Body)))
	le.PutUint32(image[16:], uint32(o.Flags))
	image[20], image[21] = o.Version.Major, o.Version.Minor
	le.PutUint16(image[22:], o.Version.Revision)
	le.PutUint32(image[24:], o.Version.Build)
	image = append(image, o.Body...)
	image = append(image, protected...)

	tlvs, err := signatureTLVs(o, image)
	if err != nil {
		return nil, err
	}
	return appendTLVArea(image, MagicTLV, tlvs)
}

// signatureTLVs returns hash, key and signature of image, in imgtool's order.
func signatureTLVs(o BuildOptions, image []byte) ([]TLV, error) {
	if o.Key == nil {
		if o.Pure {
			return nil, fmt.Errorf("build image: a pure signature needs a key")
		}
		return []TLV{{Type: TLVSHA256, Data: sum(crypto.SHA256, image)}}, nil
	}
	key, err := NewPublicKey(o.Key.Public())
	if err != nil {
		return nil, fmt.Errorf("build image: %w", err)
	}
	if _, ok := key.key.(ed25519.PublicKey); o.Pure && !ok {
		return nil, fmt.Errorf("build image: a pure signature needs an Ed25519 key, not %s", key.Algorithm())
	}
	hashType := key.hash()
	if o.Pure {
		hashType = TLVSHA512
	}
	h := hashType.hash()
	digest := sum(h, image)
	tlvs := []TLV{{Type: hashType, Data: digest}}
	message, opts, random := digest, crypto.SignerOpts(h), rand.Reader
	switch key.key.(type) {
	case ed25519.PublicKey:
		opts = crypto.Hash(0)
	case *rsa.PublicKey:
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}
	}
	if _, ok := o.Key.(*ecdsa.PrivateKey); ok {
		random = nil // deterministic, RFC 6979
	}
	if o.Pure {
		tlvs = append(tlvs, TLV{Type: TLVPure, Data: []byte{1}})
		message = image
	}
	sig, err := o.Key.Sign(random, message, opts)
	if err != nil {
		return nil, fmt.Errorf("build image: sign: %w", err)
	}
	return append(tlvs,
		TLV{Type: TLVKeyHash, Data: sum(h, key.der)},
		TLV{Type: key.sig, Data: sig},
	), nil
}

// appendTLVArea appends an area with the TLVs, nothing if there are none.
func appendTLVArea(b []byte, magic uint16, tlvs []TLV) ([]byte, error) {
	if len(tlvs) == 0 {
		return b, nil
	}
	size := tlvInfoSize
	for _, t := range tlvs {
		size += tlvEntrySize + len(t.Data)
		if size > math.MaxUint16 {
			return nil, fmt.Errorf("build image: TLVs take more than the %d bytes of an area", math.MaxUint16)
		}
	}
	le := binary.LittleEndian
	b = le.AppendUint16(b, magic)
	b = le.AppendUint16(b, uint16(size))
	for _, t := range tlvs {
		b = le.AppendUint16(b, uint16(t.Type))
		b = le.AppendUint16(b, uint16(len(t.Data)))
		b = append(b, t.Data...)
	}
	return b, nil
}
