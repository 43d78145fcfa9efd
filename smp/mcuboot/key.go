package mcuboot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// PublicKey is a key that an image's signature can be verified with: ECDSA on
// P-256 or P-384, Ed25519, RSA with 2048 or 3072 bits, which is all that
// MCUboot takes.
type PublicKey struct {
	key crypto.PublicKey
	sig TLVType
	// der is the key as imgtool writes it into a bootloader, which is what
	// KEYHASH is the hash of: PKCS #1 for RSA, SubjectPublicKeyInfo for others.
	der []byte
}

// LoadPublicKey reads a public key in PEM, as "imgtool getpub -e pem" writes
// it.
func LoadPublicKey(pemBytes []byte) (*PublicKey, error) {
	block, rest := pem.Decode(pemBytes)
	if block == nil {
		return nil, errors.New(`public key: no PEM found; write the key with "imgtool getpub -e pem"`)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, errors.New("public key: the file holds more than one PEM block; give each key its own file")
	}
	var key crypto.PublicKey
	var err error
	switch {
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return nil, errors.New(`public key: this is a private key, which does not belong here; write its public half with "imgtool getpub -e pem"`)
	case block.Type == "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case block.Type == "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, fmt.Errorf(`public key: the PEM block is a %q; write the key with "imgtool getpub -e pem"`, block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return NewPublicKey(key)
}

// NewPublicKey returns the key for a standard library key: *ecdsa.PublicKey,
// ed25519.PublicKey or *rsa.PublicKey.
func NewPublicKey(key crypto.PublicKey) (*PublicKey, error) {
	k := &PublicKey{key: key}
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return nil, fmt.Errorf("public key: curve %s; MCUboot takes P-256 and P-384", key.Curve.Params().Name)
		}
		k.sig = TLVECDSA
	case ed25519.PublicKey:
		k.sig = TLVEd25519
	case *rsa.PublicKey:
		switch bits := key.N.BitLen(); bits {
		case 2048:
			k.sig = TLVRSA2048
		case 3072:
			k.sig = TLVRSA3072
		default:
			return nil, fmt.Errorf("public key: RSA with %d bits; MCUboot takes 2048 and 3072", bits)
		}
		k.der = x509.MarshalPKCS1PublicKey(key)
		return k, nil
	default:
		return nil, fmt.Errorf("public key: %T; MCUboot takes ECDSA, Ed25519 and RSA", key)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	k.der = der
	return k, nil
}

// Public returns the key as the standard library knows it: *ecdsa.PublicKey,
// ed25519.PublicKey or *rsa.PublicKey.
func (k *PublicKey) Public() crypto.PublicKey { return k.key }

// Algorithm returns the key's kind: "ECDSA P-256", "Ed25519", "RSA 2048".
func (k *PublicKey) Algorithm() string {
	switch key := k.key.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	}
	return "Ed25519"
}

// Fingerprint returns the SHA-256 of the key as MCUboot holds it, in hex: the
// KEYHASH of the images that it signs, as long as those are hashed with
// SHA-256.
func (k *PublicKey) Fingerprint() string { return hex.EncodeToString(sum(crypto.SHA256, k.der)) }

// String returns the algorithm and the start of the fingerprint, for a person
// to tell keys apart.
func (k *PublicKey) String() string { return k.Algorithm() + " " + k.Fingerprint()[:16] }

// matchesHash reports whether keyHash is the hash of the key. An image's
// KEYHASH is made with its image hash's function, so the length tells which.
func (k *PublicKey) matchesHash(keyHash []byte) bool {
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if len(keyHash) == h.Size() {
			return bytes.Equal(keyHash, sum(h, k.der))
		}
	}
	return false
}

// hash returns the function that imgtool hashes an image with for this kind of
// key unless told otherwise.
func (k *PublicKey) hash() TLVType {
	if key, ok := k.key.(*ecdsa.PublicKey); ok && key.Curve == elliptic.P384() {
		return TLVSHA384
	}
	return TLVSHA256
}

// verify reports whether sig is the key's signature of message, which is the
// digest made with h or, for a pure signature, the signed bytes themselves.
func (k *PublicKey) verify(h crypto.Hash, message, sig []byte) bool {
	switch key := k.key.(type) {
	case *ecdsa.PublicKey:
		// MCUboot before 1.5 wanted signatures of one length, and imgtool's
		// --pad-sig still appends zeros to the ASN.1, whose own length (always
		// below 128 here) tells where it ends.
		if len(sig) >= 2 && int(sig[1])+2 < len(sig) && len(bytes.Trim(sig[int(sig[1])+2:], "\x00")) == 0 {
			sig = sig[:int(sig[1])+2]
		}
		return ecdsa.VerifyASN1(key, message, sig)
	case ed25519.PublicKey:
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(key, message, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPSS(key, h, message, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	}
	return false
}

// sum hashes with one of the three functions of image hashes.
func sum(h crypto.Hash, parts ...[]byte) []byte {
	w := h.New()
	for _, p := range parts {
		w.Write(p)
	}
	return w.Sum(nil)
}
