"""Starts ranks with torch's own launcher, which needs nothing but torch, on one machine or more."""

ADDRESS = "127.0.0.1"


def command(
    python: str, program: tuple[str, ...], ranks: int, _: tuple[int, ...], port: int
) -> tuple[str, ...]:
    """Return the argument list that starts `ranks` ranks of `program` on this machine.

    Which GPUs they see is for the environment to say; `port` is a free TCP port on this machine.
    Nothing is restarted by torch itself: a rank that died is the supervisor's to answer.
    """
    return node_command(python, program, ranks, port, 1, 0, ADDRESS)


def node_command(
    python: str,
    program: tuple[str, ...],
    ranks: int,
    port: int,
    nodes: int,
    node: int,
    address: str,
) -> tuple[str, ...]:
    """Return the argument list that starts the `ranks` ranks of one of several nodes.

    They meet at `address`, a name of the first node, which all nodes must be able to reach.
    """
    several = ("--node_rank", str(node)) if nodes > 1 else ()
    return (
        python, "-m", "torch.distributed.run", "--nnodes", str(nodes), *several,
        "--nproc_per_node", str(ranks), "--master_addr", address, "--master_port", str(port),
        "--max_restarts", "0", *program,
    )  # fmt: skip
