package line

import (
	"archive/zip"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"flashline/configs"
)

// dfuPackage is a package as the nRF Connect SDK builds it, with one image.
func dfuPackage(t *testing.T, image []byte, index int) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, data := range map[string][]byte{
		"app.bin": image,
		"manifest.json": fmt.Appendf(nil, `{"format-version": 1, "files": [{"file": "app.bin", "type": "application", "size": %d, "image_index": "%d"}]}`,
			len(image), index),
	} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLoadFirmware(t *testing.T) {
	image, err := configs.Examples.ReadFile("blinky-1.0.0.bin")
	if err != nil {
		t.Fatal(err)
	}
	key, err := configs.Examples.ReadFile("blinky.pub.pem")
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(image)
	damaged[5000] ^= 1
	padded := append(bytes.Clone(image), bytes.Repeat([]byte{0xff}, 1000)...)
	tests := []struct {
		name string
		img  configs.Image
		want string // of the error, "" for none
	}{
		{"image", configs.Image{Data: image, KeyPEM: key, SlotSize: 128 << 10, WriteSize: 4}, ""},
		{"padded", configs.Image{Data: padded, KeyPEM: key}, ""},
		{"no key", configs.Image{Data: image}, ""},
		{"package", configs.Image{Data: dfuPackage(t, image, 0), KeyPEM: key}, ""},
		{"package for the network core", configs.Image{Data: dfuPackage(t, image, 1), KeyPEM: key}, ""},
		{"damaged", configs.Image{Data: damaged, KeyPEM: key}, "does not match its own hash"},
		{"key that is none", configs.Image{Data: image, KeyPEM: []byte("hello")}, "no PEM"},
		{"larger than the slot", configs.Image{Data: image, KeyPEM: key, SlotSize: 25280, WriteSize: 4}, "build it smaller"},
		{"not firmware", configs.Image{Data: []byte("hello")}, "not a usable MCUboot image"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.img.Path = configs.Path{Written: "fw/app.bin"}
			fws, err := LoadFirmware(&tt.img, "")
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "fw/app.bin: ") {
					t.Errorf("error %v, want it to say %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			fw := fws[0]
			if !bytes.Equal(fw.Data, image) || fw.Version.String() != "1.0.0+0" || len(fw.Hash) != 32 {
				t.Errorf("%d bytes to send of version %s", len(fw.Data), fw.Version)
			}
		})
	}
}
