package mcuboot_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flashline/smp/mcuboot"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func key(t testing.TB, name string) *mcuboot.PublicKey {
	t.Helper()
	k, err := mcuboot.LoadPublicKey(read(t, name+".pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func parse(t testing.TB, data []byte) *mcuboot.Image {
	t.Helper()
	m, err := mcuboot.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// genuine lists every image in testdata with what imgtool verify says of it,
// or would say if it knew encrypted images.
var genuine = []struct {
	file, key string
	hash      mcuboot.HashStatus
	signature mcuboot.SignatureStatus
	tail      mcuboot.Tail
}{
	{"images/app-1.0.0.ecdsa-p256", "images/ecdsa-p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"images/app-1.1.0+7.ecdsa-p256", "images/ecdsa-p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"images/app-2.0.0.ed25519", "images/ed25519", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"images/app-2.1.0.rsa-2048", "images/rsa-2048", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"images/app-2.2.0.rsa-3072", "images/rsa-3072", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"images/app-2.3.0.ecdsa-p384", "images/ecdsa-p384", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"images/app-2.4.0.unsigned-sha256", "images/ecdsa-p256", mcuboot.HashMatches, mcuboot.SignatureAbsent, mcuboot.TailNone},
	{"images/app-3.0.0.protected-tlvs", "images/ecdsa-p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"images/app-3.1.0.padded-confirmed", "images/ecdsa-p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailTrailer},
	{"images/app-3.2.0.encrypted", "images/ecdsa-p256", mcuboot.HashEncrypted, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"images/net-1.2.3.ecdsa-p256", "images/ecdsa-p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},

	{"more/pure-ed25519", "more/ed25519", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"more/sha512-ed25519", "more/ed25519", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"more/full-key-p256", "more/p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"more/full-key-rsa", "more/rsa", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"more/pad-sig-p256", "more/p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"more/align16-confirmed-p256", "more/p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailTrailer},
	{"more/align32-test-p256", "more/p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailTrailer},
	{"more/align8-padded-p256", "more/p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailTrailer},
	{"more/erased0-maxalign32-p256", "more/p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailTrailer},
	{"more/overwrite-padded-p256", "more/p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailTrailer},
	{"more/encrypted-x25519-padded-ed25519", "more/ed25519", mcuboot.HashEncrypted, mcuboot.SignatureVerified, mcuboot.TailTrailer},
	{"more/clear-x25519-ed25519", "more/ed25519", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"more/everything-p256", "more/p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
	{"more/unsigned-sha384", "more/p256", mcuboot.HashMatches, mcuboot.SignatureAbsent, mcuboot.TailNone},
	{"more/unsigned-sha512", "more/p256", mcuboot.HashMatches, mcuboot.SignatureAbsent, mcuboot.TailNone},
	{"more/junk-behind-p256", "more/p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailUnknown},
	{"more/lzma2-p256", "more/p256", mcuboot.HashMatches, mcuboot.SignatureVerified, mcuboot.TailNone},
}

func TestGenuineImages(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.bin")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(genuine) {
		t.Errorf("%d images in testdata, %d in the table", len(files), len(genuine))
	}
	for _, g := range genuine {
		t.Run(g.file, func(t *testing.T) {
			data := read(t, g.file+".bin")
			m := parse(t, data)

			// What imgtool says of the same file, field by field.
			got, err := json.Marshal(m.Info(filepath.Base(g.file) + ".bin"))
			if err != nil {
				t.Fatal(err)
			}
			var gotInfo, wantInfo any
			if err := errors.Join(json.Unmarshal(got, &gotInfo), json.Unmarshal(read(t, g.file+".json"), &wantInfo)); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(wantInfo, gotInfo); d != "" {
				t.Errorf("differs from imgtool dumpinfo (-imgtool +ours):\n%s", d)
			}

			k := key(t, g.key)
			if got := m.CheckHash(); got != g.hash {
				t.Errorf("hash %s, want %s", got, g.hash)
			}
			if got := m.CheckSignature(k); got != g.signature {
				t.Errorf("signature %s, want %s", got, g.signature)
			}
			if err := m.Verify(k); (err == nil) != (g.signature == mcuboot.SignatureVerified) {
				t.Errorf("Verify: %v", err)
			}
			if err := m.Verify(nil); err != nil {
				t.Errorf("Verify without a key: %v", err)
			}

			if m.Tail() != g.tail || m.Padded() != (g.tail != mcuboot.TailNone) || (m.Trailer != nil) != (g.tail == mcuboot.TailTrailer) {
				t.Errorf("tail %q, padded %t, trailer %+v; want tail %q", m.Tail(), m.Padded(), m.Trailer, g.tail)
			}
			s := parse(t, m.Stripped())
			if s.Padded() || !bytes.Equal(s.Hash(), m.Hash()) || !bytes.HasPrefix(data, s.Bytes()) {
				t.Error("the stripped image is not the same image without its tail")
			}
			if s.Verify(k) == nil != (m.Verify(k) == nil) {
				t.Error("stripping changes what Verify says")
			}
		})
	}
}

func TestImageAccessors(t *testing.T) {
	m := parse(t, read(t, "more/everything-p256.bin"))
	if got, want := m.Header.Version, (mcuboot.Version{Major: 255, Minor: 255, Revision: 65535, Build: 4294967295}); got != want {
		t.Errorf("version %s, want %s", got, want)
	}
	if got, want := m.Header.Flags.String(), "NON_BOOTABLE|RAM_LOAD"; got != want {
		t.Errorf("flags %s, want %s", got, want)
	}
	if len(m.Body()) != 300 {
		t.Errorf("body of %d bytes, want 300", len(m.Body()))
	}
	if v, ok := m.Protected.Find(0xa0); !ok || string(v) != "hello" {
		t.Errorf("TLV 0xa0 is %q, %t, want hello", v, ok)
	}
	if v, ok := m.TLVs.Find(mcuboot.TLVDependency); ok {
		t.Errorf("a DEPENDENCY in the unprotected area: %x", v)
	}
	if !parse(t, read(t, "more/lzma2-p256.bin")).Compressed() || m.Compressed() || m.Encrypted() {
		t.Error("wrong about compression or encryption")
	}
	if got, want := parse(t, read(t, "images/app-1.0.0.ecdsa-p256.bin")).KeyHash(), key(t, "images/ecdsa-p256").Fingerprint(); want != hex.EncodeToString(got) {
		t.Errorf("KEYHASH %x, fingerprint of the key %s", got, want)
	}
	if parse(t, read(t, "more/full-key-p256.bin")).KeyHash() != nil {
		t.Error("a KEYHASH in an image that carries the whole key")
	}
}

func TestDependencies(t *testing.T) {
	for file, want := range map[string][]mcuboot.Dependency{
		"more/everything-p256": {
			{Image: 1, Min: mcuboot.Version{Major: 1, Minor: 2, Revision: 3, Build: 4}},
			{Image: 2, Min: mcuboot.Version{Minor: 1}},
		},
		"images/app-3.0.0.protected-tlvs": {{Image: 1, Min: mcuboot.Version{Major: 1, Minor: 2, Revision: 3}}},
		"images/app-1.0.0.ecdsa-p256":     nil,
	} {
		if d := cmp.Diff(want, parse(t, read(t, file+".bin")).Dependencies()); d != "" {
			t.Errorf("%s (-want +got):\n%s", file, d)
		}
	}

	dependency := func(data ...byte) mcuboot.TLV { return mcuboot.TLV{Type: mcuboot.TLVDependency, Data: data} }
	build := func(t *testing.T, tlvs ...mcuboot.TLV) []byte {
		data, err := mcuboot.Build(mcuboot.BuildOptions{Body: []byte("firmware"), HeaderSize: 32, Protected: tlvs})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	good := dependency(255, 7, 7, 7, 255, 254, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	want := []mcuboot.Dependency{{Image: 255, Min: mcuboot.Version{Major: 255, Minor: 254, Revision: 65535, Build: 1<<32 - 1}}}
	if d := cmp.Diff(want, parse(t, build(t, good)).Dependencies()); d != "" {
		t.Errorf("the largest numbers (-want +got):\n%s", d)
	}
	// One that lies in the unprotected area is told, too.
	image := build(t, good)
	m := parse(t, image)
	moved := append(bytes.Clone(image[:m.TLVs.Offset]), 0x07, 0x69, byte(m.TLVs.Size+16), 0, 0x40, 0, 12, 0)
	moved = append(append(moved, good.Data...), image[m.TLVs.Offset+4:]...)
	if got := parse(t, moved).Dependencies(); len(got) != 2 || got[1] != got[0] {
		t.Errorf("with one in each area: %+v", got)
	}

	for _, n := range []int{0, 4, 11, 13} {
		_, err := mcuboot.Parse(build(t, good, dependency(make([]byte, n)...)))
		var fe *mcuboot.FormatError
		if !errors.As(err, &fe) || fe.Found != fmt.Sprint(n) || fe.Want != "12" || fe.Offset != 32+8+4+16+2 {
			t.Errorf("a dependency of %d bytes: %v", n, err)
		}
	}
}

func TestSignatureByAnotherKey(t *testing.T) {
	tests := []struct {
		name, image, key, want string
	}{
		{"another key of the kind", "images/app-1.0.0.ecdsa-p256", "more/p256", "is signed with another key (key hash ac034c"},
		{"key of another curve", "images/app-1.0.0.ecdsa-p256", "images/ecdsa-p384", "is signed with another key"},
		{"key of another kind", "images/app-2.0.0.ed25519", "images/rsa-2048", "is signed with another key"},
		{"another whole key", "more/full-key-rsa", "images/rsa-2048", "is signed with another key than RSA 2048"},
		{"encrypted", "images/app-3.2.0.encrypted", "more/p256", "is signed with another key"},
		{"pure", "more/pure-ed25519", "images/ed25519", "is signed with another key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := parse(t, read(t, tt.image+".bin"))
			k := key(t, tt.key)
			if got := m.CheckSignature(k); got != mcuboot.SignatureOtherKey {
				t.Errorf("signature %s, want %s", got, mcuboot.SignatureOtherKey)
			}
			var ve *mcuboot.VerifyError
			if err := m.Verify(k); !errors.As(err, &ve) {
				t.Fatalf("Verify: %v", err)
			}
			if !strings.Contains(ve.Error(), tt.want) {
				t.Errorf("%q does not say %q", ve, tt.want)
			}
		})
	}
}

// TestTwoSignatures: an image may be signed for two generations of boards,
// each of which looks for its own key.
func TestTwoSignatures(t *testing.T) {
	var image, tlvs []byte
	var keys []*mcuboot.PublicKey
	for i := range 2 {
		s := signer(t, "ECDSA P-256")
		data, err := mcuboot.Build(mcuboot.BuildOptions{Body: []byte("firmware"), HeaderSize: 32, Key: s})
		if err != nil {
			t.Fatal(err)
		}
		k, err := mcuboot.NewPublicKey(s.Public())
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
		m := parse(t, data)
		image = data[:m.TLVs.Offset]
		tlvs = append(tlvs, data[m.TLVs.TLVs[i].Offset:]...) // the hash only once
	}
	image = binary.LittleEndian.AppendUint16(bytes.Clone(image), mcuboot.MagicTLV)
	image = binary.LittleEndian.AppendUint16(image, uint16(4+len(tlvs)))
	image = append(image, tlvs...)
	m := parse(t, image)
	for i, k := range keys {
		if err := m.Verify(k); err != nil {
			t.Errorf("key %d: %v", i, err)
		}
	}
	if got := m.CheckSignature(key(t, "more/p256")); got != mcuboot.SignatureOtherKey {
		t.Errorf("a third key: %s", got)
	}
	// The second signature is not the first key's to make good.
	image[len(image)-1] ^= 1
	if m.CheckSignature(keys[0]) != mcuboot.SignatureVerified || m.CheckSignature(keys[1]) != mcuboot.SignatureWrong {
		t.Errorf("second signature damaged: %s, %s", m.CheckSignature(keys[0]), m.CheckSignature(keys[1]))
	}
}

// TestVerifySentences holds what an operator reads.
func TestVerifySentences(t *testing.T) {
	for _, tt := range []struct {
		image, key string
		change     int // offset of a byte to change, if not 0
		want       string
	}{
		{"images/app-1.0.0.ecdsa-p256", "images/ecdsa-p256", 0x300,
			"image 1.0.0+0 does not match its own hash: the file is damaged; copy it again from the build"},
		{"images/app-2.4.0.unsigned-sha256", "images/ecdsa-p256", 0,
			"image 2.4.0+0 is not signed, expected a signature by key ECDSA P-256 ac034c282d6b449d; sign it with imgtool"},
		{"images/app-1.0.0.ecdsa-p256", "images/ed25519", 0,
			"image 1.0.0+0 is signed with another key (key hash ac034c282d6b449d) than Ed25519 c662f99b2bf71361; use the release build, or the key that goes with this one"},
		{"more/full-key-p256", "images/ed25519", 0,
			"image 1.0.2+9 is signed with another key than Ed25519 c662f99b2bf71361; use the release build, or the key that goes with this one"},
		{"images/app-2.0.0.ed25519", "images/ed25519", 25231,
			"image 2.0.0+0: the signature is wrong for key Ed25519 c662f99b2bf71361: the file is damaged or forged; copy it again from the build"},
	} {
		data := read(t, tt.image+".bin")
		if tt.change != 0 {
			data[tt.change] ^= 1
		}
		err := parse(t, data).Verify(key(t, tt.key))
		if err == nil || err.Error() != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
	for s, want := range map[fmt.Stringer]string{
		mcuboot.HashMatches: "matches", mcuboot.HashDiffers: "does not match", mcuboot.HashMissing: "no hash",
		mcuboot.HashEncrypted: "not checkable, image encrypted", mcuboot.SignatureWrong: "wrong",
		mcuboot.SignatureVerified: "verified", mcuboot.SignatureAbsent: "not signed",
		mcuboot.TailErased: "padding", mcuboot.TailUnknown: "unknown data", mcuboot.TailNone: "none",
		mcuboot.Flags(0x1004): "ENCRYPTED_AES128|0x1000", mcuboot.Flags(0): "0", mcuboot.TLVType(0x1a1): "0x1a1",
	} {
		if s.String() != want {
			t.Errorf("got %q, want %q", s, want)
		}
	}
}

// TestFlippedBit flips one bit of every byte in turn: no damage may go
// unnoticed, wherever it is. The one exception is the type of the key's TLV:
// without a key named, the signature is tried with the key given, as imgtool
// verify does, and it holds.
func TestFlippedBit(t *testing.T) {
	for _, name := range []string{"pure-ed25519", "sha512-ed25519", "pad-sig-p256", "full-key-rsa", "everything-p256", "align16-confirmed-p256"} {
		t.Run(name, func(t *testing.T) {
			image := read(t, "more/"+name+".bin")
			k := key(t, "more/"+name[strings.LastIndex(name, "-")+1:])
			good := parse(t, image)
			keyTLV := good.TLVs.TLVs[slices.IndexFunc(good.TLVs.TLVs, func(t mcuboot.TLV) bool {
				return t.Type == mcuboot.TLVKeyHash || t.Type == mcuboot.TLVPublicKey
			})]
			for i := range good.Stripped() {
				if i == keyTLV.Offset || i == keyTLV.Offset+1 {
					continue
				}
				bad := bytes.Clone(image)
				bad[i] ^= 1 << (i % 8)
				m, err := mcuboot.Parse(bad)
				if err != nil {
					var fe *mcuboot.FormatError
					if !errors.As(err, &fe) {
						t.Fatalf("byte %#x: %v is no FormatError", i, err)
					}
					continue
				}
				err = m.Verify(k)
				var ve *mcuboot.VerifyError
				if !errors.As(err, &ve) {
					t.Fatalf("byte %#x changed, and Verify says %v", i, err)
				}
				inSigned := i < good.TLVs.Offset
				if inSigned && ve.Hash != mcuboot.HashDiffers && ve.Hash != mcuboot.HashEncrypted {
					t.Errorf("byte %#x is hashed, changed, and the hash %s", i, ve.Hash)
				}
			}
		})
	}
}

func TestEncryptedBodyIsTheDevicesToCheck(t *testing.T) {
	data := bytes.Clone(read(t, "images/app-3.2.0.encrypted.bin"))
	data[0x300] ^= 1
	m := parse(t, data)
	if got := m.CheckHash(); got != mcuboot.HashEncrypted {
		t.Errorf("hash %s, want %s", got, mcuboot.HashEncrypted)
	}
	// The signature binds the hash, which a device compares: it must hold, and
	// must not when the hash is another.
	k := key(t, "images/ecdsa-p256")
	if err := m.Verify(k); err != nil {
		t.Error(err)
	}
	m.Hash()[0] ^= 1 // the data is this test's own
	if got := m.CheckSignature(k); got != mcuboot.SignatureWrong {
		t.Errorf("changed hash: signature %s, want %s", got, mcuboot.SignatureWrong)
	}

	// A pure signature is over the plain body.
	pure := bytes.Clone(read(t, "more/pure-ed25519.bin"))
	pure[16] |= byte(mcuboot.FlagEncryptedAES128)
	m = parse(t, pure)
	if got := m.CheckSignature(key(t, "more/ed25519")); got != mcuboot.SignatureUncheckable {
		t.Errorf("pure and encrypted: signature %s, want %s", got, mcuboot.SignatureUncheckable)
	}
	if err := m.Verify(key(t, "more/ed25519")); err == nil || !strings.Contains(err.Error(), "only the device can check it") {
		t.Errorf("pure and encrypted: %v", err)
	}
}

func TestTruncated(t *testing.T) {
	for _, name := range []string{"more/everything-p256", "more/pure-ed25519", "more/unsigned-sha384"} {
		image := parse(t, read(t, name+".bin")).Stripped()
		for n := range image {
			_, err := mcuboot.Parse(image[:n:n])
			var fe *mcuboot.FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
			if fe.Field == "" || fe.Found == "" || fe.Want == "" || fe.Offset > int64(n) {
				t.Errorf("%s cut to %d bytes: %#v", name, n, fe)
			}
		}
	}
}

func TestFormatErrors(t *testing.T) {
	le := binary.LittleEndian
	// everything-p256: header 0x20, body 300, protected area of 203 bytes at
	// 0x14c, unprotected at 0x217.
	tests := []struct {
		name   string
		change func(b []byte) []byte
		want   string
	}{
		{"empty file", func([]byte) []byte { return nil },
			"header at offset 0x0 is cut off by the end of the file, 0 bytes on, expected the 32 bytes of a header; the file is cut short: copy it again"},
		{"not an image", func(b []byte) []byte { copy(b, "firmware"); return b },
			"magic at offset 0x0 is 0x6d726966, expected 0x96f3b83d; use the .bin that imgtool signed"},
		{"zip", func(b []byte) []byte { copy(b, "PK\x03\x04"); return b },
			"magic at offset 0x0 is 0x04034b50, expected 0x96f3b83d; it is a zip: read it as a firmware package"},
		{"hex file", func(b []byte) []byte { copy(b, ":020000040000FA\r\n"); return b },
			"magic at offset 0x0 is 0x3032303a, expected 0x96f3b83d; it looks like Intel HEX: use the signed .bin from the same build"},
		{"ELF", func(b []byte) []byte { copy(b, "\x7fELF"); return b },
			"magic at offset 0x0 is 0x464c457f, expected 0x96f3b83d; it is an ELF file: use the signed .bin from the same build"},
		{"big endian", func(b []byte) []byte { binary.BigEndian.PutUint32(b, mcuboot.Magic); return b },
			"magic at offset 0x0 is 0x3db8f396, expected 0x96f3b83d; it was signed as big endian: sign it without --endian big"},
		{"unsigned build", func(b []byte) []byte { clear(b[:0x20]); return b },
			"magic at offset 0x0 is 0x00000000, expected 0x96f3b83d; its header is empty: use the signed .bin from the same build"},
		{"tiny header", func(b []byte) []byte { le.PutUint16(b[8:], 31); return b },
			"hdr_size at offset 0x8 is 31, expected at least 32"},
		{"huge header", func(b []byte) []byte { le.PutUint16(b[8:], 0xffff); return b },
			"hdr_size at offset 0x8 is 65535, expected at most 753, the size of the file; the file is cut short: copy it again"},
		{"no body", func(b []byte) []byte { le.PutUint32(b[12:], 0); return b },
			"img_size at offset 0xc is 0, expected the size of the firmware"},
		{"huge body", func(b []byte) []byte { le.PutUint32(b[12:], 0xffffffff); return b },
			"img_size at offset 0xc is 4294967295, expected at most 721, what is left of the file; the file is cut short: copy it again"},
		{"body over the TLVs", func(b []byte) []byte { le.PutUint32(b[12:], 719); return b },
			"tlv_hdr_prot at offset 0x2ef is cut off by the end of the file, 2 bytes on, expected the 4 bytes that begin the TLVs; the file is cut short: copy it again"},
		{"protected size without area", func(b []byte) []byte { le.PutUint16(b[10:], 0); return b },
			"tlv_hdr magic at offset 0x14c is 0x6908, expected 0x6907; the file is damaged, or was changed after it was signed: build it again"},
		{"protected magic", func(b []byte) []byte { le.PutUint16(b[0x14c:], 0x6907); return b },
			"tlv_hdr_prot magic at offset 0x14c is 0x6907, expected 0x6908; the file is damaged, or was changed after it was signed: build it again"},
		{"protected sizes differ", func(b []byte) []byte { le.PutUint16(b[10:], 204); return b },
			"tlv_hdr_prot tlv_tot at offset 0x14e is 203, expected 204, the header's protected_tlv_size"},
		{"area smaller than its head", func(b []byte) []byte { le.PutUint16(b[0x217+2:], 3); return b },
			"tlv_hdr tlv_tot at offset 0x219 is 3, expected at least 4, the size of the area's own head"},
		{"area beyond the file", func(b []byte) []byte { le.PutUint16(b[0x217+2:], 0xffff); return b },
			"tlv_hdr tlv_tot at offset 0x219 is 65535, expected at most 218, what is left of the file; the file is cut short: copy it again"},
		{"TLV beyond its area", func(b []byte) []byte { le.PutUint16(b[0x14c+4+2:], 500); return b },
			"length of TLV SEC_CNT at offset 0x152 is 500, expected at most 195, what is left of its area"},
		{"half a TLV", func(b []byte) []byte { le.PutUint16(b[0x217+2:], 4+36+3); return b },
			"TLV at offset 0x23f is cut off after 3 bytes by the end of its area, expected 4 bytes of type and length"},
		{"short hash", func(b []byte) []byte { b[0x217+4] = 0x11; return b },
			"length of TLV SHA384 at offset 0x21d is 32, expected 48"},
		{"two hashes", func(b []byte) []byte { b[0x217+4+36] = 0x10; return b },
			"TLV SHA256 at offset 0x23f is a second image hash after SHA256, expected one hash only"},
		{"protected hash", func(b []byte) []byte { b[0x14c+4] = 0x10; return b },
			"TLV SHA256 at offset 0x150 is in the protected area, which it would have to cover, expected the image hash in the unprotected area"},
		{"trailer over the image", func(b []byte) []byte { m := mcuboot.MagicTrailer(8); return append(b, m[:]...) },
			"trailer at offset 0x2f1 is 16 bytes, over the end of the image, expected at least 32 behind it for alignment 8"},
		{"odd alignment", func(b []byte) []byte {
			m := mcuboot.MagicTrailer(24)
			return append(b, append(bytes.Repeat([]byte{0xff}, 500), m[:]...)...)
		}, "alignment in the trailer magic at offset 0x4e5 is 24, expected a power of two from 16 to 4096"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := read(t, "more/everything-p256.bin")
			// The signature's length is random by a byte or two; the offsets above
			// the sizes of the file must not be.
			m := parse(t, base)
			sig := m.TLVs.TLVs[len(m.TLVs.TLVs)-1]
			base = append(base[:sig.Offset+4:sig.Offset+4], make([]byte, 138)...)
			le.PutUint16(base[sig.Offset+2:], 138)
			le.PutUint16(base[m.TLVs.Offset+2:], uint16(len(base)-m.TLVs.Offset))
			_, err := mcuboot.Parse(tt.change(base))
			var fe *mcuboot.FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("got %v", err)
			}
			if want := "not a usable MCUboot image: " + tt.want; err.Error() != want {
				t.Errorf("got  %s\nwant %s", err, want)
			}
		})
	}
}

func TestTails(t *testing.T) {
	image := read(t, "more/everything-p256.bin")
	for name, tt := range map[string]struct {
		tail []byte
		want mcuboot.Tail
	}{
		"nothing":       {nil, mcuboot.TailNone},
		"erased":        {bytes.Repeat([]byte{0xff}, 100), mcuboot.TailErased},
		"erased to 0":   {make([]byte, 100), mcuboot.TailErased},
		"one byte":      {[]byte{0xff}, mcuboot.TailErased},
		"other data":    {[]byte("something else"), mcuboot.TailUnknown},
		"other filling": {bytes.Repeat([]byte{0xaa}, 100), mcuboot.TailUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			m := parse(t, append(bytes.Clone(image), tt.tail...))
			if m.Tail() != tt.want || m.Trailer != nil || m.Padded() != (len(tt.tail) > 0) {
				t.Errorf("tail %q, padded %t, trailer %v, want tail %q", m.Tail(), m.Padded(), m.Trailer, tt.want)
			}
			if !bytes.Equal(m.Stripped(), image) {
				t.Error("Stripped is not the image")
			}
		})
	}
}

// TestOldMagic: images from before MCUboot 1.0 are read, and never loaded.
func TestOldMagic(t *testing.T) {
	data := bytes.Clone(read(t, "more/unsigned-sha384.bin"))
	data[0]--
	m := parse(t, data)
	if !m.Header.Legacy() || m.Header.Magic != mcuboot.MagicV1 {
		t.Errorf("header %+v is not seen as old", m.Header)
	}
	if err := m.Verify(nil); err == nil || !strings.Contains(err.Error(), "before MCUboot 1.0") {
		t.Errorf("Verify: %v", err)
	}
}

func TestImageWithoutHash(t *testing.T) {
	data := bytes.Clone(read(t, "more/unsigned-sha384.bin"))
	m := parse(t, data)
	data[m.TLVs.TLVs[0].Offset] = 0xa0
	m = parse(t, data)
	if m.Hash() != nil || m.CheckHash() != mcuboot.HashMissing {
		t.Errorf("hash %x, %s", m.Hash(), m.CheckHash())
	}
	if err := m.Verify(nil); err == nil || !strings.Contains(err.Error(), "carries no hash") {
		t.Errorf("Verify: %v", err)
	}
}

func TestDetect(t *testing.T) {
	for _, tt := range []struct {
		data string
		want mcuboot.Kind
	}{
		{"\x3d\xb8\xf3\x96rest", mcuboot.KindImage},
		{"\x3c\xb8\xf3\x96", mcuboot.KindImage},
		{"PK\x03\x04rest", mcuboot.KindPackage},
		{"PK\x05\x06", mcuboot.KindPackage},
		{"PK", mcuboot.KindUnknown},
		{"", mcuboot.KindUnknown},
		{":10000000", mcuboot.KindUnknown},
	} {
		if got := mcuboot.Detect([]byte(tt.data)); got != tt.want {
			t.Errorf("Detect(%q) = %v, want %v", tt.data, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, g := range genuine {
		if strings.HasPrefix(g.file, "more/") || g.file == "images/net-1.2.3.ecdsa-p256" {
			f.Add(read(f, g.file+".bin"))
		}
	}
	k := key(f, "more/p256")
	known := map[string]bool{} // what the owner of the key has signed
	for _, g := range genuine {
		if m := parse(f, read(f, g.file+".bin")); m.CheckSignature(k) == mcuboot.SignatureVerified {
			known[string(m.Bytes()[:m.TLVs.Offset])] = true
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := mcuboot.Parse(data)
		if err != nil {
			var fe *mcuboot.FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("%v is no FormatError", err)
			}
			return
		}
		if m.CheckSignature(k) == mcuboot.SignatureVerified && !m.Encrypted() && !known[string(data[:m.TLVs.Offset])] {
			t.Error("verified what no one has signed")
		}
		if s := m.Stripped(); !bytes.HasPrefix(data, s) || m.Padded() != (len(s) < len(data)) {
			t.Error("Stripped is not the start of the file")
		}
		if s := parse(t, m.Stripped()); !bytes.Equal(s.Hash(), m.Hash()) || s.Tail() != mcuboot.TailNone {
			t.Error("the stripped image is another one")
		}
		if h := m.Hash(); h != nil && len(h) != 32 && len(h) != 48 && len(h) != 64 {
			t.Errorf("hash of %d bytes", len(h))
		}
		if _, err := json.Marshal(m.Info("x")); err != nil {
			t.Error(err)
		}
	})
}
