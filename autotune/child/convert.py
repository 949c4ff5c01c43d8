"""Turns a DeepSpeed checkpoint into a staged copy that another ZeRO layout can resume from.

Run in the job's own Python as `python convert.py REQUEST`, where REQUEST is a JSON object or the
path of a file holding one:

    {"source": ".../checkpoint-40",        the trainer's checkpoint: read, never written
     "target": ".../staged/000040-a",      must not exist; it appears whole or not at all
     "conversions": ["universal", "shards_of_3"],
     "optimizer": "adamw_torch",           or deepspeed_cpu_adam: which steps in the next attempt
     "world_size": 2,                      shards_of_3 only: of the next attempt
     "sub_group_size": 1000000000,         shards_of_3 only: as the next ds_config states it
     "bf16": null,                         shards_of_3 only: of the next attempt (null: as saved)
     "ds_version_tested": ["0.19.8"],      the versions this surgery was proven on
     "unsupported": false,                 true: go on with another version at one's own risk
     "free_margin_bytes": 1073741824,      what must stay free on the target's disk
     "moments_since": 0}                   the step at which the optimizer's moments last began anew

One line of JSON goes to stdout, everything else to stderr:

    {"ok": true, "resume": target, "bytes": n, "parameters": n, "compared": n, "seconds": s}
    {"ok": false, "error": "a sentence"}                                   with exit status 1

The conversions, in one of these rows:

    universal                  stages 1, 2 -> 1, 2: DeepSpeed's own converter writes one file for
    universal, family_3_to_2   each parameter and state (and the second step gives them the form
                               that stages 1 and 2 read); resume with load_universal
    universal, shards_of_3     anything -> stage 3: that tree, cut into ordinary stage-3 shards;
                               resume as from any checkpoint, without load_universal
    drop_moments               the same shards with an empty optimizer state

load_universal is {"checkpoint": {"load_universal": true}} in the DeepSpeed configuration.

A checkpoint is unpickled here, which runs what it says: give it only checkpoints of this very run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATES = ("fp32", "exp_avg", "exp_avg_sq")
CARRIED = ("loss_scaler", "dynamic_loss_scale", "overflow")
CPU_ADAM = "deepspeed_cpu_adam"
SIXTEEN_BIT_AND_UP = (".safetensors", ".bin")
FAMILY_3 = re.compile(r"(bf16_)?zero_pp_rank_(\d+)_mp_rank_00_model_states\.pt")
OPTIMIZER_SHARD = re.compile(r"(bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
ORDERS = (
    ("universal",),
    ("universal", "family_3_to_2"),
    ("universal", "shards_of_3"),
    ("drop_moments",),
)


class Refused(Exception):
    """This checkpoint is not converted, and the message says why in a sentence."""


@dataclass(frozen=True)
class Request:
    source: Path
    target: Path
    conversions: tuple[str, ...]
    tested: tuple[str, ...]
    unsupported: bool = False
    free_margin_bytes: int = 1 << 30
    moments_since: int = 0
    world_size: int = 0
    sub_group_size: int = 1_000_000_000
    optimizer: str = "adamw_torch"
    bf16: bool | None = None

    @property
    def partial(self) -> Path:
        return self.target.with_name(self.target.name + ".partial")


@dataclass
class Layout:
    """What lies in the checkpoint, as its file names and one model-states file tell it."""

    folder: Path
    stage3: bool
    shards: list[Path]
    model_states: Path
    step: int = -1
    bf16: bool = False
    groups: list[list[str]] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


# --- the request --------------------------------------------------------------------------------


def read_request(argument: str) -> Request:
    text = argument if argument.lstrip().startswith("{") else Path(argument).read_text()
    said = json.loads(text)
    conversions = tuple(said["conversions"])
    if conversions not in ORDERS:
        known = "; ".join(" then ".join(order) for order in ORDERS)
        raise Refused(f"The conversions {list(conversions)} are not a known row (known: {known}).")
    if "shards_of_3" in conversions and int(said.get("world_size", 0)) < 1:
        raise Refused("shards_of_3 needs the world_size of the next attempt.")
    return Request(
        source=Path(said["source"]).absolute(),
        target=Path(said["target"]).absolute(),
        conversions=conversions,
        tested=tuple(said["ds_version_tested"]),
        unsupported=bool(said.get("unsupported", False)),
        free_margin_bytes=int(said.get("free_margin_bytes", 1 << 30)),
        moments_since=int(said.get("moments_since", 0)),
        world_size=int(said.get("world_size", 0)),
        sub_group_size=int(said.get("sub_group_size", 1_000_000_000)),
        optimizer=str(said.get("optimizer", "adamw_torch")),
        bf16=said.get("bf16"),
    )


def check_versions(request: Request) -> None:
    try:
        installed = importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        raise Refused("The Python that converts has no DeepSpeed.") from None
    if installed in request.tested or request.unsupported:
        return
    raise Refused(
        f"DeepSpeed {installed} is installed, and the conversion was proven only on "
        f"{', '.join(request.tested) or 'no version'}: its checkpoint files are private and move "
        "between versions."
    )


# --- what is there ------------------------------------------------------------------------------


def read_layout(source: Path) -> Layout:
    """Names, not contents: what is not whole is refused before anything is unpickled."""
    try:
        step = int(json.loads((source / "trainer_state.json").read_text())["global_step"])
        folder = source / (source / "latest").read_text().strip()
    except (OSError, ValueError, KeyError) as fault:
        raise Refused(f"{source.name} is not a whole DeepSpeed checkpoint: {fault}.") from fault
    layout = read_layout_of(folder)
    layout.step = step
    return layout


def read_layout_of(folder: Path) -> Layout:
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    shards = {int(m[2]): folder / m[0] for m in map(OPTIMIZER_SHARD.fullmatch, names) if m}
    states = {int(m[2]): folder / m[0] for m in map(FAMILY_3.fullmatch, names) if m}
    if not shards or sorted(shards) != list(range(len(shards))):
        raise Refused(f"{folder} lacks optimizer shards: it has those of ranks {sorted(shards)}.")
    if states and sorted(states) != sorted(shards):
        raise Refused(f"{folder} has model states of ranks {sorted(states)} and not of all.")
    model_states = states.get(0, folder / "mp_rank_00_model_states.pt")
    if not model_states.is_file():
        raise Refused(f"{folder} has no {model_states.name}.")
    if any(re.match(r".*mp_rank_(?!00)\d|layer_", name) for name in names):
        raise Refused(f"{folder} holds a model-parallel, pipeline or expert model: not supported.")
    if (folder / "offloaded_tensors").exists():
        raise Refused(f"{folder} keeps its optimizer on NVMe, which the conversion does not read.")
    ordered = [shards[rank] for rank in sorted(shards)]
    return Layout(folder, bool(states), ordered, model_states, bf16=ordered[0].name[:4] == "bf16")


def read_model_states(layout: Layout) -> None:
    meta = load(layout.model_states)
    shapes = meta.get("param_shapes") or []
    for group in shapes if isinstance(shapes, list) else [shapes]:
        layout.groups.append(list(group))
        layout.shapes.update({name: tuple(shape) for name, shape in group.items()})
    if not layout.shapes:
        raise Refused(f"{layout.model_states.name} names no trained parameter.")
    if meta.get("global_steps") != layout.step:
        raise Refused(
            f"trainer_state.json is at step {layout.step} and DeepSpeed's files are at step "
            f"{meta.get('global_steps')}: they are not of one save."
        )
    layout.meta = {k: v for k, v in meta.items() if k != "module"}


def check_origin(request: Request, layout: Layout) -> None:
    """What only the contents tell: who saved them, and whether the way leads past something."""
    saved_by = load(layout.shards[0]).get("ds_version")
    if saved_by not in request.tested and not request.unsupported:
        raise Refused(
            f"The checkpoint was saved by DeepSpeed {saved_by}, and the conversion was proven only "
            f"on {', '.join(request.tested)}."
        )
    buffers = sorted(layout.meta.get("buffer_names") or [])
    if buffers and request.conversions in (("universal",), ("universal", "family_3_to_2")):
        # Stages 1 and 2 restore parameters by name from a universal tree, and nothing else:
        # running statistics would begin anew.
        raise Refused(
            f"The model saves buffers ({', '.join(buffers[:3])} …), and a universal load does not "
            "restore them."
        )


def load(path: Path) -> Any:
    import torch

    # mmap: a shard of many GB is read where it is needed, not into memory as a whole.
    return torch.load(path, map_location="cpu", weights_only=False, mmap=True)


def load_whole(path: Path) -> Any:
    """For a file that is about to be rewritten: a mapping would change under its reader."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=False)


