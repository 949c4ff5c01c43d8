"""The command line: one verb, one file; each is imported only when it is called.

Exit codes of `autotune run`: 0 finished, 1 gave up under the policy, 2 job or policy file wrong,
3 could not launch or could not write the journal, 4 stopped by request and resumable, 70 a bug in
autotune. The systemd unit keys off them.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.choices import Device, Dtype, Method, Offload

BUG = 70

app = typer.Typer(
    name="autotune",
    help="Supervise training until it runs stably, or say why it cannot.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="the job file (YAML)")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="the run folder")]
AsJson = Annotated[bool, typer.Option("--json", help="data as JSON on stdout")]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", metavar="DIR", help="default: runs/NAME beside the job")
]


@app.callback()
def _root() -> None:
    """Supervise training until it runs stably, or say why it cannot."""


@app.command()
def run(
    job: Annotated[
        list[str], typer.Argument(metavar="JOB | -- COMMAND…", help="a job file, or a command line")
    ],
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Supervise a job to its end; started again on the same run folder, it goes on."""
    from autotune.cli.run import run as verb

    _end(verb, job, run_dir, as_json)


@app.command()
def join(
    run: RunPath,
    node: Annotated[
        int | None, typer.Option("--node-rank", min=1, metavar="N", help="default: the next free")
    ] = None,
) -> None:
    """Give this machine's devices to a run that another one leads, until the run is over."""
    from autotune.cli.join import join as verb

    _end(verb, run, node)


@app.command(name="import", context_settings={"ignore_unknown_options": True})
def import_job(
    words: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG | SCRIPT | COMMAND…", help="what you start it with now"),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="default: NAME.yaml here")
    ] = None,
) -> None:
    """Write a job file from an existing config, shell script or command line; runs nothing."""
    from autotune.cli.import_job import import_job as verb

    _end(verb, words, output)


@app.command()
def check(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="or a DeepSpeed JSON file")],
) -> None:
    """Report every fault of a job at once; launches nothing; exit code 0 or 2."""
    from autotune.cli.check import check as verb

    _end(verb, job)


