package line

import (
	"time"

	"flashline/records"
)

// EventKind says what happened.
type EventKind string

// The kinds of events, with the fields that go with them.
const (
	Awaiting  EventKind = "awaiting"  // the next unit goes to Site: load it and scan it
	Refused   EventKind = "refused"   // a scan was not taken: Serial, Text says why and what to do
	Assigned  EventKind = "assigned"  // Serial was scanned for Site
	Locked    EventKind = "locked"    // Site is out of order: Text
	Started   EventKind = "started"   // a cycle began over the loaded sites: Text is its id
	Attempt   EventKind = "attempt"   // an attempt begins: Site, Serial, Try, Attempt
	Step      EventKind = "step"      // Site, Serial, Progress: a step began or ended
	Upload    EventKind = "upload"    // Site, Serial, Progress: bytes have moved
	Recorded  EventKind = "recorded"  // an attempt ended and its record is on the disk: Attempt, Result, Retry
	Dropped   EventKind = "dropped"   // Serial was loaded at Site and is not started any more
	Advice    EventKind = "advice"    // the port of Site could be faster: Text says how; once in a run
	Stopping  EventKind = "stopping"  // no new units from here on: Text
	LineFault EventKind = "linefault" // the station cannot go on: Text
)

// Event is one thing that happened on the line.
type Event struct {
	At       time.Time
	Kind     EventKind
	Site     int
	Serial   string
	Try      int
	Text     string
	Progress Progress
	Attempt  records.Attempt
	Result   *records.Result // set for Recorded
	Retry    bool            // with Recorded: another attempt at the same unit follows
}
