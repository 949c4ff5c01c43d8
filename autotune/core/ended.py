"""Whether a training came to its end, by what it told: exit codes lie both ways."""

from autotune.core.view import View


def came_to_its_end(view: View) -> bool:
    """Return whether the last step was reached, and after it nothing more went wrong.

    The built-in trainer says so; another tool has saved that step, or its ranks left in peace.
    """
    if view.total is None or (view.exceptions and not view.said_finished):
        return False
    if view.checkpoint_step is not None and view.checkpoint_step >= view.total:
        return True
    reached = view.step is not None and view.step >= view.total
    return reached and bool(view.ranks) and view.ended >= view.ranks.keys()
