"""Many runs that differ in one thing each: trained where needed, measured alike, put side by side."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distilpose.backends.checkpoint import load_checkpoint, read_description
from distilpose.backends.loading import as_backend
from distilpose.data.files import read_json
from distilpose.errors import ConfigError, as_failure, printable
from distilpose.evaluation.evaluate import evaluate_set, write_evaluation
from distilpose.evaluation.result import METRICS_FILE
from distilpose.files import OutputLock, disk_errors, make_folder, write_file_atomically
from distilpose.inference.decoding import FlipTest
from distilpose.training.config import TrainConfig, train_config_from
from distilpose.training.data import check_files, files_of, load_validation_set
from distilpose.training.records import LAST_NAME
from distilpose.training.train import train

METRICS = ("AP", "AP50", "AR", "PCK@0.2")
RANKED_BY = ("AP", "PCK@0.2")
SETTINGS_FILE = "settings.json"
TABLE_FILE = "ablation.csv"


@dataclass
class Variant:
    """One row of the comparison.

    Attributes:
        name: of the row, and of the folder of its runs.
        changes: what differs from ``base``, as in a training configuration; a nested key changes only itself.
        seeds: one run each; those of the whole ablation when not given.
        checkpoint: measure this file instead of training.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] | None = None
    checkpoint: str | None = None


@dataclass
class AblationConfig:
    """A comparison of runs.

    Attributes:
        out: folder of all runs, the table and the image.
        base: what all runs share: the fields of a training configuration, without ``out`` and ``seed``.
        variants: the rows.
        reference: name of the row that the others are compared with.
        seeds: of every variant that names none.
        flip_test: of the measurements, which take the last weights of a run on ``base.data.validation``.
    """

    out: str
    base: dict[str, Any]
    variants: list[Variant]
    reference: str
    seeds: list[int] = field(default_factory=lambda: [0])
    flip_test: FlipTest = "off"

    def check(self) -> None:
        """Look for values that cannot work; a `ConfigError` has the field, the value and what is allowed."""
        names = [variant.name for variant in self.variants]
        if len({folder_name(name) for name in names} - {""}) < len(names):
            raise ConfigError(
                f"variants must have different names in the letters a-z and digits, of which their folders' names are "
                f"made, got {names}"
            )
        if self.reference not in names:
            raise ConfigError(f"reference must name one of the variants {names}, got {self.reference!r}")
        for where, seeds in (("", self.seeds), *((f"variant {each.name!r}: ", each.seeds) for each in self.variants)):
            if seeds is not None and not 0 < len(seeds) == len({*seeds}):
                raise ConfigError(f"{where}seeds must name at least one, each once, got {seeds or 'none'}")
        for where, values in (
            ("base", self.base),
            *((f"variant {each.name!r}", each.changes) for each in self.variants),
        ):
            if "seed" in values:
                raise ConfigError(f"{where}: seed would have no effect: name 'seeds' of the ablation or of a variant")
            if "out" in values:
                raise ConfigError(
                    f"{where}: out would have no effect: each run has a folder below 'out' of the ablation"
                )


class Row(NamedTuple):
    """What a variant's runs reached."""

    name: str  # of the variant
    metrics: tuple[Mapping[str, float], ...]  # one mapping per seed: fractions by the names of `METRICS`
    samples: int | None  # crops seen by one run; None for a file that was not trained here
    minutes: float | None  # of training, mean over the seeds; None likewise

    def mean(self, metric: str) -> float:
        """Over the seeds."""
        return statistics.fmean(values[metric] for values in self.metrics)

    def spread(self, metric: str) -> float | None:
        """Standard deviation over the seeds; None with one seed."""
        values = [values[metric] for values in self.metrics]
        return statistics.stdev(values) if len(values) > 1 else None


class AblationResult(NamedTuple):
    """What was found, and what went wrong."""

    rows: tuple[Row, ...]  # the finished variants
    failures: tuple[str, ...]  # a message per run that failed
    files: tuple[Path, ...]  # what was written: table, figures, image
    reference: Row | None = None  # the row that the others are compared with; None until it is finished


