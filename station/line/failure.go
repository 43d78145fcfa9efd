package line

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"flashline/fixtures"
	"flashline/records"
	"flashline/smp"
)

// Code names the one cause of an attempt that did not pass. Codes are stored
// for ever: they are added to, never renamed.
type Code string

// The unit's faults (outcome FAIL).
const (
	NoRecovery      Code = "NO_RECOVERY"      // powered with recovery held, silent
	NotRecovery     Code = "NOT_RECOVERY"     // something answered, and it was no bootloader
	BoardSilent     Code = "BOARD_SILENT"     // fell silent in recovery: power, contacts, or dead
	BadLine         Code = "BAD_LINE"         // alive, but what is sent gets lost or damaged
	UploadRefused   Code = "UPLOAD_REFUSED"   // the bootloader said no
	UploadStalled   Code = "UPLOAD_STALLED"   // answers, but takes no data
	UploadRestarted Code = "UPLOAD_RESTARTED" // lost its place: it restarted
	Garbled         Code = "GARBLED"          // answers that make no sense
	ListTimeout     Code = "LIST_TIMEOUT"     // silent when asked for its images
	ListRefused     Code = "LIST_REFUSED"     // refused to list its images
	ImageNotListed  Code = "IMAGE_NOT_LISTED" // does not accept the image: key or damage
	HashDiffers     Code = "HASH_DIFFERS"     // reports another image
	HashNotReported Code = "HASH_NOT_REPORTED"
	StaleSwap       Code = "STALE_SWAP"       // another image is marked to replace the one in slot 0
	NotConfirmed    Code = "NOT_CONFIRMED"    // holds the image, and would not keep it
	NoDirectUpload  Code = "NO_DIRECT_UPLOAD" // cannot be sent an image to the secondary slot
	NoImageState    Code = "NO_IMAGE_STATE"   // cannot be told to keep an image
	ConfirmRefused  Code = "CONFIRM_REFUSED"  // could, and did not
	NotSwapped      Code = "NOT_SWAPPED"      // restarted, and the image is not in the primary slot
	Replaced        Code = "REPLACED"         // another image was swapped over it at the restart
	ErasedAtBoot    Code = "ERASED_AT_BOOT"   // the bootloader threw it away at the restart
	OtherSlotRuns   Code = "OTHER_SLOT_RUNS"  // another slot may be the one that runs
	NotProven       Code = "NOT_PROVEN"       // nothing shows that it runs
	Reverted        Code = "REVERTED"         // started on trial, and went back
	ResetRefused    Code = "RESET_REFUSED"
	NotRestarted    Code = "NOT_RESTARTED"     // the application went on as before
	StillInRecovery Code = "STILL_IN_RECOVERY" // restarted, and is a bootloader again
	NoBoot          Code = "NO_BOOT"           // restarted, and said nothing
	WrongBootText   Code = "WRONG_BOOT_TEXT"   // started, and said something else

	NotApplication Code = "NOT_APPLICATION" // a bootloader answered where an application should
	NoFreeSlot     Code = "NO_FREE_SLOT"    // the application has nowhere to put an image
	NoSuchImage    Code = "NO_SUCH_IMAGE"   // nothing shows that the board has that image number
	ImageTooLarge  Code = "IMAGE_TOO_LARGE" // for the slot that the board tells of
	MessageTooLong Code = "MESSAGE_TOO_LONG"
	Downgrade      Code = "DOWNGRADE"   // holds a higher version
	WrongBoard     Code = "WRONG_BOARD" // is another product
	// DependencyMissing: the image needs another one that the board lacks.
	DependencyMissing Code = "DEPENDENCY_MISSING"

	NoUSBPort   Code = "NO_USB_PORT" // powered, and its USB port did not appear
	USBLost     Code = "USB_LOST"    // its USB port went in the middle
	WrongBaud   Code = "WRONG_BAUD"  // answers at another speed
	RawProtocol Code = "RAW_PROTOCOL"
	// ConsoleProtocol: speaks console lines where the raw protocol was wanted.
	ConsoleProtocol Code = "CONSOLE_PROTOCOL"
	LineEcho        Code = "LINE_ECHO"  // the line sends back what it gets
	LineNoise       Code = "LINE_NOISE" // sends what cannot be read

	TotalTime Code = "TOTAL_TIME" // took longer than the recipe allows
)

