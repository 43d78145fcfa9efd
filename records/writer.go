package records

import (
	"context"
	"database/sql"
	"sync"
)

// writer is the one goroutine that changes the file. What piles up while one
// commit waits for the disk goes into the next commit together, so that 64
// sites share a few synced writes instead of queueing for 64.
type writer struct {
	db   *sql.DB
	path string

	jobs     chan *job
	stopping chan struct{}
	stopOnce sync.Once
	stopped  sync.WaitGroup
}

// job is one call that writes. do may run more than once; only its last run
// counts.
type job struct {
	do   func(tx *sql.Tx) error
	err  error
	done chan struct{}
}

// maxBatch bounds how long the first of a batch waits for the last.
const maxBatch = 256

func startWriter(db *sql.DB, path string) *writer {
	w := &writer{db: db, path: path, jobs: make(chan *job), stopping: make(chan struct{})}
	w.stopped.Go(w.run)
	return w
}

// stop lets the commit under way end and waits for it.
func (w *writer) stop() {
	w.stopOnce.Do(func() { close(w.stopping) })
	w.stopped.Wait()
}

// do runs f inside a transaction and returns once that is on the disk, or has
// been undone without a trace. Errors that f returns as [RefusedError] undo
// what f did and nothing else.
//
// A cancelled ctx takes effect until the writer has taken the job; from then
// on the call waits, which is a matter of milliseconds, so that its answer is
// true.
func (w *writer) do(ctx context.Context, f func(tx *sql.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	j := &job{do: f, done: make(chan struct{})}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.stopping:
		return &StoreError{Kind: Closed, Path: w.path, hint: sentence(Closed, w.path)}
	case w.jobs <- j:
	}
	<-j.done
	return j.err
}

func (w *writer) run() {
	for {
		select {
		case <-w.stopping:
			return
		case j := <-w.jobs:
			w.flush(w.gather(j))
		}
	}
}

// gather takes whatever callers are waiting, and does not wait for more.
func (w *writer) gather(first *job) []*job {
	batch := []*job{first}
	for len(batch) < maxBatch {
		select {
		case j := <-w.jobs:
			batch = append(batch, j)
		default:
			return batch
		}
	}
	return batch
}

// flush commits the batch as one, and should that fail, each job by itself: an
// image that no longer fits on the disk must not take small records with it.
func (w *writer) flush(batch []*job) {
	began, err := w.commit(batch)
	alone := began && len(batch) > 1
	for _, j := range batch {
		if err != nil && alone {
			_, errAlone := w.commit([]*job{j})
			if errAlone != nil {
				j.err = errAlone
			}
		} else if err != nil {
			j.err = err
		}
		if j.err != nil {
			j.err = storeError(w.path, j.err)
		}
		close(j.done)
	}
}

// commit runs the batch in one transaction. Each refused job finds its error
// in j.err; an error returned means that nothing of the batch was kept. began
// tells whether the transaction started at all.
//
// It runs to its end whatever happens to the callers, since they share it.
func (w *writer) commit(batch []*job) (began bool, err error) {
	ctx := context.Background()
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer tx.Rollback()
	for _, j := range batch {
		if _, err := tx.ExecContext(ctx, "SAVEPOINT job"); err != nil {
			return true, err
		}
		if j.err = j.do(tx); j.err != nil {
			if !isRefusal(j.err) {
				return true, j.err
			}
			if _, err := tx.ExecContext(ctx, "ROLLBACK TO job"); err != nil {
				return true, err
			}
		}
		if _, err := tx.ExecContext(ctx, "RELEASE job"); err != nil {
			return true, err
		}
	}
	return true, tx.Commit()
}
