package smp

import (
	"fmt"
	"time"
)

// TimeoutError says that a request was sent and nothing answered it. MCUboot
// is silent on anything it cannot use, so silence alone does not tell a dead
// board from a request it dropped.
type TimeoutError struct {
	Request string        // what was asked, as "image upload"
	After   time.Duration // how long was waited
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("%s: no answer within %.1f s", e.Request, e.After.Seconds())
}

// Timeout reports true, as net.Error's method does.
func (e *TimeoutError) Timeout() bool { return true }

// ServerError is the device's own refusal of a request.
type ServerError struct {
	Request string // what was asked
	// Group is the group whose codes Code belongs to, when PerGroup is true:
	// SMP v2 servers answer so. Otherwise Code is one of the protocol's own.
	Group    Group
	PerGroup bool
	Code     int64
	Reason   string // the server's "rsn" text, mostly empty
}

func (e *ServerError) Error() string {
	s := fmt.Sprintf("%s: device answered rc %d", e.Request, e.Code)
	if e.PerGroup {
		s = fmt.Sprintf("%s: device answered %s error %d", e.Request, e.Group, e.Code)
	}
	if name := e.Name(); name != "" {
		s += " (" + name + ")"
	}
	if e.Reason != "" {
		s += fmt.Sprintf(": %q", e.Reason)
	}
	return s
}

// NotSupported reports whether the device said that it does not know the
// request at all (rc 8): normal for commands that a bootloader was built
// without.
func (e *ServerError) NotSupported() bool { return !e.PerGroup && e.Code == CodeNotSupported }

// TooOld reports whether the device refused the request for its protocol
// version: an application built without
// CONFIG_MCUMGR_SMP_SUPPORT_ORIGINAL_PROTOCOL, which wants V2 (see
// [Client.SetVersion]).
func (e *ServerError) TooOld() bool { return !e.PerGroup && e.Code == CodeTooOld }

// Image reports whether the device answered with that code of the image group
// (ImageNoFreeSlot and the others), which only an application asked in V2
// does: in V1 it folds these codes into a few of the protocol's own.
func (e *ServerError) Image(code int64) bool {
	return e.PerGroup && e.Group == GroupImage && e.Code == code
}

// Codes of the protocol itself that callers branch on (Zephyr's enum
// mcumgr_err_t). MCUboot uses those up to CodeBusy and no others.
const (
	CodeOK           = 0
	CodeUnknown      = 1
	CodeNoMemory     = 2
	CodeInvalid      = 3
	CodeTimeout      = 4
	CodeNoEntry      = 5
	CodeBadState     = 6
	CodeTooLarge     = 7
	CodeNotSupported = 8
	CodeCorrupt      = 9
	CodeBusy         = 10
	CodeAccessDenied = 11
	CodeTooOld       = 12 // the request's version: UNSUPPORTED_TOO_OLD
	CodeTooNew       = 13 // the request's version: UNSUPPORTED_TOO_NEW
)

// Codes of the image group that callers branch on, for [ServerError.Image]
// (IMG_MGMT_ERR_* in Zephyr's img_mgmt.h).
const (
	ImageHashNotFound        = 8  // no slot holds an image with that hash
	ImageNoFreeSlot          = 9  // the other slot is pending, confirmed or in use
	ImageFlashWriteFailed    = 12 // FLASH_WRITE_FAILED
	ImageFlashEraseFailed    = 13 // FLASH_ERASE_FAILED
	ImageInvalidSlot         = 14 // INVALID_SLOT
	ImageInvalidHeader       = 22 // INVALID_IMAGE_HEADER: the first chunk is too short for one
	ImageInvalidHeaderMagic  = 23 // INVALID_IMAGE_HEADER_MAGIC: what is sent is no image
	ImageInvalidHash         = 24 // no hash where one is needed, or one of a wrong length
	ImageInvalidFlashAddress = 25 // INVALID_FLASH_ADDRESS: linked for another slot
	ImageCurrentIsNewer      = 27 // CURRENT_VERSION_IS_NEWER: a downgrade was refused
	ImageAlreadyPending      = 28 // IMAGE_ALREADY_PENDING: another image waits to be swapped in
	ImageTooLarge            = 30 // INVALID_IMAGE_TOO_LARGE: larger than its slot
	ImageDataOverrun         = 31 // INVALID_IMAGE_DATA_OVERRUN: more data than announced
	ImageConfirmationDenied  = 32 // IMAGE_CONFIRMATION_DENIED: only what runs may be confirmed
	ImageTestOfActiveDenied  = 33 // IMAGE_SETTING_TEST_TO_ACTIVE_DENIED: it runs already
)

