"""Saves the last completed step of one attempt whose ranks were refused memory and hold."""

from autotune.core.evidence import Rescued
from autotune.core.rescue import Deed, Parts, Rescue, attend, published
from autotune.core.view import View
from autotune.edges import Clock
from autotune.world import checkpoints
from autotune.world.rescued import RescueFolder
from autotune.world.run_folder import RunFolder

ORDER = 1  # of an attempt there is one at most: what comes after it is its end


class Rescuer:
    """Speaks to the ranks, verifies what they write, and makes a checkpoint of it."""

    def __init__(
        self, attempt: int, folder: RunFolder, place: RescueFolder, clock: Clock, patience: float
    ) -> None:
        """Work for one attempt; ranks that write nothing for `patience` seconds are let go."""
        self._attempt = attempt
        self._folder = folder
        self._place = place
        self._clock = clock
        self._patience = patience
        self._rescue = Rescue()

    def attend(self, view: View, died: bool) -> bool:
        """Do what is due, and return whether ranks still hold for it."""
        if not view.holding or self._rescue.over is not None:
            return False
        step, saved = self._rescue.step, checkpoints.newest(self._folder.checkpoints)
        self._rescue, deed = attend(
            self._rescue,
            self._clock.monotonic(),
            view.holding,
            saved.step if saved else None,
            Parts() if step is None else self._place.look(step),
            self._patience,
            died,
        )
        if deed is Deed.ASK and self._rescue.step is not None:
            self._folder.tell_ranks_to_rescue(self._attempt, self._rescue.step, ORDER)
        elif deed is Deed.PUBLISH:
            self._rescue = published(self._rescue, self._clock.monotonic(), self._publish())
        if self._rescue.over is not None:
            self._folder.release_ranks(self._attempt)
            return False
        if self._rescue.under_way and self._folder.tells() != "save":
            # Somebody else was quicker to write; who wants the run to stop is still known there.
            self._folder.tell_ranks_to_rescue(self._attempt, self._rescue.step or 0, ORDER)
        self._folder.show_alive()
        return True

    def told(self, view: View) -> Rescued | None:
        """Return how it ended; None where no rank was refused memory."""
        if self._rescue.over is not None:
            return self._rescue.over
        if view.holding:
            return Rescued(self._rescue.step, False, "the ranks ended before it was whole")
        return Rescued(None, False, view.cannot_hold) if view.cannot_hold else None

    def publish_left(self) -> None:
        """Publish what ranks saved whole while a supervisor died that had asked for it."""
        whole = self._place.look_again()
        if whole is not None:
            why = self._publish()
            self._rescue = Rescue(whole.step, over=Rescued(whole.step, not why, why))

    def _publish(self) -> str:
        """Return nothing, or the sentence why it could not be done."""
        try:
            self._place.publish(self._attempt, self._folder.checkpoints)
        except OSError as error:
            return f"it could not be put among the checkpoints ({error.strerror})"
        return ""
