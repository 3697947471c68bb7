"""Files that a run reads and that must be there before it starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distilpose.errors import ConfigError
from distilpose.training.config import TrainConfig

CONFIGS = Path("configs")  # where commands that write a missing file are looked for


Files = Iterable[tuple[Path, str]]  # each with what it is used for


def check_files(runs: Mapping[str, Files], made: Path | None = None) -> None:
    """Refuse runs that need files which are not there.

    A file that one run of several needs is left to that run: it fails, and the others are done.

    Args:
        runs: files by the name of the run.
        made: folder whose files the runs write themselves.

    Raises:
        ConfigError: a file is missing for the only run or for several; the text says which, and what to run first.
    """
    missing: dict[Path, str] = {}
    lacking: dict[Path, set[str]] = defaultdict(set)
    for name, files in runs.items():
        for path, use in files:
            if not path.exists() and (made is None or made not in path.parents):
                missing[path] = use
                lacking[path].add(name)
    if not any(len(names) > 1 or len(runs) == 1 for names in lacking.values()):
        return
    waiting = set().union(*lacking.values())
    who = "the run needs" if len(runs) == 1 else f"{len(waiting)} of {len(runs)} runs need"
    lines = [f"  {path} ({use}){_command(path)}" for path, use in missing.items()]
    raise ConfigError(
        f"{who} files that are not there:\n" + "\n".join(lines) + "\nThe first lines of the configuration say what has "
        "to be done before. Options name other files: --data.root FOLDER, --teacher FILE (of ablate: --base.data.root, "
        "--base.teacher); docs/datasets.md builds the data sets"
    )


def files_of(config: TrainConfig, checkpoint: Path | None = None) -> Files:
    """Annotation files, teacher and start weights of a run; of weights that are only measured, these and their data."""
    sets = [config.data.validation] if config.data.validation else []
    if checkpoint is not None:
        yield checkpoint, "weights to measure"
    else:
        sets = [*config.data.train, *sets]
    yield from ((_annotations(Path(config.data.root) / dataset.annotations), "annotations") for dataset in sets)
    if checkpoint is not None:
        return
    yield from ((path, "teacher") for path in _teacher_files(config.teacher))
    if config.init is not None and Path(config.init).suffix:  # others are names: "imagenet", a hub id
        yield Path(config.init), "start weights"


def _annotations(path: Path) -> Path:
    """Without the name of a split, as in ``birds/data.yaml:test``."""
    file, colon, _ = path.name.partition(":")
    return path.with_name(file) if colon and not path.exists() else path


def _teacher_files(teacher: str | Mapping[str, Any] | None) -> Iterator[Path]:
    if isinstance(teacher, str):
        yield Path(teacher)
    elif isinstance(teacher, Mapping):
        for key in ("file", "folder"):
            if isinstance(teacher.get(key), str):
                yield Path(teacher[key])
        for member in teacher.get("members") or ():
            yield from _teacher_files(member)


def _command(path: Path) -> str:
    """What writes the weights of a run, if a configuration below ``configs`` has its folder as ``out``."""
    for config in sorted(CONFIGS.rglob("*.yaml")):
        lines = config.read_text(encoding="utf-8").splitlines()
        if f"out: {path.parent.as_posix()}" in lines:
            return f": run first  distilpose train {config.as_posix()}"
    return ""
