package mcuboot

import "encoding/hex"

// Info is everything that "imgtool dumpinfo --format json" reports of an
// image, in the same JSON. Byte strings are in hex.
type Info struct {
	Filename string      `json:"filename"`
	Header   InfoHeader  `json:"header"`
	TLVArea  InfoTLVArea `json:"tlv_area"`
	Trailer  InfoTrailer `json:"trailer"`
}

// InfoHeader is the header in an Info.
type InfoHeader struct {
	Magic            uint32  `json:"magic"`
	LoadAddr         uint32  `json:"load_addr"`
	Size             uint16  `json:"hdr_size"`
	ProtectedTLVSize uint16  `json:"protected_tlv_size"`
	ImageSize        uint32  `json:"img_size"`
	Flags            uint32  `json:"flags"`
	Version          Version `json:"version"`
}

// InfoTLVArea is both TLV areas in an Info.
type InfoTLVArea struct {
	ProtectedHead InfoTLVHead `json:"tlv_hdr_prot"`
	Protected     []InfoTLV   `json:"tlvs_prot"`
	Head          InfoTLVHead `json:"tlv_hdr"`
	TLVs          []InfoTLV   `json:"tlvs"`
}

// InfoTLVHead is the head of a TLV area in an Info, empty if there is no such
// area.
type InfoTLVHead struct {
	Magic uint16 `json:"magic,omitempty"`
	Size  int    `json:"tlv_tot,omitempty"`
}

// InfoTLV is one TLV in an Info.
type InfoTLV struct {
	Type   uint16 `json:"type"`
	Name   string `json:"type_name"`
	Length int    `json:"len"`
	Data   string `json:"data"`
}

// InfoTrailer is the trailer in an Info: empty for a file that ends with its
// TLVs, and Magic alone, the last 16 bytes of the file, when what follows them
// is no trailer.
type InfoTrailer struct {
	Magic    string  `json:"magic,omitempty"`
	ImageOK  *byte   `json:"image_ok,omitempty"`
	CopyDone *byte   `json:"copy_done,omitempty"`
	SwapInfo *byte   `json:"swap_info,omitempty"`
	SwapSize *uint32 `json:"swap_size,omitempty"`
	KeySize  int     `json:"key_field_len,omitempty"`
}

// Info returns the report of the image. filename goes into it as it is;
// imgtool writes the name without its folder.
func (m *Image) Info(filename string) Info {
	h := m.Header
	info := Info{
		Filename: filename,
		Header: InfoHeader{
			Magic: h.Magic, LoadAddr: h.LoadAddr, Size: h.Size, ProtectedTLVSize: h.ProtectedTLVSize,
			ImageSize: h.ImageSize, Flags: uint32(h.Flags), Version: h.Version,
		},
		TLVArea: InfoTLVArea{
			ProtectedHead: InfoTLVHead{m.Protected.Magic, m.Protected.Size}, Protected: infoTLVs(m.Protected),
			Head: InfoTLVHead{m.TLVs.Magic, m.TLVs.Size}, TLVs: infoTLVs(m.TLVs),
		},
	}
	switch t := m.Trailer; {
	case t != nil:
		info.Trailer = InfoTrailer{
			Magic: hex.EncodeToString(t.Magic[:]), ImageOK: &t.ImageOK, CopyDone: &t.CopyDone,
			SwapInfo: &t.SwapInfo, SwapSize: &t.SwapSize, KeySize: t.KeySize,
		}
	case m.Padded():
		info.Trailer.Magic = hex.EncodeToString(m.data[len(m.data)-MagicSize:])
	}
	return info
}

func infoTLVs(a TLVArea) []InfoTLV {
	list := []InfoTLV{}
	for _, t := range a.TLVs {
		list = append(list, InfoTLV{uint16(t.Type), t.Type.Name(), len(t.Data), hex.EncodeToString(t.Data)})
	}
	return list
}
