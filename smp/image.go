package smp

import (
	"context"
	"fmt"
	"time"
)

// ImageSlot is one entry of a device's image list.
type ImageSlot struct {
	Image   int    // 0 unless the device has several images
	Slot    int    // 0 is the primary slot
	Version string // as the device writes it: "1.2.3", "1.2.3.4"
	// Hash is the value of the image's hash TLV: 32, 48 or 64 bytes; nil if
	// the device reports none.
	Hash []byte

	Bootable, Pending, Confirmed, Active, Permanent bool
}

// ImageList is a device's answer to an image list.
type ImageList struct {
	Slots []ImageSlot
	// HasFlags tells whether any entry carried a state flag. A bootloader
	// built without image state sends none, which then means nothing.
	HasFlags bool
}

// Find returns the entry of the given image and slot.
func (l ImageList) Find(image, slot int) (ImageSlot, bool) {
	for _, s := range l.Slots {
		if s.Image == image && s.Slot == slot {
			return s, true
		}
	}
	return ImageSlot{}, false
}

type imageListAnswer struct {
	status
	Images *[]struct {
		Image     int64  `cbor:"image"`
		Slot      *int64 `cbor:"slot"`
		Version   string `cbor:"version"`
		Hash      []byte `cbor:"hash"`
		Bootable  *bool  `cbor:"bootable"`
		Pending   *bool  `cbor:"pending"`
		Confirmed *bool  `cbor:"confirmed"`
		Active    *bool  `cbor:"active"`
		Permanent *bool  `cbor:"permanent"`
	} `cbor:"images"`
}

func (a *imageListAnswer) list(request string) (ImageList, error) {
	if a.Images == nil {
		return ImageList{}, &ProtocolError{Request: request, Problem: `the answer has no "images"`}
	}
	var l ImageList
	is := func(b *bool) bool {
		if b == nil {
			return false
		}
		l.HasFlags = true
		return *b
	}
	for _, e := range *a.Images {
		switch {
		case e.Slot == nil:
			return ImageList{}, &ProtocolError{Request: request, Problem: "an image is listed without its slot"}
		case e.Image < 0 || e.Image > 255 || *e.Slot < 0 || *e.Slot > 255:
			return ImageList{}, &ProtocolError{Request: request, Problem: fmt.Sprintf("image %d slot %d is impossible", e.Image, *e.Slot)}
		}
		if _, twice := l.Find(int(e.Image), int(*e.Slot)); twice {
			return ImageList{}, &ProtocolError{Request: request, Problem: fmt.Sprintf("image %d slot %d is listed twice", e.Image, *e.Slot)}
		}
		l.Slots = append(l.Slots, ImageSlot{
			Image: int(e.Image), Slot: int(*e.Slot), Version: e.Version, Hash: e.Hash,
			Bootable: is(e.Bootable), Pending: is(e.Pending), Confirmed: is(e.Confirmed),
			Active: is(e.Active), Permanent: is(e.Permanent),
		})
	}
	return l, nil
}

// Images asks for the image list. A bootloader validates every slot for it,
// hash and signature, and leaves out what does not pass; that can take
// seconds, which timeout must allow for (0 means 15 s).
func (c *Client) Images(ctx context.Context, timeout time.Duration) (ImageList, error) {
	if timeout <= 0 {
		timeout = 15 * time.Second
	}
	r := request{name: "image list", op: OpRead, group: GroupImage, command: cmdImageState, payload: emptyMap, timeout: timeout}
	var out imageListAnswer
	if err := c.do(ctx, r, &out); err != nil {
		return ImageList{}, err
	}
	return out.list(r.name)
}

// SetImageState marks an image for the next start: for one trial boot, or for
// good when confirm is true. A nil hash means the image that runs (only an
// application knows it). The answer is the new list. Beware of a bootloader:
// it marks the secondary slot whatever slot the hash was found in.
func (c *Client) SetImageState(ctx context.Context, hash []byte, confirm bool, timeout time.Duration) (ImageList, error) {
	if timeout <= 0 {
		timeout = 15 * time.Second
	}
	r := request{name: "image state", op: OpWrite, group: GroupImage, command: cmdImageState, timeout: timeout}
	r.payload = c.encode(struct {
		Confirm bool   `cbor:"confirm"`
		Hash    []byte `cbor:"hash,omitempty"`
	}{confirm, hash})
	var out imageListAnswer
	if err := c.do(ctx, r, &out); err != nil {
		return ImageList{}, err
	}
	return out.list(r.name)
}

// EraseImage asks an application to erase a slot; a negative slot leaves the
// choice to it. MCUboot has no such command: up to 1.8 it answers success and
// does nothing, later it refuses.
func (c *Client) EraseImage(ctx context.Context, slot int, timeout time.Duration) error {
	r := request{name: "image erase", op: OpWrite, group: GroupImage, command: cmdImageErase, payload: emptyMap, timeout: timeout}
	if slot >= 0 {
		r.payload = c.encode(struct {
			Slot int `cbor:"slot"`
		}{slot})
	}
	var out status
	return c.do(ctx, r, &out)
}

// SlotInfo describes one slot.
type SlotInfo struct {
	Image, Slot int
	Size        int // bytes; 0 if the device could not open the slot
	// UploadID is the image number that addresses the slot in an upload, -1
	// if none was given. It may be trusted only where every slot of the image
	// carries one: builds without direct upload label the wrong slot.
	UploadID int
}

// SlotInfos is the answer to a slot info request.
type SlotInfos struct {
	Slots    []SlotInfo
	MaxImage map[int]int // image number to its largest size in bytes, where told
}

// SlotInfo asks for the slots and their sizes. Few bootloaders know it.
func (c *Client) SlotInfo(ctx context.Context) (SlotInfos, error) {
	var out struct {
		status
		Images *[]struct {
			Image int64 `cbor:"image"`
			Slots []struct {
				Slot     int64   `cbor:"slot"`
				Size     uint32  `cbor:"size"`
				UploadID *uint32 `cbor:"upload_image_id"`
				RC       *rc     `cbor:"rc"`
			} `cbor:"slots"`
			Max *uint32 `cbor:"max_image_size"`
		} `cbor:"images"`
	}
	// Never as a write: MCUboot answers that twice, the second time garbled.
	r := request{name: "slot information", op: OpRead, group: GroupImage, command: cmdSlotInfo, payload: emptyMap}
	if err := c.do(ctx, r, &out); err != nil {
		return SlotInfos{}, err
	}
	if out.Images == nil {
		return SlotInfos{}, &ProtocolError{Request: r.name, Problem: `the answer has no "images"`}
	}
	infos := SlotInfos{MaxImage: map[int]int{}}
	for _, im := range *out.Images {
		if im.Max != nil {
			infos.MaxImage[int(im.Image)] = int(*im.Max)
		}
		for _, s := range im.Slots {
			id := -1
			if s.UploadID != nil {
				id = int(*s.UploadID)
			}
			infos.Slots = append(infos.Slots, SlotInfo{Image: int(im.Image), Slot: int(s.Slot), Size: int(s.Size), UploadID: id})
		}
	}
	return infos, nil
}
