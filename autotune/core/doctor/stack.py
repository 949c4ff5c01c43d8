"""Judges the job's Python: torch against the driver, DeepSpeed's ops, compiler, bitsandbytes."""

from collections.abc import Callable, Iterator, Sequence

from autotune.core.doctor.facts import Card, Facts, Part, Stack
from autotune.core.doctor.finding import Finding, notice, ok, problem

_BELOW = ("torch", "deepspeed", "build", "bitsandbytes")
_INSTALL = "install it there: pip install 'autotune-supervisor[train]'"
_SHARED = "deepspeed_shm_comm"  # ranks on the CPU speak through it
_UNASKED = "what was not asked is not known"


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield what is to be said of the training's Python and what is installed in it."""
    stack = facts.stack
    if stack.why_not:
        yield problem(
            "python.starts", f"{stack.python} does not start: {stack.why_not}",
            "nothing can be trained", "name an interpreter under `python:` in the job", _BELOW,
        )  # fmt: skip
        return
    python = stack.part("python")
    if python is not None:
        yield ok("python.starts", f"Python {python.text('version')} at {stack.python}")
    yield from _torch(facts)
    yield from _build(facts)
    yield from _deepspeed(facts)
    yield from _bitsandbytes(facts)


def _broken(stack: Stack, name: str, needed: bool, hides: Sequence[str] = ()) -> Finding | None:
    """Return what is to be said where a package is missing, broken or was not asked."""
    part = stack.parts.get(name)
    if part is None or part.error is None:
        return None
    missing = part.told.get("missing") is True
    what = f"{name} is not installed" if missing else f"{name} cannot be used: {part.error}"
    do = _INSTALL if missing else f"see what `{stack.python} -c 'import {name}'` says"
    cost = "no training starts" if needed else "what needs it is left out"
    if needed:
        return problem(f"{name}.loads", what, cost, do, hides)
    return notice(f"{name}.loads", what, cost, do)


def _torch(facts: Facts) -> Iterator[Finding]:
    stack, gpus = facts.stack, facts.gpus
    broken = _broken(stack, "torch", needed=True, hides=("deepspeed", "bitsandbytes"))
    if broken is not None:
        yield broken
    torch = stack.part("torch")
    if torch is None:
        return
    cuda, version = torch.text("cuda"), torch.text("version")
    if cuda is None:
        if gpus.cards and not torch.text("hip"):
            yield problem(
                "torch.build", f"torch {version} is built without CUDA, and the machine has GPUs",
                "the job trains on the CPU, a hundred times slower",
                "install torch's CUDA build in that Python",
            )  # fmt: skip
        else:
            yield ok("torch.build", f"torch {version}")
        return
    yield ok("torch.build", f"torch {version} for CUDA {cuda}")
    if gpus.cuda is not None:
        yield _against_driver(torch, cuda, gpus.cuda, gpus.nvml)
        yield from _kernels(torch, gpus.cards)


def _against_driver(
    torch: Part, cuda: str, driver: tuple[int, int], version: str | None
) -> Finding:
    """CUDA's own rules: an older major version always runs, a newer minor one mostly."""
    wanted = _numbers(cuda)
    knows = f"driver {version} knows CUDA up to {driver[0]}.{driver[1]}"
    works = torch.flag("cuda_works")
    if works is False or (works is None and wanted[0] > driver[0]):
        why = torch.text("cuda_why") or f"torch is built for CUDA {cuda}"
        newer = wanted > driver
        return problem(
            "torch.driver", f"torch cannot use the GPU: {knows}; {why}",
            "no training on a GPU starts",
            f"upgrade the driver, or install torch for CUDA {driver[0]}.{driver[1]} or older"
            if newer else "see whether the devices are handed into this container or session",
            ("deepspeed", "bitsandbytes"),
        )  # fmt: skip
    if wanted > driver:
        return notice(
            "torch.driver",
            f"torch is built for CUDA {cuda}, and {knows}",
            "it runs, but kernels compiled on the spot (Triton, flash attention) may be refused",
            "upgrade the driver when you can",
        )
    return ok("torch.driver", f"torch for CUDA {cuda} suits the driver")


def _kernels(torch: Part, cards: Sequence[Card]) -> Iterator[Finding]:
    built = torch.texts("architectures")
    for card in cards:
        if built and card.capability and not _runs(card.capability, built):
            major, minor = card.capability
            yield problem(
                "torch.kernels",
                f"torch has no kernels for GPU {card.index} ({card.name}, compute {major}.{minor})",
                "the first operation fails: no kernel image is available",
                f"install a torch built for it; this one has {', '.join(built)}",
            )


