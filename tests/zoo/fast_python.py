"""Stands in for the training's Python: a trainer of milliseconds with the real trainer's contract.

A test writes a wrapper that runs this file and names it under `python:` in a job. It answers the
ways autotune calls that Python: for versions, as the DeepSpeed launcher of finetune.py, for its
survey, and as convert.py; it traces nothing. tests/e2e/test_real_recovery.py holds it to what the
real trainer does.

FAST_STORY in its environment is JSON: {"total": steps, "fits": {"0": 4}, "seconds": per step};
from step K on, a micro-batch above fits[K] is refused as the CPU allocator refuses. "say" is
printed at start, "share" leaves shared memory behind, "flood" [kind, MiB] makes rank 0 print
junk, "hang_on_term" makes ranks ignore SIGTERM, "eat" takes MiB of memory while the micro-batch
is above "eat_above", "fail_at" {"attempt:step": "words"} raises words at that moment, "lost_from"
{"attempt": step} reports a loss that is no number from there on. "hang_at" {"attempt:step": kind}
hangs for ever: stopped (rank 1, by SIGSTOP), build_lock, elsewhere (rank 0, while rank 1 waits for
it) or, as attempt 0, in the proof. "slow_at" {"step": [kind, seconds]} only takes long: step,
first_step (writing all the while), loop (at changing lines), eval, save or until_stopped (over as
soon as ranks are asked to stop); "2:+4" is attempt 2's fourth step. In the attempts of
"unreadable_in" the checkpoint they start from cannot be read, in those of "departs_in" its weights
come back as others, and in those of "other_samples_in" other samples follow; "stale" makes every
attempt fail that finds an extension which an earlier run has compiled.

"holds" makes ranks that are refused memory hold until their last step is saved: "well", "spoiled"
(a file is not what its rank says), "alone" (rank 1 writes nothing), "elsewhere" (rank 1 is at
another step) or "late" (not before there is a file "save-now" in the run folder).

"refused" [R, N] has rank R be refused above a micro-batch of N, once there is a checkpoint.

With "cuda" memory is refused in CUDA's words, and each step for a neighbour's sake while the file
"crowded" is there.

"survey" is what it answers when asked: changes to SURVEY, or "hangs", "floods" or "fails". "probes"
{"moment": [peak, held]} is told before the first step. "step_seconds" {"8": 0.5} is how long a step
is said to take at that micro-batch, "8 checkpointed" with activation checkpointing; really it takes
"seconds" under any plan. "in_force" is what it reports to be in force besides, or otherwise.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from autotune.child.finetune import BEGUN_MARK, answer_with_stacks, fingerprint
from tests.rescue_part import part

VERSIONS = {
    "torch": os.environ.get("FAST_TORCH", "2.13.0+cpu"), "transformers": "5.23.0",
    "peft": "0.21.2", "deepspeed": "0.19.8", "bitsandbytes": "0.50.2", "accelerate": "1.15.0",
}  # fmt: skip


SURVEY = {
    "rows": 4, "steps": 12, "longest": [16, 16, 8, 8], "tokens_mean": 12.0, "eval_rows": 0,
    "eval_longest": [],
}  # fmt: skip


def named_as(file: str, source: str) -> dict[str, Any]:
    """Return the functions of `source`, whose frames look as if they stood in `file`."""
    held: dict[str, Any] = {}
    exec(compile(source, f"/venv/site-packages/{file}", "exec"), held)
    return held


COLLECTIVE = named_as(
    "torch/distributed/distributed_c10d.py",
    """
import time
def all_reduce(done):
    while not done():
        time.sleep(0.01)
""",
)
BATON = named_as(
    "torch/utils/file_baton.py",
    """
import time
def wait(lock):
    while lock.exists():
        time.sleep(0.01)
