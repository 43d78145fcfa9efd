package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashline/configs"
)

// For each kind of wrong image a golden file holds what its user is told.
func TestBadImages(t *testing.T) {
	good, err := configs.Examples.ReadFile("blinky-1.0.0.bin")
	if err != nil {
		t.Fatal(err)
	}
	key, err := configs.Examples.ReadFile("blinky.pub.pem")
	if err != nil {
		t.Fatal(err)
	}
	const (
		hdrSize, protSize, imgSize, flags = 8, 10, 12, 16 // offsets in the header
		body, tlvs                        = 0x200, 0x200 + 24576
	)
	le := binary.LittleEndian
	tests := []struct {
		name string
		edit func(b []byte) []byte
	}{
		{"empty", func(b []byte) []byte { return nil }},
		{"text", func(b []byte) []byte { return []byte("Dear reader,\n") }},
		{"hex-file", func(b []byte) []byte { return []byte(":020000040000FA\n:10000000000000000000000000000000000000F0\n") }},
		{"elf", func(b []byte) []byte { return append([]byte("\x7fELF\x01\x01\x01\x00"), make([]byte, 60)...) }},
		{"unsigned-binary", func(b []byte) []byte { return b[body:tlvs] }},
		{"old-magic", func(b []byte) []byte { b[0] = 0x3c; return b }},
		{"cut-in-header", func(b []byte) []byte { return b[:20] }},
		{"cut-in-body", func(b []byte) []byte { return b[:5000] }},
		{"cut-before-tlvs", func(b []byte) []byte { return b[:tlvs] }},
		{"cut-in-tlvs", func(b []byte) []byte { return b[:tlvs+20] }},
		{"header-too-small", func(b []byte) []byte { le.PutUint16(b[hdrSize:], 16); return b }},
		{"size-beyond-file", func(b []byte) []byte { le.PutUint32(b[imgSize:], 1<<30); return b }},
		{"size-absurd", func(b []byte) []byte { le.PutUint32(b[imgSize:], 1<<32-1); return b }},
		{"protected-size-without-area", func(b []byte) []byte { le.PutUint16(b[protSize:], 28); return b }},
		{"tlv-magic", func(b []byte) []byte { b[tlvs] ^= 1; return b }},
		{"tlv-total-beyond-file", func(b []byte) []byte { le.PutUint16(b[tlvs+2:], 60000); return b }},
		{"tlv-total-too-small", func(b []byte) []byte { le.PutUint16(b[tlvs+2:], 2); return b }},
		{"tlv-overlaps-end", func(b []byte) []byte { le.PutUint16(b[tlvs+6:], 4000); return b }},
		{"one-bit-of-body", func(b []byte) []byte { b[body+777] ^= 4; return b }},
		{"one-bit-of-signature", func(b []byte) []byte { b[len(b)-3] ^= 4; return b }},
		{"zip-without-manifest", func(b []byte) []byte { return []byte("PK\x05\x06" + strings.Repeat("\x00", 18)) }},
		{"zip-broken", func(b []byte) []byte { return []byte("PK\x03\x04" + strings.Repeat("\x00", 40)) }},
	}
	dir := t.TempDir()
	keyFile := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(keyFile, key, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(dir, tt.name+".bin")
			if err := os.WriteFile(file, tt.edit(bytes.Clone(good)), 0o644); err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			if code := run([]string{"image", file, "--key", keyFile}, nil, &out, &errs); code != exitInput {
				t.Errorf("exit code %d", code)
			}
			got := strings.ReplaceAll(errs.String(), dir+"/", "")
			golden := filepath.Join("testdata", "bad-images", tt.name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("told:\n%s\nwant:\n%s", got, want)
			}
			if strings.Count(got, "\n") != 1 {
				t.Errorf("not one line: %q", got)
			}
		})
	}
}