// The station's faults (ERROR) and the operator's will (ABORTED).
const (
	PinFault      Code = "PIN"
	PortFault     Code = "PORT"        // cannot be opened
	PortLost      Code = "PORT_LOST"   // broke while in use
	PortShared    Code = "PORT_SHARED" // another program takes its bytes
	StillPowered  Code = "STILL_POWERED"
	InterlockOpen Code = "INTERLOCK_OPEN"
	StationFault  Code = "STATION" // anything else of the station
	Aborted       Code = "ABORTED"
)

// ErrAborted is the cause to cancel a context with when a person stops an
// attempt.
var ErrAborted = errors.New("stopped by the operator")

// errTotalTime is the cause of a context that has outlived the recipe's total
// time.
var errTotalTime = errors.New("total time used up")

// Failure is why an attempt did not pass: exactly one cause, with a sentence
// for the operator and what to do next.
type Failure struct {
	Outcome records.Outcome
	Code    Code
	Detail  string // what went wrong, a sentence
	Next    string // what to do, a sentence
	Err     error  // the cause, nil if it was found by comparing
}

func (f *Failure) Error() string { return string(f.Code) + ": " + f.Detail }

func (f *Failure) Unwrap() error { return f.Err }

// retryable reports whether a power cycle may help. What the image or the
// bootloader's key is to blame for will not change.
func (f *Failure) retryable() bool {
	if f.Outcome != records.Fail {
		return false
	}
	switch f.Code {
	case ImageNotListed, HashNotReported, UploadRefused, NotRecovery, StaleSwap, NotConfirmed, NoDirectUpload, NoImageState, ConfirmRefused, TotalTime,
		ErasedAtBoot, OtherSlotRuns, NotProven, Reverted, NotSwapped, NotApplication, NoSuchImage, NotRestarted, ResetRefused, ImageTooLarge, MessageTooLong, Downgrade, WrongBoard,
		DependencyMissing, WrongBaud, RawProtocol, ConsoleProtocol:
		return false
	}
	return true
}

const (
	reseat   = "Reseat the board and try again; if it fails again, put it aside as bad."
	setAside = "Put the board aside as bad."
	callTech = "Call a technician."
)

