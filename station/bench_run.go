package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"flashline/configs"
	"flashline/fixtures"
	"flashline/records"
	"flashline/smp"
	"flashline/smp/mcuboot"
	"flashline/station/line"
)

// benchRun is what the cases of one run share.
type benchRun struct {
	dir  string
	keys *forge
	log  io.Writer
	ones map[int]benchReport // one board the way of run, by baud
}

func newBenchRun(log io.Writer) (*benchRun, error) {
	keys, err := newForge()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "flashline-bench-")
	if err != nil {
		return nil, fmt.Errorf("the benchmark needs a temporary folder: %w", err)
	}
	return &benchRun{dir: dir, keys: keys, log: log, ones: map[int]benchReport{}}, nil
}

// Close removes what the run has written.
func (b *benchRun) Close() error { return os.RemoveAll(b.dir) }

// run measures a case.
func (b *benchRun) run(ctx context.Context, c benchCase) (benchReport, error) {
	c = c.complete()
	if !c.many {
		return b.measure(ctx, c, b.one)
	}
	one, ok := b.ones[c.baud]
	if !ok {
		single := c
		single.sites = 1
		var err error
		if one, err = b.measure(ctx, single, b.order); err != nil {
			return one, err
		}
		b.ones[c.baud] = one
	}
	if c.sites == 1 {
		one.Case, one.OfOne = c.name, 1
		return one, nil
	}
	r, err := b.measure(ctx, c, b.order)
	r.OfOne = r.Rate / float64(c.sites) / one.Rate
	return r, err
}

// measure runs a case on new boards and watches what this process uses.
func (b *benchRun) measure(ctx context.Context, c benchCase, work func(context.Context, benchCase, *bench, *benchReport) error) (r benchReport, err error) {
	fmt.Fprintf(b.log, "%s, %d site(s)…\n", c.name, c.sites)
	r = benchReport{Case: c.name, Baud: c.baud, Sites: c.sites, Phases: []benchPhase{}}
	dir, err := os.MkdirTemp(b.dir, "case-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	k := &bench{dir: dir, run: b}
	if err := k.images(c.size); err != nil {
		return r, err
	}
	options := []string{"--part", c.part.Name, "--baud", fmt.Sprint(c.baud), "--key", k.key, "--slots", fmt.Sprint(c.slots())}
	if c.application {
		options = append(options, "--image", k.old, "--server", "--params")
	}
	if c.lineLength > 0 {
		options = append(options, "--line-length", fmt.Sprint(c.lineLength), "--receive-size", fmt.Sprint(c.message+4))
	}
	if c.raw {
		options = append(options, "--raw")
	}
	// The boards live until the power is off, whatever ends the measuring.
	if k.boards, err = startBoards(context.WithoutCancel(ctx), filepath.Join(dir, "ports"), c.sites, options...); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, k.boards.Close()) }()
	if k.fixture, err = fixtures.Open(k.boards.station(c.baud), k.boards.hardware()); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, k.fixture.Close()) }()
	debug.FreeOSMemory() // what the case before has left is not this one's
	m := startMeter()
	err = work(ctx, c, k, &r)
	r.CPU, r.Wall, r.RSS = m.stop()
	return r, err
}

// bench is what one case works with.
type bench struct {
	run           *benchRun
	dir           string
	boards        *boards
	fixture       *fixtures.Fixture
	image, old    string // files: what is sent, and what an application's board holds
	key           string
	content, hash []byte
}

// images writes the image of a case, with a body of size bytes, and an older one.
func (k *bench) images(size int) (err error) {
	sent, old := firmware{version: "2.0.0", size: size}, firmware{version: "1.0.0"}
	write := func(name string, data []byte, built error) string {
		name = filepath.Join(k.dir, name)
		if err == nil {
			if err = built; err == nil {
				err = os.WriteFile(name, data, 0o644)
			}
		}
		return name
	}
	var built error
	k.content, built = k.run.keys.build(sent)
	k.image = write("image.bin", k.content, built)
	data, built := k.run.keys.build(old)
	k.old = write("old.bin", data, built)
	data, built = k.run.keys.pem(sent)
	k.key = write("key.pem", data, built)
	if err != nil {
		return err
	}
	parsed, err := mcuboot.Parse(k.content)
	if err != nil {
		return err
	}
	k.hash = parsed.Hash()
	return nil
}

