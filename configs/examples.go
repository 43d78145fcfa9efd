package configs

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Examples are the files shipped with the program: the demo's station
// (sim.toml), a real one (line-1.toml), their recipes, and the image and key
// that both recipes name.
//
//go:embed sim.toml sim-recipe.toml line-1.toml line-1-recipe.toml blinky-1.0.0.bin blinky.pub.pem
var Examples embed.FS

// demo is what the demo needs. The station file is written last: where it is,
// the others are.
var demo = []string{"blinky-1.0.0.bin", "blinky.pub.pem", "sim-recipe.toml", "sim.toml"}

// WriteExample writes the files of the demo's station into the folder dir,
// which it makes if need be, and returns the name of the station file. Files
// that are there already with the same content are left alone; if one is
// there with another content, nothing is written at all and the error wraps
// [fs.ErrExist].
func WriteExample(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("write the example: %w", err)
	}
	var missing []string
	for _, name := range demo {
		path := filepath.Join(dir, name)
		want, err := Examples.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("write the example: %w", err)
		}
		switch have, err := readFile(path, maxImage); {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
		case err != nil:
			return "", fmt.Errorf("write the example: %s is there but cannot be read: %w", path, err)
		case !bytes.Equal(have, want):
			return "", fmt.Errorf("write the example: %s is there with another content; choose another folder or move it away: %w", path, fs.ErrExist)
		}
	}
	for _, name := range missing {
		data, err := Examples.ReadFile(name)
		if err == nil {
			err = writeNew(filepath.Join(dir, name), data)
		}
		if err != nil {
			return "", fmt.Errorf("write the example: %w", err)
		}
	}
	return filepath.Join(dir, demo[len(demo)-1]), nil
}

// writeNew writes a file that must not exist. One that cannot be finished is
// taken away again, for half a file would stand in the way of the next try.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