def ablate(config: AblationConfig, *, only: Sequence[str] = (), console: Console | None = None) -> AblationResult:
    """Train and measure every variant, then compare.

    Finished runs are kept and unfinished ones go on where they stopped, so a stopped ablation is simply
    started again. A run that fails is reported and the next one begins. The table is written anew after every run,
    from all runs in the folder. ``only`` names the variants to train now, such as one per machine; all when empty.

    Raises:
        ConfigError: the configuration contradicts itself, a file is missing, or a folder holds another run.
        InputError: without ``only``, another process holds the folder.
    """
    config.check()
    names = [variant.name for variant in config.variants]
    if unknown := sorted(set(only) - set(names)):
        raise ConfigError(f"--only must name variants of {names}, got {unknown}")
    console = console or Console(stderr=True)
    runs = {variant.name: _plan(config, variant) for variant in config.variants}
    failures = []
    todo = [(name, run) for name in only or names for run in runs[name] if run.metrics() is None]
    needed = {f"{name}, seed {run.settings.seed}": files_of(run.settings, run.checkpoint) for name, run in todo}
    check_files(needed, made=Path(config.out))
    make_folder(config.out)
    with nullcontext() if only else OutputLock(config.out, "distilpose ablate"):
        result = _write(config, runs)
        for name, run in todo:
            console.rule(escape(f"{name}, seed {run.settings.seed}"))
            try:
                run.work(config.flip_test, console)
            except Exception as error:  # of one run
                failures.append(f"{name}, seed {run.settings.seed}: {as_failure(error)}")
                console.print("[red]failed:[/red]", escape(printable(failures[-1])))
            result = _write(config, runs)
    return result._replace(failures=tuple(failures))


