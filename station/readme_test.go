package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"flashline/configs"
	"flashline/fixtures/sim"
	"flashline/station/line"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// commands are the lines of the README's code blocks that a reader would type:
// those of the blocks without a language.
func commands(text string) (lines []string) {
	inside, typed := false, false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			inside = !inside
			typed = inside && line == "```"
		case typed && line != "":
			lines = append(lines, line)
		}
	}
	return lines
}

// stationArgs finds the arguments of station in a line of a shell; nil if it
// does not call it. The README quotes nothing that has blanks or bars.
func stationArgs(line string) []string {
	for part := range strings.SplitSeq(line, "|") {
		words := strings.Fields(part)
		if len(words) > 2 && words[0] == "go" && words[1] == "run" && words[2] == "./station" {
			return words[3:]
		}
		if len(words) > 0 && words[0] == "station" {
			return words[1:]
		}
	}
	return nil
}

func TestReadmeCommands(t *testing.T) {
	lines := commands(readme(t))
	for _, want := range []string{"go run ./station demo", "go test ./..."} {
		if !slices.Contains(lines, want) {
			t.Errorf("the README does not say %q", want)
		}
	}
	shown := map[string]bool{}
	for _, line := range lines {
		args := stationArgs(line)
		if args == nil {
			continue
		}
		cmd, rest, err := newRoot().Find(args)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		shown[cmd.CommandPath()] = true
	}
	for _, want := range []string{"demo", "run", "check", "doctor", "identify", "flash", "explain", "image", "simulate", "bench", "records list", "records show", "records export"} {
		if !shown["station "+want] {
			t.Errorf("the README shows no use of station %s", want)
		}
	}
}

// TestReadmeMentions: what the code knows by name, the README explains.
func TestReadmeMentions(t *testing.T) {
	text := readme(t)
	mention := func(kind, name string) {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("the README has no `%s`, a %s", name, kind)
		}
	}
	for _, code := range failureCodes(t) {
		mention("cause", code)
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[configs.Station](), reflect.TypeFor[configs.Recipe]()} {
		for _, key := range keysOf(typ) {
			mention("key", key)
		}
	}
	for _, f := range sim.Faults() {
		mention("fault", f.Name)
	}
	for _, policy := range configs.SlotPolicies() {
		mention("slot policy", strconv.Quote(string(policy)))
	}
	for _, entry := range []configs.Entry{configs.RecoveryPin, configs.ResetPin, configs.Window, configs.BootMode, configs.PowerOn} {
		mention("way in", strconv.Quote(string(entry)))
	}
	for _, proof := range []configs.Proof{configs.AutoProof, configs.BootTextProof, configs.ApplicationProof, configs.RecoveryProof, configs.NoProof} {
		mention("proof", strconv.Quote(string(proof)))
	}
	for _, p := range sim.Parts() {
		if !strings.Contains(text, p.Name) {
			t.Errorf("the README does not name the part %s", p.Name)
		}
	}
}

// TestReadmeTables: every row of the decision table that a scenario ends in, and
// every step that an attempt can have, begin a row of a table.
func TestReadmeTables(t *testing.T) {
	text := readme(t)
	row := func(kind, name string) {
		if !strings.Contains(text, "\n| "+name+" |") {
			t.Errorf("no table of the README has a row for the %s %q", kind, name)
		}
	}
	for _, s := range scenarios() {
		if s.end.row != "" {
			row("decision", s.end.row)
		}
	}
	for _, step := range []string{
		line.StepPowerOff, line.StepRecovery, line.StepStart, line.StepDiagnose, line.StepIdentify, line.StepUpload, line.StepVerify, line.StepLetSwap,
		line.StepMark, line.StepRelease, line.StepBoot, line.StepCheck, line.StepConfirm, line.StepProve, line.StepExamine, line.StepPowerDown,
	} {
		row("step", step)
	}
}

// keysOf lists what may be written in a file: a table in brackets, other keys
// as they are.
func keysOf(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("toml")
		if tag == "" || tag == "-" {
			continue
		}
		typ := f.Type
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		switch {
		case typ.Kind() != reflect.Struct || typ == reflect.TypeFor[configs.Path]():
			keys = append(keys, tag)
			continue
		case f.Type.Kind() == reflect.Slice:
			keys = append(keys, "[["+tag+"]]")
		case typ == reflect.TypeFor[configs.Output](), typ == reflect.TypeFor[configs.Input]():
			keys = append(keys, tag)
		default:
			keys = append(keys, "["+tag+"]")
		}
		keys = append(keys, keysOf(typ)...)
	}
	return keys
}

// failureCodes reads the constants of type Code out of the source: Go cannot
// list them at run time.
func failureCodes(t *testing.T) (codes []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "line/failure.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Code" {
			return true
		}
		for _, v := range spec.Values {
			code, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, code)
		}
		return true
	})
	if len(codes) < 20 {
		t.Fatalf("only %d failure codes found in line/failure.go: %v", len(codes), codes)
	}
	return codes
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)]+)\)`)
	notInAnchor  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestReadmeLinks: every link leads to a file or a heading that is there.
func TestReadmeLinks(t *testing.T) {
	text := readme(t)
	anchors := map[string]bool{}
	for line := range strings.Lines(text) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			title = notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			anchors["#"+strings.ReplaceAll(title, " ", "-")] = true
		}
	}
	root := os.DirFS("..")
	for _, m := range markdownLink.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(m[1], "#") {
			if !anchors[m[1]] {
				t.Errorf("no heading for the link %s", m[1])
			}
		} else if _, err := fs.Stat(root, path.Clean(m[1])); err != nil {
			t.Errorf("the link %s: %v", m[1], err)
		}
	}
}