@app.command()
def explain(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG…|RUN", help="log files or a run")],
    exit_code: Annotated[
        int | None, typer.Option("--exit-code", metavar="N", help="of the process that wrote it")
    ] = None,
    device: Annotated[Device | None, typer.Option("--device", help="what it trained on")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a log shows, what the failure is called, why, and the remedy."""
    from autotune.cli.explain import explain as verb
    from autotune.cli.remedies import remedies_for

    names = [str(log) for log in logs]
    _end(verb, names, exit_code, device.value if device else None, as_json, remedies_for)


@app.command()
def estimate(
    model: Annotated[
        Path, typer.Option("--model", metavar="DIR|CONFIG", help="a model folder or config.json")
    ],
    seq: Annotated[int, typer.Option("--seq", min=1, help="tokens per row")],
    micro_batch: Annotated[int, typer.Option("--micro-batch", min=1, help="rows per rank")],
    method: Annotated[Method, typer.Option("--method", help="what is trained")],
    lora_rank: Annotated[int, typer.Option("--lora-rank", min=1)] = 8,
    lora_targets: Annotated[
        str, typer.Option("--lora-targets", metavar="A,B", help="default: all linear layers")
    ] = "",
    checkpointing: Annotated[bool, typer.Option("--checkpointing")] = False,
    zero: Annotated[int, typer.Option("--zero", min=0, max=3, help="ZeRO stage")] = 0,
    ranks: Annotated[int, typer.Option("--ranks", min=1)] = 1,
    offload: Annotated[Offload, typer.Option("--offload")] = Offload.NONE,
    optimizer: Annotated[str, typer.Option("--optimizer")] = "adamw",
    dtype: Annotated[Dtype, typer.Option("--dtype")] = Dtype.BF16,
    attention: Annotated[str, typer.Option("--attention")] = "sdpa",
    device: Annotated[Device, typer.Option("--device", help="what it trains on")] = Device.CUDA,
    as_json: AsJson = False,
) -> None:
    """Predict the peak bytes of one setting on one rank, part by part."""
    from autotune.cli.estimate import Asked
    from autotune.cli.estimate import estimate as verb

    asked = Asked(
        model=model,
        sequence=seq,
        micro_batch=micro_batch,
        method=method.value,
        lora_rank=lora_rank,
        lora_targets=tuple(name.strip() for name in lora_targets.split(",") if name.strip()),
        checkpointing=checkpointing,
        zero=zero,
        ranks=ranks,
        offload=offload.value,
        optimizer=optimizer,
        dtype=dtype.value,
        attention=attention,
        device=device.value,
    )
    _end(verb, asked, as_json)


@app.command()
def status(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="default: the newest below ./runs")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="again every second")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where a run is on its ladder: memory, step, loss, last decision."""
    from autotune.cli.status import status as verb

    _end(verb, run, watch, as_json)


@app.command()
def plan(job: JobFile, as_json: AsJson = False) -> None:
    """Show what is predicted to fit: plans, their memory and speed, and the choice."""
    from autotune.cli.plan import plan as verb

    _end(verb, job, as_json)


@app.command()
def outcomes(
    as_json: AsJson = False,
    forget: Annotated[bool, typer.Option("--forget", help="delete all of it")] = False,
) -> None:
    """List what earlier runs taught on this machine, or forget it."""
    from autotune.cli.outcomes import outcomes as verb

    _end(verb, as_json, forget)


@app.command()
def doctor(
    job: Annotated[Path | None, typer.Argument(metavar="[JOB]", help="the job file (YAML)")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="ask the model hub too")] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether this machine is fit to train, what will cost what, and what to do; 0 or 2."""
    from autotune.cli.doctor import doctor as verb

    _end(verb, job, as_json, hub)


@app.command()
def stop(run: RunPath) -> None:
    """Ask a run to checkpoint and end."""
    from autotune.cli.stop import stop as verb

    _end(verb, run)


service = typer.Typer(help="Run jobs as systemd services.", no_args_is_help=True)
app.add_typer(service, name="service")
System = Annotated[
    bool, typer.Option("--system/--user", help="the machine's manager, or your own (the default)")
]


@service.command("install")
def service_install(
    job: JobFile,
    system: System = False,
    as_user: Annotated[
        str | None, typer.Option("--as", metavar="USER", help="with --system: who trains")
    ] = None,
    run_dir: RunDir = None,
    now: Annotated[bool, typer.Option("--now", help="start it too")] = False,
) -> None:
    """Make a job a service that goes on by itself after a crash or a reboot."""
    from autotune.cli.service import install as verb

    _end(verb, job, system, as_user, run_dir, now)


@service.command("list")
def service_list(system: System = False, as_json: AsJson = False) -> None:
    """List the jobs that are services, and how they are."""
    from autotune.cli.service import show as verb

    _end(verb, system, as_json)


@service.command("remove")
def service_remove(
    job: Annotated[str, typer.Argument(metavar="JOB", help="its name, or its job file")],
    system: System = False,
) -> None:
    """Stop a job's service, let it save, and take the service away; the run folder stays."""
    from autotune.cli.service import remove as verb

    _end(verb, job, system)


def _end(verb: object, *arguments: object) -> None:
    from autotune.cli.speech import speak
    from autotune.core.fault import AutotuneError

    try:
        code = verb(*arguments)  # type: ignore[operator]
    except AutotuneError as error:
        speak(error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 0  # the reader of our output has seen enough
    raise typer.Exit(code)


def main() -> None:
    """Run the command line; an exception of our own making ends with 70 and asks for a report."""
    try:
        app()
    except Exception as error:
        from autotune.cli.speech import speak_bug

        speak_bug(error)
        sys.exit(BUG)
    finally:
        from autotune.cli.last_flush import let_go

        let_go()


if __name__ == "__main__":
    main()