// one works one board step by step, with the mode that the case is about.
func (b *benchRun) one(ctx context.Context, c benchCase, k *bench, r *benchReport) error {
	site := k.fixture.Sites()[0]
	started := make(chan struct{})
	var once sync.Once
	text := func(l []byte) {
		if bytes.Contains(l, []byte("version 2.0.0")) {
			once.Do(func() { close(started) })
		}
	}
	defer site.Down() // twice does no harm, and an error has ended it before
	var (
		client *smp.Client
		o      = smp.UploadOptions{WriteSize: benchWriteSize, Overlap: c.overlap, LineLength: c.lineLength, MessageSize: c.message}
		sent   smp.UploadResult
	)
	if err := r.phase(ctx, line.StepPowerOff, site.Off); err != nil {
		return err
	}
	enter := fixtures.Entry{Method: configs.RecoveryPin}
	if c.raw {
		enter.Framing = configs.RawFraming
	}
	want := smp.TargetBootloader
	if c.application {
		enter, want = fixtures.Entry{Method: configs.PowerOn, Within: 5 * time.Second}, smp.TargetApplication
	}
	if err := r.phase(ctx, line.StepRecovery, func(ctx context.Context) (err error) {
		var target smp.Target
		if client, target, err = site.Enter(ctx, enter, text); err == nil && target != want {
			err = fmt.Errorf("a %v answered", target)
		}
		return err
	}); err != nil {
		return err
	}
	if err := r.phase(ctx, line.StepIdentify, func(ctx context.Context) (err error) {
		if _, err = client.Images(ctx, 5*time.Second); err != nil {
			return err
		}
		if c.window {
			p, err := client.Params(ctx)
			if err != nil {
				return err
			}
			o.Window = p.Window()
		}
		if o.MessageSize == 0 {
			o.MessageSize, err = client.FindMessageSize(ctx, smp.Lines{})
		}
		return err
	}); err != nil {
		return err
	}
	if err := r.phase(ctx, line.StepUpload, func(ctx context.Context) (err error) {
		sent, err = client.Upload(ctx, k.content, o)
		return err
	}); err != nil {
		return err
	}
	if err := r.phase(ctx, line.StepVerify, func(ctx context.Context) error {
		list, err := client.Images(ctx, 10*time.Second)
		if err != nil {
			return err
		}
		for _, s := range list.Slots {
			if bytes.Equal(s.Hash, k.hash) {
				return nil
			}
		}
		return errors.New("the board does not report the image that was sent")
	}); err != nil {
		return err
	}
	if !c.application { // where a swap would be measured
		if err := r.phase(ctx, line.StepBoot, func(ctx context.Context) error {
			if err := client.Reset(ctx, smp.BootNormal); err != nil {
				return err
			}
			select {
			case <-started:
				return nil
			case <-time.After(5 * time.Second):
				return errors.New("the application did not start")
			case <-ctx.Done():
				return line.ErrAborted
			}
		}); err != nil {
			return err
		}
	}
	if err := r.phase(ctx, line.StepPowerDown, func(context.Context) error { return site.Down() }); err != nil {
		return err
	}
	r.Mode, r.Resends, r.Message = string(sent.Mode), sent.Resends, sent.MessageSize
	r.rate(len(k.content), sent.Elapsed, c.bound(sent.MessageSize).least(len(k.content), ceilingMode(c), o.Window))
	return nil
}

// ceilingMode is the mode whose ceiling a case is held against.
func ceilingMode(c benchCase) smp.UploadMode {
	switch {
	case c.window:
		return smp.ModeWindow
	case c.overlap == smp.OverlapAuto:
		return smp.ModeOverlapped
	}
	return smp.ModeStopAndWait
}

// rate fills in the rate of one board and its shares.
func (r *benchReport) rate(size int, took, least time.Duration) {
	r.Rate = float64(size) / took.Seconds()
	r.Wire = r.Rate / (float64(r.Baud) / 10)
	r.Ceiling = float64(least) / float64(took)
}