def save(value: Any, path: Path) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)


def check_disk(request: Request, layout: Layout) -> None:
    shards = sum(path.stat().st_size for path in layout.shards)
    model = layout.model_states.stat().st_size
    # The converter cuts every shard into fragments and joins them before it removes the fragments;
    # what a stage 1 or 2 model file holds and no optimizer owns is written once more, in fp32.
    # Cut again into shards of stage 3, it is there twice as well, the fragments being gone by then.
    needed = (2 * shards + 3 * model) if "universal" in request.conversions else shards + model
    needed += sum(p.stat().st_size for p in request.source.iterdir() if p.is_file() and not big(p))
    free = shutil.disk_usage(nearest_folder(request.target)).free
    if needed + request.free_margin_bytes > free:
        raise Refused(
            f"The conversion needs about {needed / 1e9:.2f} GB beside a margin of "
            f"{request.free_margin_bytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free."
        )


def nearest_folder(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.is_dir())


# --- the copy -----------------------------------------------------------------------------------


def big(path: Path) -> bool:
    return path.suffix in SIXTEEN_BIT_AND_UP


def stage(request: Request, layout: Layout) -> None:
    """Everything but DeepSpeed's own folder: weights are linked, what is small is copied.

    `latest` stays behind where a universal tree is made: a resume that forgets to load that one
    then fails loudly.
    """

    def link_or_copy(source: str, target: str) -> str:
        if big(Path(source)):
            # Another file system, or one without links: then a copy it is.
            with contextlib.suppress(OSError):
                os.link(source, target)
                return target
        return shutil.copy2(source, target)

    def leave(folder: str, names: list[str]) -> list[str]:
        if Path(folder) != request.source:
            return []
        return [n for n in names if n.startswith(("global_step", "latest"))]

    shutil.copytree(request.source, request.partial, copy_function=link_or_copy, ignore=leave)
    tag = layout.folder.name
    if request.conversions == ("drop_moments",):
        (request.partial / "latest").write_text(tag)
        (request.partial / tag).mkdir()


