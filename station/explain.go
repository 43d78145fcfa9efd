package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"periph.io/x/conn/v3/gpio"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/smp"
	"flashline/station/line"
)

// explanation is what can be learnt of a board without writing to it; scripts
// rely on the JSON names.
type explanation struct {
	Port        string            `json:"port"`
	Baud        int               `json:"baud"`
	Framing     string            `json:"framing"` // of what answers, else the one asked for
	Target      string            `json:"target"`
	MessageSize int               `json:"message_size"` // largest SMP message that the board takes, bytes
	BufferSize  int               `json:"buffer_size,omitempty"`
	BufferCount int               `json:"buffer_count,omitempty"`
	Echo        bool              `json:"echo"`
	ImageState  bool              `json:"image_state"` // the list carries flags
	Hashes      bool              `json:"hashes"`      // the list carries hashes
	Images      []explainedImage  `json:"images"`
	SlotInfo    bool              `json:"slot_info"`
	Slots       []explainedSlot   `json:"slots"`
	Board       string            `json:"board,omitempty"`      // as an application names what it runs on
	System      string            `json:"system,omitempty"`     // the rest of what it says of itself
	Bootloader  string            `json:"bootloader,omitempty"` // as an application names it
	Release     string            `json:"release,omitempty"`    // of MCUboot, as far as its answers betray it
	Hints       []string          `json:"hints"`                // how they do
	Policy      string            `json:"policy"`               // what "auto" comes to, "" if this program cannot flash it
	Row         string            `json:"row"`                  // of the decision table
	Why         string            `json:"why"`
	Policies    []explainedPolicy `json:"policies"` // what the others come to
	Silence     *explainedSilence `json:"silence,omitempty"`
	Notes       []string          `json:"notes"`
}

// explainedPolicy is what would become of a recipe that names a slot policy.
type explainedPolicy struct {
	Policy string `json:"policy"`
	Works  bool   `json:"works"`
	Row    string `json:"row,omitempty"`
	Why    string `json:"why"`            // or why not
	Cure   string `json:"cure,omitempty"` // what to build or write for it to work
}

// explainedSilence is what was found out about a board that does not answer.
type explainedSilence struct {
	Cause    string   `json:"cause"`
	Detail   string   `json:"detail"`
	NextStep string   `json:"next_step"`
	RuledOut []string `json:"ruled_out"`
	Heard    int      `json:"heard"` // bytes that came at the speed of the port
	Printed  []string `json:"printed"`
	Holders  []string `json:"holders"` // other programs that have the port open
}

type explainedImage struct {
	Image   int      `json:"image"`
	Slot    int      `json:"slot"`
	Version string   `json:"version"`
	Hash    string   `json:"hash"`
	Flags   []string `json:"flags"`
}

type explainedSlot struct {
	Image    int `json:"image"`
	Slot     int `json:"slot"`
	Size     int `json:"size"`
	UploadID int `json:"upload_image_id"` // -1 if none
}