""",
)


def main() -> int:
    """Answer as the program that was asked for."""
    words = sys.argv[1:]
    if words[:1] == ["-c"]:
        print(json.dumps(VERSIONS))
        return 0
    if words[:2] == ["-m", "deepspeed.launcher.runner"]:
        if "--include" in words:
            ranks = len(words[words.index("--include") + 1].split(","))
        else:
            ranks = int(words[words.index("--num_gpus") + 1])
        return launch(range(ranks), Path(words[-1]))
    if words[:2] == ["-m", "torch.distributed.run"]:
        each = int(words[words.index("--nproc_per_node") + 1])
        node = int(words[words.index("--node_rank") + 1])
        return launch(range(node * each, (node + 1) * each), Path(words[-1]))
    if words[0].endswith("convert.py"):
        return convert(json.loads(words[1]))
    if words[0].endswith("trace.py"):
        print(json.dumps({"ok": False, "error": "a stand-in has no model to trace"}))
        return 1
    if words[1] == "--survey":
        return survey(json.loads(os.environ.get("FAST_STORY", "{}")).get("survey", {}))
    return Rank(int(words[1]), Path(words[2])).run()


def launch(ranks: range, train: Path) -> int:
    """Start a node's ranks in sessions of their own and end them all when the first one fails."""
    story = json.loads(os.environ.get("FAST_STORY", "{}"))
    print(story.get("say", ""), flush=True)
    if story.get("share"):
        # What DeepSpeed's CPU collectives leave behind, by the same name.
        port = sys.argv[sys.argv.index("--master_port") + 1]
        name = f"deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_{port}_0"
        Path("/dev/shm", name).write_bytes(b"x")
    running = [
        subprocess.Popen(
            [sys.executable, __file__, "rank", str(rank), str(train)], start_new_session=True
        )
        for rank in ranks
    ]
    code = 0
    while running and code == 0:
        for child in list(running):
            ended = child.poll()
            if ended is not None:
                running.remove(child)
                code = code or ended
        time.sleep(0.01)
    for child in running:
        child.kill()
        child.wait()
    return code


def convert(request: dict[str, str]) -> int:
    """Copy the checkpoint whole, as the converter's last step does."""
    shutil.copytree(request["source"], request["target"])
    print(json.dumps({"ok": True, "resume": request["target"], "seconds": 0.0}))
    return 0


def survey(told: dict[str, Any] | str) -> int:
    """Tell of the rows, or behave as badly as the story says."""
    if told == "hangs":
        time.sleep(10**6)
    if told == "fails":
        print("OSError: no file named tokenizer.json", file=sys.stderr)
        return 1
    if told == "floods":
        for _ in range(2**11):
            print("x" * 2**14)
        return 0
    print(json.dumps(SURVEY | told if isinstance(told, dict) else told))
    return 0


def turning(seed: float) -> float:
    """Compute something, with other lines on the stack from one moment to the next."""
    found = seed
    for _ in range(1000):
        found = abs(found * 1.1 - 1)
        found = min(found, 1e6)
        found = max(found, 1e-6)
    return found


