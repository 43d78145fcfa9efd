package configs_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashline/configs"
)

func sum(t *testing.T, text string) string {
	t.Helper()
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}

func TestSerialOK(t *testing.T) {
	for _, c := range []struct {
		pattern, serial string
		want            bool
	}{
		{`^FL-[0-9]{6}$`, "FL-000123", true},
		{`^FL-[0-9]{6}$`, "FL-0001234", false},
		{`FL-[0-9]{6}`, "FL-000123", true},
		{`FL-[0-9]{6}`, "xFL-000123", false}, // all of the label, anchored or not
		{`FL-[0-9]{6}`, "FL-000123\n", false},
		{`A|B`, "A", true},
		{`A|B`, "AB", false},
		{`(?i)fl-.+`, "FL-9", true},
		{`.*`, "", false},
		{``, "anything", true},
		{``, "", false},
	} {
		r := &configs.Recipe{SerialPattern: c.pattern}
		if got := r.SerialOK(c.serial); got != c.want {
			t.Errorf("pattern %q, label %q: %v, want %v", c.pattern, c.serial, got, c.want)
		}
	}
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		text, version, printed string
		want                   bool
	}{
		{"version {version}", "1.0.0+0", "blinky version 1.0.0+0", true},
		{"version {version}", "1.0.0+0", "blinky version 1.0.0", true},
		{"version {version}", "1.0.0", "blinky version 1.0.0+0\r\n", true},
		{"version {version}", "1.0.0", "blinky version 1.0.0.\nready", true},
		{"version {version}", "1.0.0", "version 1.0.0, built today", true},
		{"version {version}", "1.0.0", "version 1.0.0+7", false},
		{"version {version}", "1.0.0", "version 1.0.01", false},
		{"version {version}", "1.0.0", "version 1.0.0.1", false},
		{"version {version}", "1.0.0", "version 1.0.0-dirty", false},
		{"version {version}", "1.0.0", "version 1.0.0+01", false},
		{"version {version}", "1.0.0", "version 1x0x0", false},
		{"version {version}", "1.1.0+7", "version 1.1.0+7", true},
		{"version {version}", "1.1.0+7", "version 1.1.0", false},
		{"version {version}", "1.1.0+7", "version 1.1.0+70", false},
		{"{version}", "1.0.0", "v1.0.0", true},
		{"{version}", "1.0.0", "11.0.0", false},
		{"{version}", "1.0.0", "2.1.0.0", false},
		{"^app {version}$", "1.0.0", "boot\napp 1.0.0\nready", true},
		{"^app {version}$", "1.0.0", "boot\napp 1.0.0+1\nready", false},
		{"{version} of {version}", "1.0.0", "1.0.0 of 1.0.0+0", true},
		{"ready", "1.0.0", "now ready", true},
	} {
		re, err := (&configs.Check{BootText: c.text}).Pattern(c.version)
		if err != nil {
			t.Errorf("%q for %s: %v", c.text, c.version, err)
			continue
		}
		if got := re.MatchString(c.printed); got != c.want {
			t.Errorf("%q for %s on %q: %v, want %v (%s)", c.text, c.version, c.printed, got, c.want, re)
		}
	}
}

func TestPatternErrors(t *testing.T) {
	if re, err := (&configs.Check{}).Pattern("1.0.0"); re != nil || err != nil {
		t.Errorf("nothing to check gives %v, %v", re, err)
	}
	for _, version := range []string{"", "1.0", "v1.0.0", "1.0.0+", "1.0.0.*"} {
		if _, err := (&configs.Check{BootText: "{version}"}).Pattern(version); !errors.Is(err, configs.ErrVersion) {
			t.Errorf("version %q gives %v, want ErrVersion", version, err)
		}
	}
	if _, err := (&configs.Check{BootText: "("}).Pattern("1.0.0"); err == nil {
		t.Error("a bad expression gives no error")
	}
}

// released makes a folder with a recipe, its image and its key.
func released(t *testing.T) (dir, recipeFile string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"recipe.toml", "app.bin", "key.pem"} {
		data, err := os.ReadFile(filepath.Join("testdata/files", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, filepath.Join(dir, "recipe.toml")
}

func TestLoadedImageIsThePinnedOne(t *testing.T) {
	dir, file := released(t)
	r, err := configs.LoadRecipe(file)
	if err != nil {
		t.Fatal(err)
	}
	img := r.Images[0]
	if sum(t, string(img.Data)) != img.SHA256 {
		t.Error("Data does not have the pinned hash")
	}
	key, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil || !bytes.Equal(img.KeyPEM, key) {
		t.Errorf("KeyPEM is not the key file (%v)", err)
	}
	if img.Path.Abs != filepath.Join(dir, "app.bin") || img.Path.Written != "app.bin" {
		t.Errorf("path %+v", img.Path)
	}
}

// TestVerify: each file of a recipe that changes after loading is named.
func TestVerify(t *testing.T) {
	change := func(t *testing.T, file string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString("#")
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"recipe.toml", "app.bin", "key.pem"} {
		t.Run(name, func(t *testing.T) {
			dir, file := released(t)
			r, err := configs.LoadRecipe(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Verify(); err != nil {
				t.Fatalf("nothing was changed, but: %v", err)
			}

			change(t, filepath.Join(dir, name))
			var stale *configs.StaleError
			if err := r.Verify(); !errors.As(err, &stale) {
				t.Fatalf("%s was changed, but Verify gives %v", name, err)
			}
			if len(stale.Changed) != 1 || filepath.Base(stale.Changed[0].File) != name || stale.Changed[0].Is == stale.Changed[0].Was {
				t.Errorf("changed: %+v, want %s", stale.Changed, name)
			}
			if want := "was changed (its sha256 began " + stale.Changed[0].Was[:16]; !strings.Contains(stale.Error(), want) {
				t.Errorf("%q does not say %q", stale, want)
			}

			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			if err := r.Verify(); !errors.As(err, &stale) || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is gone, but Verify gives %v", name, err)
			}
		})
	}
}

// TestVerifyFromElsewhere: a recipe loaded by a relative name is found again
// after the program has changed its folder.
func TestVerifyFromElsewhere(t *testing.T) {
	dir, _ := released(t)
	t.Chdir(dir)
	r, err := configs.LoadRecipe("recipe.toml")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := r.Verify(); err != nil {
		t.Errorf("nothing was changed, but: %v", err)
	}
}

func TestVerifyOfAParsedRecipe(t *testing.T) {
	if err := recipe(t, smallestRecipe).Verify(); err != nil {
		t.Errorf("no file was read, but: %v", err)
	}
}
