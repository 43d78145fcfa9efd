package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/fixtures/sim"
	"flashline/records"
	"flashline/smp"
	"flashline/station/line"
)

// benchPort is one connected board to be measured.
type benchPort struct {
	port, image, key, part string
	speed                  string // as given: a number or auto
	framing                string
	baud                   int
	usb                    bool
	wait                   time.Duration
	window                 int // requests that an application takes at once
}

// roundTrips is how many short requests the round trip is the middle of.
const roundTrips = 15

// measure looks at the board, and flashes it if there is an image.
func (p *benchPort) measure(ctx context.Context) (r benchReport, err error) {
	r = benchReport{Case: filepath.Base(p.port), Sites: 1, Phases: []benchPhase{}}
	part := sim.Part{SectorSize: 1, WriteSize: 1, NoErase: true}
	auto := p.speed == "auto"
	if !auto {
		if p.baud, err = strconv.Atoi(p.speed); err != nil || p.baud <= 0 {
			return r, badInput(fmt.Errorf("--baud is %q: give the speed of the port, or auto", p.speed))
		}
		r.Baud = p.baud
	} else if p.usb {
		return r, badInput(errors.New("--baud auto is not for --usb: a board's own port has no speed"))
	}
	if err := knownFraming(p.framing); err != nil {
		return r, err
	}
	if p.part != "" {
		known, err := sim.PartByName(p.part)
		if err != nil {
			return r, badInput(err)
		}
		part = known
	}
	var job *line.Job
	if p.image != "" {
		recipe := &configs.Recipe{
			Entry: configs.PowerOn, Framing: configs.Framing(p.framing), SlotPolicy: configs.AutoPolicy, AllowDowngrade: true,
			Timeouts: configs.DefaultTimeouts(), Retries: configs.Retries{Chunk: 5},
			Check: configs.Check{Within: configs.Duration(2 * time.Second), Proof: configs.AutoProof},
		}
		recipe.Timeouts.Total += configs.Duration(p.wait) + configs.Duration(rawExtra)
		if job, err = manualJob(recipe, p.image, p.key, benchWriteSize); err != nil {
			return r, badInput(err)
		}
		for _, fw := range job.Images {
			fw.Rewrite = true // a board that holds the image would show nothing
		}
	}
	m := startMeter()
	defer func() { r.CPU, r.Wall, r.RSS = m.stop() }()
	if auto {
		if err := p.findBaud(ctx, &r); err != nil {
			return r, portError(err)
		}
		if r.Speeds[len(r.Speeds)-1].Answered == "loop" {
			return r, nil
		}
	}
	target, err := p.probe(ctx, &r)
	if err != nil || job == nil {
		return r, err
	}
	actx, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abort(nil)
	defer context.AfterFunc(ctx, func() { abort(line.ErrAborted) })()
	job.Framing = configs.Framing(p.framing) // as it was found
	res := job.Flash(actx, &manualSite{port: p.port, baud: p.baud, wait: p.wait, usb: p.usb}, nil)
	for _, s := range res.Steps {
		r.Phases = append(r.Phases, benchPhase{s.Name, s.Duration.Seconds()})
		if s.Name == line.StepUpload && s.Bytes > 0 {
			b := bound{part: part, baud: p.baud, message: res.MessageSize, writeSize: benchWriteSize, slots: 1, application: target == smp.TargetApplication, raw: p.framing == string(configs.RawFraming)}
			ceiling := smp.ModeOverlapped
			if b.application {
				ceiling = smp.ModeWindow
			}
			r.rate(int(s.Bytes), s.Duration, b.least(int(s.Bytes), ceiling, p.window))
		}
	}
	r.Mode, r.Resends = res.UploadMode, res.Retries
	switch res.Outcome {
	case records.Pass:
		return r, nil
	case records.Error:
		return r, stationFault(fmt.Errorf("%s: %s %s", res.FailureCode, res.Detail, res.NextStep))
	}
	return r, failed(fmt.Errorf("%s: %s %s", res.FailureCode, res.Detail, res.NextStep))
}

// portError makes a failure to use the port one of the station and not the board.
func portError(err error) error {
	if _, bad := errors.AsType[*fixtures.PortError](err); bad {
		return &exitError{exitFault, errors.Unwrap(err)}
	}
	return err
}

// probe measures what can be measured without writing to the board.
func (p *benchPort) probe(ctx context.Context, r *benchReport) (smp.Target, error) {
	site := &manualSite{port: p.port, baud: p.baud, wait: p.wait, usb: p.usb}
	var client *smp.Client
	var target smp.Target
	defer site.Down() // what it says is said again when the port is opened
	if err := r.phase(ctx, "find", func(ctx context.Context) (err error) {
		client, target, err = site.Enter(ctx, fixtures.Entry{Framing: configs.Framing(p.framing)}, nil)
		if err == nil {
			p.framing = client.Framing().String()
		}
		return err
	}); err != nil {
		return 0, portError(err)
	}
	r.Advice = site.advice
	if err := r.phase(ctx, "round trips", func(ctx context.Context) error {
		var all []time.Duration
		for range roundTrips {
			start := time.Now()
			if _, err := client.Probe(ctx, time.Second); err != nil {
				return err
			}
			all = append(all, time.Since(start))
		}
		slices.Sort(all)
		r.RoundTrip = all[len(all)/2].Seconds()
		return nil
	}); err != nil {
		return 0, err
	}
	return target, r.phase(ctx, "message size", func(ctx context.Context) (err error) {
		if target == smp.TargetApplication {
			// One that does not tell takes one at a time.
			if params, err := client.Params(ctx); err == nil {
				p.window = params.Window()
			}
		}
		r.Message, err = client.FindMessageSize(ctx, smp.Lines{})
		return err
	})
}