// explain turns the error that ended a step into the cause to record.
func explain(ctx context.Context, step string, err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	fail := func(outcome records.Outcome, code Code, detail, next string) *Failure {
		return &Failure{Outcome: outcome, Code: code, Detail: detail, Next: next, Err: err}
	}
	_, pin := errors.AsType[*fixtures.PinError](err)
	switch cause := context.Cause(ctx); {
	case pin: // told below, whatever else ended
	case errors.Is(cause, errTotalTime):
		return fail(records.Fail, TotalTime, fmt.Sprintf("The attempt took longer than the recipe allows; it was at step %q.", step), reseat)
	case cause != nil || errors.Is(err, fixtures.ErrCut):
		return fail(records.Aborted, Aborted, fmt.Sprintf("Stopped by the operator at step %q.", step), "The board may hold half an image: flash it again.")
	}
	// The station's own faults before the board's: what was met on the way out
	// of a failure, such as a power that stays on, is the worse news.
	if e, ok := errors.AsType[*fixtures.PinError](err); ok {
		return fail(records.Error, PinFault, fmt.Sprintf("Pin %s (%s) cannot be switched: %v.", e.Pin, e.Role, e.Err), "Take care: the board may still have power. "+e.Hint)
	}
	if e, ok := errors.AsType[*fixtures.InterlockError](err); ok {
		return fail(records.Error, InterlockOpen, fmt.Sprintf("The interlock of site %d is open.", e.Site), "Close the lid or clamp and start again.")
	}
	if e, ok := errors.AsType[*fixtures.PortError](err); ok {
		code, detail := PortFault, fmt.Sprintf("Port %s cannot be used: %v.", e.Path, e.Err)
		if _, lost := errors.AsType[*smp.PortError](err); lost {
			code, detail = PortLost, fmt.Sprintf("Port %s broke at step %q: %v.", e.Path, step, e.Err)
		}
		return fail(records.Error, code, detail, e.Hint)
	}
	if e, ok := errors.AsType[*fixtures.StillPoweredError](err); ok {
		return fail(records.Error, StillPowered, fmt.Sprintf("The USB port %s of site %d is still there after %s.", e.Path, e.Site, e.After), e.Hint)
	}
	if e, ok := errors.AsType[*fixtures.NoPortError](err); ok {
		return fail(records.Fail, NoUSBPort, fmt.Sprintf("The board's USB port %s did not appear within %.1f s.", e.Path, e.Waited.Seconds()), reseat)
	}
	// After the port: a board is not to blame for a line that takes nothing.
	if e, ok := errors.AsType[*fixtures.NoAnswerError](err); ok {
		return fail(records.Fail, NoRecovery,
			fmt.Sprintf("The board did not answer within %.1f s of %s.", e.Held.Seconds(), cmp.Or(e.Since, "power-on")),
			"Reseat the board and check its pogo pins; if other sites work, put the board aside as bad.")
	}
	if e, ok := errors.AsType[*smp.PortError](err); ok {
		return fail(records.Error, PortLost, fmt.Sprintf("The port broke at step %q: %v.", step, e.Err), "Check the adapter of this site and its cable.")
	}
	where := ""
	if e, ok := errors.AsType[*smp.UploadError](err); ok {
		where = fmt.Sprintf(" at byte %d of %d", e.Offset, e.Total)
	}
	if e, ok := errors.AsType[*smp.LostError](err); ok {
		return fail(records.Fail, BadLine, fmt.Sprintf("The board is alive, but got none of %d messages of %d bytes.", e.Copies, e.Size),
			"Reseat the board and check its contacts and ground; a recipe may also set a smaller message_size.")
	}
	if e, ok := errors.AsType[*smp.RestartError](err); ok {
		return fail(records.Fail, UploadRestarted, fmt.Sprintf("The board restarted during the upload, after %d bytes.", e.Had),
			"Reseat the board and check its supply contacts; if it fails again, put it aside as bad.")
	}
	if e, ok := errors.AsType[*smp.StallError](err); ok {
		return fail(records.Fail, UploadStalled, fmt.Sprintf("The board answers but takes no more data%s (%d tries).", where, e.Tries), setAside)
	}
	if e, ok := errors.AsType[*smp.TimeoutError](err); ok {
		return fail(records.Fail, BoardSilent, fmt.Sprintf("The board stopped answering%s (%s, waited %.1f s).", where, e.Request, e.After.Seconds()), reseat)
	}
	if e, ok := errors.AsType[*smp.ServerError](err); ok {
		next := "Check that the image is built for this board and fits its slot; call a technician."
		return fail(records.Fail, UploadRefused, fmt.Sprintf("The board refused%s: %v.", where, e), next)
	}
	if e, ok := errors.AsType[*smp.ProtocolError](err); ok {
		return fail(records.Fail, Garbled, fmt.Sprintf("The board gave an answer that makes no sense%s: %v.", where, e), reseat)
	}
	return fail(records.Error, StationFault, fmt.Sprintf("The station failed at step %q: %v.", step, err), callTech)
}

// silenceFailure words what was found out about a silence.
func silenceFailure(s *fixtures.Silence, was *Failure) *Failure {
	f := *was
	switch s.Cause {
	case fixtures.SilencePortShared:
		f.Outcome, f.Code = records.Error, PortShared
	case fixtures.SilenceBaud:
		f.Code = WrongBaud
	case fixtures.SilenceRaw:
		f.Code = RawProtocol
	case fixtures.SilenceConsole:
		f.Code = ConsoleProtocol
	case fixtures.SilenceEcho:
		f.Code = LineEcho
	case fixtures.SilenceNoise:
		f.Code = LineNoise
	case fixtures.SilenceApplication:
		f.Code = NotRecovery
	}
	detail, next := s.Explain()
	f.Detail, f.Next = strings.TrimSuffix(f.Detail, ".")+": "+detail+".", next
	return &f
}
