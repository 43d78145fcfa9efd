package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"flashline/fixtures"
	"flashline/smp"
)

// explanation is what can be learnt of a board without writing to it; scripts
// rely on the JSON names.
type explanation struct {
	Port        string           `json:"port"`
	Baud        int              `json:"baud"`
	Target      string           `json:"target"`
	MessageSize int              `json:"message_size"` // largest SMP message that the board takes, bytes
	BufferSize  int              `json:"buffer_size,omitempty"`
	BufferCount int              `json:"buffer_count,omitempty"`
	Echo        bool             `json:"echo"`
	ImageState  bool             `json:"image_state"` // the list carries flags
	Hashes      bool             `json:"hashes"`      // the list carries hashes
	Images      []explainedImage `json:"images"`
	SlotInfo    bool             `json:"slot_info"`
	Slots       []explainedSlot  `json:"slots"`
	Bootloader  string           `json:"bootloader,omitempty"`
	Policy      string           `json:"policy"` // "" if this program cannot flash it
	Why         string           `json:"why"`
	Notes       []string         `json:"notes"`
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
		baud         int
		wait         time.Duration
	)
	cmd := &cobra.Command{
		Use:   "explain --port P",
		Short: "Look at one connected board, without writing to it",
		Long: `Explain asks the board on a port what it is: bootloader or application, what
it can take and tell, which images it holds, and which slot policy fits it and
why. It writes nothing to the board and leaves it as it is.

Exit codes: 0 something answered, 1 silence, 2 bad input, 3 port fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if port == "" {
				return badInput(errors.New("no port: give one with --port, as --port /dev/ttyACM0"))
			}
			if format != "text" && format != "json" {
				return badInput(fmt.Errorf("there is no format %q: use text or json", format))
			}
			p, err := fixtures.OpenPort(port, baud)
			if err != nil {
				return stationFault(err)
			}
			c := smp.NewClient(p, smp.Options{Baud: baud})
			defer c.Close()
			e := explanation{Port: port, Baud: baud, Images: []explainedImage{}, Slots: []explainedSlot{}, Notes: []string{}}
			if err := e.ask(cmd.Context(), c, wait); err != nil {
				return err
			}
			var b bytes.Buffer
			if format == "json" {
				enc := json.NewEncoder(&b)
				enc.SetIndent("", "  ")
				if err := enc.Encode(e); err != nil {
					return err
				}
			} else {
				e.text(&b)
			}
			_, err = cmd.OutOrStdout().Write(b.Bytes())
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&port, "port", "", "serial port of the board, a `path`")
	fl.IntVar(&baud, "baud", 115200, "speed of the port in bits per second")
	fl.DurationVar(&wait, "wait", 5*time.Second, "how long to wait for the board to answer")
	fl.StringVar(&format, "format", "text", "text or json")
	return cmd
}

// ask fills in the explanation. What the board refuses is an answer too; only
// silence and a broken port are errors.
func (e *explanation) ask(ctx context.Context, c *smp.Client, wait time.Duration) error {
	target, err := c.AwaitTarget(ctx, 100*time.Millisecond, wait)
	if _, silent := errors.AsType[*smp.TimeoutError](err); silent {
		return &exitError{exitFailed, fmt.Errorf("nothing answered on %s at %d baud within %s; check, in this order: has the board power, is it in recovery (hold its button, press reset), is this its port, is this its baud, are TX and RX crossed, is its console on the same line, is it built with serial recovery over console frames", e.Port, e.Baud, wait)}
	}
	if err != nil {
		return stationFault(err)
	}
	e.Target = target.String()
	note := func(err error) error {
		if _, broken := errors.AsType[*smp.PortError](err); broken || ctx.Err() != nil {
			return stationFault(err)
		}
		e.Notes = append(e.Notes, err.Error())
		return nil
	}
	if p, err := c.Params(ctx); err == nil {
		e.BufferSize, e.BufferCount = p.BufSize, p.BufCount
	} else if err := note(err); err != nil {
		return err
	}
	if e.MessageSize, err = c.FindMessageSize(ctx); err != nil {
		if err := note(err); err != nil {
			return err
		}
	}
	if text, err := c.Echo(ctx, "flashline"); err == nil {
		e.Echo = text == "flashline"
	} else if err := note(err); err != nil {
		return err
	}
	if err := e.askImages(ctx, c, note); err != nil {
		return err
	}
	if target == smp.TargetApplication {
		if info, err := c.BootloaderInfo(ctx); err == nil {
			e.Bootloader = fmt.Sprintf("%s, mode %d", info.Name, info.Mode)
		} else if err := note(err); err != nil {
			return err
		}
	}
	e.choose(target)
	return nil
}

func (e *explanation) askImages(ctx context.Context, c *smp.Client, note func(error) error) error {
	list, err := c.Images(ctx, 0)
	if err != nil {
		if err := note(err); err != nil {
			return err
		}
	}
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
	}
	infos, err := c.SlotInfo(ctx)
	if err != nil {
		return note(err)
	}
	e.SlotInfo = true
	for _, s := range infos.Slots {
		e.Slots = append(e.Slots, explainedSlot(s))
	}
	return nil
}

// choose names the slot policy that fits, and why.
func (e *explanation) choose(target smp.Target) {
	direct := len(e.Slots) > 1
	for _, s := range e.Slots {
		direct = direct && s.UploadID > 0
	}
	pending := false
	for _, i := range e.Images {
		for _, f := range i.Flags {
			pending = pending || i.Slot == 1 && f == "pending"
		}
	}
	switch {
	case target == smp.TargetApplication:
		e.Why = "An application answers, and this program flashes through the bootloader: bring the board into recovery."
	case target != smp.TargetBootloader:
		e.Why = "Something answers that is neither MCUboot's recovery nor Zephyr's server."
	default:
		e.Policy = "primary"
		switch {
		case direct && e.ImageState:
			e.Why = "The image goes to slot 0 and stays; secondary-confirm would work too, as the bootloader takes uploads for either slot and can be told to keep an image."
		case direct:
			e.Why = "The image goes to slot 0 and stays; secondary-confirm needs image state as well (CONFIG_BOOT_SERIAL_IMG_GRP_IMAGE_STATE=y), of which the list shows nothing."
		case len(e.Slots) == 1:
			e.Why = "There is one slot; what is in it boots, and nothing is to be confirmed."
		default:
			e.Why = "An upload goes to slot 0, which boots at once; nothing is to be confirmed."
		}
		if len(e.Images) > 0 && !e.Hashes {
			e.Notes = append(e.Notes, "the list carries no hashes, so no image can be proven: build with CONFIG_BOOT_SERIAL_IMG_GRP_HASH=y")
		}
		if pending {
			e.Notes = append(e.Notes, "slot 1 holds an image that will replace slot 0 at the next start")
		}
	}
}

func (e *explanation) text(b *bytes.Buffer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(b, "%-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	yes := map[bool]string{true: "yes", false: "no"}
	line("port", "%s at %d baud", e.Port, e.Baud)
	line("answers", "%s", e.Target)
	if e.BufferSize > 0 {
		line("buffers", "%d of %d bytes", e.BufferCount, e.BufferSize)
	}
	line("messages", "up to %d bytes", e.MessageSize)
	line("echo", "%s", yes[e.Echo])
	if len(e.Images) == 0 {
		line("images", "none that it accepts")
	}
	for _, i := range e.Images {
		line("image", "%d slot %d: version %s, hash %s %v", i.Image, i.Slot, i.Version, i.Hash, i.Flags)
	}
	for _, s := range e.Slots {
		line("slot", "%d of image %d: %d bytes, upload number %d", s.Slot, s.Image, s.Size, s.UploadID)
	}
	if e.Bootloader != "" {
		line("bootloader", "%s", e.Bootloader)
	}
	policy := e.Policy
	if policy == "" {
		policy = "none"
	}
	line("slot policy", "%s: %s", policy, e.Why)
	for _, n := range e.Notes {
		line("note", "%s", n)
	}
}
