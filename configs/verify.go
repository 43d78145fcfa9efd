package configs

import (
	"fmt"
	"path/filepath"
	"strings"
)

// StaleError says that files of a recipe are no longer what was loaded.
type StaleError struct {
	// Recipe is the recipe file, as it was given to LoadRecipe.
	Recipe string
	// Changed is what differs, at least one file.
	Changed []Change
}

// Change is one file that is no longer what was loaded.
type Change struct {
	// File is the name as the recipe writes it, or the recipe's own.
	File string
	// Was is the SHA-256 at loading, Is the one now: lower case hex. Is is
	// empty if the file cannot be read any more, Err then says why.
	Was, Is string
	Err     error
}

// Error is one sentence for the operator.
func (e *StaleError) Error() string {
	parts := make([]string, len(e.Changed))
	for i, c := range e.Changed {
		if c.Err != nil {
			parts[i] = fmt.Sprintf("%s can no longer be read (%s)", plain(c.File), c.Err)
		} else {
			parts[i] = fmt.Sprintf("%s was changed (its sha256 began %s, now %s)", plain(c.File), brief(c.Was), brief(c.Is))
		}
	}
	return fmt.Sprintf("%s: since this recipe was loaded, %s; put the released files back, or load the recipe again",
		plain(e.Recipe), strings.Join(parts, ", and "))
}

// Unwrap gives the causes of files that cannot be read.
func (e *StaleError) Unwrap() []error {
	var errs []error
	for _, c := range e.Changed {
		if c.Err != nil {
			errs = append(errs, c.Err)
		}
	}
	return errs
}

// Verify reads the recipe file, its images and its keys again and compares
// them with what was loaded. Call it before each cycle: a file exchanged on
// disk means that somebody believes another firmware is being flashed. The
// error is a [*StaleError].
func (r *Recipe) Verify() error {
	if r.abs == "" {
		return nil
	}
	stale := StaleError{Recipe: r.File}
	look := func(name, path, was string, limit int64) {
		data, err := readFile(path, limit)
		if err != nil {
			stale.Changed = append(stale.Changed, Change{File: name, Was: was, Err: err})
		} else if is := hashOf(data); is != was {
			stale.Changed = append(stale.Changed, Change{File: name, Was: was, Is: is})
		}
	}
	look(r.File, r.abs, r.SHA256, maxFile)
	for i := range r.Images {
		img := &r.Images[i]
		look(img.Path.Written, img.Path.Abs, img.SHA256, maxImage)
		if img.KeyPEM != nil {
			look(img.Key.Written, img.Key.Abs, hashOf(img.KeyPEM), maxKey)
		}
	}
	if len(stale.Changed) == 0 {
		return nil
	}
	return &stale
}

// brief is the beginning of a hash, enough to tell two files apart.
func brief(hash string) string { return hash[:min(len(hash), 16)] }

// absolute is where a file given by name was found; dir is its folder.
func absolute(name, dir string) string { return filepath.Join(dir, filepath.Base(name)) }