// Name returns the symbolic name of the code as Zephyr's headers spell it
// (without their prefix), or "" for a number this package has no name for:
// the lists only ever grow.
func (e *ServerError) Name() string {
	names := protocolCodes
	if e.PerGroup {
		names = groupCodes[e.Group]
	}
	if e.Code < 0 || e.Code >= int64(len(names)) {
		return ""
	}
	return names[e.Code]
}

var protocolCodes = []string{
	"OK", "UNKNOWN", "ENOMEM", "EINVAL", "ETIMEOUT", "ENOENT", "EBADSTATE",
	"EMSGSIZE", "ENOTSUP", "ECORRUPT", "EBUSY", "EACCESSDENIED",
	"UNSUPPORTED_TOO_OLD", "UNSUPPORTED_TOO_NEW", "BRIDGED_CONNECTION_UNAVAILABLE",
}

var groupCodes = map[Group][]string{
	GroupOS: {
		"OK", "UNKNOWN", "INVALID_FORMAT", "QUERY_YIELDS_NO_ANSWER", "RTC_NOT_SET",
		"RTC_COMMAND_FAILED", "QUERY_RESPONSE_VALUE_NOT_VALID", "HEAP_STATS_FETCH_FAILED",
	},
	GroupImage: {
		"OK", "UNKNOWN", "FLASH_CONFIG_QUERY_FAIL", "NO_IMAGE", "NO_TLVS", "INVALID_TLV",
		"TLV_MULTIPLE_HASHES_FOUND", "TLV_INVALID_SIZE", "HASH_NOT_FOUND", "NO_FREE_SLOT",
		"FLASH_OPEN_FAILED", "FLASH_READ_FAILED", "FLASH_WRITE_FAILED", "FLASH_ERASE_FAILED",
		"INVALID_SLOT", "NO_FREE_MEMORY", "FLASH_CONTEXT_ALREADY_SET", "FLASH_CONTEXT_NOT_SET",
		"FLASH_AREA_DEVICE_NULL", "INVALID_PAGE_OFFSET", "INVALID_OFFSET", "INVALID_LENGTH",
		"INVALID_IMAGE_HEADER", "INVALID_IMAGE_HEADER_MAGIC", "INVALID_HASH",
		"INVALID_FLASH_ADDRESS", "VERSION_GET_FAILED", "CURRENT_VERSION_IS_NEWER",
		"IMAGE_ALREADY_PENDING", "INVALID_IMAGE_VECTOR_TABLE", "INVALID_IMAGE_TOO_LARGE",
		"INVALID_IMAGE_DATA_OVERRUN", "IMAGE_CONFIRMATION_DENIED",
		"IMAGE_SETTING_TEST_TO_ACTIVE_DENIED", "ACTIVE_SLOT_NOT_KNOWN",
	},
}

// ProtocolError says that an answer came whose content makes no sense: broken
// CBOR, a missing key, an impossible value.
type ProtocolError struct {
	Request string
	Problem string
	Err     error // the decoder's error, or nil
}

func (e *ProtocolError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Request, e.Problem, e.Err)
	}
	return fmt.Sprintf("%s: %s", e.Request, e.Problem)
}

func (e *ProtocolError) Unwrap() error { return e.Err }

// PortError says that the line itself failed: unplugged, closed, gone.
type PortError struct {
	Op  string // "read" or "write"
	Err error
}

func (e *PortError) Error() string { return fmt.Sprintf("port %s: %v", e.Op, e.Err) }

func (e *PortError) Unwrap() error { return e.Err }
