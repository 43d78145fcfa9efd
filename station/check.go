package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"flashline/configs"
)

func newCheck() *cobra.Command {
	var config, recipe string
	cmd := &cobra.Command{
		Use:   "check --config line.toml",
		Short: "Check a station file, its recipe and its image, touching no pin",
		Long: `Check reads the station file, the recipe it names, the image and the key, and
says everything that is wrong with them, with file and line. No pin, port or
record is touched.

Exit codes: 0 all well, 2 something to mend.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config == "" {
				return badInput(errors.New("no station file: give one with --config, as --config line-1.toml"))
			}
			f, err := load(config, recipe)
			if err != nil {
				return badInput(err)
			}
			out := cmd.OutOrStdout()
			for _, w := range append(append([]configs.Problem(nil), f.station.Warnings...), f.recipe.Warnings...) {
				fmt.Fprintln(out, "warning:", w)
			}
			fmt.Fprintf(out, "%s: station %s, %d sites, records in %s\n", f.station.File, f.station.Name, len(f.station.Sites), f.station.Records)
			fmt.Fprintf(out, "%s: %s revision %s\n", f.recipe.File, f.recipe.Product, f.recipe.Revision)
			for _, fw := range f.job.Images {
				which := ""
				if fw.Number > 0 {
					which = fmt.Sprintf("image %d, ", fw.Number)
				}
				fmt.Fprintf(out, "%s: %sversion %s, %d bytes to send, hash %x\n", fw.Name, which, fw.Version, len(fw.Data), fw.Hash)
			}
			fmt.Fprintln(out, "All well.")
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "station `file`")
	cmd.Flags().StringVar(&recipe, "recipe", "", "recipe `file` instead of the station's")
	return cmd
}
