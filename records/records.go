// Package records keeps the evidence: what was flashed, where, by whom, and
// what the board answered.
//
// Its one secret is how a record survives. A record lives in one SQLite file
// in two halves, the attempt written before a board is touched and the result
// written when it is over, and neither is ever changed. An attempt without a
// result is RUNNING; if the station dies there, the next start finds it and
// gives it the result INTERRUPTED. No call that writes returns before its rows
// are on the disk (write-ahead log, synchronous=FULL), so whoever shows green
// after [Store.Finish] has returned nil shows something that outlives a power
// cut.
//
// The rules that make it evidence stand in the database itself, where no other
// program can go round them: rows are never updated, deleted or replaced,
// numbers have no gaps, and a PASS is refused unless the device reported the
// very hash of every image of the attempt.
//
// [Open] is for the station, of which there is one per file. [OpenReadOnly] is
// for questions, from any number of programs, while the station runs or years
// later.
package records

import "time"

// Outcome says how an attempt or a step ended.
type Outcome string

// The outcomes. Pass, Fail, Error, Aborted and Interrupted end an attempt;
// a step ends in Pass, Fail, Error, Aborted or Skipped.
const (
	Running     Outcome = "RUNNING"     // no result yet; never stored
	Pass        Outcome = "PASS"        // the device reported the hash of the image
	Fail        Outcome = "FAIL"        // the unit is bad
	Error       Outcome = "ERROR"       // the station or the fixture is bad
	Aborted     Outcome = "ABORTED"     // a person stopped it
	Interrupted Outcome = "INTERRUPTED" // the station died before the end
	Skipped     Outcome = "SKIPPED"     // a step that was not needed or not reached
)

// Purpose keeps runs that prove the station apart from runs that make product.
type Purpose string

// The purposes of an attempt. Counts and yields are over Production only.
const (
	Production Purpose = "production"
	Golden     Purpose = "golden" // the known-good or known-bad unit of the shift
	Debug      Purpose = "debug"
)

// SerialSource says how the station came to know the serial of a unit.
type SerialSource string

// The sources of a serial. The empty source goes with an unknown serial only.
const (
	SerialScan      SerialSource = "scan"
	SerialTyped     SerialSource = "typed"
	SerialDevice    SerialSource = "device"
	SerialGenerated SerialSource = "generated"
)

// Target says what answered on the port.
type Target string

// The targets. Empty means that nothing answered.
const (
	Bootloader  Target = "bootloader"
	Application Target = "application"
)

// Order is a work order.
type Order struct {
	ID             string
	Product        string
	RecipeRevision string
	Quantity       int       // units to build, 0 if the order does not say
	CreatedAt      time.Time // kept to the millisecond; zero means when it was put
}

// Recipe is a released recipe: the file as it was used.
type Recipe struct {
	SHA256   string // of Text, lower-case hex
	Product  string
	Revision string
	Text     string
}

// Image is a MCUboot image file.
type Image struct {
	FileSHA256 string // of the whole file, lower-case hex
	Hash       string // of the hash TLV (IMAGE_TLV_SHA256, 384 or 512), lower-case hex: what the device reports
	Version    string
	Size       int64  // of the file, bytes
	Name       string // of the file when it was first put
}

// Attempt is one flash of one unit at one site: the half of the record that is
// written before the board is touched.
type Attempt struct {
	// Filled in by [Store.Begin]; whatever the caller puts there is ignored.

	ID        string    // UUIDv7
	Seq       int64     // number at this station, from 1, without gaps: orders attempts where the clock may not
	Station   string    // from [Options]
	Host      string    // from [Options]
	BootID    string    // from [Options]: the start of the station program this belongs to
	AttemptNo int       // nth attempt of this unit in this order with this purpose, over all history; 1 for an unknown serial
	StartedAt time.Time // UTC, milliseconds

	// Stated by the caller.

	Fixture      string
	Site         int          // as painted on the fixture, from 1
	CycleID      string       // the press of start this belongs to
	Order        string       // of an order that was put; empty for none
	UnitSerial   string       // empty when unknown: the record is kept anyway
	SerialSource SerialSource // required with a serial
	Operator     string
	CycleTry     int // nth try within the cycle, from 1
	Purpose      Purpose

	RecipeSHA256   string // of a recipe that was put, with its Product and RecipeRevision; empty for none
	Product        string
	RecipeRevision string

	ImageName       string
	ImageVersion    string
	ImageFileSHA256 string // of an image that was put; empty for none
	ImageHash       string // what the device must report for a PASS, lower-case hex
	ImageSize       int64  // bytes

	// Further are the images of the attempt besides the one above, such as
	// that of a network core, each with a Number of its own. A PASS needs the
	// hash of every one. They are read back in the order of their numbers.
	Further []FurtherImage

	SoftwareVersion string // of the station program
	ConfigSHA256    string // of the station file in use
	Port            string
	Baud            int
}

