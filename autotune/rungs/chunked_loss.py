"""Takes the loss piece by piece, so that the logits of a micro-batch never exist as a whole."""

from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

# The trainer's LOSS_TOKENS. A micro-batch of no more tokens is one piece either way.
PIECE = 512


def _applies(scene: Scene) -> str | None:
    plan = scene.plan
    if plan.loss == "chunked":
        return "the loss is taken in pieces already"
    if plan.sequence and plan.micro_batch * plan.sequence <= PIECE:
        return f"a micro-batch holds no more than the {PIECE} tokens of one piece of the loss"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(loss="chunked")


RUNG = Rung(
    name="chunked_loss",
    summary="the loss in pieces, without the logits of a whole micro-batch",
    result=Result.SAME,
    knobs=frozenset({"loss"}),
    applies=_applies,
    apply=_apply,
)
