"""`autotune import`: writes a job file from what a training is started with now; runs nothing."""

import os
from collections.abc import Sequence
from pathlib import Path

from autotune.cli.drafted import Draft, draft, written
from autotune.cli.speech import speak_notes
from autotune.core.fault import Fault, InputError
from autotune.world.files import make_folder, write_text
from autotune.world.run_folder import RunFolder
from autotune.world.yaml_files import read_document

JOB_FILES = (".yaml", ".yml", ".json")


def import_job(words: Sequence[str], output: Path | None) -> int:
    """Write the job file and print its path; raises InputError rather than overwrite anything."""
    made = draft(words, Path.cwd())
    target = (output or Path(_file_name(made))).absolute()
    text = written(made, target.parent)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        hint = "choose another name with -o"
        raise InputError(
            Fault("this file exists, and is left as it is", str(target), hint)
        ) from error
    except OSError as error:
        text = f"the job file cannot be written ({error.strerror})"
        raise InputError(Fault(text, str(target), "choose another place with -o")) from error
    speak_notes(made.notes)
    print(target)
    return 0


def _file_name(made: Draft) -> str:
    # The tool's own x.yaml often lies here.
    return f"{made.name}.job.yaml"


def job_of(named: Sequence[str], run_dir: Path | None) -> tuple[Path, Path | None]:
    """Return the job file that was named, or one made of a command line, and the run folder.

    One that is made lies in the run folder. The same command line finds it there again, with
    whatever its owner changed in it since.
    """
    if len(named) == 1 and named[0].lower().endswith(JOB_FILES):
        return Path(named[0]), run_dir
    if named and named[0].lower().endswith(JOB_FILES):
        text = f"`{named[0]}` is followed by `{named[1]}`, and one job is run at a time"
        raise InputError(Fault(text, "", "a command line begins with a program"))
    made = draft(named, Path.cwd())
    folder = RunFolder(run_dir.absolute() if run_dir else Path.cwd() / "runs" / made.name)
    if folder.job.exists() and (folder.journal.exists() or _same(folder.job, made)):
        if not _same(folder.job, made):
            text = "this run folder belongs to another command line"
            hint = "choose another with --run-dir, or start that command again to go on"
            raise InputError(Fault(text, str(folder.path), hint))
        return folder.job, folder.path
    if folder.is_foreign():
        text = "this folder holds things and no journal; it is not a run folder"
        raise InputError(Fault(text, str(folder.path), "choose another with --run-dir"))
    make_folder(folder.path)
    write_text(folder.job, written(made, folder.path))
    speak_notes(made.notes)
    return folder.job, folder.path


def _same(job: Path, made: Draft) -> bool:
    """Return whether a job file starts the same command in the same folder."""
    held = read_document(job).value
    settings = held.get("settings") if isinstance(held, dict) else None
    if not isinstance(settings, dict):
        return False
    folder = os.path.normpath(job.parent / str(settings.get("folder", ".")))
    return settings.get("command") == list(made.command) and Path(folder) == made.folder
