"""What each program of the zoo dies of, and what it needs to do so."""

from dataclasses import dataclass

from autotune.core.failure import Failure, Phase


@dataclass(frozen=True)
class Animal:
    """One program, and the diagnosis its death must get."""

    name: str
    failure: Failure
    train: bool = False  # needs the training stack
    phase: Phase | None = None
    arguments: tuple[str, ...] = ()


ANIMALS = (
    Animal("allocation_refused", Failure.DEVICE_OOM, train=True, phase=Phase.FORWARD),
    Animal("killed_outright", Failure.HOST_OOM),
    Animal(
        "client_optimizer_offload",
        Failure.OFFLOAD_DEVICE,
        train=True,
        phase=Phase.OPTIMIZER_CREATION,
    ),
    Animal("batch_triad_wrong", Failure.CONFIG_ERROR, train=True),
    Animal("kernel_missing", Failure.DTYPE_KERNEL_GAP, train=True),
    Animal("port_taken", Failure.RENDEZVOUS_PORT, train=True),
    Animal("user_code", Failure.USER_CODE_ERROR),
    Animal("segfault", Failure.USER_CODE_ERROR),
    Animal("healthy_but_frightening", Failure.NONE),
    Animal("flood", Failure.UNKNOWN, arguments=("binary", "4")),
)
# Those that need a hand from outside: run by a test of their own.
BY_HAND = (
    "fast_python", "hanging", "interrupted", "killed_by_cgroup", "grandchild", "leaking",
    "worker_killed", "shared_memory_full", "threads_refused", "loader_worker", "malicious",
)  # fmt: skip
