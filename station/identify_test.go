package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/gpio"

	"flashline/configs"
	"flashline/fixtures"
)

// lampPin writes down its levels.
type lampPin struct {
	gpio.PinIO
	name   string
	levels []gpio.Level
}

func (p *lampPin) Name() string { return p.name }

func (p *lampPin) Out(l gpio.Level) error {
	if n := len(p.levels); n == 0 || p.levels[n-1] != l {
		p.levels = append(p.levels, l)
	}
	return nil
}

func TestBlink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pins := map[string]*lampPin{}
		site := configs.Site{Number: 3, Power: configs.Output{Pin: "POWER"}, LampPass: &configs.Output{Pin: "PASS", ActiveLow: true}, LampFail: &configs.Output{Pin: "FAIL"}}
		f, err := fixtures.Open(&configs.Station{Sites: []configs.Site{site}}, fixtures.Hardware{Pin: func(name string) (gpio.PinIO, error) {
			pins[name] = &lampPin{name: name}
			return pins[name], nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		lamp, name := lampOf(&site)
		if lamp != fixtures.LampPass || name != "pass lamp" {
			t.Fatalf("it is the %s that blinks", name)
		}
		// Ends while the lamp is lit.
		ctx, stop := context.WithTimeout(t.Context(), 4*blinkTime+blinkTime/2)
		defer stop()
		began := time.Now()
		if err := blink(ctx, f.Sites()[0], lamp); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 4*blinkTime+blinkTime/2 {
			t.Errorf("it ended after %v", took)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for pin, want := range map[string][]gpio.Level{
			"PASS":  {true, false, true, false, true, false, true}, // active low: out, and three times lit
			"FAIL":  {false},
			"POWER": {false},
		} {
			if !slices.Equal(pins[pin].levels, want) {
				t.Errorf("%s was %v, want %v", pin, pins[pin].levels, want)
			}
		}
	})
}

func TestIdentifyWithoutLamp(t *testing.T) {
	var out strings.Builder
	if err := identify(t.Context(), &out, "../configs/sim.toml", 2); err != nil {
		t.Fatal(err)
	}
	want := "Site 2 has the port sim:2.\nIts power is S2_POWER.\nIts recovery is S2_RECOVERY.\nIt has no lamp that could blink.\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
