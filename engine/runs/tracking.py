"""The record of a run: TensorBoard for curves, metrics.jsonl one line per epoch."""

import json
import math
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from common.files import write_atomically
from engine.runs.growing_file import GrowingFile

FLUSH_EVERY = 10.0  # seconds

# shown as columns of TensorBoard's HPARAMS view; values come from the scalars of the same name
HPARAM_METRICS = ("best/val_top1", "val/top1", "val/loss", "test/top1", "test/top5", "test/clip_top1")

# settings of a run that change no result; all others are its rows, and compare.py says in which of them runs differ
WITHOUT_EFFECT = frozenset(
    "frames name runs resume workers cache device save_every on_full_disk test folds learning_curve".split()
)


class Tracker:
    """Writes one run's records. `first_step`: where a resumed run goes on; what was logged from there on is dropped.

    The events are those of tensorboardX, written without its thread: one that a full disk ends lets its queue fill, and
    the training waits for ever.
    """

    def __init__(self, run_dir: Path, first_step: int = 0):
        self.run_dir = run_dir
        # TensorBoard reads a folder's files in the order of their names, which begin with the second; two writers of
        # one second (training, then evaluation) must neither share a file nor change places.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{time.time_ns()}.{os.getpid()}"
        self.events, self.lines = GrowingFile(run_dir / name), GrowingFile(run_dir / "metrics.jsonl")
        self.flushed = time.monotonic()
        self._add(Event(file_version="brain.Event:2"))
        if first_step:
            self._add(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def scalars(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            if value is not None and not math.isnan(value):
                self._add(Event(step=step, summary=summary.scalar(tag, value)))

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """(H, W, 3) uint8"""
        self._add(Event(step=step, summary=summary.image(tag, pixels, dataformats="HWC")))

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._add(Event(step=step, summary=summary.text(tag, markdown)))

    def epoch(self, record: dict) -> None:
        """Adds a line to metrics.jsonl."""
        self.lines.add(json.dumps(record).encode() + b"\n")

    def drop_epochs(self, first: int) -> None:
        """Forgets the lines from epoch `first` on, which a resumed run writes again."""
        path = self.run_dir / "metrics.jsonl"
        if path.is_file():
            kept = [record for record in read_metrics(self.run_dir) if record["epoch"] < first]
            write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))
            self.lines = GrowingFile(path)

    def hparams(self, settings: dict) -> None:
        """Settings into the HPARAMS view, through this run's own file (add_hparams would make a second run)."""
        plain = {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT and value is not None}
        for part in summary.hparams(plain, dict.fromkeys(HPARAM_METRICS, 0.0)):
            self._add(Event(summary=part))

    def flush(self) -> None:
        self.events.flush()
        self.lines.flush()
        self.flushed = time.monotonic()

    def close(self) -> None:
        self.events.close()
        self.lines.close()

    def _add(self, event: Event) -> None:
        """Frames an event as a TFRecord: length, its checksum, the event, its checksum."""
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        checks = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
        self.events.add(length + checks[0] + content + checks[1])
        if time.monotonic() - self.flushed > FLUSH_EVERY:
            self.flush()


class NoTracker:
    """Stands in for Tracker on ranks that write no records."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        assert hasattr(Tracker, name), name
        return lambda *_, **__: None


def read_metrics(run_dir: Path) -> list[dict]:
    """The lines of metrics.jsonl; one that a killed run left half-written is left out."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("epoch"), int):
            records.append(record)
    return records
