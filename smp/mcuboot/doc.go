// Package mcuboot reads MCUboot image files: what imgtool signs and what a
// device's image list reports back.
//
// Its secret is the file: header, the two TLV areas, what exactly is hashed
// and signed, and the trailer of a padded image. It opens no files, speaks to
// no device and imports nothing of ours.
//
// [Parse] takes one image, [ReadPackage] the zip of images that the nRF
// Connect SDK builds, and [Detect] tells which of the two a file is.
// [Image.Hash] is an image's identity: the value a device reports for it, and
// the only thing that proves which image a board holds. It is not the SHA-256
// of the file, which changes with padding and signature.
//
// [Image.Verify] answers the question a production line has before it loads
// an image onto hundreds of boards: is the file whole, and is it signed with
// the key that those boards trust?
//
// Every number read from a file is checked against the file before it is
// used. A file that is damaged or is no image ends in a [*FormatError] that
// says where it goes wrong.
package mcuboot
