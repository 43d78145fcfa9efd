package mcuboot_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"flashline/smp/mcuboot"
)

type entry struct {
	name string
	data []byte
}

func zipOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		f, err := w.Create(e.name)
		if err == nil {
			_, err = f.Write(e.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// manifestOf returns a manifest of the files, as generate_zip.py of the nRF
// Connect SDK writes it: hex parameters as numbers, all others as strings.
func manifestOf(t testing.TB, files ...map[string]any) entry {
	t.Helper()
	b, err := json.MarshalIndent(map[string]any{"format-version": 1, "time": 1758800000, "name": "nodes", "files": files}, "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	return entry{"manifest.json", b}
}

func appAndNet(t testing.TB) (app, net entry, appLine, netLine map[string]any) {
	app = entry{"node.signed.bin", read(t, "more/everything-p256.bin")}
	net = entry{"ipc_radio.bin", read(t, "more/pure-ed25519.bin")}
	appLine = map[string]any{
		"type": "application", "board": "nrf5340dk/nrf5340/cpuapp", "soc": "nrf5340", "load_address": 66048,
		"image_index": "0", "slot_index_primary": "1", "slot_index_secondary": "2", "version_MCUBOOT": "255.255.65535+4294967295",
		"size": len(app.data), "file": app.name, "modtime": 1758799999,
	}
	netLine = map[string]any{
		"type": "application", "board": "nrf5340dk/nrf5340/cpunet", "soc": "nrf5340", "load_address": "0x1008800",
		"image_index": "1", "slot_index_primary": "3", "slot_index_secondary": "4", "version_MCUBOOT": nil, "version": "1",
		"size": len(net.data), "file": net.name, "modtime": 1758799999,
	}
	return app, net, appLine, netLine
}

func TestReadPackage(t *testing.T) {
	app, net, appLine, netLine := appAndNet(t)
	p, err := mcuboot.ReadPackage(zipOf(t, net, app, manifestOf(t, appLine, netLine), entry{"docs/", nil}, entry{"docs/readme.txt", []byte("hello")}))
	if err != nil {
		t.Fatal(err)
	}
	if p.FormatVersion != 1 || p.Name != "nodes" || !p.Time.Equal(time.Unix(1758800000, 0)) || len(p.Images) != 2 {
		t.Fatalf("got %+v", p)
	}
	a, n := p.Images[0], p.Images[1]
	if !bytes.Equal(a.Image.Bytes(), app.data) || !bytes.Equal(n.Image.Bytes(), net.data) {
		t.Error("the images are not those of the zip")
	}
	a.Image, n.Image = nil, nil
	want := mcuboot.PackageImage{
		File: "node.signed.bin", ImageIndex: 0, Slot: -1, SlotIndexPrimary: 1, SlotIndexSecondary: 2, Type: "application",
		Board: "nrf5340dk/nrf5340/cpuapp", SoC: "nrf5340", LoadAddress: 66048, ManifestVersion: "255.255.65535+4294967295",
	}
	if a != want {
		t.Errorf("got  %+v\nwant %+v", a, want)
	}
	want = mcuboot.PackageImage{
		File: "ipc_radio.bin", ImageIndex: 1, Slot: -1, SlotIndexPrimary: 3, SlotIndexSecondary: 4, Type: "application",
		Board: "nrf5340dk/nrf5340/cpunet", SoC: "nrf5340", LoadAddress: 0x1008800,
	}
	if n != want {
		t.Errorf("got  %+v\nwant %+v", n, want)
	}
}

// TestPackageForms reads what other versions of the SDK write.
func TestPackageForms(t *testing.T) {
	app, net, _, _ := appAndNet(t)
	t.Run("direct XIP", func(t *testing.T) {
		line := func(e entry, slot string) map[string]any {
			return map[string]any{"file": e.name, "size": len(e.data), "image_index": "0", "slot": slot, "version_MCUBOOT+XIP": "2.0.0+1"}
		}
		p, err := mcuboot.ReadPackage(zipOf(t, app, net, manifestOf(t, line(app, "0"), line(net, "1"))))
		if err != nil {
			t.Fatal(err)
		}
		if a, b := p.Images[0], p.Images[1]; a.Slot != 0 || b.Slot != 1 || b.ImageIndex != 0 || b.ManifestVersion != "2.0.0+1" {
			t.Errorf("got %+v and %+v", a, b)
		}
	})
	t.Run("old, one image", func(t *testing.T) {
		text := fmt.Sprintf(`{"format-version": 0, "files": [{"file": %q, "size": %d}]}`, app.name, len(app.data))
		p, err := mcuboot.ReadPackage(zipOf(t, app, entry{"manifest.json", []byte(text)}))
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Images) != 1 || p.Images[0].ImageIndex != 0 || !p.Time.IsZero() || p.FormatVersion != 0 {
			t.Errorf("got %+v", p)
		}
	})
	t.Run("stored", func(t *testing.T) { // Python's ZipFile stores by default
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		m := manifestOf(t, map[string]any{"file": app.name, "size": len(app.data)})
		for _, e := range []entry{app, m} {
			f, err := w.CreateHeader(&zip.FileHeader{Name: e.name, Method: zip.Store})
			if err != nil {
				t.Fatal(err)
			}
			f.Write(e.data)
		}
		w.Close()
		if _, err := mcuboot.ReadPackage(b.Bytes()); err != nil {
			t.Error(err)
		}
	})
}

func TestPackageErrors(t *testing.T) {
	app, net, appLine, netLine := appAndNet(t)
	with := func(line map[string]any, key string, value any) map[string]any {
		m := map[string]any{}
		for k, v := range line {
			m[k] = v
		}
		if m[key] = value; value == nil {
			delete(m, key)
		}
		return m
	}
	manifest := func(text string) []byte { return zipOf(t, app, net, entry{"manifest.json", []byte(text)}) }
	zeros := make([]byte, mcuboot.MaxImageSize+1)
	corrupt := zipOf(t, app, manifestOf(t, appLine))
	// The body of the first entry begins after its local header (30 bytes) and
	// its name.
	corrupt[30+len(app.name)+10] ^= 0xff
	locked := zipOf(t, app, manifestOf(t, appLine))
	locked[bytes.Index(locked, []byte("PK\x01\x02"))+8] |= 1 // in the directory's entry of the first file
	many := []entry{manifestOf(t, appLine), app}
	for i := range 300 {
		many = append(many, entry{fmt.Sprint(i), nil})
	}
	var lines []map[string]any
	for i := range 17 {
		lines = append(lines, with(with(appLine, "image_index", i), "file", fmt.Sprint(i)))
	}

	tests := []struct {
		name string
		zip  []byte
		want string
	}{
		{"no zip", []byte("firmware"), "not a readable zip; copy it again from the build: zip: not a valid zip file"},
		{"cut short", zipOf(t, app)[:200], "not a readable zip"},
		{"empty", zipOf(t), `"manifest.json": missing; use the dfu_application.zip of the build`},
		{"no manifest", zipOf(t, app), `"manifest.json": missing`},
		{"manifest in a folder", zipOf(t, app, entry{"x/manifest.json", []byte("{}")}), `"manifest.json": missing`},
		{"manifest is no JSON", manifest("hello"), `"manifest.json": not readable: invalid character`},
		{"other manifest", manifest(`{"manifest": {"application": {"bin_file": "a.bin"}}}`), `"manifest.json": no "format-version"; use the dfu_application.zip of an nRF Connect SDK build`},
		{"newer format", manifest(`{"format-version": 2}`), `"format-version" is 2, expected 0 or 1`},
		{"no files", manifest(`{"format-version": 1, "files": []}`), "it lists no files"},
		{"huge manifest", zipOf(t, entry{"manifest.json", zeros[:300<<10]}), `"manifest.json": unpacks to more than the 262144 bytes expected`},
		{"many files", zipOf(t, many...), "302 files in the zip, at most 256 expected"},
		{"many images", zipOf(t, app, manifestOf(t, lines...)), "it lists 17 files, at most 16 expected"},

		{"nameless", zipOf(t, app, manifestOf(t, with(appLine, "file", nil))), `entry 0 of "files" has no "file"`},
		{"missing image", zipOf(t, app, manifestOf(t, appLine, netLine)), `"ipc_radio.bin": listed in the manifest and missing in the zip`},
		{"listed twice", zipOf(t, app, manifestOf(t, appLine, with(appLine, "image_index", "1"))), `"node.signed.bin" is listed twice`},
		{"twice in the zip", zipOf(t, app, app, manifestOf(t, appLine)), `"node.signed.bin": twice in the zip`},
		{"one place, two images", zipOf(t, app, net, manifestOf(t, appLine, with(netLine, "image_index", "0"))), `"node.signed.bin" and "ipc_radio.bin" are both for image 0`},
		{"no index", zipOf(t, app, net, manifestOf(t, appLine, with(netLine, "image_index", nil))), `"ipc_radio.bin" has no "image_index"`},
		{"odd index", zipOf(t, app, manifestOf(t, with(appLine, "image_index", "-1"))), `has "image_index" -1, expected 0 to 255`},
		{"index is no number", zipOf(t, app, manifestOf(t, with(appLine, "image_index", "app"))), `"manifest.json": not readable`},
		{"odd slot", zipOf(t, app, manifestOf(t, with(appLine, "slot", 999))), "has slot number 999"},
		{"odd address", zipOf(t, app, manifestOf(t, with(appLine, "load_address", -4))), `has "load_address" -4`},

		{"no size", zipOf(t, app, manifestOf(t, with(appLine, "size", nil))), `"node.signed.bin" has no "size"`},
		{"smaller", zipOf(t, app, manifestOf(t, with(appLine, "size", len(app.data)+1))), fmt.Sprintf(`"node.signed.bin": %d bytes, but the manifest says %d`, len(app.data), len(app.data)+1)},
		{"bigger", zipOf(t, app, manifestOf(t, with(appLine, "size", 100))), `"node.signed.bin": unpacks to more than the 100 bytes expected`},
		{"bomb", zipOf(t, entry{app.name, zeros}, manifestOf(t, with(appLine, "size", len(zeros)))), "is listed with 16777217 bytes, more than the 16777216 that an image may have"},
		{"bomb that lies in the zip", lieAboutSize(t, zeros[:1<<20], 100), `"bomb": cannot be unpacked; copy the zip again: zip: `},

		{"path in the manifest", zipOf(t, app, manifestOf(t, with(appLine, "file", "../"+app.name))), "is no plain name"},
		{"absolute", zipOf(t, app, manifestOf(t, appLine), entry{"/etc/passwd", nil}), `"/etc/passwd": a name that leads outside the package`},
		{"parent", zipOf(t, app, manifestOf(t, appLine), entry{"../up", nil}), "leads outside the package"},
		{"parent inside", zipOf(t, app, manifestOf(t, appLine), entry{"a/../../up", nil}), "leads outside the package"},
		{"backslash", zipOf(t, app, manifestOf(t, appLine), entry{`..\up`, nil}), "leads outside the package"},
		{"drive", zipOf(t, app, manifestOf(t, appLine), entry{"c:up", nil}), "leads outside the package"},

		{"encrypted zip", locked, `"node.signed.bin": encrypted in the zip; make the zip without a password`},
		{"damaged", corrupt, `"node.signed.bin": cannot be unpacked; copy the zip again`},
		{"no image", zipOf(t, entry{app.name, []byte("hello")}, manifestOf(t, with(appLine, "size", 5))), `"node.signed.bin": cannot be loaded by MCUboot: not a usable MCUboot image: header at offset 0x0 is cut off`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := mcuboot.ReadPackage(tt.zip)
			var pe *mcuboot.PackageError
			if !errors.As(err, &pe) {
				t.Fatalf("got %v, %v", p, err)
			}
			if !strings.HasPrefix(err.Error(), "firmware package: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}

	_, err := mcuboot.ReadPackage(zipOf(t, entry{app.name, []byte("hello")}, manifestOf(t, with(appLine, "size", 5))))
	var fe *mcuboot.FormatError
	if !errors.As(err, &fe) {
		t.Error("the image's FormatError is lost")
	}
}

// TestPackageBudget: images that are each small enough may not be too much
// together.
func TestPackageBudget(t *testing.T) {
	big := make([]byte, 12<<20)
	copy(big, read(t, "more/everything-p256.bin")) // an image with erased flash behind it
	var lines []map[string]any
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	store := func(e entry) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: e.name, Method: zip.Store})
		if err == nil {
			_, err = f.Write(e.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		name := fmt.Sprintf("%d.bin", i)
		store(entry{name, big})
		lines = append(lines, map[string]any{"file": name, "size": len(big), "image_index": i})
	}
	store(manifestOf(t, lines...))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := mcuboot.ReadPackage(b.Bytes())
	if err == nil || !strings.Contains(err.Error(), `"2.bin": the images together have more than 33554432 bytes`) {
		t.Errorf("got %v", err)
	}
}

// lieAboutSize returns a package whose entry unpacks to data and says, in the
// zip and in the manifest, that it has size bytes.
func lieAboutSize(t *testing.T, data []byte, size int) []byte {
	t.Helper()
	b := zipOf(t, entry{"bomb", data}, manifestOf(t, map[string]any{"file": "bomb", "size": size}))
	i := bytes.Index(b, []byte("PK\x01\x02"))
	if got := binary.LittleEndian.Uint32(b[i+16:]); got != crc32.ChecksumIEEE(data) {
		t.Fatal("the first entry of the directory is not the bomb's")
	}
	binary.LittleEndian.PutUint32(b[i+24:], uint32(size))
	return b
}

func FuzzReadPackage(f *testing.F) {
	app, net, appLine, netLine := appAndNet(f)
	f.Add(zipOf(f, app, net, manifestOf(f, appLine, netLine)))
	f.Add(zipOf(f, app))
	f.Add(zipOf(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := mcuboot.ReadPackage(data)
		if err != nil {
			var pe *mcuboot.PackageError
			if !errors.As(err, &pe) {
				t.Fatalf("%v is no PackageError", err)
			}
			return
		}
		if len(p.Images) == 0 {
			t.Error("a package without images")
		}
		for _, i := range p.Images {
			if i.Image == nil || strings.ContainsAny(i.File, `/\`) || i.ImageIndex < 0 {
				t.Errorf("image %+v", i)
			}
		}
	})
}
