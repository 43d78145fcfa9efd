package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/records"
	"flashline/smp"
	"flashline/station/line"
)

func newFlash() *cobra.Command {
	var (
		port, image, key, policy string
		framing                  string
		baud, writeSize          int
		wait                     time.Duration
		bootMode, downgrade, usb bool
	)
	cmd := &cobra.Command{
		Use:   "flash --port P --image F",
		Short: "Flash one board by hand, without configuration or record",
		Long: `Flash sends one image, or the images of one package, to one board. What answers
within the time of --wait is taken: the bootloader of a board that is in serial
recovery or is put there by hand (hold its recovery button and press reset), or
an application with an SMP server. With --boot-mode such an application is asked
to restart into recovery first. Flash proves the image by the hash that the
board reports and starts it. It keeps no record and so says VERIFIED, not PASS:
that word belongs to attempts on file, which run makes.

Exit codes: 0 verified, 1 the board failed, 2 bad input, 3 port fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if port == "" || image == "" {
				return badInput(errors.New("give the port and the image, as --port /dev/ttyACM0 --image app.signed.bin"))
			}
			r := configs.Recipe{
				Entry: configs.PowerOn, Framing: configs.Framing(framing), SlotPolicy: configs.SlotPolicy(policy), AllowDowngrade: downgrade,
				Timeouts: configs.DefaultTimeouts(), Retries: configs.Retries{Chunk: 5},
				Check: configs.Check{Within: configs.Duration(2 * time.Second), Proof: configs.AutoProof},
			}
			if bootMode {
				r.Entry = configs.BootMode
			}
			if known := configs.SlotPolicies(); !slices.Contains(known, r.SlotPolicy) {
				return badInput(fmt.Errorf("there is no slot policy %q: use one of %q", policy, known))
			}
			if err := knownFraming(framing); err != nil {
				return err
			}
			r.Timeouts.Total += configs.Duration(wait) + configs.Duration(rawExtra)
			job, err := manualJob(&r, image, key, writeSize)
			if err != nil {
				return badInput(err)
			}
			out := cmd.OutOrStdout()
			screen := newScreen(out)
			defer screen.Close()
			actx, abort := context.WithCancelCause(cmd.Context())
			defer abort(nil)
			stop := func() { abort(line.ErrAborted) }
			defer onSignals(stop, stop)()
			for _, fw := range job.Images {
				screen.Printf("%s: version %s, hash %x", fw.Name, fw.Version, fw.Hash)
			}
			res := job.Flash(actx, &manualSite{port: port, baud: baud, wait: wait, usb: usb}, func(p line.Progress) {
				kind := line.Step
				if p.Total > 0 {
					kind = line.Upload
				}
				screen.Event(line.Event{At: time.Now(), Kind: kind, Site: 1, Serial: filepath.Base(port), Progress: p})
			})
			screen.Close()
			switch res.Outcome {
			case records.Pass:
				if res.BytesSent == 0 {
					fmt.Fprintln(out, "The board held the image already; nothing was sent.")
				}
				fmt.Fprintln(out, res.PolicyWhy, res.Proof)
				fmt.Fprintf(out, "VERIFIED: the board reports hash %s (version %s), %.1f s.\n", res.DeviceHash, res.DeviceVersion, res.Duration.Seconds())
				return nil
			case records.Error:
				return stationFault(fmt.Errorf("%s: %s %s", res.FailureCode, res.Detail, res.NextStep))
			}
			return &exitError{exitFailed, fmt.Errorf("%s: %s %s", res.FailureCode, res.Detail, res.NextStep)}
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&port, "port", "", "serial port of the board, a `path`")
	fl.StringVar(&image, "image", "", "signed image or package of images, a `file`")
	fl.StringVar(&key, "key", "", "public key `file` to check the signature with before anything is sent")
	fl.StringVar(&policy, "policy", string(configs.AutoPolicy), "slot `policy`, as in a recipe")
	framingFlag(cmd, &framing)
	fl.BoolVar(&bootMode, "boot-mode", false, "ask a running application to restart into recovery")
	fl.BoolVar(&downgrade, "allow-downgrade", false, "also send an image to a board that holds a higher version")
	fl.BoolVar(&usb, "usb", false, "the port is the board's own and comes and goes with its firmware")
	fl.IntVar(&baud, "baud", 115200, "speed of the port in bits per second")
	fl.IntVar(&writeSize, "write-size", 32, "flash write size of the part in bytes; a multiple does no harm")
	fl.DurationVar(&wait, "wait", 10*time.Second, "how long to wait for the board to answer")
	return cmd
}

// framingFlag is how a board on a port is spoken to.
func framingFlag(cmd *cobra.Command, framing *string) {
	cmd.Flags().StringVar(framing, "framing", string(configs.AutoFraming), "`how` the board is spoken to, as in a recipe: "+list(configs.Framings()))
}

func knownFraming(framing string) error {
	if !slices.Contains(configs.Framings(), configs.Framing(framing)) {
		return badInput(fmt.Errorf("there is no framing %q: use one of %s", framing, list(configs.Framings())))
	}
	return nil
}

// rawExtra is how much longer it takes to find a board that is silent to console
// lines, or to give up on it.
const rawExtra = smp.RawQuiet + fixtures.RawWithin

// awaitTarget asks a board on a port what is there, as a recipe would be
// entered that says framing.
func awaitTarget(ctx context.Context, c *smp.Client, how fixtures.Entry, within time.Duration) (smp.Target, error) {
	target, err := c.AwaitTarget(ctx, 100*time.Millisecond, within)
	if _, silent := errors.AsType[*smp.TimeoutError](err); silent && ctx.Err() == nil {
		if _, thenRaw := how.Framings(); thenRaw {
			c.SetFraming(smp.FramingRaw)
			target, err = c.AwaitTarget(ctx, 100*time.Millisecond, fixtures.RawWithin)
		}
	}
	return target, err
}

// manualJob puts the images into a recipe that is on no file.
func manualJob(r *configs.Recipe, image, key string, writeSize int) (*line.Job, error) {
	data, err := readLimited(image, maxImageFile)
	if err != nil {
		return nil, err
	}
	img := configs.Image{Path: configs.Path{Written: image}, Data: data, WriteSize: writeSize}
	if key != "" {
		img.Key = configs.Path{Written: key}
		if img.KeyPEM, err = readLimited(key, 64<<10); err != nil {
			return nil, err
		}
	}
	r.Images = []configs.Image{img}
	return line.NewJob(r)
}

// manualSite is a board whose power and button are in somebody's hands.
type manualSite struct {
	port   string
	baud   int
	wait   time.Duration
	usb    bool
	client *smp.Client
	advice string // what the port said could be better
	// framing is how the board is spoken to, as it was found.
	framing smp.Framing
}

func (m *manualSite) Off(context.Context) error { return nil }

func (m *manualSite) USB() bool { return m.usb }

func (m *manualSite) Enter(ctx context.Context, how fixtures.Entry, text func([]byte)) (*smp.Client, smp.Target, error) {
	if m.client != nil {
		return nil, 0, fixtures.ErrNoPower
	}
	began := time.Now()
	m.framing, _ = how.Framings()
	if err := m.open(ctx, text, m.wait); err != nil {
		return nil, 0, err
	}
	target, err := awaitTarget(ctx, m.client, how, max(m.wait-time.Since(began), time.Second))
	m.framing = m.client.Framing()
	if _, silent := errors.AsType[*smp.TimeoutError](err); silent {
		return nil, 0, &line.Failure{Outcome: records.Fail, Code: line.NoRecovery, Err: err,
			Detail: fmt.Sprintf("Nothing answered on %s within %s.", m.port, m.wait),
			Next:   "Hold the board's recovery button, press reset, and try again; check port, --baud and --framing."}
	}
	return m.client, target, err
}

// open opens the port; one that comes and goes is waited for.
func (m *manualSite) open(ctx context.Context, text func([]byte), within time.Duration) error {
	deadline := time.Now().Add(within)
	for {
		p, err := fixtures.OpenPort(m.port, fixtures.Mode{Baud: m.baud})
		if err == nil {
			m.advice = p.Advice()
			wire := m.baud
			if m.usb {
				wire = 0 // that of a USB port means nothing
			}
			m.client = smp.NewClient(p, smp.Options{Baud: wire, Framing: m.framing, Text: text})
			return nil
		}
		if !m.usb {
			return err
		}
		if time.Now().After(deadline) {
			return &fixtures.NoPortError{Site: 1, Path: m.port, Waited: within, Err: err}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Reconnect keeps the port that there is, or waits for it to come back.
func (m *manualSite) Reconnect(ctx context.Context, text func([]byte), within time.Duration) (*smp.Client, error) {
	if m.client != nil {
		select {
		case <-m.client.Gone():
			m.client.Close() // it is gone: what closing says is no news
			m.client = nil
		default:
			return m.client, nil
		}
	}
	err := m.open(ctx, text, within)
	return m.client, err
}

func (m *manualSite) Down() error {
	if m.client == nil {
		return nil
	}
	return m.client.Close()
}
