package records_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flashline/records"
)

// One unit is flashed, first against the wrong answer, then against the right
// one; the database does not take a PASS that was not proven.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "records")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	store, err := records.Open(ctx, filepath.Join(dir, "records.db"), records.Options{Station: "st1"})
	if err != nil {
		log.Fatal(err) // one sentence: what, where, what to do
	}
	defer store.Close()
	if _, err := store.Interrupt(ctx); err != nil {
		log.Fatal(err)
	}

	hash := strings.Repeat("5e", 32)
	attempt, err := store.Begin(ctx, records.Attempt{
		Site: 1, CycleTry: 1, Purpose: records.Production,
		UnitSerial: "SN0001", SerialSource: records.SerialScan, ImageHash: hash,
	})
	if err != nil {
		log.Fatal(err)
	}
	// ... the board is flashed and asked what it holds ...
	result := records.Result{Outcome: records.Pass, DeviceHash: strings.Repeat("00", 32), Duration: 41 * time.Second}
	fmt.Println(strings.Replace(fmt.Sprint(store.Finish(ctx, attempt.ID, result)), attempt.ID, "…", 1))

	result.DeviceHash = hash
	if err := store.Finish(ctx, attempt.ID, result); err != nil {
		log.Fatal(err)
	}
	for rec, err := range store.Attempts(ctx, records.Filter{Serial: "SN0001"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(rec.Seq, rec.UnitSerial, rec.Outcome(), rec.Result.Duration)
	}
	// Output:
	// result of attempt …: a PASS needs a device that reported exactly the hash of the image
	// 1 SN0001 PASS 41s
}
