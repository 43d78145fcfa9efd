package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/smp"
)

// autoSpeeds are those that a board is looked for at, the fastest first: what
// bootloaders are built with, and what common adapters can do.
var autoSpeeds = [...]int{3_000_000, 2_000_000, 1_000_000, 921_600, 460_800, 230_400, 115_200, 57_600, 38_400, 19_200, 9600}

const (
	// speedProbes is how many full messages have to be answered for a speed to be
	// free of errors: with fewer a line that loses one in ten passes too often.
	speedProbes = 30
	// speedLost is how many lost ones need no further proof.
	speedLost = 5
	// speedWait is what an answer gets at each speed: much more than a board takes,
	// for a computer with much else to do.
	speedWait = 700 * time.Millisecond
	// loopMessage is the message that goes round a loop of TX and RX, which has
	// nobody to ask how large it may be: that of MCUboot's default buffer.
	loopMessage = 1020
	// loopLook is the pause between two looks whether it has come round.
	loopLook = 20 * time.Millisecond
)

// benchSpeed is what was measured at one speed; scripts rely on the JSON names.
type benchSpeed struct {
	Baud     int    `json:"baud"`
	Refused  bool   `json:"refused,omitempty"` // by the adapter
	Answered string `json:"answered"`          // "bootloader", "application", "loop" or nothing
	Message  int    `json:"message_size"`
	Probes   int    `json:"probes"` // of full messages
	Lost     int    `json:"lost"`
}

// good reports whether every probe was answered.
func (s benchSpeed) good() bool { return s.Probes > 0 && s.Lost == 0 }

// findBaud asks at every speed, from fast to slow, and where something gets lost
// once more, until at one of them nothing does, and sets p.baud to that. MCUboot's speed is compiled in, so that a
// real one answers at one; a loop of TX and RX and a simulated board without a
// speed of its own do at all. Nothing is written to the board.
func (p *benchPort) findBaud(ctx context.Context, r *benchReport) error {
	return r.phase(ctx, "find speed", func(ctx context.Context) error {
		for began := time.Now(); ; {
			r.Speeds = []benchSpeed{}
			answered, accepted := false, false
			var refusal error
			for _, baud := range autoSpeeds {
				s, err := p.atSpeed(ctx, baud)
				if err == nil && s.Answered != "" && !s.good() {
					// Once more: a busy computer loses some too, and not twice.
					s, err = p.atSpeed(ctx, baud)
				}
				if s.Refused {
					refusal = err
				} else if err != nil {
					return err
				}
				accepted = accepted || !s.Refused
				r.Speeds = append(r.Speeds, s)
				answered = answered || s.Answered != ""
				if s.good() {
					p.baud, r.Baud, r.Message = baud, baud, s.Message
					return nil
				}
			}
			if !accepted {
				r.Speeds = nil // not a word on speeds for what is no port
				return refusal
			}
			if answered {
				return errors.New("messages get lost at every speed: check contacts, ground and cable")
			}
			if time.Since(began) >= p.wait {
				return fmt.Errorf("nothing answers on %s at any of %d speeds: hold the board's recovery button, press reset, and try again", p.port, len(autoSpeeds))
			}
		}
	})
}

// atSpeed asks what is there at one speed and then, with messages as long as it
// takes, how many get lost.
func (p *benchPort) atSpeed(ctx context.Context, baud int) (s benchSpeed, err error) {
	s.Baud = baud
	port, err := fixtures.OpenPort(p.port, fixtures.Mode{Baud: baud})
	if refused, ok := errors.AsType[*fixtures.PortError](err); ok && refused.BadBaud() {
		s.Refused = true
		return s, err
	}
	if err != nil {
		return s, err
	}
	// In doubt it is asked with frames: to ask in both ways takes a pause of
	// seconds between them, at each speed.
	talk := smp.Options{Baud: baud}
	if p.framing == string(configs.RawFraming) {
		talk.Framing = smp.FramingRaw
	}
	c := smp.NewClient(port, talk)
	defer func() { err = errors.Join(err, c.Close()) }()
	target, err := c.AwaitTarget(ctx, speedWait/3, speedWait)
	_, silent := errors.AsType[*smp.TimeoutError](err)
	lost := func() (bool, error) {
		ok, err := c.ProbeSize(ctx, s.Message, speedWait)
		return !ok, err
	}
	switch {
	case err == nil:
		s.Answered = target.String()
		if s.Message, err = c.FindMessageSize(ctx, smp.Lines{}); err != nil {
			if _, silent := errors.AsType[*smp.TimeoutError](err); silent && ctx.Err() == nil {
				s.Message, err = smp.HeaderSize+1, nil // not even a short one passes each time
				s.Probes, s.Lost = 1, 1
			}
			return s, err
		}
	case silent && c.Stats().Echoes > 0:
		s.Answered, s.Message = "loop", loopMessage
		lost = func() (bool, error) {
			before := c.Stats().Echoes
			// No answer will come, so that the wait for one is short; the echo may
			// be later on a busy computer.
			_, err := c.ProbeSize(ctx, s.Message, loopLook)
			for end := time.Now().Add(speedWait); err == nil && c.Stats().Echoes == before && time.Now().Before(end); {
				select {
				case <-time.After(loopLook):
				case <-ctx.Done():
					err = context.Cause(ctx)
				}
			}
			return c.Stats().Echoes == before, err
		}
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case silent:
		return s, nil
	default: // it answered, and its answer makes no sense
		if _, broken := errors.AsType[*smp.PortError](err); broken {
			return s, err
		}
		return s, nil
	}
	for s.Probes < speedProbes && s.Lost < speedLost {
		gone, err := lost()
		if err != nil {
			return s, err
		}
		s.Probes++
		if gone {
			s.Lost++
		}
	}
	return s, nil
}

// printSpeeds writes what was measured at each speed.
func printSpeeds(out io.Writer, r benchReport) {
	row := func(baud, answered, lost, size string) {
		fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("%-8s  %-11s  %-11s  %s", baud, answered, lost, size), " "))
	}
	fmt.Fprintln(out)
	row("baud", "answered", "probes lost", "message size")
	fastest := "none"
	for _, s := range r.Speeds {
		baud := strconv.Itoa(s.Baud)
		switch {
		case s.Refused:
			row(baud, "refused by the adapter", "", "")
		case s.Answered == "":
			row(baud, "no", "", "")
		default:
			row(baud, s.Answered, fmt.Sprintf("%d of %d", s.Lost, s.Probes), strconv.Itoa(s.Message))
		}
		if s.good() {
			fastest = baud
		}
	}
	fmt.Fprintf(out, "fastest speed without errors: %s\n", fastest)
}
