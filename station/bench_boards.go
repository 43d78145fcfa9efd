package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/pin"

	"flashline/configs"
	"flashline/fixtures"
)

// boards are simulated ones in a process of their own, "station simulate", so
// that what this process uses is the station's share alone.
type boards struct {
	cmd   *exec.Cmd
	ports []string

	mu  sync.Mutex // one command and its answer at a time
	in  io.WriteCloser
	out *bufio.Scanner
}

// startBoards returns when n boards are there.
func startBoards(ctx context.Context, dir string, n int, options ...string) (*boards, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting simulated boards: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, append([]string{"simulate", "--dir", dir, "--boards", fmt.Sprint(n)}, options...)...)
	cmd.Args[0] = "station"
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	// Of its own group: Ctrl-C is for the station, which ends the boards last.
	// And they end with it, even if it is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting simulated boards: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting simulated boards: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting simulated boards: %w", err)
	}
	b := &boards{cmd: cmd, in: in, out: bufio.NewScanner(out)}
	for len(b.ports) < n {
		if !b.out.Scan() {
			return nil, errors.Join(errors.New("the simulated boards did not start"), b.Close())
		}
		b.ports = append(b.ports, b.out.Text())
	}
	return b, nil
}

// ask gives a command to the boards and returns the line that answers it.
func (b *boards) ask(command string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := fmt.Fprintln(b.in, command); err != nil {
		return "", fmt.Errorf("simulated boards: %w", err)
	}
	if !b.out.Scan() {
		return "", fmt.Errorf("the simulated boards ended at %q", command)
	}
	return b.out.Text(), nil
}

// Close ends the boards and waits for them.
func (b *boards) Close() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending the simulated boards: %w", err)
	}
	if err := b.cmd.Wait(); err != nil {
		return fmt.Errorf("simulated boards: %w", err)
	}
	return nil
}

// station is what a station file for these boards would say, one site a board.
func (b *boards) station(baud int) *configs.Station {
	st := &configs.Station{
		Name: "bench", Fixture: "FX-SIM", Start: configs.Start{Trigger: configs.LastScan},
		Timings: configs.Timings{
			PowerOff: configs.Duration(50 * time.Millisecond), Settle: configs.Duration(10 * time.Millisecond),
			HoldCap: configs.Duration(5 * time.Second), ProbeEvery: configs.Duration(50 * time.Millisecond),
			Stagger: configs.Duration(10 * time.Millisecond), ResetPulse: configs.Duration(20 * time.Millisecond),
			Enumeration: configs.Duration(3 * time.Second),
		},
	}
	for i, port := range b.ports {
		name := fmt.Sprintf("SIM%d_", i+1)
		st.Sites = append(st.Sites, configs.Site{
			Number: i + 1, Port: port, Baud: baud,
			Power:    configs.Output{Pin: name + "POWER"},
			Recovery: configs.Output{Pin: name + "RECOVERY", ActiveLow: true, OpenDrain: true},
		})
	}
	return st
}

// hardware is how a fixture gets at the boards.
func (b *boards) hardware() fixtures.Hardware {
	return fixtures.Hardware{Pin: func(name string) (gpio.PinIO, error) { return &farPin{b, name}, nil }}
}

// farPin is a pin of a board in another process, which a fixture drives or lets
// go of.
type farPin struct {
	boards *boards
	name   string
}

func (p *farPin) set(level string) error {
	got, err := p.boards.ask("pin " + p.name + " " + level)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(got, p.name+" ") {
		return errors.New(got)
	}
	return nil
}

// Out implements gpio.PinOut.
func (p *farPin) Out(l gpio.Level) error {
	if l == gpio.High {
		return p.set("high")
	}
	return p.set("low")
}

// In implements gpio.PinIn for outputs with an open drain, which are let go.
func (p *farPin) In(gpio.Pull, gpio.Edge) error { return p.set("float") }

// String implements conn.Resource.
func (p *farPin) String() string { return p.name }

// Halt implements conn.Resource.
func (p *farPin) Halt() error { return nil }

// Name implements pin.Pin.
func (p *farPin) Name() string { return p.name }

// Number implements pin.Pin.
func (p *farPin) Number() int { return -1 }

// Function implements pin.Pin.
func (p *farPin) Function() string { return string(p.Func()) }

// Func implements pin.PinFunc.
func (p *farPin) Func() pin.Func { return pin.FuncNone }

// SupportedFuncs implements pin.PinFunc.
func (p *farPin) SupportedFuncs() []pin.Func { return []pin.Func{gpio.IN, gpio.OUT} }

// SetFunc implements pin.PinFunc.
func (p *farPin) SetFunc(pin.Func) error { return errOutputOnly }

// Read implements gpio.PinIn.
func (p *farPin) Read() gpio.Level { return gpio.Low }

// WaitForEdge implements gpio.PinIn.
func (p *farPin) WaitForEdge(time.Duration) bool { return false }

// Pull implements gpio.PinIn.
func (p *farPin) Pull() gpio.Pull { return gpio.Float }

// DefaultPull implements gpio.PinIn.
func (p *farPin) DefaultPull() gpio.Pull { return gpio.Float }

// PWM implements gpio.PinOut.
func (p *farPin) PWM(gpio.Duty, physic.Frequency) error { return errOutputOnly }

var errOutputOnly = errors.New("the pin of a board in another process can be driven and let go, and no more")
