package records

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockFile makes this process the one writer of the records at path. SQLite
// keeps two writers from tearing the file, but not from misunderstanding each
// other: the second would find the first's running attempts and declare them
// interrupted.
//
// The lock is advisory, lies on path.lock, and ends with the process however
// it ends. The file stays behind: removing it would let a third process lock
// a new file of the same name while the second waits for the old one.
func lockFile(path string) (*os.File, error) {
	lock := path + ".lock"
	f, err := os.OpenFile(lock, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		owner, _ := io.ReadAll(io.LimitReader(f, 64))
		f.Close()
		return nil, inUse(path, string(owner))
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", lock, err)
	}
	return f, nil
}

func inUse(path, owner string) error {
	who := "by another station program"
	if pid, err := strconv.Atoi(strings.TrimSpace(owner)); err == nil {
		who = fmt.Sprintf("by the station program with process id %d", pid)
	}
	return &StoreError{
		Kind: InUse,
		Path: path,
		hint: fmt.Sprintf("The records in %s are in use %s; stop that one first, or give this station a file of its own.", path, who),
	}
}

// resolve returns the one name of the file, so that two stations that reach it
// by different links meet at the same lock. The file need not exist, its
// folder must.
func resolve(path string) (string, error) {
	if path == "" {
		return "", errors.New("the path of the records is empty")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if !errors.Is(err, os.ErrNotExist) {
		return real, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	return filepath.Join(dir, filepath.Base(abs)), err
}
