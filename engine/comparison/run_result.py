"""The results of a run, read from its folder."""

import json
import shlex
import statistics
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from common.console import plural
from common.errors import UserError
from engine.comparison.test_result import TestResult, number, one_line, read_test
from engine.evaluation.published import pretraining_of
from engine.runs.checkpoint import load_checkpoint, spec_of
from engine.runs.tracking import WITHOUT_EFFECT, read_metrics
from network import InputSpec
from network.cost import count_macs, num_parameters, without_values


@dataclass(frozen=True)
class RunResult:
    """A run as it stands in the table. None where its files do not say.

    name      of its folder
    address   the data set, as config.json names it: a name of mypath.py, a folder or a list
    epochs    done, of `planned`
    settings  that affect the result, by their names: those of config.json, with the clip as the network had it
    differs   in which of them the runs of its group are not alike, as text
    curve     (epoch from 1, validation video top-1 of the weights that are judged) for each epoch
    notes     what is wrong with the run's files, a sentence each
    """

    path: Path
    name: str
    model: str
    address: str
    split: str
    pretraining: str | None
    parameters: int | None
    gmacs: float | None
    epochs: int | None
    planned: int | None
    best_val: float | None
    test: TestResult | None
    clips_per_second: float | None
    memory_gb: float | None
    hours: float | None
    device: str | None
    settings: dict[str, str] = field(default_factory=dict)
    differs: str = ""
    curve: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def short_dataset(self) -> str:
        """The data set's name; the last part of a folder's path."""
        return one_line(self.address.replace("\\", "/").rstrip("/").split("/")[-1])


def read_run(run_dir: Path, name: str) -> RunResult:
    """name: under which it is to be shown. Raises UserError, one line, where no checkpoint tells what the run is."""
    path = run_dir / "best.pth"
    if not path.is_file():
        begun = (run_dir / "config.json").is_file()
        raise UserError("no best.pth (yet)" if begun else "no run: neither config.json nor best.pth")
    checkpoint = load_checkpoint(path)
    config, split = checkpoint["config"], checkpoint.get("split")
    split = split if isinstance(split, dict) else {}
    if not (isinstance(config.get("model"), str) and isinstance(config.get("dataset"), str)):
        raise UserError("best.pth has no network or data set in its config")
    notes: list[str] = []
    records = _read_records(run_dir, notes)
    parameters, gmacs = _cost(checkpoint, spec_of(path, checkpoint), notes)
    pace = _numbers(records, "time/clips_per_second")
    seconds = _numbers(records, "time/epoch_seconds")
    return RunResult(
        path=run_dir,
        name=one_line(name),
        model=one_line(config["model"]),
        address=config["dataset"],
        split=one_line(str(split.get("name") or config.get("split") or "?")),
        pretraining=None if checkpoint.get("pretrained") else pretraining_of(config),
        parameters=parameters,
        gmacs=gmacs,
        epochs=max((record["epoch"] + 1 for record in records), default=None),
        planned=config.get("epochs") if isinstance(config.get("epochs"), int) else None,
        best_val=number(checkpoint.get("best_top1")),
        test=_read_own_test(run_dir, checkpoint, split, notes),
        clips_per_second=statistics.median(pace) if pace else None,
        memory_gb=max(_numbers(records, "time/gpu_memory_gb"), default=None),
        hours=sum(seconds) / 3600 if seconds and len(seconds) == len(records) else None,
        device=_device(run_dir, notes),
        settings=_settings(config, spec_of(path, checkpoint), checkpoint.get("processes", 1)),
        curve=_curve(records),
        notes=notes,
    )


SHOWN_ELSEWHERE = frozenset("model dataset split epochs".split())  # columns or headings of their own


def _settings(config: dict, spec: InputSpec, processes: object) -> dict[str, str]:
    """Every setting that affects the result, under the name of its flag, as text."""
    values = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT | SHOWN_ELSEWHERE}
    values |= {name: getattr(spec, name) for name in ("clip_len", "frame_stride", "crop_size", "input", "fps")}
    values["processes"] = processes
    if isinstance(values.get("weights"), str):
        values["weights"] = values["weights"].replace("\\", "/").rstrip("/").split("/")[-1]
    return {key.replace("_", "-"): one_line(_text(value)) for key, value in values.items()}


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_records(run_dir: Path, notes: list[str]) -> list[dict]:
    """The lines of metrics.jsonl, one per epoch; of an epoch with two lines, the later."""
    path = run_dir / "metrics.jsonl"
    try:
        records = read_metrics(run_dir)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError as error:
        notes.append(f"metrics.jsonl cannot be read ({error.strerror})")
        return []
    damaged = sum(bool(line.strip()) for line in lines) - len(records)
    if damaged:
        notes.append(f"metrics.jsonl: {plural(damaged, 'line')} cut or damaged, left out")
    if not records:
        notes.append("no metrics.jsonl, so no curve and no times")
    return [record for _, record in sorted({record["epoch"]: record for record in records}.items())]


def _curve(records: list[dict]) -> list[tuple[int, float]]:
    judged = "val/ema_top1" if any("val/ema_top1" in record for record in records) else "val/top1"
    points = [(record["epoch"] + 1, number(record.get(judged))) for record in records]
    return [(epoch, top1) for epoch, top1 in points if top1 is not None]


def _cost(checkpoint: dict, spec: InputSpec, notes: list[str]) -> tuple[int | None, float | None]:
    """(parameters, GMACs a clip) of the network as the run had it: its classes, options, clip and crop."""
    try:
        options = dict(checkpoint.get("model_options") or {})
        name, num_classes = checkpoint["config"]["model"], len(checkpoint["classes"])
        parameters, macs = _counted(name, num_classes, spec, tuple(sorted(options.items())))
        return parameters, macs / 1e9
    except (UserError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        notes.append(f"no parameters and GMACs, because its network cannot be built here: {reason}")
        return None, None


@cache
def _counted(name: str, num_classes: int, spec: InputSpec, options: tuple) -> tuple[int, int]:
    model, clip = without_values(name, num_classes, spec, **dict(options))
    return num_parameters(model), count_macs(model, clip)


def _device(run_dir: Path, notes: list[str]) -> str | None:
    """The device that the run was trained on; older runs have not stored it."""
    try:
        settings = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
        device = (settings.get("environment") or {}).get("device")
        return one_line(str(device)) if device else None
    except FileNotFoundError:
        notes.append("no config.json")
    except (OSError, ValueError, AttributeError):
        notes.append("config.json is incomplete or damaged")
    return None


def _read_own_test(run_dir: Path, checkpoint: dict, split: dict, notes: list[str]) -> TestResult | None:
    """The test result of these weights on the run's own test list; None, with a note, where it does not exist."""
    return read_test(
        run_dir, f"python evaluate.py {shlex.quote(run_dir.name)}", notes, checkpoint.get("step", 0), split.get("hash")
    )


def _numbers(records: list[dict], key: str) -> list[float]:
    values = (number(record.get(key)) for record in records)
    return [value for value in values if value is not None]