// FurtherImage is an image of an attempt besides its first one.
type FurtherImage struct {
	Number     int // which of the board's images, as MCUboot counts them, from 0
	Name       string
	Version    string
	FileSHA256 string // of an image file that was put; empty for none
	Hash       string // what the device must report for a PASS, lower-case hex
	Size       int64  // bytes
}

// FurtherResult is what a device reported of a further image, in the terms of
// [Result].
type FurtherResult struct {
	Number        int    // that of the FurtherImage
	DeviceHash    string // must equal the image's Hash for a Pass
	DeviceVersion string
	PrevHash      string
}

// Result is how an attempt ended: the other half of the record.
type Result struct {
	Outcome     Outcome
	FailureCode string // the one cause; required unless Outcome is Pass
	FailedStep  string // name of the step that failed
	Detail      string // what went wrong, in one plain sentence; required unless Outcome is Pass
	NextStep    string // what the operator should do

	DeviceHash    string // what the device reported at the end, lower-case hex; must equal the attempt's ImageHash for a Pass
	DeviceVersion string
	PrevHash      string // what the device reported before the upload, if anything
	Target        Target
	Further       []FurtherResult // of the attempt's further images, as far as they were reported; read back in the order of their numbers

	Policy    string // the slot policy that was followed, empty if it did not come to that
	PolicyRow string // the row of the decision table that chose it
	PolicyWhy string // why, in one sentence
	Proof     string // how the image was proven, in one sentence; empty if it was not

	ChunkSize   int   // image bytes per upload request
	MessageSize int   // largest message the target takes, bytes
	BytesSent   int64 // image bytes, repeated ones included
	Retries     int   // of single requests: those of the upload that were sent again

	UploadMode    string // the way of sending that the upload ended in, "stop-and-wait", "overlapped" or "window"; empty if nothing was sent
	UploadRewinds int    // how often a faster way was given up
	UploadRate    int64  // image bytes that the device took in a second of the uploads alone, 0 if nothing was sent

	EndedAt  time.Time     // kept to the millisecond, UTC; zero means when it was finished
	Duration time.Duration // from a monotonic clock, kept to the millisecond; unknown, thus 0, when Interrupted
	Steps    []Step        // in order
}

// Step is a named, timed part of an attempt.
type Step struct {
	Name     string
	Start    time.Duration // since the start of the attempt, kept to the millisecond
	Duration time.Duration // kept to the millisecond
	Outcome  Outcome
	Retries  int
	Bytes    int64
	Detail   string
}

// Record is an attempt and, once it is over, its result.
type Record struct {
	Attempt
	Result *Result // nil while RUNNING
}

// Outcome returns how the attempt ended, or [Running].
func (r Record) Outcome() Outcome {
	if r.Result == nil {
		return Running
	}
	return r.Result.Outcome
}

// reported returns what the device reported of a further image, if anything.
func (r Record) reported(number int) FurtherResult {
	if r.Result != nil {
		for _, d := range r.Result.Further {
			if d.Number == number {
				return d
			}
		}
	}
	return FurtherResult{}
}

// Times are stored and exported in one fixed width, so that comparing the
// texts compares the times.
const timeLayout = "2006-01-02T15:04:05.000Z"

func formatTime(t time.Time) string { return t.UTC().Format(timeLayout) }