def to_universal(request: Request, layout: Layout) -> Path:
    from deepspeed.checkpoint import ds_to_universal

    out = request.partial / f"{layout.folder.name}_universal"
    # The converter builds regular expressions and globs from the paths it is given, so it gets two
    # plain relative ones; the link is read through and removed.
    link = request.partial / "source"
    link.symlink_to(layout.folder, target_is_directory=True)
    before = Path.cwd()
    os.chdir(request.partial)
    try:
        # One worker, in this process: several would hold as many shards in memory at once.
        ds_to_universal.main(
            argparse.Namespace(
                input_folder=link.name,
                output_folder=out.name,
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=not layout.stage3,
            )
        )
    finally:
        os.chdir(before)
        link.unlink()
    prune(out, layout)
    return out


def prune(tree: Path, layout: Layout) -> None:
    """What no optimizer owns (tied copies, frozen weights) has no place in the tree of states."""
    for folder in (tree / "zero").iterdir():
        if folder.is_dir() and folder.name not in layout.shapes:
            shutil.rmtree(folder)
    for path in tree.glob("*_model_states.pt"):
        path.unlink()


def write_steps_2(tree: Path, layout: Layout, request: Request, step: Any) -> None:
    """A plain number, as DeepSpeed's CPU Adam saves it, would stand still under torch's AdamW.

    And the loader leaves a tensor on the host, beside parameters on the GPU, where a fused kernel
    would look for it (read in the source, not tried): the unfused one takes it from the host.
    """
    for name in layout.shapes:
        save(step_for(request, step), tree / "zero" / name / "step.pt")
    state_file = tree / "zero" / "optimizer_state.pt"
    state = load_whole(state_file)
    state["param_groups"] = [
        {**group, "fused": False} if group.get("fused") else group
        for group in state["param_groups"]
    ]
    save(state, state_file)