class _Run(NamedTuple):
    """One variant with one seed, and its folder."""

    settings: TrainConfig
    checkpoint: Path | None
    out: Path

    def metrics(self) -> Mapping[str, float] | None:
        """The measured figures; None before the end."""
        file = self.out / METRICS_FILE
        if not file.exists():
            return None
        found = read_json(file, "the metrics of a run", ConfigError)
        if not isinstance(found, dict) or not found.keys() >= set(METRICS):
            raise ConfigError(f"{file}: expected the metrics {', '.join(METRICS)}: delete it, then it is made again")
        return {name: found[name] for name in METRICS}

    def work(self, flip_test: FlipTest, console: Console) -> None:
        """Train what is missing, then measure the last weights."""
        backend = as_backend(load_checkpoint(self.checkpoint or self._train(console)))
        people = load_validation_set(self.settings, backend.description)
        assert people is not None  # `_plan` has looked for it
        write_evaluation(evaluate_set(backend, people, flip_test=flip_test), self.out)

    def effort(self) -> tuple[int, float] | None:
        """Crops seen and minutes of training, from the record of losses: sittings add up, evaluation is left out."""
        file = self.out / "losses.csv"
        if self.checkpoint is not None or not file.exists():
            return None
        per_step = self.settings.data.batch_size * self.settings.devices
        seconds, steps = 0.0, 0
        with file.open(newline="", encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                seconds += (int(row["step"]) - steps) * per_step / max(float(row["samples_per_second"]), 1e-9)
                steps = int(row["step"])
        return steps * per_step, seconds / 60

    def _train(self, console: Console) -> Path:
        """Train, unless that is done; the settings of a run are written down, and compared when it goes on."""
        file, values = self.out / SETTINGS_FILE, asdict(self.settings)
        was_begun = file.exists()
        if was_begun:
            before = asdict(train_config_from(read_json(file, "the settings of a run", ConfigError)))
            if changed := sorted(key for key in values if values[key] != before.get(key)):
                raise ConfigError(
                    f"{self.out} holds a run with other settings ({', '.join(changed)} changed): choose another out, "
                    "or delete it"
                )
        else:
            with write_file_atomically(file) as part:
                part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        last = self.out / LAST_NAME
        if not last.exists() or read_description(last).training.get("epoch") != self.settings.epochs:
            train(self.settings, resume=was_begun, console=console)
        return last


def _plan(config: AblationConfig, variant: Variant) -> list[_Run]:
    folder = Path(config.out) / folder_name(variant.name)
    checkpoint = None if variant.checkpoint is None else Path(variant.checkpoint)
    seeds = config.seeds if variant.seeds is None else variant.seeds
    runs = []
    for seed in seeds[:1] if checkpoint else seeds:
        out = folder / f"seed{seed}"
        values = merge_settings(config.base, variant.changes) | {"out": str(out), "seed": seed}
        try:
            settings = train_config_from(values)
            settings.check()
            if settings.data.validation is None:
                raise ConfigError("expected data.validation, the people that all variants are measured on, got none")
        except ConfigError as error:
            raise ConfigError(f"variant {variant.name!r}: {error}") from error
        runs.append(_Run(settings, checkpoint, out))
    return runs


def merge_settings(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``; where both hold a mapping, key by key, so that a nested key changes only itself."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge_settings(merged[key], value) if both else value
    return merged


def folder_name(name: str) -> str:
    """The folder of a variant's runs, one below it per seed."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _write(config: AblationConfig, runs: Mapping[str, list[_Run]]) -> AblationResult:
    """Summarize the finished runs in a table to read, one for programs and an image."""
    rows = []
    for name, seeds in runs.items():
        finished = [(metrics, run.effort()) for run in seeds if (metrics := run.metrics()) is not None]
        efforts = [effort for _, effort in finished if effort is not None]
        minutes = statistics.fmean(value for _, value in efforts) if efforts else None
        if finished:
            samples = efforts[0][0] if efforts else None
            rows.append(Row(name, tuple(metrics for metrics, _ in finished), samples, minutes))
    reference = next((row for row in rows if row.name == config.reference), None)
    files = tuple(Path(config.out) / name for name in ("ablation.md", TABLE_FILE, "ablation.png"))
    with disk_errors(files[0]):
        files[0].write_text(_markdown(rows, reference, config), encoding="utf-8")
    with disk_errors(files[1]), files[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "seeds", "samples", "minutes", *METRICS, *(f"{name} spread" for name in METRICS)])
        for row in rows:
            figures = [*map(row.mean, METRICS), *map(row.spread, METRICS)]
            writer.writerow([row.name, len(row.metrics), row.samples, row.minutes, *figures])
    if rows:
        draw_rows(rows, files[2])
    return AblationResult(tuple(rows), (), files if rows else files[:2], reference)


def ablation_table(rows: Sequence[Row], reference: Row | None) -> Table:
    """The rows for reading, metrics x 100; differences are to the reference."""
    table = Table(*_headings(reference))
    for row in rows:
        table.add_row(*map(escape, _cells(row, reference)))
    return table


def _headings(reference: Row | None) -> list[str]:
    return ["variant", "seeds", "crops seen", "minutes", *METRICS, *(f"{name} +-" for name in RANKED_BY if reference)]


def _cells(row: Row, reference: Row | None) -> list[str]:
    def figure(metric: str) -> str:
        spread = row.spread(metric)
        return f"{100 * row.mean(metric):.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")

    effort = ["-" if row.samples is None else f"{row.samples:,}", "-" if row.minutes is None else f"{row.minutes:.0f}"]
    differences = [_difference(row, reference, name) for name in RANKED_BY] if reference else []
    return [row.name, str(len(row.metrics)), *effort, *map(figure, METRICS), *differences]


def _difference(row: Row, reference: Row, metric: str) -> str:
    return f"{100 * (row.mean(metric) - reference.mean(metric)):+.1f}"


def _markdown(rows: Sequence[Row], reference: Row | None, config: AblationConfig) -> str:
    """The table and, beneath it, the variants from the most to the least helpful."""
    headings = _headings(reference)
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(_cells(row, reference)) + " |" for row in rows]
    lines += ["", f"Metrics x 100, last weights, flip test {config.flip_test}; +- is the difference to "
              f"'{config.reference}', ± the standard deviation over seeds."]  # fmt: skip
    if reference is not None:
        others = [row for row in rows if row is not reference and row.samples is not None]
        # By AP as it is printed; where that ties, as it does for short runs that all stand near 0, by PCK.
        ranked = sorted(others, key=lambda row: (round(row.mean("AP"), 3), row.mean("PCK@0.2")), reverse=True)
        lines += ["", f"Trained variants by what they add to '{config.reference}':", ""] + [
            f"{place}. {row.name}: " + ", ".join(f"{name} {_difference(row, reference, name)}" for name in RANKED_BY)
            for place, row in enumerate(ranked, 1)
        ]
    return "\n".join(lines) + "\n"


def draw_rows(rows: Sequence[Row], file: Path) -> None:
    """Bars of AP and PCK, one dot per seed, first row on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.2 + 0.4 * len(rows)), layout="constrained")
    places = range(len(rows))
    for column, metric in enumerate(RANKED_BY):
        axes = figure.add_subplot(1, len(RANKED_BY), column + 1)
        axes.barh(places, [100 * row.mean(metric) for row in rows], color="#7aa6c2")
        for place, row in enumerate(rows):
            values = [100 * values[metric] for values in row.metrics]
            axes.plot(values, [place] * len(values), "o", color="#1f3b4d", markersize=4)
            axes.annotate(f"{100 * row.mean(metric):.1f}", (max(values), place), (6, 0), textcoords="offset points",
                          va="center", fontsize=8)  # fmt: skip
        axes.margins(x=0.12)
        axes.set_yticks(places, [row.name for row in rows] if column == 0 else [""] * len(rows))
        axes.invert_yaxis()
        axes.set_xlabel(f"{metric} x 100")
    figure.savefig(file, dpi=120)
