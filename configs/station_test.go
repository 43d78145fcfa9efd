package configs_test

import (
	"errors"
	"testing"

	"flashline/configs"
)

// TestCheckRecipe holds for each entry with the pins of a site, written as p
// for power, v for vbus, c for recovery and r for reset.
func TestCheckRecipe(t *testing.T) {
	const (
		noRecovery = `lines/s.toml:6: site 7 has no recovery pin, and the recipe r.toml enters by it (entry = "recovery-pin"); wire it and add recovery = { pin = "…" }, or choose another entry`
		noReset    = `lines/s.toml:6: site 7 has no reset pin, and the recipe r.toml enters by it (entry = "reset-pin"); wire it and add reset = { pin = "…" }, or choose another entry`
		noStart    = `lines/s.toml:6: site 7 has neither a power pin nor a reset pin to restart its board with, and the recipe r.toml needs one of them (entry = "recovery-pin"); wire one and add power = { pin = "…" } or reset = { pin = "…" }, or choose another entry`
		noWindow   = `lines/s.toml:6: site 7 has neither a power pin nor a reset pin to restart its board with, and the recipe r.toml needs one of them (entry = "window"); wire one and add power = { pin = "…" } or reset = { pin = "…" }, or choose another entry`
	)
	lines := map[rune]string{'p': "power", 'v': "vbus", 'c': "recovery", 'r': "reset"}
	for _, c := range []struct {
		entry configs.Entry
		pins  string
		want  []string
	}{
		{configs.RecoveryPin, "pc", nil},
		{configs.RecoveryPin, "cr", nil},
		{configs.RecoveryPin, "pcr", nil},
		{configs.RecoveryPin, "pr", []string{noRecovery}},
		{configs.RecoveryPin, "c", []string{noStart}},
		{configs.RecoveryPin, "cv", []string{noStart}},
		{configs.RecoveryPin, "", []string{noRecovery, noStart}},
		{configs.ResetPin, "r", nil},
		{configs.ResetPin, "pc", []string{noReset}},
		{configs.Window, "p", nil},
		{configs.Window, "r", nil},
		{configs.Window, "c", []string{noWindow}},
		{configs.BootMode, "", nil},
		{configs.PowerOn, "", nil},
	} {
		text := "station = \"line-1\"\nfixture = \"FX-8A\"\nrecords = \"line-1.db\"\nrecipe = \"other.toml\"\n\n" +
			"[[site]]\nnumber = 7\nport = \"/dev/serial/by-path/usb-7\"\n"
		for _, pin := range c.pins {
			text += lines[pin] + " = { pin = \"" + lines[pin] + "_7\" }\n"
		}
		// A second site that has everything, so that the complaint is the first's.
		text += "\n[[site]]\nnumber = 8\nport = \"/dev/serial/by-path/usb-8\"\n" +
			"power = { pin = \"A\" }\nrecovery = { pin = \"B\" }\nreset = { pin = \"C\" }\n"
		st, err := configs.ParseStation("lines/s.toml", "/etc/line", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		r, err := configs.ParseRecipe("recipes/r.toml", "/etc/line", []byte("entry = \""+string(c.entry)+"\"\n"+smallestRecipe))
		if err != nil {
			t.Fatal(err)
		}
		t.Run(string(c.entry)+" "+c.pins, func(t *testing.T) {
			var problems configs.Errors
			if err := st.CheckRecipe(r); err != nil && !errors.As(err, &problems) {
				t.Fatalf("got error %v, want an Errors", err)
			}
			wantSentences(t, problems, c.want...)
		})
	}
}

// TestCheckRecipeBaud: a speed is nothing to a station whose boards all have USB
// of their own.
func TestCheckRecipeBaud(t *testing.T) {
	text := "station = \"line-1\"\nfixture = \"FX-8A\"\nrecords = \"line-1.db\"\nrecipe = \"other.toml\"\n\n" +
		"[[site]]\nnumber = 7\nport = \"/dev/serial/by-path/usb-7\"\nusb = true\npower = { pin = \"A\" }\nrecovery = { pin = \"B\" }\n"
	st, err := configs.ParseStation("lines/s.toml", "/etc/line", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r, err := configs.ParseRecipe("recipes/r.toml", "/etc/line", []byte("baud = 460800\n"+smallestRecipe))
	if err != nil {
		t.Fatal(err)
	}
	problems, ok := errors.AsType[configs.Errors](st.CheckRecipe(r))
	if !ok {
		t.Fatal("a recipe with a baud is accepted")
	}
	wantSentences(t, problems, `lines/s.toml:6: every port of this station is the board's own (usb = true), which has no speed, and the recipe r.toml says baud = 460800; take baud out of the recipe`)
}
