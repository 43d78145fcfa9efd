package mcuboot_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"flashline/smp/mcuboot"
)

// signer makes a throwaway key of one of the kinds that MCUboot takes.
func signer(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var k crypto.Signer
	var err error
	switch kind {
	case "ECDSA P-256":
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSA P-384":
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "Ed25519":
		_, k, err = ed25519.GenerateKey(rand.Reader)
	case "RSA 2048":
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	case "RSA 3072":
		k, err = rsa.GenerateKey(rand.Reader, 3072)
	default:
		t.Fatalf("no keys of kind %s", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestBuild(t *testing.T) {
	version := mcuboot.Version{Major: 1, Minor: 2, Revision: 3, Build: 4}
	counter := mcuboot.TLV{Type: mcuboot.TLVSecurityCount, Data: []byte{7, 0, 0, 0}}
	for _, name := range []string{"ECDSA P-256", "ECDSA P-384", "Ed25519", "RSA 2048", "RSA 3072"} {
		signer := signer(t, name)
		for _, pure := range []bool{false, true} {
			if pure && name != "Ed25519" {
				continue
			}
			data, err := mcuboot.Build(mcuboot.BuildOptions{
				Version: version, Body: []byte("firmware"), LoadAddr: 0x1000, Flags: mcuboot.FlagROMFixed,
				Protected: []mcuboot.TLV{counter}, Key: signer, Pure: pure,
			})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			m := parse(t, data)
			h := m.Header
			if h.Version != version || h.Size != 0x200 || h.LoadAddr != 0x1000 || h.Flags != mcuboot.FlagROMFixed || string(m.Body()) != "firmware" || m.Padded() {
				t.Errorf("%s: header %+v, body %q", name, h, m.Body())
			}
			if v, ok := m.Protected.Find(mcuboot.TLVSecurityCount); !ok || !bytes.Equal(v, counter.Data) {
				t.Errorf("%s: security counter %x", name, v)
			}
			k, err := mcuboot.NewPublicKey(signer.Public())
			if err != nil {
				t.Fatal(err)
			}
			if k.Algorithm() != name {
				t.Errorf("algorithm %s, want %s", k.Algorithm(), name)
			}
			if err := m.Verify(k); err != nil {
				t.Errorf("%s, pure %t: %v", name, pure, err)
			}
			data[0x203] ^= 1
			if got := m.CheckSignature(k); got != mcuboot.SignatureWrong {
				t.Errorf("%s, pure %t: changed body, signature %s", name, pure, got)
			}
		}
	}
}

func TestBuildIsRepeatable(t *testing.T) {
	for _, name := range []string{"ECDSA P-256", "ECDSA P-384", "Ed25519"} {
		o := mcuboot.BuildOptions{Body: []byte("firmware"), HeaderSize: 32, Key: signer(t, name)}
		a, err := mcuboot.Build(o)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := mcuboot.Build(o); !bytes.Equal(a, b) {
			t.Errorf("%s: two builds differ", name)
		}
	}
}

func TestBuildUnsigned(t *testing.T) {
	data, err := mcuboot.Build(mcuboot.BuildOptions{Body: []byte("x"), HeaderSize: 32})
	if err != nil {
		t.Fatal(err)
	}
	m := parse(t, data)
	if m.CheckHash() != mcuboot.HashMatches || m.CheckSignature(key(t, "more/p256")) != mcuboot.SignatureAbsent {
		t.Errorf("hash %s, signature %s", m.CheckHash(), m.CheckSignature(key(t, "more/p256")))
	}
}

func TestBuildRefuses(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("x")
	for _, tt := range []struct {
		o    mcuboot.BuildOptions
		want string
	}{
		{mcuboot.BuildOptions{}, "body of 0 bytes"},
		{mcuboot.BuildOptions{Body: body, HeaderSize: 31}, "header of 31 bytes is not from 32 to 65535"},
		{mcuboot.BuildOptions{Body: body, HeaderSize: 65536}, "header of 65536 bytes"},
		{mcuboot.BuildOptions{Body: body, Flags: mcuboot.FlagEncryptedAES128}, "flags ENCRYPTED_AES128 need imgtool"},
		{mcuboot.BuildOptions{Body: body, Pure: true}, "a pure signature needs a key"},
		{mcuboot.BuildOptions{Body: body, Pure: true, Key: signer(t, "ECDSA P-256")}, "needs an Ed25519 key, not ECDSA P-256"},
		{mcuboot.BuildOptions{Body: body, Key: p224}, "curve P-224; MCUboot takes P-256 and P-384"},
		{mcuboot.BuildOptions{Body: body, Protected: []mcuboot.TLV{{Type: 0xa0, Data: make([]byte, 65528)}}}, "more than the 65535 bytes of an area"},
	} {
		if _, err := mcuboot.Build(tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

func TestLoadPublicKey(t *testing.T) {
	p256 := signer(t, "ECDSA P-256").(*ecdsa.PrivateKey)
	block := func(kind string, der []byte, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	spki := func(k any) string {
		der, err := x509.MarshalPKIXPublicKey(k)
		return block("PUBLIC KEY", der, err)
	}
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(p256)
	good := string(read(t, "images/ecdsa-p256.pub.pem"))

	for _, tt := range []struct{ name, pem, want string }{
		{"nothing", "", "no PEM found"},
		{"DER", good[30:], "no PEM found"},
		{"private key", block("PRIVATE KEY", private, err), "this is a private key, which does not belong here"},
		{"certificate", block("CERTIFICATE", nil, nil), `the PEM block is a "CERTIFICATE"`},
		{"broken", block("PUBLIC KEY", []byte{1, 2, 3}, nil), "public key: "},
		{"two keys", good + good, "more than one PEM block"},
		{"short RSA", spki(rsa1024.Public()), "RSA with 1024 bits; MCUboot takes 2048 and 3072"},
	} {
		if k, err := mcuboot.LoadPublicKey([]byte(tt.pem)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, %v, want %s", tt.name, k, err, tt.want)
		}
	}

	rsa2048 := signer(t, "RSA 2048").(*rsa.PrivateKey)
	a, errA := mcuboot.LoadPublicKey([]byte(block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsa2048.PublicKey), nil)))
	b, errB := mcuboot.LoadPublicKey([]byte(spki(rsa2048.Public())))
	if errA != nil || errB != nil || a.Fingerprint() != b.Fingerprint() {
		t.Errorf("one RSA key in two forms: %v, %v; %v, %v", a, b, errA, errB)
	}
	if got, want := key(t, "images/ecdsa-p256").String(), "ECDSA P-256 ac034c282d6b449d"; got != want {
		t.Errorf("key is %q, want %q", got, want)
	}
}