def write_model_states_2(tree: Path, layout: Layout) -> None:
    """The universal loader takes the step counts from this file and never its weights."""
    save({**layout.meta, "module": {}}, tree / "mp_rank_00_model_states.pt")


# --- stage 3 -> stages 1 and 2 ------------------------------------------------------------------


def to_family_2(tree: Path, layout: Layout) -> None:
    """The loader of stages 1 and 2 wants shaped tensors, and two more keys."""
    state_file = tree / "zero" / "optimizer_state.pt"
    state = load_whole(state_file)
    shard = load(layout.shards[0])
    state["ds_version"] = shard["ds_version"]
    # The loader takes its clipping from here, over the configuration's own.
    state["clip_grad"] = float(shard["ds_config"].get("gradient_clipping", 0.0))
    state.pop("optimizer_state_dict", None)
    save(state, state_file)
    for name, shape in layout.shapes.items():
        folder = tree / "zero" / name
        for key in STATES:
            flat = load_whole(folder / f"{key}.pt")
            save({"param": flat.view(shape).clone()}, folder / f"{key}.pt")


# --- anything -> stage 3 ------------------------------------------------------------------------
#
# DeepSpeed 0.19.8 can load a universal tree into stage 3, and what it then trains is not the same.
# It gives every parameter group the hyper-parameters of the first (weight decay on the norms), and
# all sub-groups one and the same step tensor, which Adam then advances once for each of them. So
# the tree is cut into the shards that stage 3 itself would have saved, which load as any others.


def sub_groups(names: list[str], parts: dict[str, int], sub_group_size: int) -> Iterator[list[str]]:
    """The rows of parameters that stage 3 flattens together, by its own rule."""
    if sub_group_size >= sum(parts[name] for name in names):
        yield names
        return
    row: list[str] = []
    for name in names:
        row.append(name)
        if sum(parts[n] for n in row) >= sub_group_size or name == names[-1]:
            yield row
            row = []


