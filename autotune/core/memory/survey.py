"""What the trainer found when it looked through the rows of a job."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Surveyed:
    """The lengths that decide how much memory a micro-batch takes, in tokens.

    A packed row counts as one row. Each length holds the padding which that row alone would get.
    """

    rows: int
    steps: int  # optimizer steps of the whole training
    longest: tuple[int, ...]  # at most 64, the longest first
    tokens_mean: float  # of rows spread over the file, without padding
    eval_rows: int = 0
    eval_longest: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for figures that no look through rows can give."""
        lengths = (*self.longest, *self.eval_longest)
        if self.rows < 1 or self.steps < 1 or not self.longest or min(lengths) < 1:
            raise ValueError("a survey without rows, steps or lengths")
        if len(self.longest) > 64 or len(self.eval_longest) > 64 or self.eval_rows < 0:
            raise ValueError("a survey of impossible counts")
        if not 0 < self.tokens_mean <= max(self.longest):
            raise ValueError("a survey whose mean is no mean of its lengths")
