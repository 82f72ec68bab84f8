"""What is evaluated: a checkpoint's network, or a file that export.py has written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from dataloaders.transforms import to_model_input
from engine.export.runtimes import is_exported, open_program
from engine.hardware.device import autocast, pick_device, to_device
from engine.runs.checkpoint import load_model, weights_hash
from network import InputSpec

Answer = Callable[[torch.Tensor], torch.Tensor]  # clips (B, T, h, w, 3) uint8 -> logits (B, K)


@dataclass(frozen=True)
class Predictor:
    """logits_of answers clips that are cut to input_spec.cut_size; checkpoint says where the weights come from, as the
    keys of a checkpoint do."""

    name: str
    input_spec: InputSpec
    classes: list[str]
    checkpoint: dict
    weights_hash: str
    parameters: int
    arithmetic: str
    device: torch.device
    logits_of: Answer


def open_predictor(path: Path, device: str) -> Predictor:
    if is_exported(path):
        return _open_exported(path, device)
    trained = load_model(path)
    hashed = weights_hash(trained.model)
    where = pick_device(device)
    model = to_device(trained.model, where)
    return Predictor(
        trained.name,
        trained.input_spec,
        trained.classes,
        trained.checkpoint,
        hashed,
        sum(value.numel() for value in model.parameters()),
        "float32",
        where,
        network_logits(model, trained.input_spec, where),
    )


def _open_exported(path: Path, device: str) -> Predictor:
    program = open_program(path, device)

    def logits_of(frames: torch.Tensor) -> torch.Tensor:
        probs = torch.from_numpy(np.asarray(program(frames.numpy())))
        return probs.clamp(min=torch.finfo(probs.dtype).tiny).log()  # softmax gives the probabilities back

    about = program.metadata
    return Predictor(
        about.model,
        about.spec,
        about.classes,
        about.checkpoint(),
        about.weights_hash,
        about.parameters,
        about.arithmetic,
        program.device,
        logits_of,
    )


def network_logits(model: nn.Module, spec: InputSpec, device: torch.device, amp: torch.dtype | None = None) -> Answer:
    """A network that lies on the device, as something that answers clips."""

    def logits_of(clips: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), autocast(device, amp):
            return model(to_model_input(clips.to(device, non_blocking=True), spec))

    return logits_of
