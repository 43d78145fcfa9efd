package smp

import (
	"encoding/binary"
	"fmt"
)

// Op is the operation of an SMP message: a read or a write, asked or answered.
type Op uint8

// The four operations; a response carries the request's operation plus one.
const (
	OpRead          Op = 0
	OpReadResponse  Op = 1
	OpWrite         Op = 2
	OpWriteResponse Op = 3
)

// Version is the protocol version in a header. V1 is what every MCUboot
// understands: releases before 2.0.0 stay silent on anything else.
type Version uint8

// The versions in use; 2 and 3 are reserved.
const (
	V1 Version = 0
	V2 Version = 1
)

// Group is an SMP management group.
type Group uint16

// The groups this package speaks, and the names of the others it may meet in
// answers (Zephyr's enum mcumgr_group_t).
const (
	GroupOS         Group = 0
	GroupImage      Group = 1
	GroupStatistics Group = 2
	GroupSettings   Group = 3
	GroupFS         Group = 8
	GroupShell      Group = 9
	GroupEnum       Group = 10
	GroupZephyr     Group = 63
)

// String returns the group's usual short name, or its number.
func (g Group) String() string {
	switch g {
	case GroupOS:
		return "os"
	case GroupImage:
		return "image"
	case GroupStatistics:
		return "statistics"
	case GroupSettings:
		return "settings"
	case GroupFS:
		return "fs"
	case GroupShell:
		return "shell"
	case GroupEnum:
		return "enum"
	case GroupZephyr:
		return "zephyr"
	}
	return fmt.Sprintf("group %d", uint16(g))
}

// Commands of the OS group.
const (
	cmdEcho           = 0
	cmdConsoleEcho    = 1
	cmdReset          = 5
	cmdParams         = 6
	cmdInfo           = 7
	cmdBootloaderInfo = 8
)

// Commands of the image group.
const (
	cmdImageState  = 0
	cmdImageUpload = 1
	cmdImageErase  = 5
	cmdSlotInfo    = 6
)

// HeaderSize is the length of the header before the CBOR payload, in bytes.
const HeaderSize = 8

// Header is the fixed start of every SMP message.
type Header struct {
	Version  Version
	Op       Op
	Flags    uint8
	Length   uint16 // bytes of payload that follow, the header excluded
	Group    Group
	Sequence uint8
	Command  uint8
}

// Append appends the header's eight bytes to dst.
func (h Header) Append(dst []byte) []byte {
	dst = append(dst, byte(h.Version&3)<<3|byte(h.Op&7), h.Flags)
	dst = binary.BigEndian.AppendUint16(dst, h.Length)
	dst = binary.BigEndian.AppendUint16(dst, uint16(h.Group))
	return append(dst, h.Sequence, h.Command)
}

// parseHeader reads the header that b, which is long enough, begins with.
func parseHeader(b []byte) Header {
	return Header{
		Version:  Version(b[0] >> 3 & 3),
		Op:       Op(b[0] & 7),
		Flags:    b[1],
		Length:   binary.BigEndian.Uint16(b[2:]),
		Group:    Group(binary.BigEndian.Uint16(b[4:])),
		Sequence: b[6],
		Command:  b[7],
	}
}

// ParseMessage splits a message into header and payload. It refuses a message
// shorter than its header says; bytes beyond the stated length are refused
// too, as no server sends them.
func ParseMessage(msg []byte) (Header, []byte, error) {
	if len(msg) < HeaderSize {
		return Header{}, nil, fmt.Errorf("smp: message of %d bytes is shorter than its %d-byte header", len(msg), HeaderSize)
	}
	h := parseHeader(msg)
	payload := msg[HeaderSize:]
	if int(h.Length) != len(payload) {
		return h, nil, fmt.Errorf("smp: header announces %d bytes of payload, %d came", h.Length, len(payload))
	}
	return h, payload, nil
}
