package mcuboot_test

import (
	"fmt"
	"os"

	"flashline/smp/mcuboot"
)

// Read an image and its key, and see whether it may be loaded.
func Example() {
	data, err := os.ReadFile("testdata/images/app-3.1.0.padded-confirmed.bin")
	if err != nil {
		fmt.Println(err)
		return
	}
	image, err := mcuboot.Parse(data)
	if err != nil {
		fmt.Println(err)
		return
	}
	pem, err := os.ReadFile("testdata/images/ecdsa-p256.pub.pem")
	if err != nil {
		fmt.Println(err)
		return
	}
	key, err := mcuboot.LoadPublicKey(pem)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("version %s, listed by a board as %s\n", image.Header.Version, image.Header.Version.ListString())
	fmt.Printf("hash %x\n", image.Hash())
	fmt.Printf("%d bytes to send, of a file of %d: %s\n", len(image.Stripped()), len(image.Bytes()), image.Tail())
	fmt.Printf("signature by %s: %s\n", key, image.CheckSignature(key))
	if err := image.Verify(key); err != nil {
		fmt.Println("do not load it:", err)
	}
	// Output:
	// version 3.1.0+0, listed by a board as 3.1.0
	// hash f1a9af834f013133c46269148d180ea66db8332296abb007a87076300560a1e3
	// 25239 bytes to send, of a file of 131072: padding and trailer
	// signature by ECDSA P-256 ac034c282d6b449d: verified
}

// A command that takes an image or a package of them.
func ExampleDetect() {
	data, err := os.ReadFile("testdata/images/net-1.2.3.ecdsa-p256.bin")
	if err != nil {
		fmt.Println(err)
		return
	}
	switch mcuboot.Detect(data) {
	case mcuboot.KindPackage:
		p, err := mcuboot.ReadPackage(data)
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, i := range p.Images {
			fmt.Println(i.ImageIndex, i.File, i.Image.Header.Version)
		}
	default: // Parse says best what else it may be
		image, err := mcuboot.Parse(data)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(image.Header.Version)
	}
	// Output: 1.2.3+0
}
