package mcuboot

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Version is an image's version, as its header holds it (struct image_version
// in bootutil's image.h).
type Version struct {
	Major    uint8
	Minor    uint8
	Revision uint16
	Build    uint32
}

// parseVersion reads the 8 bytes of a struct image_version.
func parseVersion(b []byte) Version {
	return Version{b[0], b[1], binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])}
}

// ParseVersion reads the three forms in which a version appears: "1.2.3"
// (MCUboot's image list when the build number is 0), "1.2.3.4" (the list
// otherwise, and always in MCUboot up to 1.10) and "1.2.3+4" (imgtool, the
// manifest of a package, the boot log). A missing build number is 0.
func ParseVersion(s string) (Version, error) {
	bad := func(why string) (Version, error) {
		return Version{}, fmt.Errorf("version %q: %s; write it as 1.2.3 or 1.2.3+4", s, why)
	}
	rest, build, hasBuild := strings.Cut(s, "+")
	parts := strings.Split(rest, ".")
	switch {
	case len(parts) == 4 && !hasBuild:
		build = parts[3]
	case len(parts) != 3:
		return bad(fmt.Sprintf("%d numbers before the build number, not 3", len(parts)))
	case !hasBuild:
		build = "0"
	}
	var n [4]uint32
	for i, f := range []struct {
		name, digits string
		bits         int
	}{
		{"major", parts[0], 8},
		{"minor", parts[1], 8},
		{"revision", parts[2], 16},
		{"build", build, 32},
	} {
		v, err := strconv.ParseUint(f.digits, 10, f.bits)
		// Like imgtool, one way to write each number: ParseUint alone takes "01".
		if err != nil || (len(f.digits) > 1 && f.digits[0] == '0') {
			return bad(fmt.Sprintf("%s %q is no number from 0 to %d", f.name, f.digits, uint64(1)<<f.bits-1))
		}
		n[i] = uint32(v)
	}
	return Version{uint8(n[0]), uint8(n[1]), uint16(n[2]), n[3]}, nil
}

// Compare returns -1, 0 or +1 as v is older than, the same as or newer than w.
// The build number counts last. A device's own downgrade check leaves it out
// unless MCUboot was built with MCUBOOT_VERSION_CMP_USE_BUILD_NUMBER.
func (v Version) Compare(w Version) int {
	return cmp.Or(
		cmp.Compare(v.Major, w.Major),
		cmp.Compare(v.Minor, w.Minor),
		cmp.Compare(v.Revision, w.Revision),
		cmp.Compare(v.Build, w.Build),
	)
}

// String returns "1.2.3+4", and "1.2.3+0" without a build number: the form of
// imgtool dumpinfo and of MCUboot's boot log, so the three can be compared by
// eye.
func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d+%d", v.Major, v.Minor, v.Revision, v.Build)
}

// ListString returns the form of MCUboot's image list: "1.2.3.4", or "1.2.3"
// when the build number is 0 (bs_list_img_ver in boot_serial.c).
func (v Version) ListString() string {
	if v.Build == 0 {
		return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Revision)
	}
	return fmt.Sprintf("%d.%d.%d.%d", v.Major, v.Minor, v.Revision, v.Build)
}

// MarshalText returns what String does.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what ParseVersion does.
func (v *Version) UnmarshalText(text []byte) error {
	w, err := ParseVersion(string(text))
	if err != nil {
		return err
	}
	*v = w
	return nil
}
