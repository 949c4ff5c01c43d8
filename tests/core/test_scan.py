"""Many lines are read at once, and the signs are those of reading them one by one."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.core.evidence import Sign
from autotune.core.explain import explain_lines
from autotune.core.failure import Failure, Phase, Role
from autotune.core.scan import Scanner
from autotune.core.signature import Found, Signatures, applicable
from autotune.world.line_splitter import BlockSplitter
from autotune.world.signature_file import load_signatures
from tests.core.signature_samples import SAMPLES

SHIPPED = load_signatures(device="cuda")


class Plain(Signatures):
    """Tries every pattern on every line."""

    def search(self, text: str) -> list[Found]:
        found = {}
        for entry in applicable(self.entries, self.device):
            matches = (pattern.search(text) for pattern in entry.compiled)
            match = next((m for m in matches if m), None)
            if match:
                found[entry.name] = Found(entry, match)
        return [found[name] for name in sorted(found)]

    def telling_lines(self, folded: bytes) -> Iterator[int]:
        at = 0
        while at < len(folded):
            yield at
            at = folded.index(b"\n", at) + 1

    def reporting_lines(self, folded: bytes) -> Iterator[int]:
        return reversed(list(self.telling_lines(folded)))


PLAIN = Plain(SHIPPED.entries, "cuda")
HEAD = "Traceback (most recent call last):"
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
FRAME = '  File "t.py", line 3, in forward'
SOURCE = "    raise RuntimeError('CUDA out of memory. Tried to allocate 1 GiB')"

piece = st.one_of(
    st.sampled_from([line for good, bad in SAMPLES.values() for line in (*good, *bad)]),
    st.sampled_from([
        HEAD, FRAME, SOURCE, OOM, "    ~~~^^^", "", "quiet", "{'loss': 1.5, 'epoch': 0.1}",
        "step 3 of a loss", "step 3 loss 0.5", "iteration 5 of 7", "train_batch_size: 8",
        '  File "x/train.py", line 9, in <module>', "[rank3]: " + HEAD, "[rank3]: " + FRAME,
        "2031-01-01 10:00:00,123 - ERROR - " + HEAD, "2031-01-01 10:00:00,99 - ERROR - " + FRAME,
        "2031-01-01 10:00:01,7 - ERROR - RuntimeError: no", "KeyError      " + HEAD,
        "---> 12 raise KeyError('x')", "KeyError: 'x'", "During handling of the above exception",
        "╭──── " + HEAD + " ────╮", "│ /x/t.py:3 in forward   │", "│ ❱ 3 raise OSError │",
        "Exception ignored in: <function f>", "\x1b[31mRuntime\x1b[0mError: red", "\0", "\xff",
        "R\0u\0n\0t\0i\0m\0e\0E\0r\0r\0o\0r\0:\0 \0x\0", "训练loss: nan", "x" * 15000,
    ]),
    st.builds(
        lambda step, total, cut: f"{step}%|##  | {step}/{total} [00:01<00:02]{cut}",
        st.integers(0, 9), st.sampled_from([5, 9]), st.sampled_from(["", "\r", " done"]),
    ),
)  # fmt: skip
texts = st.lists(st.tuples(piece, st.sampled_from(["\n", "\n", "\n", "\r", "\r\n", ""])))


def signs(scanner: Scanner) -> tuple[object, ...]:
    return (scanner.lines, scanner.left_out, scanner.signs(), scanner.earlier())


@settings(max_examples=200, deadline=None)
@given(text=texts, cuts=st.lists(st.integers(1, 400)), appended=st.booleans())
def test_reading_fast_finds_what_reading_every_line_finds(
    text: list[tuple[str, str]], cuts: list[int], appended: bool
) -> None:
    raw = "".join(line + end for line, end in text).encode("utf-8", "surrogateescape")
    fast, slow = Scanner(SHIPPED, appended), Scanner(PLAIN, appended)
    splitter = BlockSplitter(fast.read)
    at = 0
    for cut in [*cuts, len(raw)]:
        splitter.feed(raw[at : at + cut])
        at += cut
    splitter.flush()

    def feed_each(block: bytes) -> None:
        for line in block[:-1].split(b"\n"):
            slow.feed(line)

    one_by_one = BlockSplitter(feed_each)
    one_by_one.feed(raw)
    one_by_one.flush()
    assert signs(fast) == signs(slow)


def roots(lines: list[str], appended: bool = False) -> list[Sign]:
    scanner = Scanner(SHIPPED, appended)
    for line in lines:
        scanner.feed(line)
    return [s for s in scanner.signs() if s.role is Role.ROOT]


@pytest.mark.parametrize(
    ("leader", "rank"),
    [
        ("", None),
        ("[rank3]: ", 3),
        ("12: ", 12),
        (" 3: ", 3),
        ("(WorkerDict pid=123, ip=192.0.2.7) ", None),
        ("\x1b[36m(TaskRunner pid=123)\x1b[0m ", None),
        ("(Worker rank=2 pid=7) ERROR 01-01 10:00:00 core.py:586] ", 2),
        ("[default1]:", 1),
        ("node01: ", None),
        ("worker-0  | ", None),
        ("2031-01-01 10:00:00,123 - ERROR - ", None),
        ("2031-01-01T10:00:00.5Z stderr F ", None),
        ("[2031-01-01 10:00:00][rank5] ", 5),
        ("[1,4]<stderr>:", 4),
    ],
)
def test_a_traceback_is_read_behind_whatever_stands_before_each_line(
    leader: str, rank: int | None
) -> None:
    lines = [HEAD, '  File "t.py", line 1, in <module>', FRAME, SOURCE, "MyError: bad"]
    (root,) = roots([leader + line for line in lines])
    assert (root.text, root.phase, root.rank) == ("MyError: bad", Phase.FORWARD, rank)


def test_a_traceback_that_follows_a_bar_on_its_line_is_no_notebook() -> None:
    (root,) = roots([" 5%|# | 1/20 [00:01<00:02]" + HEAD, FRAME, SOURCE, "MyError: bad"])
    assert (root.line, root.phase) == (4, Phase.FORWARD)


def test_a_boxed_traceback_tells_its_frames_and_not_its_source() -> None:
    (root,) = roots([
        "╭───────── " + HEAD + " ─────────╮",
        "│ /x/train.py:3 in evaluate        │",
        "│ ❱ 3   raise OSError('[Errno 28] No space left on device')   │",
        "╰──────────────────╯",
        "MyError: bad",
    ])  # fmt: skip
    assert (root.text, root.phase) == ("MyError: bad", Phase.EVAL)


def test_a_traceback_that_nothing_ends_is_given_up() -> None:
    scanner = Scanner(SHIPPED)
    for line in [HEAD, FRAME, SOURCE, "Odd ending", *["quiet"] * 400, OOM]:
        scanner.feed(line)
    assert [s.phase for s in scanner.signs()] == [None]


START = "nohup: ignoring input"
DEATH = [HEAD, '  File "t.py", line 9, in <module>', "    main()", OOM]
OTHER = [HEAD, '  File "t.py", line 9, in <module>', "    main()", "KeyError: 'RANK'"]


@pytest.mark.parametrize(
    ("lines", "failure"),
    [
        # Another launch begins after a death: only the newest counts.
        ([*DEATH, START, *OTHER], Failure.CONFIG_ERROR),
        ([*DEATH, START, "{'loss': 1.5}"], Failure.NONE),
        ([*DEATH, "user@box:~$ python train.py", *OTHER], Failure.CONFIG_ERROR),
        # Of which nothing is seen but its start, it leaves the word to the run before it.
        ([*DEATH, START, "loading"], Failure.DEVICE_OOM),
        # The ranks of one launch start and die at different moments.
        ([START, *DEATH, "loading", *OTHER], Failure.DEVICE_OOM),
        (["loading", START, OOM, "[rank1]: loading"], Failure.DEVICE_OOM),
        # A launcher that starts its ranks again goes on with the same run.
        (
            [*DEATH, "1/3 attempts left; will restart worker group",
             "0%| | 0/50 [00:00<00:01]", *OTHER],
            Failure.DEVICE_OOM,
        ),
        # A bar of the same length that starts over after a death is another run's.
        (
            [*(f"9%|# | {n}/50 [00:01<00:01]" for n in range(9)), *DEATH,
             "0%| | 0/50 [00:00<00:01]", *OTHER],
            Failure.CONFIG_ERROR,
        ),
        ([START, "{'train_runtime': 3.2}", START, *OTHER], Failure.CONFIG_ERROR),
        ([START, *OTHER, START, "{'train_runtime': 3.2}"], Failure.NONE),
    ],
)  # fmt: skip
def test_of_several_runs_in_one_log_only_the_newest_counts(
    lines: list[str], failure: Failure
) -> None:
    assert explain_lines(lines, SHIPPED).diagnosis.failure is failure


def cell(error: str) -> list[str]:
    name = error.partition(":")[0]
    return ["-" * 75, f"{name}           {HEAD}", "Cell In[3], line 1", "----> 1 main()", error]


@pytest.mark.parametrize(
    ("lines", "failure"),
    [
        ([*cell("ModuleNotFoundError: No module named 'x'"), "ok", *cell(OOM)],
         Failure.DEVICE_OOM),
        # A name that is missing because an earlier cell failed is no cause.
        ([*cell(OOM), *cell("NameError: name 'trainer' is not defined")], Failure.DEVICE_OOM),
        ([*cell(OOM), "During handling of the above exception, another exception occurred:", "",
          *cell("RuntimeError: gone")[1:]], Failure.DEVICE_OOM),
    ],
)  # fmt: skip
def test_of_a_notebook_the_last_cell_that_failed_by_itself_counts(
    lines: list[str], failure: Failure
) -> None:
    assert explain_lines(lines, SHIPPED).diagnosis.failure is failure


def test_what_ended_an_earlier_run_is_remembered_apart() -> None:
    scanner = Scanner(SHIPPED, appended=True)
    for line in [*DEATH, START, *OTHER]:
        scanner.feed(line)
    assert [s.failure for s in scanner.earlier()] == [Failure.DEVICE_OOM]
    assert Failure.DEVICE_OOM not in {s.failure for s in scanner.signs()}
