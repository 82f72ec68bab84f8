"""A network for the toy videos, as a checkpoint: small, not trained, and with answers that differ."""

from dataclasses import replace
from pathlib import Path

import torch

from dataloaders.splits import Split
from engine.checkpoint import save_checkpoint
from network import create_model, input_spec
from tests.toy import CLASSES

SPEC = replace(input_spec("r3d_10"), clip_len=4, frame_stride=2, resize=(80, 60), crop_size=32)  # span 7


def save_toy_checkpoint(path: Path, split: Split | None = None, **changes) -> Path:
    """split: what the run says that it was trained on; changes: of the InputSpec"""
    spec = replace(SPEC, **changes)
    options = {"in_channels": 6} if spec.channels == 6 else {}
    torch.manual_seed(5)
    model = create_model("r3d_10", len(CLASSES), **options)
    with torch.no_grad():
        model.fc.weight.mul_(50)  # else all answers are alike
    content = {
        "model": model.state_dict(),
        "model_options": options,
        "config": {"model": "r3d_10", "dataset": "toy", "split": "1", "val": "auto", "weights": None},
        "classes": list(CLASSES),
        "input_spec": spec.to_dict(),
    }
    if split:
        groups = {"training_groups": ["Biking/g08", "Biking/g09"], "validation_groups": ["Biking/g23"]}
        content["split"] = {"name": split.name, "hash": split.hash, **groups}
    save_checkpoint(path, content)
    return path
