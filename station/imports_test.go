package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// importTable says which packages the project has and what of the project each
// may import: imports point down only. Tests may import what they like. What a
// package may import and does not is no fault.
func importTable() map[string][]string {
	return map[string][]string{
		"configs":      nil,
		"smp":          nil,
		"smp/mcuboot":  nil,
		"records":      nil,
		"fixtures":     {"configs", "smp"},
		"fixtures/sim": {"fixtures", "smp/mcuboot"},
		"station/line": {"configs", "fixtures", "records", "smp", "smp/mcuboot"},
		"station":      {"configs", "fixtures", "fixtures/sim", "records", "smp", "smp/mcuboot", "station/line"},
	}
}

// listedPackage is what the import table is held against, of what go list says.
type listedPackage struct {
	ImportPath string
	Module     struct{ Path string }
	Imports    []string // by files that are no tests
}

// importFaults are the differences between the packages and the table, a
// sentence each.
func importFaults(table map[string][]string, packages []listedPackage) (faults []string) {
	const where = "the table is importTable in station/imports_test.go"
	missing := make(map[string]bool)
	for name := range table {
		missing[name] = true
	}
	for _, p := range packages {
		inside := p.Module.Path + "/"
		name := strings.TrimPrefix(p.ImportPath, inside)
		delete(missing, name)
		allowed, planned := table[name]
		if !planned {
			faults = append(faults, fmt.Sprintf("package %s is not planned: give it a place in the table or move its code to a package that has one; %s", name, where))
			continue
		}
		for _, i := range p.Imports {
			if to, ours := strings.CutPrefix(i, inside); ours && !slices.Contains(allowed, to) {
				faults = append(faults, fmt.Sprintf("%s imports %s, which it may not: it may import %s; %s", name, to, oneOf(allowed), where))
			}
		}
	}
	for name := range missing {
		faults = append(faults, fmt.Sprintf("package %s is in the table and not in the project: take it out; %s", name, where))
	}
	slices.Sort(faults)
	return faults
}

func oneOf(names []string) string {
	if len(names) == 0 {
		return "nothing of the project"
	}
	return "only " + strings.Join(names, ", ")
}

func TestImports(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Module,Imports", "./...")
	cmd.Dir = ".." // the top of the module
	out, err := cmd.Output()
	if err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, e.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var packages []listedPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listedPackage
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
	for _, fault := range importFaults(importTable(), packages) {
		t.Error(fault)
	}
}

// The test of the test: each kind of fault is found, and says which edge.
func TestImportFaults(t *testing.T) {
	table := map[string][]string{"a": nil, "b": {"a"}}
	pkg := func(name string, imports ...string) listedPackage {
		p := listedPackage{ImportPath: "m/" + name, Imports: imports}
		p.Module.Path = "m"
		return p
	}
	for _, tt := range []struct {
		name     string
		packages []listedPackage
		want     string // how the only fault begins; none if empty
	}{
		{"as planned", []listedPackage{pkg("a", "fmt", "mm/b"), pkg("b", "m/a")}, ""},
		{"less than allowed", []listedPackage{pkg("a"), pkg("b")}, ""},
		{"upwards", []listedPackage{pkg("a", "m/b"), pkg("b")}, "a imports b, which it may not: it may import nothing of the project"},
		{"unplanned", []listedPackage{pkg("a"), pkg("b"), pkg("b/c", "m/a")}, "package b/c is not planned"},
		{"import of unplanned", []listedPackage{pkg("a"), pkg("b", "m/a", "m/c")}, "b imports c, which it may not: it may import only a"},
		{"gone", []listedPackage{pkg("a")}, "package b is in the table and not in the project"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := importFaults(table, tt.packages)
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("faults %q, want none", got)
			case tt.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tt.want)):
				t.Errorf("faults %q, want one that begins with %q", got, tt.want)
			}
		})
	}
}
