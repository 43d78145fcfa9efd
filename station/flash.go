package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
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
		port, image, key string
		baud, writeSize  int
		wait             time.Duration
	)
	cmd := &cobra.Command{
		Use:   "flash --port P --image F",
		Short: "Flash one board by hand, without configuration or record",
		Long: `Flash sends one image to one board that is in serial recovery already, or is
put there by hand within the time of --wait: hold its recovery button and
press reset. It proves the image by the hash that the board reports and starts
it. It keeps no record and so says VERIFIED, not PASS: that word belongs to
attempts on file, which run makes.

Exit codes: 0 verified, 1 the board failed, 2 bad input, 3 port fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if port == "" || image == "" {
				return badInput(errors.New("give the port and the image, as --port /dev/ttyACM0 --image app.signed.bin"))
			}
			job, err := manualJob(image, key, writeSize)
			if err != nil {
				return badInput(err)
			}
			job.Timeouts.Total += configs.Duration(wait)
			out := cmd.OutOrStdout()
			screen := newScreen(out)
			defer screen.Close()
			actx, abort := context.WithCancelCause(cmd.Context())
			defer abort(nil)
			stop := func() { abort(line.ErrAborted) }
			defer onSignals(stop, stop)()
			screen.Printf("%s: version %s, hash %x", job.Firmware.Name, job.Firmware.Version, job.Firmware.Hash)
			res := job.Flash(actx, &manualSite{port: port, baud: baud, wait: wait}, func(p line.Progress) {
				kind := line.Step
				if p.Total > 0 {
					kind = line.Upload
				}
				screen.Event(line.Event{At: time.Now(), Kind: kind, Site: 1, Serial: filepath.Base(port), Progress: p})
			})
			screen.Close()
			switch res.Outcome {
			case records.Pass:
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
	fl.StringVar(&image, "image", "", "signed image, a `file`")
	fl.StringVar(&key, "key", "", "public key `file` to check the signature with before anything is sent")
	fl.IntVar(&baud, "baud", 115200, "speed of the port in bits per second")
	fl.IntVar(&writeSize, "write-size", 32, "flash write size of the part in bytes; a multiple does no harm")
	fl.DurationVar(&wait, "wait", 10*time.Second, "how long to wait for the board to answer")
	return cmd
}

// manualJob is a job as a recipe with nothing but defaults would make it.
func manualJob(image, key string, writeSize int) (*line.Job, error) {
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
	fw, err := line.LoadFirmware(&img)
	if err != nil {
		return nil, err
	}
	return &line.Job{Firmware: fw, WriteSize: writeSize, Within: 2 * time.Second, Timeouts: configs.DefaultTimeouts()}, nil
}

// manualSite is a board whose power and button are in somebody's hands.
type manualSite struct {
	port   string
	baud   int
	wait   time.Duration
	client *smp.Client
}

func (m *manualSite) Off(context.Context) error { return nil }

func (m *manualSite) Enter(ctx context.Context, _ fixtures.Entry, text func([]byte)) (*smp.Client, smp.Target, error) {
	p, err := fixtures.OpenPort(m.port, m.baud)
	if err != nil {
		return nil, 0, err
	}
	m.client = smp.NewClient(p, smp.Options{Baud: m.baud, Text: text})
	target, err := m.client.AwaitTarget(ctx, 100*time.Millisecond, m.wait)
	if _, silent := errors.AsType[*smp.TimeoutError](err); silent {
		return nil, 0, &line.Failure{Outcome: records.Fail, Code: line.NoRecovery, Err: err,
			Detail: fmt.Sprintf("Nothing answered on %s within %s.", m.port, m.wait),
			Next:   "Hold the board's recovery button, press reset, and try again; check port and --baud."}
	}
	return m.client, target, err
}

// Reconnect keeps the port that there is.
func (m *manualSite) Reconnect(context.Context, func([]byte), time.Duration) (*smp.Client, error) {
	return m.client, nil
}

// Boot is for a board whose power is in somebody's hands.
func (m *manualSite) Boot(context.Context, func([]byte)) (*smp.Client, error) {
	return nil, line.ErrNoPower
}

func (m *manualSite) Down() error {
	if m.client == nil {
		return nil
	}
	return m.client.Close()
}
