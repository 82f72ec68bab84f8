"""A network for the toy videos, as a checkpoint: small, not trained, and with answers that differ."""

from dataclasses import replace
from pathlib import Path

from dataloaders.sources.splits import Split
from engine.runs.checkpoint import save_checkpoint
from network import input_spec
from tests.helpers.recognizer import content_of
from tests.helpers.toy import CLASSES

SPEC = replace(input_spec("r3d_10"), clip_len=4, frame_stride=2, resize=(80, 60), crop_size=32)  # span 7


def save_toy_checkpoint(path: Path, split: Split | None = None, **changes) -> Path:
    """split: what the run says that it was trained on; changes: of the InputSpec"""
    spec = replace(SPEC, **changes)
    options = {"in_channels": 6} if spec.channels == 6 else {}
    config = {"model": "r3d_10", "dataset": "toy", "split": "1", "val": "auto", "weights": None}
    content = content_of(CLASSES, model_options=options, config=config, input_spec=spec.to_dict())
    if split:
        groups = {"training_groups": ["Biking/g08", "Biking/g09"], "validation_groups": ["Biking/g23"]}
        content["split"] = {"name": split.name, "hash": split.hash, **groups}
    save_checkpoint(path, content)
    return path