class Rank:
    """One rank; only rank 0 trains, the others live as long as it does."""

    def __init__(self, rank: int, train: Path) -> None:
        self.rank = rank
        self.train = json.loads(train.read_text())
        self.story = json.loads(os.environ.get("FAST_STORY", "{}"))
        self.total = self.story.get("total", 12)
        self.first = 0  # optimizer steps before this attempt
        self.answered = False
        self.attempt = self.train["channel"]["attempt"]
        self.events = Path(self.train["channel"]["events"])
        self.folder = Path(self.train["checkpoints"]["dir"])
        if self.story.get("hang_on_term"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def emit(self, kind: str, **fields: object) -> None:
        """Write one event as the real trainer does."""
        event = {"t": time.time(), "rank": self.rank, "kind": kind, "attempt": self.attempt}
        with (self.events / f"rank{self.rank}.jsonl").open("a") as file:
            file.write(json.dumps({**event, **fields}) + "\n")

    def run(self) -> int:
        """Train, or wait for the rank that does."""
        answer_with_stacks(self.events, self.rank)
        self.emit("start", pid=os.getpid(), versions=VERSIONS)
        self.emit("phase", phase="load", memory={"data_bytes": 10**8})
        if self.rank:
            self.be_refused()
            COLLECTIVE["all_reduce"](self.rank_0_is_done)
            self.emit(self.last_of_rank_0(), step=self.total)
            return 0
        return self.steps()

    def be_refused(self) -> None:
        """Be refused memory in the place of rank 0, where the story names this rank."""
        rank, fits = self.story.get("refused", (None, 0))
        if rank == self.rank and self.train["batch"]["micro"] > fits:
            said = self.events / "rank0.jsonl"
            while not said.exists() or '"checkpoint"' not in said.read_text():
                time.sleep(0.005)
            self.fail(self.refusal(self.train["batch"]["micro"], False), 4)

    def rank_0_is_done(self) -> bool:
        """Return whether rank 0 has ended; stop for ever at the moment the story says so."""
        if self.story.get("holds"):
            self.answer()
        last = self.last_of_rank_0()
        if last == "stop_yourself":
            os.kill(os.getpid(), signal.SIGSTOP)
        return last in ("finished", "stopped", "proven")

    def last_of_rank_0(self) -> str:
        """Return the kind of what rank 0 said last."""
        try:
            lines = (self.events / "rank0.jsonl").read_text().splitlines()
            return str(json.loads(lines[-1])["kind"])
        except (OSError, ValueError, IndexError):
            return ""

    def steps(self) -> int:
        """Run the optimizer steps from where the checkpoint stands."""
        batch = self.train["batch"]
        micro, total = batch["micro"], self.total
        if self.train["checkpoints"]["resume"]:
            state = Path(self.train["checkpoints"]["resume"]) / "trainer_state.json"
            self.first = json.loads(state.read_text())["global_step"]
        first = self.first
        if self.train["mode"] == "prove":
            self.hang(self.story.get("hang_at", {}).get("0:0"))
            self.emit("proven", step=first, loss=1.0, eval_loss=1.1)
            return 0
        if self.attempt in self.story.get("unreadable_in", []):
            self.fail("PytorchStreamReader failed reading zip archive", first + 1, "resume")
        if self.story.get("stale") and list(
            Path(os.environ["TORCH_EXTENSIONS_DIR"]).glob("*/*.so")
        ):
            self.fail("Error building extension 'fused_adam'", first + 1, "load")
        if first:
            self.compare(first)
        in_force = {
            "global_batch": batch["global"], "micro_batch": micro, "total_steps": total,
            "world_size": batch["world_size"], **self.story.get("in_force", {}),
        }  # fmt: skip
        self.emit("settings", **in_force)
        if "flood" in self.story:
            kind, size = self.story["flood"]
            flood = Path(__file__).with_name("flood.py")
            subprocess.run([sys.executable, str(flood), kind, str(size)], check=True)
        self.emit("phase", phase="train")
        for moment, (peak, held) in self.story.get("probes", {}).items():
            self.emit("probe", moment=moment, peak_bytes=peak, held_bytes=held)
        if micro > self.story.get("eat_above", micro):
            print(len(b"x" * (self.story["eat"] * 2**20)))
        for step in range(first + 1, total + 1):
            self.step(step, micro)
            if self.stop_asked():
                self.save(step)
                self.emit("stopped", step=step)
                return 0
            every = self.train["checkpoints"]["every"] or 5
            if step % every == 0 or step == total:
                self.save(step)
        self.emit("finished", step=total, total=total)
        return 0

    def compare(self, first: int) -> None:
        """Tell how the checkpoint of step `first` came back, or end where it did not."""
        if self.attempt in self.story.get("departs_in", []):
            words = f"the checkpoint of step {first} does not go on as it ended: 1.0 was 2.0"
            self.fail(words, first + 1, "resume")
        tolerance = (self.train.get("continuity") or {}).get("tolerance")
        self.emit(
            "continuity", step=first, check="reference", loss=2.0, saved_loss=2.0,
            tolerance=tolerance, lr=1e-4, lr_expected=1e-4,
        )  # fmt: skip

    def hang(self, kind: str | None) -> None:
        """Hang for ever in this way, or not at all."""
        if kind == "stopped":
            self.emit("stop_yourself")
            COLLECTIVE["all_reduce"](lambda: False)
        elif kind == "build_lock":
            lock = Path(os.environ["TORCH_EXTENSIONS_DIR"], "fused_adam", "lock")
            lock.parent.mkdir(exist_ok=True)
            lock.touch()
            BATON["wait"](lock)
        elif kind == "elsewhere":
            time.sleep(10**6)

    def dawdle(self, kind: str, seconds: float) -> None:
        """Take long in this way, and get there."""
        if kind in ("eval", "save"):
            self.emit("phase", phase=kind)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if kind == "until_stopped" and self.stop_asked():
                return
            if kind == "first_step":
                (self.folder / "growing").write_bytes(b"x" * 2**24)
            elif kind == "loop":
                turning(time.monotonic())
            time.sleep(0.05 if kind != "loop" else 0)
        if kind in ("eval", "save"):
            self.emit("phase", phase="train")

    def step(self, step: int, micro: int) -> None:
        """Run one optimizer step, or be refused."""
        time.sleep(self.story.get("seconds", 0.01))
        self.hang(self.story.get("hang_at", {}).get(f"{self.attempt}:{step}"))
        for moment in (str(step), f"{self.attempt}:+{step - self.first}"):
            if moment in self.story.get("slow_at", {}):
                self.dawdle(*self.story["slow_at"][moment])
        words = self.story.get("fail_at", {}).get(f"{self.attempt}:{step}")
        if words:
            self.fail(words, step)
        fits = {int(k): v for k, v in self.story.get("fits", {}).items() if int(k) < step}
        crowded = "crowded" in self.story and Path(self.story["crowded"]).exists()
        if crowded or (fits and micro > fits[max(fits)]):
            self.fail(self.refusal(micro, crowded), step)
        size = self.train["batch"]["global"]
        samples = list(range((step - 1) * size, step * size))
        if self.attempt in self.story.get("other_samples_in", []):
            samples[0] += size
        lost = step >= self.story.get("lost_from", {}).get(str(self.attempt), step + 1)
        loss = "nan" if lost else 10.0 / step
        self.emit(
            "step", step=step, total=self.total, loss=loss, lr=1e-4, seconds=self.said_seconds(),
            samples=samples, tokens=8 * size, memory={"data_bytes": 10**8 * micro}, batch_rows=size,
            batch_fingerprint=f"{fingerprint(samples):016x}",
        )  # fmt: skip

    def refusal(self, micro: int, crowded: bool) -> str:
        """Return the words of an allocator that has no more."""
        if not self.story.get("cuda"):
            return (
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                f"allocate memory: you tried to allocate {4096 * micro} bytes. Error code 12"
            )
        held = 8 if crowded else 78
        return (
            "CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total capacity of 80.00 "
            f"GiB of which 1.00 GiB is free. Including non-PyTorch memory, this process has {held}"
            f".00 GiB memory in use. Of the allocated memory {held - 1}.00 GiB is allocated by "
            "PyTorch, and 100.00 MiB is reserved by PyTorch but unallocated."
        )

    def said_seconds(self) -> float:
        """Return how long a step is said to take under this plan."""
        said: dict[str, float] = self.story.get("step_seconds", {})
        micro = str(self.train["batch"]["micro"])
        if self.train["activation_checkpointing"]:
            micro += " checkpointed"
        return said.get(micro, 0.01)

    def hold(self, step: int) -> None:
        """Keep from dying until told that it may be done, as the probe does in a real rank."""
        self.emit("holds", step=step, phase="forward", why=None)
        until = time.monotonic() + 20
        while self.word().get("command") != "release" and time.monotonic() < until:
            self.answer()
            time.sleep(0.01)

    def answer(self) -> None:
        """Write this rank's part of the step, once it is asked for."""
        word, holds = self.word(), self.story["holds"]
        if word.get("command") != "save" or self.answered or (self.rank and holds == "alone"):
            return
        if holds == "late" and not (self.events.parents[2] / "save-now").exists():
            return
        self.answered = True
        place, ranks = self.events.parent / "rescue", self.train["batch"]["world_size"]
        place.mkdir(exist_ok=True)
        changes = {"step": word["step"] - 1} if self.rank and holds == "elsewhere" else {}
        part(place, self.rank, ranks, word["step"], **changes)
        if holds == "spoiled":
            (place / f"checkpoint-{word['step']}" / "latest").write_text("global_step0")

    def word(self) -> dict[str, Any]:
        """Return what the control file says to this attempt."""
        try:
            held = json.loads(Path(self.train["channel"]["control"]).read_text())
        except (OSError, ValueError, TypeError):
            return {}
        return dict(held) if held.get("attempt") == self.attempt else {}

    def fail(self, words: str, step: int, phase: str = "forward") -> None:
        """Die as a rank does: the event first, then the words."""
        if self.story.get("holds") and step - 1 > self.first:
            self.hold(step - 1)
        self.emit(
            "exception", type="RuntimeError", message=words, phase=phase, step=step - 1,
            traceback="", memory={"data_bytes": 10**9},
        )  # fmt: skip
        print(f"[rank{self.rank}]: RuntimeError: {words}", file=sys.stderr, flush=True)
        sys.exit(1)

    def stop_asked(self) -> bool:
        """Return whether the control file says stop."""
        try:
            held = json.loads(Path(self.train["channel"]["control"]).read_text())
        except (OSError, ValueError, TypeError):
            return False
        return bool(held.get("command") == "stop")

    def save(self, step: int) -> None:
        """Write a checkpoint whose last file says that it is whole."""
        folder = self.folder / f"checkpoint-{step}"
        shards = folder / f"global_step{step}"
        shards.mkdir(parents=True, exist_ok=True)
        (folder / BEGUN_MARK).touch()
        for rank in range(self.train["batch"]["world_size"]):
            (shards / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(b"\x80")
        (shards / "mp_rank_00_model_states.pt").write_bytes(b"\x80")
        (folder / "latest").write_text(f"global_step{step}")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        mark = {"step": step, "world_size": self.train["batch"]["world_size"]}
        mark["attempt"] = self.attempt
        (folder / "autotune-complete.json").write_text(json.dumps(mark))
        (folder / BEGUN_MARK).unlink()
        self.emit("checkpoint", step=step, path=str(folder))
        kept = sorted(self.folder.glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1]))
        for old in kept[: -self.train["checkpoints"]["keep"]]:
            shutil.rmtree(old)


if __name__ == "__main__":
    sys.exit(main())
