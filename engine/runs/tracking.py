"""The record of a run: TensorBoard for curves, metrics.jsonl one line per epoch."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from common.files import write_atomically
from network import InputSpec

# shown as columns of TensorBoard's HPARAMS view; values come from the scalars of the same name
HPARAM_METRICS = ("best/val_top1", "val/top1", "val/loss", "test/top1", "test/top5", "test/clip_top1")

# its rows; the view shows the first five by the alphabet until more are ticked
HPARAM_SETTINGS = (
    "batch_size", "dataset", "epochs", "lr", "model", "optimizer", "recipe", "schedule", "seed", "split", "val",
    "weight_decay", "weights",
)  # fmt: skip


class Tracker:
    """Writes one run's records. `first_step`: where a resumed run goes on; what was logged from there on is dropped."""

    def __init__(self, run_dir: Path, first_step: int = 0):
        self.run_dir = run_dir
        # TensorBoard reads a folder's files in the order of their names, which begin with the second; two writers of
        # one second (training, then evaluation) must neither share a file nor change places.
        suffix = f".{time.time_ns()}.{os.getpid()}"
        self.writer = SummaryWriter(str(run_dir), purge_step=first_step or None, filename_suffix=suffix, flush_secs=10)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            if value is not None and not math.isnan(value):
                self.writer.add_scalar(tag, value, step)

    def epoch(self, record: dict) -> None:
        """Adds a line to metrics.jsonl."""
        with (self.run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def drop_epochs(self, first: int) -> None:
        """Forgets the lines from epoch `first` on, which a resumed run writes again."""
        path = self.run_dir / "metrics.jsonl"
        if path.is_file():
            kept = [record for record in read_metrics(self.run_dir) if record["epoch"] < first]
            write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))

    def hparams(self, settings: dict) -> None:
        """Settings into the HPARAMS view, through this run's own writer (add_hparams would make a second run)."""
        plain = {key: settings[key] for key in HPARAM_SETTINGS if settings[key] is not None}
        for summary in hparams(plain, dict.fromkeys(HPARAM_METRICS, 0.0)):
            self.writer.file_writer.add_summary(summary)

    def clips(self, x: torch.Tensor, spec: InputSpec, step: int) -> None:
        """A picture of the first clips as the network gets them: (B, C, T, H, W) normalised."""
        self.writer.add_image("input/train_clips", clip_sheet(x, spec), step, dataformats="HWC")

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class NoTracker:
    """Stands in for Tracker on ranks that write no records."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        assert hasattr(Tracker, name), name
        return lambda *_, **__: None


def clip_sheet(x: torch.Tensor, spec: InputSpec, num_clips: int = 4, num_frames: int = 8) -> np.ndarray:
    """(B, C, T, H, W) normalised -> (num_clips * H, num_frames * W, 3) uint8: a row per clip, time from left to right.

    Differences are shown around grey; of a network that gets both, the colours.
    """
    clips = x[:num_clips, :3].float().cpu()
    picked = torch.linspace(0, clips.shape[2] - 1, min(num_frames, clips.shape[2])).round().long()
    still = (0.5, 0.5, 0.5) if spec.input == "diff" else spec.mean
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (still, spec.std))
    frames = ((clips[:, :, picked] * std + mean) * 255).round().clamp(0, 255).byte()  # (B, 3, F, H, W)
    return np.concatenate([np.concatenate(list(clip), axis=1) for clip in frames.permute(0, 2, 3, 4, 1).numpy()])


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
