package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"flashline/configs"
	"flashline/fixtures"
)

func newIdentify() *cobra.Command {
	var config string
	var site int
	cmd := &cobra.Command{
		Use:   "identify --config line.toml --site 3",
		Short: "Blink the lamp of a site, to see which one it is",
		Long: `Identify blinks a lamp of one site until Ctrl-C, and says which port and pins the
site has. A site without lamps is only told of. The site is switched off, during
and after it; the pins of the others are left alone.

Exit codes: 0 done, 2 bad input, 3 station fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case config == "":
				return badInput(errors.New("no station file: give one with --config, as --config line-1.toml"))
			case site == 0:
				return badInput(errors.New("no site: give its number with --site, as --site 3"))
			}
			ctx, stop := context.WithCancel(cmd.Context())
			defer stop()
			defer onSignals(stop, stop)()
			return identify(ctx, cmd.OutOrStdout(), config, site)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "station `file`")
	cmd.Flags().IntVar(&site, "site", 0, "`number` of the site")
	return cmd
}

// identify shows where a site is until ctx ends.
func identify(ctx context.Context, out io.Writer, config string, number int) error {
	st, err := configs.LoadStation(config)
	if err != nil {
		return inputError(err)
	}
	var numbers []int
	for _, s := range st.Sites {
		numbers = append(numbers, s.Number)
	}
	at := slices.Index(numbers, number)
	if at < 0 {
		return badInput(fmt.Errorf("%s has no site %d: its sites are %d", config, number, numbers))
	}
	// The others may be at work, with another program.
	st.Sites, st.Start = st.Sites[at:at+1], configs.Start{}
	site := &st.Sites[0]

	fmt.Fprintf(out, "Site %d has the port %s.\n", number, site.Port)
	for _, o := range site.Outputs() {
		fmt.Fprintf(out, "Its %s is %s.\n", o.Role, o.Pin)
	}
	lamp, name := lampOf(site)
	if lamp == fixtures.LampNone {
		fmt.Fprintln(out, "It has no lamp that could blink.")
		return nil
	}
	fixture, closeHardware, err := (&order{}).open(st)
	if err != nil {
		return stationFault(err)
	}
	defer closeHardware() // on a panic too
	fmt.Fprintf(out, "Its %s blinks. Ctrl-C ends it.\n", name)
	if err := errors.Join(blink(ctx, fixture.Sites()[0], lamp), fixture.Close()); err != nil {
		return stationFault(err)
	}
	return nil
}

// lampOf is the first lamp that a site has.
func lampOf(s *configs.Site) (fixtures.Lamp, string) {
	for _, l := range []struct {
		lamp fixtures.Lamp
		name string
		out  *configs.Output
	}{{fixtures.LampBusy, "busy lamp", s.LampBusy}, {fixtures.LampPass, "pass lamp", s.LampPass}, {fixtures.LampFail, "fail lamp", s.LampFail}} {
		if l.out != nil {
			return l.lamp, l.name
		}
	}
	return fixtures.LampNone, ""
}

// blinkTime is how long a blinking lamp is lit, and how long it is not.
const blinkTime = 400 * time.Millisecond

// blink lets a lamp blink until ctx ends. It may be lit then.
func blink(ctx context.Context, s *fixtures.Site, lamp fixtures.Lamp) error {
	tick := time.NewTicker(blinkTime)
	defer tick.Stop()
	for on := true; ; on = !on {
		show := fixtures.LampNone
		if on {
			show = lamp
		}
		if err := s.Light(show); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
