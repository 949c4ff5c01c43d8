"""What a command says of several machines, and whether a job says the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.core.fault import Fault
from autotune.core.job import Job
from autotune.frameworks.command_line import Call, split

VARIABLES = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
# Their ranks are started by torchrun, once on each node; the others start theirs in a way of
# their own, or as the user's command does, which knows nothing of a second node of ours.
SPREADS = frozenset({"finetune", "hf", "llamafactory", "deepke", "deepspeed"})


@dataclass(frozen=True)
class Spread:
    """The nodes as a command or its environment names them; None where it does not."""

    nodes: int | None = None
    node: int | None = None
    address: str | None = None
    port: int | None = None


def spread_of(call: Call, environment: Mapping[str, str]) -> Spread:
    """Return what a command says; its launcher's options come before the environment.

    The environment counts for tools that start their own ranks; torchrun and its kin read options
    (and variables beginning with PET_, which nobody sets).
    """
    if call.kind == "tool":
        nodes, node, address, port = (environment.get(name) for name in VARIABLES)
        return Spread(_number(nodes), _number(node), address or None, _number(port))
    node = call.option("node_rank", "machine_rank")
    address = call.option("master_addr", "main_process_ip")
    port = call.option("master_port", "main_process_port")
    meeting = call.option("rdzv_endpoint")
    if meeting is not None:
        host, _, number = meeting.rpartition(":")
        address, port = address or host or meeting, port or number
    return Spread(call.nodes, _number(node), address or None, _number(port))


def node_faults(job: Job, command: Sequence[str], where: str) -> list[Fault]:
    """Return where the command's machines and the job's are not the same."""
    call = split(command)
    if isinstance(call, Fault):
        return []  # which is told of elsewhere
    said, wanted = spread_of(call, {**job.env, **dict(call.env)}), job.launcher
    if said.node:
        text = f"the command is that of node {said.node}, and a run is led from node 0"
        hint = "start it with node 0's command there, and here: autotune join RUN"
        return [Fault(text, where, hint)]
    if max(said.nodes or 1, wanted.nodes) == 1:
        return []
    if said.nodes is not None and said.nodes != wanted.nodes:
        text = f"the command trains on {said.nodes} nodes, and the job on {wanted.nodes}"
        return [Fault(text, where, f"write `{as_job(said)}` into the job")]
    if said.address is not None and said.address != wanted.address:
        text = f"the nodes meet at {said.address} by the command, and the job says "
        text += wanted.address or "nothing of it"
        return [Fault(text, where, f"write `{as_job(said)}` into the job")]
    if job.framework in SPREADS and call.kind != "accelerate":
        return []
    who = "accelerate" if call.kind == "accelerate" else job.framework
    text = f"several nodes are not known how to be started with {who}"
    hint = "give the command of one node, or start the script with torchrun"
    return [Fault(text, where, hint)]


def as_job(spread: Spread) -> str:
    """Return the key of a job that says the same."""
    parts = [f"nodes: {spread.nodes or 1}"]
    parts += [f"address: {spread.address}"] if spread.address else []
    parts += [f"port: {spread.port}"] if spread.port else []
    return f"launcher: {{{', '.join(parts)}}}"


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None
