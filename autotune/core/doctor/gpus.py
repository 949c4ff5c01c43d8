"""Judges the driver and the cards behind it."""

from collections.abc import Iterator

from autotune.core.doctor.facts import Card, Facts, Gpus
from autotune.core.doctor.finding import Finding, notice, ok, problem
from autotune.core.units import show_bytes

_TAKEN = 0.1  # share of a card that a neighbour must hold before it is worth a word


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield what is to be said of driver and cards; silent causes first."""
    gpus, wanted = facts.gpus, facts.needs.device
    driver = _driver(gpus, wanted)
    yield driver
    if gpus.nvml is None:
        return
    for card in gpus.cards:
        yield from _card(card)
    if gpus.on_the_bus is not None and gpus.on_the_bus > len(gpus.cards):
        gone = gpus.on_the_bus - len(gpus.cards)
        yield notice(
            "driver.missing",
            f"PCI shows {gpus.on_the_bus} NVIDIA cards and the driver {len(gpus.cards)}",
            f"{gone} of them cannot be used: broken, or given to somebody else",
            "look for Xid lines in the kernel's log, or ask who administers the machine",
        )


def _driver(gpus: Gpus, wanted: str) -> Finding:
    hides = ("cards", "nvcc")
    if gpus.hidden:
        return ok("driver.hidden", f"GPUs are not looked at: {gpus.why_none}")
    if gpus.module and gpus.nvml and gpus.module != gpus.nvml:
        return problem(
            "driver.versions",
            f"the kernel runs driver {gpus.module}, and the libraries are of {gpus.nvml}",
            "every start on a GPU fails until they agree",
            "reboot, or unload and load the kernel module: the driver was upgraded under it",
            hides,
        )
    if gpus.nvml is not None:
        cuda = f", CUDA up to {gpus.cuda[0]}.{gpus.cuda[1]}" if gpus.cuda else ""
        return ok("driver.answers", f"driver {gpus.nvml}{cuda}, {_count(len(gpus.cards))}")
    if gpus.module or gpus.on_the_bus:
        what = "an NVIDIA card is there, and its driver does not answer"
        return problem(
            "driver.mute",
            f"{what} ({gpus.why_none or 'no reason was given'})",
            "the job cannot use the GPU",
            "install the driver or reboot; in a container, start it with the GPUs handed in",
            hides,
        )
    if wanted == "cuda":
        return problem(
            "driver.none",
            f"the job names GPUs and none can be seen ({gpus.why_none})",
            "the job is refused at its start",
            "run it where the GPUs are, or say `devices.use: auto`",
            hides,
        )
    return ok("driver.none", f"no GPU; trainings run on the CPU ({gpus.why_none})")


def _count(cards: int) -> str:
    return "1 card" if cards == 1 else f"{cards} cards"


def _card(card: Card) -> Iterator[Finding]:
    name = f"GPU {card.index} ({card.name})"
    if not card.answers:
        yield problem(
            "cards.mute", f"GPU {card.index} does not answer",
            "a training on it hangs or dies, and takes those of the other cards along",
            "leave it out with `devices.use`, and have it looked at",
        )  # fmt: skip
        return
    if card.remap_failed or card.remap_pending:
        state = "has no spare rows left" if card.remap_failed else "waits to replace faulty rows"
        found = problem if card.remap_failed else notice
        cure = "replaced" if card.remap_failed else "reset when it is free"
        yield found(
            "cards.memory", f"the memory of {name} {state}",
            "wrong numbers or a training that dies with an Xid", f"have the card {cure}",
        )  # fmt: skip
    elif card.uncorrected_errors:
        yield notice(
            "cards.memory",
            f"{name} had {card.uncorrected_errors} uncorrected memory errors since the boot",
            "each one killed a training; more may follow", "have the card reset when it is free",
        )  # fmt: skip
    if card.slowed_by:
        yield notice(
            "cards.slowed", f"{name} is slowed by {' and '.join(card.slowed_by)}",
            "steps take longer, also on the other cards, which wait for it",
            "look after its cooling and its power supply",
        )  # fmt: skip
    if card.mig:
        yield problem(
            "cards.mig", f"{name} is cut into MIG instances",
            "autotune refuses to name one of them", "use a card without MIG, or switch it off",
        )  # fmt: skip
    if card.total_bytes and card.free_bytes is not None:
        held = card.total_bytes - card.free_bytes
        if held > _TAKEN * card.total_bytes:
            yield notice(
                "cards.taken", f"{show_bytes(held)} of {name} are in use",
                "the job waits for the room, up to `limits.wait`",
                "leave it out with `devices.use`, or wait until it is free",
            )  # fmt: skip