def _runs(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Same major and no newer minor version for compiled code, anything older for PTX."""
    for one in built:
        kind, _, digits = one.partition("_")
        number = digits.rstrip("af")  # code for one architecture (a) or its family (f) alone
        if not number.isdigit() or len(number) < 2:
            continue
        has = (int(number[:-1]), int(number[-1]))
        if digits.endswith("a") and has != capability:
            continue
        if kind == "compute" and has <= capability:
            return True
        if kind == "sm" and has[0] == capability[0] and has[1] <= capability[1]:
            return True
    return not any(one.startswith(("sm_", "compute_")) for one in built)


def _build(facts: Facts) -> Iterator[Finding]:
    stack, device = facts.stack, _device(facts)
    build = stack.part("build")
    if build is None:
        broken = stack.parts.get("build")
        if broken is not None:
            yield notice("build.compiler", f"the compiler could not be tried: {broken.error}",
                         _UNASKED, "try it by hand")  # fmt: skip
        return
    kept = set(facts.builds.kept) | set(_prebuilt(stack))
    needed = [op for op in _needed_ops(facts) if op not in kept]
    cost = "an op that no run has built yet cannot be built, should a job ask for one"
    if needed:
        cost = f"{', '.join(needed)} cannot be built, and the job dies"
    found = _as(bool(needed))
    compiles = build.flag("compiles")
    if not build.text("compiler"):
        what, do = "there is no C++ compiler", "apt-get install g++ (or the like)"
        yield found("build.compiler", what, cost, do)
    elif not build.flag("headers"):
        version = build.text("headers_for") or "python3"
        do = f"apt-get install {version}-dev (or the like)"
        yield found("build.compiler", "the headers of that Python are missing", cost, do)
    elif compiles is False:
        said = build.text("complaint") or "no word"
        do = "mend the compiler: it does not compile Python's own header"
        yield found("build.compiler", f"{build.text('compiler')} fails: {said}", cost, do)
    else:
        yield ok("build.compiler", f"{build.text('compiler')} compiles against Python's headers")
    if not build.text("ninja"):
        do = "pip install ninja in that Python"
        yield found("build.ninja", "ninja is missing", cost, do)
    if device == "cuda" and facts.gpus.cards:
        yield _nvcc(facts, build, bool(needed), cost)


def _nvcc(facts: Facts, build: Part, needed: bool, cost: str) -> Finding:
    torch, nvcc = facts.stack.part("torch"), build.text("nvcc")
    wanted = torch.text("cuda") if torch else None
    say = _as(needed)
    if nvcc is None:
        do = f"install the CUDA toolkit{f' {wanted}' if wanted else ''} and set CUDA_HOME"
        return say("build.nvcc", "there is no nvcc", cost, do)
    if wanted and _numbers(nvcc)[0] != _numbers(wanted)[0]:
        what = f"nvcc is of CUDA {nvcc}, and torch of {wanted}"
        do = f"point CUDA_HOME at a toolkit {wanted}"
        return say("build.nvcc", what, cost, do)
    return ok("build.nvcc", f"nvcc of CUDA {nvcc}")


def _as(needed: bool) -> Callable[[str, str, str, str], Finding]:
    """Return how bad it is that something does not work."""
    return problem if needed else notice


def _deepspeed(facts: Facts) -> Iterator[Finding]:
    stack = facts.stack
    broken = _broken(stack, "deepspeed", needed=True)
    if broken is not None:
        yield broken
    deepspeed = stack.part("deepspeed")
    if deepspeed is None:
        return
    version = deepspeed.text("version")
    ops, built = deepspeed.mapping("ops"), set(_prebuilt(stack)) | set(facts.builds.kept)
    needed = _needed_ops(facts)
    refused = [op for op in needed if ops.get(op) is False and op not in built]
    for op in refused:
        why = str(deepspeed.mapping("why").get(op) or "DeepSpeed gives no reason")
        yield problem(
            f"deepspeed.{op}", f"DeepSpeed says that {op} cannot be built here: {why[:300]}",
            "the job dies when it loads it", "install what it names, or leave out what needs it",
        )  # fmt: skip
    if not refused:
        waiting = [op for op in needed if op not in built]
        when = (
            "; the first run compiles " + ", ".join(waiting) if waiting else ", its ops are built"
        )
        yield ok("deepspeed.ops", f"DeepSpeed {version}{when}")


def _bitsandbytes(facts: Facts) -> Iterator[Finding]:
    stack, needs = facts.stack, facts.needs
    needed = needs.quantized or needs.eight_bit
    broken = _broken(stack, "bitsandbytes", needed=needed)
    if broken is not None:
        yield broken
    found = stack.part("bitsandbytes")
    if found is None:
        return
    version, backend = found.text("version"), found.text("backend") or "none"
    if backend == "cpu" and _device(facts) == "cuda" and facts.gpus.cards:
        yield _as(needed)(
            "bitsandbytes.backend", f"bitsandbytes {version} loads its CPU library beside GPUs",
            "4-bit weights and 8-bit moments fail on the GPU",
            "install a bitsandbytes that has torch's CUDA version",
        )  # fmt: skip
    elif backend == "none":
        yield _as(needed)(
            "bitsandbytes.backend", f"bitsandbytes {version} found no library of its own",
            "4-bit weights and 8-bit moments fail", "install it again, for this machine",
        )  # fmt: skip
    else:
        yield ok("bitsandbytes.backend", f"bitsandbytes {version} with its {backend} library")


def _needed_ops(facts: Facts) -> tuple[str, ...]:
    """What the built-in trainer compiles; its optimizer is torch's own, so that is little."""
    many = facts.needs.ranks is None or facts.needs.ranks > 1
    shared = (_SHARED,) if many and _device(facts) == "cpu" else ()
    return (*shared, *facts.needs.ops)


def _device(facts: Facts) -> str:
    return facts.needs.device or ("cuda" if facts.gpus.cards else "cpu")


def _prebuilt(stack: Stack) -> tuple[str, ...]:
    deepspeed = stack.part("deepspeed")
    return deepspeed.texts("installed") if deepspeed else ()


def _numbers(version: str) -> tuple[int, int]:
    parts = [part for part in version.split(".")[:2] if part.isdigit()]
    numbers = [int(part) for part in parts] + [0, 0]
    return numbers[0], numbers[1]