func newExplain() *cobra.Command {
	var (
		port, format string
		framing      string
		baud         int
		wait         time.Duration
	)
	cmd := &cobra.Command{
		Use:   "explain --port P",
		Short: "Look at one connected board, without writing to it",
		Long: `Explain asks the board on a port what it is: bootloader or application, what
it can take and tell, which images it holds, what its answers betray of its
release, and which slot policy a run would follow and why, with what is missing
for the others. It writes nothing to the board and leaves it as it is.

A board that does not answer is asked in the raw protocol, in other ways and at
other speeds, for some seconds; what can be told from here is said.

Exit codes: 0 something answered, 1 silence, 2 bad input, 3 port fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if port == "" {
				return badInput(errors.New("no port: give one with --port, as --port /dev/ttyACM0"))
			}
			if format != "text" && format != "json" {
				return badInput(fmt.Errorf("there is no format %q: use text or json", format))
			}
			if err := knownFraming(framing); err != nil {
				return err
			}
			e := explanation{
				Port: port, Baud: baud, Framing: framing, Images: []explainedImage{}, Slots: []explainedSlot{},
				Hints: []string{}, Policies: []explainedPolicy{}, Notes: []string{},
			}
			asked := e.ask(cmd.Context(), wait)
			if asked != nil && (e.Silence == nil || format == "text") {
				return asked
			}
			var b bytes.Buffer
			if format == "json" {
				enc := json.NewEncoder(&b)
				enc.SetEscapeHTML(false)
				enc.SetIndent("", "  ")
				if err := enc.Encode(e); err != nil {
					return err
				}
			} else {
				e.text(&b)
			}
			if _, err := cmd.OutOrStdout().Write(b.Bytes()); err != nil {
				return err
			}
			return asked
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&port, "port", "", "serial port of the board, a `path`")
	fl.IntVar(&baud, "baud", 115200, "speed of the port in bits per second")
	framingFlag(cmd, &framing)
	fl.DurationVar(&wait, "wait", 5*time.Second, "how long to wait for the board to answer")
	fl.StringVar(&format, "format", "text", "text or json")
	return cmd
}

// ask fills in the explanation. What the board refuses is an answer too; only
// silence and a broken port are errors.
func (e *explanation) ask(ctx context.Context, wait time.Duration) error {
	p, err := fixtures.OpenPort(e.Port, fixtures.Mode{Baud: e.Baud})
	if err != nil {
		if holders := fixtures.Holders(e.Port); len(holders) > 0 {
			err = fmt.Errorf("%w; %s has it open", err, strings.Join(holders, ", "))
		}
		return stationFault(err)
	}
	how := fixtures.Entry{Method: configs.PowerOn, Framing: configs.Framing(e.Framing)}
	first, _ := how.Framings()
	c := smp.NewClient(p, smp.Options{Baud: e.Baud, Framing: first})
	defer c.Close()
	target, err := awaitTarget(ctx, c, how, wait)
	if _, silent := errors.AsType[*smp.TimeoutError](err); silent {
		if err := c.Close(); err != nil {
			return stationFault(err)
		}
		return e.diagnose(ctx, how, wait)
	}
	e.Framing = c.Framing().String()
	q := question{ctx: ctx, c: c, e: e, facts: line.Facts{Target: target, Mode: smp.ModeUnknown}}
	switch _, broken := errors.AsType[*smp.PortError](err); {
	case broken || ctx.Err() != nil:
		return stationFault(err)
	case err != nil: // something answered, and it was neither
		e.Notes = append(e.Notes, err.Error())
	}
	e.Target = target.String()
	if err := q.ask(); err != nil {
		return stationFault(err)
	}
	e.choose(q.facts)
	return nil
}

// question is the talk with a board that answers.
type question struct {
	ctx   context.Context
	c     *smp.Client
	e     *explanation
	facts line.Facts
	hints releaseHints
}

// heed notes why something is not known. Only a port that broke, or the end of
// the command, is an error.
func (q *question) heed(err error) error {
	if _, broken := errors.AsType[*smp.PortError](err); broken || q.ctx.Err() != nil {
		return err
	}
	q.e.Notes = append(q.e.Notes, err.Error())
	return nil
}

func (q *question) ask() error {
	asks := []func() error{q.params, q.size, q.images, q.slots}
	if q.facts.Target == smp.TargetApplication {
		q.c.SetVersion(smp.V2) // which names its errors
		asks = append(asks, q.echo, q.application)
	} else {
		// What old releases leave without an answer comes last.
		asks = append(asks, q.echo, q.version)
	}
	for _, ask := range asks {
		if err := ask(); err != nil {
			return err
		}
	}
	if q.facts.Target == smp.TargetBootloader {
		if q.c.Framing() == smp.FramingRaw {
			q.hints.since("newer than 2.4", "It speaks the raw protocol, which came after MCUboot 2.4.")
		}
		q.e.Release, q.e.Hints = q.hints.release, append(q.e.Hints, q.hints.all...)
	}
	return nil
}

func (q *question) params() error {
	p, err := q.c.Params(q.ctx)
	if err != nil {
		return q.heed(err)
	}
	q.e.BufferSize, q.e.BufferCount = p.BufSize, p.BufCount
	q.hints.since("newer than 2.4", "It knows the buffer parameters, which came after MCUboot 2.4.")
	return nil
}

func (q *question) size() (err error) {
	if q.e.MessageSize, err = q.c.FindMessageSize(q.ctx, smp.Lines{}); err != nil {
		return q.heed(err)
	}
	return nil
}

func (q *question) echo() error {
	const text = "flashline" // short: an answer has little room
	got, err := q.c.Echo(q.ctx, text)
	q.e.Echo = err == nil && got == text
	_, refused := errors.AsType[*smp.ServerError](err)
	_, silent := errors.AsType[*smp.TimeoutError](err)
	switch {
	case err == nil:
		q.hints.since("1.9", "It echoes, which MCUboot can since 1.9.")
		return nil
	case refused:
		q.hints.since("2.1", "It refuses an echo, to which releases up to 2.0 say nothing.")
	case silent:
		q.hints.until("2.0", "It says nothing to an echo, which later releases without it refuse.")
	}
	return q.heed(err)
}

// version asks in the second version of the protocol, to which old
// bootloaders are deaf.
func (q *question) version() error {
	q.c.SetVersion(smp.V2)
	defer q.c.SetVersion(smp.V1)
	_, err := q.c.AwaitTarget(q.ctx, 250*time.Millisecond, time.Second)
	_, silent := errors.AsType[*smp.TimeoutError](err)
	switch {
	case err == nil:
		q.hints.since("2.0", "It answers the second version of the protocol, to which releases before 2.0 are deaf.")
		return nil
	case silent:
		q.hints.until("1.10", "It is deaf to the second version of the protocol, as releases before 2.0.")
	}
	return q.heed(err)
}

func (q *question) images() error {
	list, err := q.c.Images(q.ctx, 0)
	if err != nil {
		return q.heed(err)
	}
	e := q.e
	q.facts.Listed, q.facts.List = true, list
	e.ImageState = list.HasFlags
	for _, s := range list.Slots {
		e.Hashes = e.Hashes || len(s.Hash) > 0
		flags := []string{}
		for _, f := range []struct {
			name string
			set  bool
		}{{"bootable", s.Bootable}, {"pending", s.Pending}, {"confirmed", s.Confirmed}, {"active", s.Active}, {"permanent", s.Permanent}} {
			if f.set {
				flags = append(flags, f.name)
			}
		}
		e.Images = append(e.Images, explainedImage{s.Image, s.Slot, s.Version, hex.EncodeToString(s.Hash), flags})
		switch parts := strings.Split(s.Version, "."); {
		case len(parts) == 4 && parts[3] == "0":
			q.hints.until("1.10", "It writes versions in four parts though the fourth is 0, as before 2.0.")
		case len(parts) == 3:
			q.hints.since("2.0", "It leaves out the fourth part of a version when that is 0, as since 2.0.")
		}
	}
	if list.HasFlags {
		q.hints.since("2.0", "Its image list has states, which MCUboot can since 2.0.")
	}
	if len(e.Images) > 0 && !e.Hashes {
		e.Notes = append(e.Notes, "the list carries no hashes, so the bootloader cannot prove an image: it needs MCUboot 1.10 or newer with CONFIG_BOOT_SERIAL_IMG_GRP_HASH=y")
	}
	return nil
}

func (q *question) slots() error {
	infos, err := q.c.SlotInfo(q.ctx)
	if err != nil {
		return q.heed(err)
	}
	q.facts.Told, q.facts.Slots = true, infos
	q.e.SlotInfo = true
	q.hints.since("2.2", "It knows slot info, which came with MCUboot 2.2.")
	told := map[int]bool{} // upload numbers of image 0
	for _, s := range infos.Slots {
		q.e.Slots = append(q.e.Slots, explainedSlot(s))
		if s.Image == 0 && s.UploadID >= 0 {
			told[s.UploadID] = true
		}
	}
	switch {
	case told[0]:
		q.hints.since("newer than 2.4", "It gives the upload number 0, which builds without direct upload do only after 2.4.")
	case len(told) == 1 && told[1]:
		q.hints.until("2.4", "It gives the upload number 1 to one slot only, which builds without direct upload did up to 2.4.")
	}
	return nil
}

// application asks what only an application can tell.
func (q *question) application() error {
	var err error
	if q.e.Board, err = q.c.Info(q.ctx, "i"); err != nil {
		if err := q.heed(err); err != nil {
			return err
		}
	} else if q.e.System, err = q.c.Info(q.ctx, "a"); err != nil {
		if err := q.heed(err); err != nil {
			return err
		}
	}
	info, err := q.c.BootloaderInfo(q.ctx)
	if err != nil {
		return q.heed(err)
	}
	q.facts.Mode = info.Mode
	q.e.Bootloader = fmt.Sprintf("%s, mode %d (%s)", info.Name, info.Mode, modeName(info.Mode))
	if info.NoDowngrade {
		q.e.Bootloader += ", refuses lower versions"
	}
	return nil
}

func modeName(m smp.BootloaderMode) string {
	names := map[smp.BootloaderMode]string{
		smp.ModeSingleSlot: "single slot", smp.ModeSwapScratch: "swap using scratch", smp.ModeOverwriteOnly: "overwrite only",
		smp.ModeSwapMove: "swap using move", smp.ModeDirectXIP: "direct-XIP", smp.ModeDirectXIPRev: "direct-XIP with revert",
		smp.ModeRAMLoad: "RAM load", smp.ModeFirmwareLoader: "firmware loader", smp.ModeSingleRAMLoad: "single slot RAM load",
		smp.ModeSwapOffset: "swap using offset",
	}
	if name, ok := names[m]; ok {
		return name
	}
	return "unknown"
}

// releaseHints narrow down the release of a bootloader, which has no command
// to say it. What a product patched may break the rules: they are hints.
type releaseHints struct {
	first, last int // in mcubootReleases, last 0 for no end
	release     string
	all         []string
}

// mcubootReleases are those whose answers differ, oldest first.
var mcubootReleases = [...]string{"1.8", "1.9", "1.10", "2.0", "2.1", "2.2", "2.3", "2.4", "newer than 2.4"}

func (h *releaseHints) since(release, why string) {
	h.note(why)
	h.first = max(h.first, slices.Index(mcubootReleases[:], release))
	h.sum()
}

func (h *releaseHints) until(release, why string) {
	h.note(why)
	if n := slices.Index(mcubootReleases[:], release); h.last == 0 || n < h.last {
		h.last = n
	}
	h.sum()
}

func (h *releaseHints) note(why string) {
	if !slices.Contains(h.all, why) {
		h.all = append(h.all, why)
	}
}

func (h *releaseHints) sum() {
	first, last := mcubootReleases[h.first], mcubootReleases[h.last]
	switch {
	case h.last > 0 && h.first > h.last:
		h.release = "contradictory: a mixture, or a line that loses answers"
	case h.last == h.first:
		h.release = last
	case h.last > 0 && h.first == 0:
		h.release = last + " or older"
	case h.last > 0:
		h.release = first + " to " + last
	case h.first == len(mcubootReleases)-1:
		h.release = first
	default:
		h.release = first + " or newer"
	}
}

// choose asks the decision table what a run would do.
func (e *explanation) choose(facts line.Facts) {
	if facts.Target != smp.TargetBootloader && facts.Target != smp.TargetApplication {
		e.Why = "Something answers that is neither MCUboot's recovery nor Zephyr's server."
		return
	}
	for _, policy := range configs.SlotPolicies() {
		d, refused := line.Decide(policy, facts)
		switch {
		case refused != nil && policy == configs.AutoPolicy:
			e.Why = refused.Detail
		case policy == configs.AutoPolicy:
			e.Policy, e.Row, e.Why = string(d.Policy), d.Row, d.Why
		case refused != nil:
			e.Policies = append(e.Policies, explainedPolicy{Policy: string(policy), Why: refused.Detail, Cure: refused.Next})
		default:
			e.Policies = append(e.Policies, explainedPolicy{Policy: string(policy), Works: true, Row: d.Row, Why: d.Why})
		}
	}
	if facts.Target == smp.TargetBootloader && !facts.List.HasFlags {
		if len(facts.List.Slots) == 0 {
			e.Notes = append(e.Notes, "no image is listed, so it does not show whether image state is built in")
		} else {
			e.Notes = append(e.Notes, "without image state nothing shows whether an image in slot 1 is marked to replace the one in slot 0: a run looks once more after the restart")
		}
	}
}

// rawQuiet is how long a target that speaks the raw protocol gets to forget
// what it was asked in the other one: its time-out is 3 s
// (CONFIG_BOOT_SERIAL_RAW_PROTOCOL_INPUT_TIMEOUT_MS), one second of which a
// diagnosis listens.
const rawQuiet = 2500 * time.Millisecond

// diagnose finds out what can be told of a silence without pins: the board is
// taken as it is.
func (e *explanation) diagnose(ctx context.Context, how fixtures.Entry, waited time.Duration) error {
	if how.Framing == configs.ConsoleFraming { // else it was the last to be tried
		select {
		case <-time.After(rawQuiet):
		case <-ctx.Done():
			return stationFault(context.Cause(ctx))
		}
	}
	fixture, err := fixtures.Open(&configs.Station{
		Sites: []configs.Site{{Number: 1, Port: e.Port, Baud: e.Baud}},
	}, fixtures.Hardware{Pin: func(string) (gpio.PinIO, error) { return nil, errors.New("there are no pins here") }})
	if err != nil {
		return stationFault(err)
	}
	defer fixture.Close()
	s, err := fixture.Sites()[0].Diagnose(ctx, how)
	if err != nil {
		return stationFault(err)
	}
	detail, next := s.Explain()
	switch s.Cause { // there are no files here to be mended
	case fixtures.SilenceRaw, fixtures.SilenceConsole:
		next = "Ask it with --framing auto."
	case fixtures.SilenceBaud:
		detail = fmt.Sprintf("the board answers at %d baud", s.Baud)
		next = fmt.Sprintf("Ask it with --baud %d, and write baud = %d into the station file.", s.Baud, s.Baud)
	}
	e.Target = smp.TargetUnknown.String()
	e.Why = "Nothing answers, so nothing is known."
	e.Silence = &explainedSilence{
		Cause: string(s.Cause), Detail: detail, NextStep: next, RuledOut: ruledOut(s.Cause),
		Heard: s.Heard, Printed: append([]string{}, s.Text...), Holders: append([]string{}, s.Holders...),
	}
	if s.Cause == fixtures.SilenceNothing || s.Cause == fixtures.SilenceApplication {
		e.Silence.NextStep = "Check, in this order: has the board power, is it in recovery (hold its button, press reset), is this its port, are TX and RX crossed, is the bootloader built with serial recovery on this port. " + next
	}
	text := fmt.Sprintf("nothing answered on %s at %d baud within %s: %s.", e.Port, e.Baud, waited, detail)
	if len(e.Silence.RuledOut) > 0 {
		text += "\nRuled out: " + strings.Join(e.Silence.RuledOut, ", ") + "."
	}
	return &exitError{exitFailed, errors.New(text + "\n" + e.Silence.NextStep)}
}

// ruledOut is what a diagnosis has looked for and not found, by what it did
// find: it ends with the first thing that is certain.
func ruledOut(cause fixtures.SilenceCause) []string {
	const raw, echo, shared, speed = "the raw protocol", "a line that sends back what it gets", "another program that has the port open", "another of the usual speeds"
	switch cause {
	case fixtures.SilenceEcho, fixtures.SilenceLate, fixtures.SilenceConsole:
		return []string{raw}
	case fixtures.SilenceBaud:
		return []string{raw, echo}
	case fixtures.SilencePortShared:
		return []string{raw, echo, speed}
	case fixtures.SilenceApplication:
		return []string{raw, echo, shared}
	case fixtures.SilenceNoise, fixtures.SilenceNothing:
		return []string{raw, echo, shared, speed}
	}
	return []string{}
}

func (e *explanation) text(b *bytes.Buffer) {
	say := func(name, format string, args ...any) {
		fmt.Fprintf(b, "%-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	yes := map[bool]string{true: "yes", false: "no"}
	say("port", "%s at %d baud", e.Port, e.Baud)
	if e.Framing == smp.FramingRaw.String() {
		say("answers", "%s, in the raw protocol", e.Target)
	} else {
		say("answers", "%s", e.Target)
	}
	if e.Board != "" {
		say("board", "%s", e.Board)
	}
	if e.System != "" {
		say("system", "%s", e.System)
	}
	if e.Bootloader != "" {
		say("bootloader", "%s", e.Bootloader)
	}
	if e.Release != "" {
		say("MCUboot", "%s", e.Release)
	}
	for _, h := range e.Hints {
		say("", "%s", h)
	}
	if e.BufferSize > 0 {
		say("buffers", "%d of %d bytes", e.BufferCount, e.BufferSize)
	}
	say("messages", "up to %d bytes", e.MessageSize)
	say("echo", "%s", yes[e.Echo])
	if len(e.Images) == 0 {
		say("images", "none that it accepts")
	}
	for _, i := range e.Images {
		say("image", "%d slot %d: version %s, hash %s %v", i.Image, i.Slot, i.Version, i.Hash, i.Flags)
	}
	for _, s := range e.Slots {
		say("slot", "%d of image %d: %d bytes, upload number %d", s.Slot, s.Image, s.Size, s.UploadID)
	}
	policy := e.Policy
	if policy == "" {
		policy = "none"
	} else {
		policy += ", row " + e.Row
	}
	say("slot policy", "%s: %s", policy, e.Why)
	for i := 0; i < len(e.Policies); i++ {
		p := e.Policies[i]
		names := p.Policy
		// Those that are refused for the same reason, in one line.
		for ; !p.Works && i+1 < len(e.Policies) && e.Policies[i+1].Why == p.Why; i++ {
			names += ", " + e.Policies[i+1].Policy
		}
		switch {
		case p.Policy == e.Policy && p.Works:
		case p.Works:
			say("would work", "%s, row %s: %s", names, p.Row, p.Why)
		default:
			say("would not", "%s: %s %s", names, p.Why, p.Cure)
		}
	}
	for _, n := range e.Notes {
		say("note", "%s", n)
	}
}
