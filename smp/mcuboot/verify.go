package mcuboot

import (
	"bytes"
	"crypto"
	_ "crypto/sha256" // image hash TLV 0x10
	_ "crypto/sha512" // image hash TLVs 0x11 and 0x12
	"fmt"
)

// HashStatus is what became of recomputing an image's hash.
type HashStatus int

// The outcomes of recomputing a hash.
const (
	HashMissing   HashStatus = iota // the image has no hash TLV
	HashMatches                     // the content is what was signed
	HashDiffers                     // the content is damaged or was changed
	HashEncrypted                   // the hash is over the plain body, which the file does not hold
)

// String returns a word or two for a person.
func (s HashStatus) String() string {
	switch s {
	case HashMissing:
		return "no hash"
	case HashMatches:
		return "matches"
	case HashDiffers:
		return "does not match"
	}
	return "not checkable, image encrypted"
}

// SignatureStatus is what became of checking an image's signature.
type SignatureStatus int

// The outcomes of checking a signature.
const (
	SignatureAbsent      SignatureStatus = iota // the image carries none
	SignatureOtherKey                           // it names another key, or is of another kind than the key
	SignatureUncheckable                        // it is over the plain body of an encrypted image
	SignatureWrong                              // it is meant for this key and does not fit
	SignatureVerified
)

// String returns a word or two for a person.
func (s SignatureStatus) String() string {
	switch s {
	case SignatureAbsent:
		return "not signed"
	case SignatureOtherKey:
		return "signed with another key"
	case SignatureUncheckable:
		return "not checkable, image encrypted"
	case SignatureVerified:
		return "verified"
	}
	return "wrong"
}

// signed is what the hash is made of and a pure signature is over: header,
// body and protected TLVs (bootutil_img_hash in bootutil_img_hash.c).
func (m *Image) signed() []byte { return m.data[:m.TLVs.Offset] }

// CheckHash recomputes the image's hash and compares it with the hash TLV. An
// encrypted image's hash is over its plain body, so it can be checked only if
// the body was left plain (imgtool's --clear); otherwise the TLV must be
// trusted, which a verified signature allows.
func (m *Image) CheckHash() HashStatus {
	t, want := m.hashTLV()
	switch {
	case want == nil:
		return HashMissing
	case bytes.Equal(sum(t.hash(), m.signed()), want):
		return HashMatches
	case m.Encrypted():
		return HashEncrypted
	}
	return HashDiffers
}

// CheckSignature verifies the image's signature with the key. Like MCUboot, it
// takes the signatures one by one: each belongs to the KEYHASH or PUBKEY TLV
// before it, and one good signature is enough. Without such a TLV, as for
// bootloaders with MCUBOOT_BUILTIN_KEY, a signature is tried with whatever key
// is given, so that SignatureWrong may then mean another key.
//
// The signature of an encrypted image is checked against the hash TLV, since
// what that hash was made of is not in the file. The key must not be nil.
func (m *Image) CheckSignature(key *PublicKey) SignatureStatus {
	hashType, digest := m.hashTLV()
	if hashType == 0 {
		hashType = key.hash()
	}
	if m.CheckHash() != HashEncrypted {
		// Never the stored hash where the real one can be had: else a file with
		// a damaged body would still be "verified".
		digest = sum(hashType.hash(), m.signed())
	}
	pure := m.pure()
	status := SignatureAbsent
	ours := true
	for _, t := range m.TLVs.TLVs {
		switch t.Type {
		case TLVKeyHash:
			ours = key.matchesHash(t.Data)
		case TLVPublicKey:
			ours = bytes.Equal(t.Data, key.der)
		case TLVRSA2048, TLVRSA3072, TLVECDSA, TLVEd25519:
			got := SignatureOtherKey
			switch {
			case !ours || t.Type != key.sig:
			case pure && m.CheckHash() == HashEncrypted:
				got = SignatureUncheckable
			case pure && key.verify(crypto.Hash(0), m.signed(), t.Data),
				!pure && key.verify(hashType.hash(), digest, t.Data):
				return SignatureVerified
			default:
				got = SignatureWrong
			}
			status = max(status, got)
		}
	}
	return status
}

// SignatureTypes returns imgtool's names of the signatures the image carries,
// as "ECDSASIG"; none for an unsigned image.
func (m *Image) SignatureTypes() []string {
	var names []string
	for _, t := range m.TLVs.TLVs {
		switch t.Type {
		case TLVRSA2048, TLVRSA3072, TLVECDSA, TLVEd25519:
			names = append(names, t.Type.Name())
		}
	}
	return names
}

// pure reports whether the signature is over the image instead of its hash.
// Only Ed25519 has that form (bootutil_check_for_pure in image_validate.c).
func (m *Image) pure() bool {
	v, ok := m.TLVs.Find(TLVPure)
	return ok && len(v) == 1 && v[0] == 1
}

// VerifyError says why an image must not be loaded.
type VerifyError struct {
	Version   Version
	Hash      HashStatus
	Signature SignatureStatus // meaningful if a key was given
	Key       *PublicKey      // the key given, or nil
	Legacy    bool            // the image is from before MCUboot 1.0
	keyHash   []byte
}

func (e *VerifyError) Error() string {
	image := "image " + e.Version.String()
	switch {
	case e.Legacy:
		return image + " is from before MCUboot 1.0 and would not boot; sign it again with a current imgtool"
	case e.Hash == HashDiffers:
		return image + " does not match its own hash: the file is damaged; copy it again from the build"
	case e.Hash == HashMissing:
		return image + " carries no hash, so no device could prove that it holds it; sign it again with a current imgtool"
	case e.Signature == SignatureAbsent:
		return fmt.Sprintf("%s is not signed, expected a signature by key %s; sign it with imgtool", image, e.Key)
	case e.Signature == SignatureOtherKey && len(e.keyHash) >= 8:
		return fmt.Sprintf("%s is signed with another key (key hash %x) than %s; use the release build, or the key that goes with this one", image, e.keyHash[:8], e.Key)
	case e.Signature == SignatureOtherKey:
		return fmt.Sprintf("%s is signed with another key than %s; use the release build, or the key that goes with this one", image, e.Key)
	case e.Signature == SignatureUncheckable:
		return image + " is encrypted and its signature is over the plain firmware, so only the device can check it; check the image before it is encrypted"
	}
	return fmt.Sprintf("%s: the signature is wrong for key %s: the file is damaged or forged; copy it again from the build", image, e.Key)
}

// Verify reports whether the image may be loaded onto boards that trust the
// key: of a kind that boots, its content as hashed, its signature by the key.
// With a nil key the signature is not looked at. The error is a
// [*VerifyError].
//
// An encrypted image passes by its signature alone ([Image.CheckHash]); with a
// nil key nothing about it can be checked and it passes.
func (m *Image) Verify(key *PublicKey) error {
	e := &VerifyError{Version: m.Header.Version, Hash: m.CheckHash(), Key: key, Legacy: m.Header.Legacy(), keyHash: m.KeyHash()}
	good := !e.Legacy && (e.Hash == HashMatches || e.Hash == HashEncrypted)
	if key != nil {
		e.Signature = m.CheckSignature(key)
		good = good && e.Signature == SignatureVerified
	}
	if good {
		return nil
	}
	return e
}
