package configs_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flashline/configs"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestWrongFiles loads each kind of wrong file and compares all that the
// technician would read with the golden file beside it. So that -update
// cannot make a wrong line right, the lines at fault are marked "# wrong" in
// the file itself.
func TestWrongFiles(t *testing.T) {
	t.Chdir("testdata/bad") // so that names are shown as a technician gives them
	files, err := filepath.Glob("*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no wrong files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(file, ".toml"), func(t *testing.T) {
			var err error
			if strings.HasPrefix(file, "recipe-") {
				_, err = configs.LoadRecipe(file)
			} else {
				_, err = configs.LoadStation(file)
			}
			var problems configs.Errors
			if !errors.As(err, &problems) {
				t.Fatalf("got error %v, want an Errors", err)
			}

			golden := strings.TrimSuffix(file, ".toml") + ".golden"
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("sentences differ (-want +got):\n%s", diff)
			}

			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var marked, told []int
			for i, line := range strings.Split(string(text), "\n") {
				if strings.Contains(line, "# wrong") {
					marked = append(marked, i+1)
				}
			}
			for _, p := range problems {
				told = append(told, p.Line)
			}
			if diff := cmp.Diff(marked, slices.Compact(told)); diff != "" {
				t.Errorf("lines at fault differ (-marked +told):\n%s\n%s", diff, got)
			}
		})
	}
}
