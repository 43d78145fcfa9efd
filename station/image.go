package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"flashline/smp/mcuboot"
)

// imageReport is what station image says of one image; scripts rely on the
// JSON names.
type imageReport struct {
	File       string        `json:"file"`
	SHA256     string        `json:"sha256"` // of the whole file
	Version    string        `json:"version"`
	Hash       string        `json:"hash"` // the TLV: what a device reports
	HashStatus string        `json:"hash_status"`
	Signature  string        `json:"signature"`
	Verified   *bool         `json:"verified,omitempty"`
	Detail     string        `json:"verified_detail,omitempty"`
	Encrypted  bool          `json:"encrypted"`
	Padded     bool          `json:"padded"`
	SendBytes  int           `json:"send_bytes"` // without padding
	ImageIndex *int          `json:"image_index,omitempty"`
	Info       *mcuboot.Info `json:"dumpinfo"`
}

func newImage() *cobra.Command {
	var keyFile, format string
	cmd := &cobra.Command{
		Use:   "image FILE",
		Short: "Show and verify an MCUboot image or an nRF dfu_application.zip",
		Long: `Image shows what imgtool dumpinfo shows, recomputes the hash and, given the
public key, verifies the signature. The hash is what a board must report; the
sha256 is what a recipe pins.

Exit codes: 0 the image is well (and verified, if a key was given), 2 it is not.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "text" && format != "json" {
				return badInput(fmt.Errorf("there is no format %q: use text or json", format))
			}
			return showImage(cmd.OutOrStdout(), args[0], keyFile, format)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "public key `file` (PEM) to verify the signature with")
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	return cmd
}

func showImage(out io.Writer, file, keyFile, format string) error {
	data, err := readLimited(file, maxImageFile)
	if err != nil {
		return badInput(err)
	}
	var key *mcuboot.PublicKey
	if keyFile != "" {
		pem, err := readLimited(keyFile, 64<<10)
		if err != nil {
			return badInput(err)
		}
		if key, err = mcuboot.LoadPublicKey(pem); err != nil {
			return badInput(fmt.Errorf("%s: %w", keyFile, err))
		}
	}
	var reports []imageReport
	var bad error
	report := func(name string, index *int, data []byte, img *mcuboot.Image) {
		r := imageReport{
			File: name, SHA256: fmt.Sprintf("%x", sha256.Sum256(data)), Version: img.Header.Version.String(),
			Hash: fmt.Sprintf("%x", img.Hash()), HashStatus: img.CheckHash().String(), Signature: signatures(img),
			Encrypted: img.Encrypted(), Padded: img.Padded(), SendBytes: len(img.Stripped()), ImageIndex: index,
		}
		info := img.Info(name)
		r.Info = &info
		err := img.Verify(key)
		if key != nil {
			ok := err == nil
			r.Verified = &ok
			r.Detail = img.CheckSignature(key).String()
		}
		if err != nil && bad == nil {
			bad = fmt.Errorf("%s: %w", name, err)
		}
		reports = append(reports, r)
	}
	if mcuboot.Detect(data) == mcuboot.KindPackage {
		pkg, err := mcuboot.ReadPackage(data)
		if err != nil {
			return badInput(fmt.Errorf("%s: %w", file, err))
		}
		for _, i := range pkg.Images {
			report(filepath.Base(file)+"/"+i.File, &i.ImageIndex, i.Image.Bytes(), i.Image)
		}
	} else {
		img, err := mcuboot.Parse(data)
		if err != nil {
			return badInput(fmt.Errorf("%s: %w", file, err))
		}
		report(filepath.Base(file), nil, data, img)
	}
	var b bytes.Buffer
	if format == "json" {
		enc := json.NewEncoder(&b)
		enc.SetIndent("", "  ")
		var v any = reports[0]
		if len(reports) > 1 {
			v = reports
		}
		if err := enc.Encode(v); err != nil {
			return err
		}
	} else {
		for _, r := range reports {
			r.text(&b)
		}
	}
	if _, err := out.Write(b.Bytes()); err != nil {
		return err
	}
	if bad != nil {
		return badInput(bad)
	}
	return nil
}

func (r imageReport) text(b *bytes.Buffer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(b, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("file", "%s", r.File)
	if r.ImageIndex != nil {
		line("image index", "%d", *r.ImageIndex)
	}
	line("sha256", "%s  (pin this in a recipe)", r.SHA256)
	line("version", "%s", r.Version)
	line("hash", "%s  (%s)", r.Hash, r.HashStatus)
	signature := r.Signature
	if r.Verified != nil {
		signature += ", " + r.Detail
	}
	line("signature", "%s", signature)
	h := r.Info.Header
	line("header", "magic %#x, load address %#x, header %d bytes, protected TLVs %d bytes, image %d bytes, flags %#x",
		h.Magic, h.LoadAddr, h.Size, h.ProtectedTLVSize, h.ImageSize, h.Flags)
	line("to send", "%d bytes%s", r.SendBytes, map[bool]string{true: ", without the padding"}[r.Padded])
	for _, t := range r.Info.TLVArea.Protected {
		line("protected", "%-12s %4d bytes  %s", t.Name, t.Length, t.Data)
	}
	for _, t := range r.Info.TLVArea.TLVs {
		line("TLV", "%-12s %4d bytes  %s", t.Name, t.Length, t.Data)
	}
	if t := r.Info.Trailer; t.ImageOK != nil {
		line("trailer", "magic %s, image_ok %#x, copy_done %#x, swap_info %#x, swap_size %#x", t.Magic, *t.ImageOK, *t.CopyDone, *t.SwapInfo, *t.SwapSize)
	}
	b.WriteByte('\n')
}

func signatures(img *mcuboot.Image) string {
	if names := img.SignatureTypes(); len(names) > 0 {
		return strings.Join(names, "+")
	}
	return "none"
}

// maxImageFile bounds what is read as an image.
const maxImageFile = 64 << 20

// readLimited reads a file that must not be larger than limit.
func readLimited(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: the file is larger than %d bytes: it is no firmware image", name, limit)
	}
	return data, nil
}
