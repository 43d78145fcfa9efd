package line

import (
	"context"
	"errors"
	"fmt"

	"flashline/records"
	"flashline/smp"
	"flashline/smp/mcuboot"
)

// What a bootloader's recovery does not look at, the station does: recovery
// takes any image that fits and is signed, older ones and other products' too.

// guard compares what a board holds with what it is to get; running is the
// entry of an image that the board would start now.
func (a *attempt) guard(running func(image int) (smp.ImageSlot, bool)) *Failure {
	for _, l := range a.loads {
		holds, ok := running(l.fw.Number)
		if v, err := mcuboot.ParseVersion(holds.Version); ok && err == nil && v.Compare(l.fw.Version) > 0 && !a.job.AllowDowngrade {
			return &Failure{Outcome: records.Fail, Code: Downgrade,
				Detail: fmt.Sprintf("The board holds version %s of %s, which is higher than the recipe's %s.", v, a.called(l), l.fw.Version),
				Next:   "Check that this order is for this board; if it is really to go back, release a recipe with allow_downgrade = true."}
		}
		for _, d := range l.fw.Requires {
			if f := a.requires(l, d, running); f != nil {
				return f
			}
		}
	}
	return nil
}

// blind is a board that does not say what it holds, where the recipe forbids
// what can only be seen from that.
func (a *attempt) blind(err error) *Failure {
	needs := !a.job.AllowDowngrade
	for _, l := range a.loads {
		needs = needs || len(l.fw.Requires) > 0
	}
	if !needs {
		return nil
	}
	f := &Failure{Outcome: records.Fail, Code: ListRefused, Err: err,
		Detail: fmt.Sprintf("The board does not say what it holds, so it cannot be seen whether it would go back to a lower version: %v.", err),
		Next:   "If its bootloader cannot list its images, release a recipe with allow_downgrade = true; otherwise reseat the board and try again."}
	if _, silent := errors.AsType[*smp.TimeoutError](err); silent {
		f.Code = ListTimeout
	}
	return f
}

// requires checks a dependency on an image that is not in the recipe.
func (a *attempt) requires(l *load, d mcuboot.Dependency, running func(int) (smp.ImageSlot, bool)) *Failure {
	for _, o := range a.loads {
		if o.fw.Number == d.Image {
			return nil // looked at when the recipe was loaded
		}
	}
	fail := func(has string) *Failure {
		return &Failure{Outcome: records.Fail, Code: DependencyMissing,
			Detail: fmt.Sprintf("%s needs image %d of the board in version %s or higher, and the board %s.", l.fw.Name, d.Image, d.Min, has),
			Next:   "Put both images into the recipe, or flash the other one first; call a technician."}
	}
	holds, ok := running(d.Image)
	if !ok {
		return fail("lists none")
	}
	if v, err := mcuboot.ParseVersion(holds.Version); err == nil && v.Compare(d.Min) < 0 {
		return fail("holds " + v.String())
	}
	return nil
}

// fits compares an image with the slot it goes to, as far as the board tells.
func (a *attempt) fits(l *load) *Failure {
	for _, s := range a.facts.Slots.Slots {
		if s.Image != l.fw.Number || s.Slot != l.slot || s.Size == 0 {
			continue
		}
		room := s.Size
		if !a.facts.single(l.fw.Number) {
			room = l.fw.room(s.Size)
			if a.facts.Mode == smp.ModeSwapMove || a.facts.Mode == smp.ModeSwapOffset {
				room -= l.fw.SectorSize // they need one to move by (app_max_size in swap_move.c)
			}
		}
		if most, told := a.facts.Slots.MaxImage[l.fw.Number]; told && most > 0 {
			room = min(room, most)
		}
		if n := len(l.fw.Data); n > room {
			return &Failure{Outcome: records.Fail, Code: ImageTooLarge,
				Detail: fmt.Sprintf("%s has %d bytes, and slot %d of this board has room for %d of its %d.", l.fw.Name, n, s.Slot, room, s.Size),
				Next:   "Check that this order is for this board; otherwise the image has to be built smaller. Call a technician."}
		}
	}
	return nil
}

// checkBoard asks an application what it runs on, if the recipe says what it
// has to be.
func (a *attempt) checkBoard(ctx context.Context, s *records.Step) error {
	if a.job.Board == "" {
		return nil
	}
	a.client.SetVersion(smp.V2)
	defer a.client.SetVersion(smp.V1)
	board, err := a.client.Info(ctx, "i")
	if _, refused := errors.AsType[*smp.ServerError](err); refused {
		s.Detail = "the application does not tell which board it runs on"
		return nil
	}
	if err != nil {
		return err
	}
	if !sameBoard(board, a.job.Board) {
		return &Failure{Outcome: records.Fail, Code: WrongBoard,
			Detail: fmt.Sprintf("The board says that it is %q; the recipe is for %q.", board, a.job.Board),
			Next:   "Check that this order is for this board."}
	}
	s.Detail = "it is " + board
	return nil
}
