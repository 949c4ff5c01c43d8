"""Starts ranks on one machine with DeepSpeed's own launcher."""

from autotune.core.plan import Device

ADDRESS = "127.0.0.1"


def command(
    python: str, program: tuple[str, ...], ranks: int, devices: tuple[int, ...], port: int
) -> tuple[str, ...]:
    """Return the argument list that starts `ranks` ranks of `program`.

    `devices` are GPU indices, empty on the CPU; `port` is a free TCP port on this machine.
    """
    where = (
        ("--include", "localhost:" + ",".join(str(index) for index in devices))
        if devices
        else ("--num_gpus", str(ranks))
    )
    return (
        python, "-m", "deepspeed.launcher.runner", *where,
        "--master_addr", ADDRESS, "--master_port", str(port), *program,
    )  # fmt: skip


def shared_memory_prefix(user_id: int, port: int) -> str:
    """Return how the names of the ranks' shared memory begin (ops/csrc/cpu/comm/shm.cpp).

    On the CPU accelerator each rank makes a segment of 66 MiB and never removes it.
    """
    return f"deepspeed_allreduce_buffer_{user_id}_{ADDRESS}_{port}_"


def environment(device: Device) -> dict[str, str]:
    """Return what the launcher and DeepSpeed read from the environment."""
    # NVML counts GPUs in bus order; CUDA's own default is the fastest first.
    return {"DS_ACCELERATOR": "cpu"} if device == "cpu" else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
