"""Starts ranks on one machine with torch's own launcher, which needs nothing but torch."""

ADDRESS = "127.0.0.1"


def command(
    python: str, program: tuple[str, ...], ranks: int, _: tuple[int, ...], port: int
) -> tuple[str, ...]:
    """Return the argument list that starts `ranks` ranks of `program`.

    Which GPUs they see is for the environment to say; `port` is a free TCP port on this machine.
    Nothing is restarted by torch itself: a rank that died is the supervisor's to answer.
    """
    return (
        python, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc_per_node", str(ranks),
        "--master_addr", ADDRESS, "--master_port", str(port), "--max_restarts", "0", *program,
    )  # fmt: skip