// order works an order of as many units as there are sites, the way run does,
// records on the disk included.
func (b *benchRun) order(ctx context.Context, c benchCase, k *bench, r *benchReport) error {
	data, err := readLimited(k.key, 64<<10)
	if err != nil {
		return err
	}
	const recipeText = "of the benchmark, on no file"
	recipe := &configs.Recipe{
		File: "bench", Product: "bench", Revision: "A", Text: recipeText, SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(recipeText))),
		Entry: configs.RecoveryPin, SlotPolicy: configs.PrimarySlot,
		Images:   []configs.Image{{Path: configs.Path{Written: k.image}, Data: k.content, WriteSize: benchWriteSize, Key: configs.Path{Written: k.key}, KeyPEM: data}},
		Timeouts: configs.DefaultTimeouts(), Retries: configs.Retries{Attempts: 1, Chunk: 5},
		Check: configs.Check{BootText: "version {version}", Within: configs.Duration(5 * time.Second), Proof: configs.AutoProof},
	}
	job, err := line.NewJob(recipe)
	if err != nil {
		return err
	}
	st := k.boards.station(c.baud)
	o := order{id: "BENCH", quantity: c.sites}
	store, err := records.Open(ctx, filepath.Join(k.dir, "bench.db"), records.Options{Station: st.Name})
	if err != nil {
		return err
	}
	defer store.Close()
	ord, err := o.put(ctx, store, &files{st, recipe, job})
	if err != nil {
		return err
	}
	l := line.New(line.Options{
		Fixture: k.fixture, Station: st, Recipe: recipe, Job: job, Records: store, Order: ord,
		Operator: "bench", Software: version(), Notify: func(line.Event) {},
	})
	scans := make(chan line.Scan)
	var typing sync.WaitGroup
	typing.Go(func() {
		defer close(scans)
		for n := range c.sites {
			select {
			case scans <- line.Scan{Text: fmt.Sprintf("BENCH-%03d", n+1), Source: records.SerialScan}:
			case <-ctx.Done():
				return
			}
		}
	})
	actx, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abort(nil)
	defer context.AfterFunc(ctx, func() { abort(line.ErrAborted) })()
	summary, err := l.Run(actx, scans)
	typing.Wait()
	if err != nil {
		return err
	}
	return r.add(c, summary)
}

// add sums the units of an order up.
func (r *benchReport) add(c benchCase, s line.Summary) error {
	if len(s.Units) != c.sites {
		return failed(fmt.Errorf("%d of %d units were flashed", len(s.Units), c.sites))
	}
	sums := map[string]time.Duration{}
	var names []string
	for _, u := range s.Units {
		if u.Result.Outcome != records.Pass {
			return failed(fmt.Errorf("site %d: %s: %s %s", u.Site, u.Result.FailureCode, u.Result.Detail, u.Result.NextStep))
		}
		for _, step := range u.Result.Steps {
			if _, known := sums[step.Name]; !known {
				names = append(names, step.Name)
			}
			sums[step.Name] += step.Duration
			if step.Name == line.StepUpload {
				r.Rate += float64(step.Bytes) / step.Duration.Seconds()
				if m := u.Result.UploadMode; r.Mode == "" {
					r.Mode = m
				} else if r.Mode != m {
					r.Mode = "mixed"
				}
				// Sites send ahead where they can.
				least := c.bound(u.Result.MessageSize).least(int(step.Bytes), smp.ModeOverlapped, 1)
				r.Ceiling += float64(least) / float64(step.Duration) / float64(c.sites)
				r.Resends += step.Retries
			}
		}
	}
	r.Wire = r.Rate / float64(c.sites) / (float64(c.baud) / 10)
	for _, name := range names {
		r.Phases = append(r.Phases, benchPhase{name, (sums[name] / time.Duration(c.sites)).Seconds()})
	}
	return nil
}

// meter watches what this process uses.
type meter struct {
	start time.Time
	cpu   time.Duration
	rss   float64
	quit  chan struct{}
	wg    sync.WaitGroup
}

func startMeter() *meter {
	m := &meter{start: time.Now(), cpu: cpuTime(), quit: make(chan struct{})}
	m.wg.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			m.rss = max(m.rss, residentMB())
			select {
			case <-tick.C:
			case <-m.quit:
				return
			}
		}
	})
	return m
}

// stop returns CPU time and wall time in seconds, and the most memory in MB.
func (m *meter) stop() (cpu, wall, rss float64) {
	close(m.quit)
	m.wg.Wait()
	return (cpuTime() - m.cpu).Seconds(), time.Since(m.start).Seconds(), max(m.rss, residentMB())
}

// cpuTime is what this process has used, user and system.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentMB is the memory of this process that is in RAM, as Linux tells it;
// elsewhere what Go has from the system.
func residentMB() float64 {
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		for l := range strings.Lines(string(status)) {
			var kb float64
			if _, err := fmt.Sscanf(l, "VmRSS: %f kB", &kb); err == nil {
				return kb / 1024
			}
		}
	}
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return float64(s.Sys) / (1 << 20)
}
