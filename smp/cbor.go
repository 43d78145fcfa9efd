package smp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/fxamacker/cbor/v2"
)

// codec holds the two CBOR modes. Decoding is strict where a mistake would
// hide (a doubled key, another case, deep or huge input) and lenient where
// servers differ (indefinite lengths, keys added by newer releases).
type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

func newCodec() codec {
	// Struct order, not sorted: "data" must come last, where old MCUboot
	// releases can still find the keys before it in their small buffers.
	enc, err := cbor.EncOptions{Sort: cbor.SortNone}.EncMode()
	if err != nil {
		panic(err) // constant options: fails in every test or in none
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		IndefLength:       cbor.IndefLengthAllowed,
		MaxNestedLevels:   8,
		MaxArrayElements:  64,
		MaxMapPairs:       64,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return codec{enc, dec}
}

// rc is a result code. MCUboot up to 1.9 encoded negative codes as huge
// unsigned numbers, so both forms of a negative come out as one.
type rc int64

func (r *rc) UnmarshalCBOR(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("empty rc")
	}
	switch b[0] >> 5 {
	case 0:
		var u uint64
		if err := cbor.Unmarshal(b, &u); err != nil {
			return err
		}
		switch {
		case u > math.MaxUint32:
			*r = rc(int64(u)) // two's complement in 64 bits
		case u > math.MaxInt32:
			*r = rc(int32(uint32(u))) // and in 32
		default:
			*r = rc(u)
		}
		return nil
	case 1:
		var i int64
		if err := cbor.Unmarshal(b, &i); err != nil {
			return err
		}
		*r = rc(i)
		return nil
	}
	return fmt.Errorf("rc is not a number")
}

// status is the part that any answer may carry: v1's rc, v2's err (called ret
// in one Zephyr release). Absent means success.
type status struct {
	RC  *rc          `cbor:"rc"`
	Rsn string       `cbor:"rsn"`
	Err *groupStatus `cbor:"err"`
	Ret *groupStatus `cbor:"ret"`
}

type groupStatus struct {
	Group uint16 `cbor:"group"`
	RC    *rc    `cbor:"rc"`
}

func (s *status) check(request string) error {
	g := s.Err
	if g == nil {
		g = s.Ret
	}
	switch {
	case g != nil && g.RC == nil:
		return &ProtocolError{Request: request, Problem: "the answer reports an error without its code"}
	case g != nil && *g.RC != 0:
		return &ServerError{Request: request, Group: Group(g.Group), PerGroup: true, Code: int64(*g.RC), Reason: s.Rsn}
	case s.RC != nil && *s.RC != 0:
		return &ServerError{Request: request, Code: int64(*s.RC), Reason: s.Rsn}
	}
	return nil
}

// decode reads an answer into out, which embeds status, and turns a refusal
// into a *ServerError. An empty payload is an empty map: some servers answer
// a reset so.
func (c codec) decode(request string, payload []byte, out interface{ check(string) error }) error {
	if len(payload) > 0 {
		if err := c.dec.Unmarshal(payload, out); err != nil {
			return &ProtocolError{Request: request, Problem: "unreadable answer", Err: err}
		}
	}
	return out.check(request)
}

// The major types of CBOR that requests are made of, in the first byte's place.
const (
	cborUint  = 0 << 5
	cborBytes = 2 << 5
	cborText  = 3 << 5
	cborMap   = 5 << 5
)

// appendHead appends the shortest head of a type with an argument.
func appendHead(dst []byte, major byte, n int) []byte {
	switch {
	case n < 24:
		return append(dst, major|byte(n))
	case n <= math.MaxUint8:
		return append(dst, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, major|25), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, major|26), uint32(n))
}

// plainOffset reads the answer that all but a few upload requests get: a map,
// of whichever length form, of "rc" 0, which may be missing, and "off". Anything
// else is left to the decoder.
func plainOffset(p []byte) (off uint64, ok bool) {
	body, isMap := bytes.CutPrefix(p, []byte{0xbf})
	pairs := 2
	switch {
	case isMap:
		body, ok = bytes.CutSuffix(body, []byte{0xff})
		pairs = 0 // as many as there are
	case len(p) > 0 && (p[0] == cborMap|1 || p[0] == cborMap|2):
		pairs, body, ok = int(p[0]&0x1f), p[1:], true
	}
	if !ok {
		return 0, false
	}
	body, success := bytes.CutPrefix(body, []byte{cborText | 2, 'r', 'c', 0})
	if pairs != 0 && success != (pairs == 2) {
		return 0, false
	}
	body, ok = bytes.CutPrefix(body, []byte{cborText | 3, 'o', 'f', 'f'})
	if !ok || len(body) == 0 {
		return 0, false
	}
	switch arg := body[1:]; {
	case body[0] < 24 && len(arg) == 0:
		return uint64(body[0]), true
	case body[0] == 24 && len(arg) == 1:
		return uint64(arg[0]), true
	case body[0] == 25 && len(arg) == 2:
		return uint64(binary.BigEndian.Uint16(arg)), true
	case body[0] == 26 && len(arg) == 4:
		return uint64(binary.BigEndian.Uint32(arg)), true
	}
	return 0, false
}