def to_shards_3(tree: Path, out: Path, layout: Layout, request: Request, step: Any) -> None:
    world = request.world_size
    parts = {name: -(-math.prod(shape) // world) for name, shape in layout.shapes.items()}
    first = load(layout.shards[0])
    groups = optimizer_of(first)["param_groups"]
    rows: list[list[str]] = []
    owners: list[int] = []
    for index, group in enumerate(groups):
        # A saved group names its flat tensors by their place; what is in each, the shapes say.
        names = [n for place in group["params"] for n in layout.groups[place]]
        cut = list(sub_groups(names, parts, request.sub_group_size))
        rows += cut
        owners += [index] * len(cut)
    carried = {k: v for k, v in first["optimizer_state_dict"].items() if k in CARRIED}
    out.mkdir()
    prefix = "bf16_" if (layout.bf16 if request.bf16 is None else request.bf16) else ""
    for rank in range(world):
        shard = {
            "optimizer_state_dict": {
                "zero_stage": stage_3(),
                **carried,
                "partition_count": world,
                "optimizer_state_dict": {
                    "state": {
                        i: {
                            "step": step_for(request, step),
                            "exp_avg": flat(tree, row, "exp_avg", rank, parts),
                            "exp_avg_sq": flat(tree, row, "exp_avg_sq", rank, parts),
                        }
                        for i, row in enumerate(rows)
                    },
                    "param_groups": [
                        group_for(request, group, [i for i, o in enumerate(owners) if o == index])
                        for index, group in enumerate(groups)
                    ],
                },
                "fp32_flat_groups": [flat(tree, row, "fp32", rank, parts) for row in rows],
            },
            "ds_config": first["ds_config"],
            "ds_version": first["ds_version"],
        }
        save(shard, out / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        meta = model_states_3(layout, rows, world)
        save(meta, out / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")


def stage_3() -> Any:
    from deepspeed.runtime.zero.config import ZeroStageEnum

    return ZeroStageEnum.weights


def step_for(request: Request, step: Any) -> Any:
    """Each its own: torch's Adam advances it in place; DeepSpeed's CPU Adam counts in an int."""
    return int(step) if request.optimizer == CPU_ADAM else step.clone()


def group_for(request: Request, group: dict[str, Any], places: list[int]) -> dict[str, Any]:
    # DeepSpeed's CPU Adam looks for this key in every group, and torch's AdamW does not save it.
    extra = {"bias_correction": True} if request.optimizer == CPU_ADAM else {}
    return {**extra, **group, "params": places}


def flat(tree: Path, row: list[str], key: str, rank: int, parts: dict[str, int]) -> Any:
    """One rank's part of a row of parameters: each cut evenly, the last cut filled with zeros."""
    import torch

    cuts = []
    for name in row:
        whole = state_tensor(tree / "zero" / name / f"{key}.pt").flatten()
        cut = whole[rank * parts[name] : (rank + 1) * parts[name]]
        cuts += [cut, torch.zeros(parts[name] - cut.numel())]
    return torch.cat(cuts)


def model_states_3(layout: Layout, rows: list[list[str]], world: int) -> dict[str, Any]:
    """At stage 3 this file says which tensors the model has; the weights are in the optimizer's."""
    import torch

    module = load(layout.model_states)["module"]
    buffers = set(layout.meta.get("buffer_names") or [])
    return {
        **layout.meta,
        "module": {
            name: tensor.clone() if name in buffers else torch.empty(0, dtype=tensor.dtype)
            for name, tensor in module.items()
        },
        "param_shapes": [{n: torch.Size(layout.shapes[n]) for n in row} for row in rows],
        # Frozen weights are the base model's: the trainer loads those before it resumes.
        "frozen_param_shapes": None,
        "frozen_param_fragments": None,
        "dp_world_size": world,
    }


def verify_shards(tree: Path, out: Path, layout: Layout) -> None:
    """Joined again by their names, the shards are the tree."""
    import torch

    made = read_layout_of(out)
    shards = [load(path)["optimizer_state_dict"] for path in made.shards]
    rows = load(made.model_states)["param_shapes"]
    for key in STATES:
        for place, row in enumerate(rows):
            flats = [
                s["fp32_flat_groups"][place]
                if key == "fp32"
                else s["optimizer_state_dict"]["state"][place][key]
                for s in shards
            ]
            at = 0
            for name, shape in row.items():
                size = -(-shape.numel() // len(shards))
                joined = torch.cat([f[at : at + size] for f in flats])[: shape.numel()]
                at += size
                whole = state_tensor(tree / "zero" / name / f"{key}.pt").flatten()
                if not torch.equal(joined, whole):
                    raise Refused(f"{key} of {name} was changed by cutting it into shards.")
    if {name for row in rows for name in row} != set(layout.shapes):
        raise Refused("The shards do not hold the parameters of the checkpoint.")


# --- the same stage without its moments ---------------------------------------------------------


def drop_moments(request: Request, layout: Layout) -> None:
    """Weights, groups and schedule stay; what the old optimizer remembered goes."""
    import torch

    out = request.partial / layout.folder.name
    for path in layout.folder.iterdir():
        if path.name not in {shard.name for shard in layout.shards}:
            shutil.copy2(path, out / path.name)
    for path in layout.shards:
        shard = load(path)
        state = shard["optimizer_state_dict"]
        masters = state.get("fp32_flat_groups", state.get("single_partition_of_fp32_groups"))
        if not masters or not all(bool(torch.isfinite(flat).all()) for flat in masters):
            raise Refused(f"The weights in {path.name} are not all there, or not finite.")
        optimizer_of(shard)["state"] = {}
        save(shard, out / path.name)


# --- reading the optimizer ----------------------------------------------------------------------


def optimizer_of(shard: dict[str, Any]) -> dict[str, Any]:
    state = shard["optimizer_state_dict"]
    inner = state.get("base_optimizer_state", state.get("optimizer_state_dict"))
    if not isinstance(inner, dict) or "state" not in inner:
        raise Refused("The optimizer state is of a form this converter does not know (elastic?).")
    return inner


def optimizer_step(layout: Layout) -> Any:
    """The step the optimizer itself counts, the same in all of it, as torch keeps it."""
    import torch

    steps = set()
    for path in layout.shards:
        for group, state in optimizer_of(load(path))["state"].items():
            lacking = [key for key in ("step", "exp_avg", "exp_avg_sq") if key not in state]
            if lacking:
                raise Refused(
                    f"Group {group} of the optimizer has no {' and no '.join(lacking)}: only the "
                    "moments of Adam and AdamW can be converted."
                )
            steps.add(int(state["step"]))
    if len(steps) != 1:
        raise Refused(f"Parts of the optimizer are at different steps: {sorted(steps)}.")
    return torch.tensor(float(steps.pop()))


# --- the check ----------------------------------------------------------------------------------


def verify(request: Request, layout: Layout, tree: Path, step: Any) -> int:
    """Every parameter is whole, finite and what the weights file holds (for how many: returned)."""
    import torch

    skipped = int(layout.meta.get("skipped_steps", 0))
    most = layout.step - request.moments_since
    # Where the moments began anew, how many of the skipped steps came before is not recorded.
    if not most - skipped <= int(step) <= (most if request.moments_since else most - skipped):
        raise Refused(
            f"The optimizer has made {int(step)} steps and the checkpoint says {most - skipped}: "
            "its moments are not those of this save."
        )
    compared = 0
    with weights_of(request.source) as weights:
        for name, shape in layout.shapes.items():
            for key in STATES:
                tensor = state_tensor(tree / "zero" / name / f"{key}.pt")
                if tensor.numel() != math.prod(shape):
                    raise Refused(f"{key} of {name} has {tensor.numel()} numbers for {shape}.")
                if not bool(torch.isfinite(tensor).all()):
                    raise Refused(f"{key} of {name} is not finite.")
                if key == "exp_avg_sq" and bool((tensor < 0).any()):
                    raise Refused(f"exp_avg_sq of {name} is negative somewhere: not Adam's moment.")
                if key == "fp32":
                    compared += same_weight(name, tensor.view(shape), weights)
    return compared


def state_tensor(path: Path) -> Any:
    if not path.is_file():
        raise Refused(f"{path.parent.name} has no {path.stem} in the converted tree.")
    saved = load(path)
    return saved["param"] if isinstance(saved, dict) else saved


@contextlib.contextmanager
def weights_of(source: Path) -> Iterator[dict[str, Any]]:
    """A reader for each tensor name in the weights files beside the shards (none: an empty map)."""
    from safetensors import safe_open

    with contextlib.ExitStack() as stack:
        found: dict[str, Any] = {}
        for path in sorted(source.glob("*.safetensors")):
            file = stack.enter_context(safe_open(path, framework="pt"))
            found.update(dict.fromkeys(file.keys(), file))
        yield found


def same_weight(name: str, master: Any, weights: dict[str, Any]) -> int:
    """The weights file holds the master weights, rounded. Names it does not know are not judged."""
    import torch

    # peft leaves the adapter's name out of its file: lora_A.default.weight is lora_A.weight there.
    known = next((n for n in (name, re.sub(r"\.default(?=\.|$)", "", name)) if n in weights), None)
    if known is None:
        return 0
    weight = weights[known].get_tensor(known)
    if tuple(weight.shape) != tuple(master.shape):
        shapes = f"{tuple(master.shape)}, and {tuple(weight.shape)}"
        raise Refused(f"{name} is {shapes} in the weights file.")
    # Not to the bit: a trainer may save in another 16-bit form than it trained in.
    if not torch.allclose(master, weight.to(master.dtype), rtol=2e-2, atol=1e-5):
        raise Refused(f"{name} differs from the weights file: the shards are not of this save.")
    return 1


# --- the whole ----------------------------------------------------------------------------------


def convert(request: Request) -> dict[str, Any]:
    began = time.monotonic()
    check_versions(request)
    if request.target.exists():
        raise Refused(f"{request.target} exists already; a staged copy is made once.")
    layout = read_layout(request.source)
    if "family_3_to_2" in request.conversions and not layout.stage3:
        raise Refused("family_3_to_2 was asked of a checkpoint of stage 1 or 2.")
    if request.conversions == ("universal",) and layout.stage3:
        raise Refused("A checkpoint of stage 3 goes on as shards_of_3 or family_3_to_2.")
    check_disk(request, layout)
    if request.partial.exists():
        shutil.rmtree(request.partial)  # left by a converter that was killed; nobody reads it
    request.partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        compared = build(request, layout)
        written = [p for p in request.partial.rglob("*") if p.is_file() and not big(p)]
        size = sum(path.stat().st_size for path in written)
        request.partial.rename(request.target)
    finally:
        shutil.rmtree(request.partial, ignore_errors=True)
    return {
        "ok": True,
        "resume": str(request.target),
        "bytes": size,
        "parameters": len(layout.shapes),
        "compared": compared,
        "seconds": round(time.monotonic() - began, 3),
    }


def build(request: Request, layout: Layout) -> int:
    """Into the partial folder; says how many parameters were compared with the weights file."""
    read_model_states(layout)
    check_origin(request, layout)
    if request.conversions == ("drop_moments",):
        stage(request, layout)
        drop_moments(request, layout)
        return 0
    step = optimizer_step(layout)
    stage(request, layout)
    tree = to_universal(request, layout)
    if "family_3_to_2" in request.conversions:
        to_family_2(tree, layout)
    compared = verify(request, layout, tree, step)
    if "shards_of_3" in request.conversions:
        out = request.partial / layout.folder.name
        to_shards_3(tree, out, layout, request, step)
        verify_shards(tree, out, layout)
        shutil.rmtree(tree)
        (request.partial / "latest_universal").unlink()
        (request.partial / "latest").write_text(out.name)
    else:
        write_steps_2(tree, layout, request, step)
        write_model_states_2(tree, layout)
    return compared


def stop(*_: object) -> None:
    raise Refused("The conversion was asked to stop.")


def main(arguments: list[str]) -> int:
    # No GPU is needed, and the one there may be full. Set before torch is imported.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["DS_ACCELERATOR"] = "cpu"
    # Stopped is failed: the half-made copy is removed on the way out.
    signal.signal(signal.SIGTERM, stop)
    # DeepSpeed prints; our one line must be alone on stdout.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        result = convert(read_request(arguments[0]))
    except Refused as refusal:
        result = {"ok": False, "error": str(refusal)}
    except Exception as fault:  # private files of another package: anything may be in them
        result = {"ok": False, "error": f"The conversion failed: {type(fault).__name__}: {fault}."}
    with answer:
        answer.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: convert.py REQUEST_JSON")
    sys.exit(main(sys.argv[1:]))
