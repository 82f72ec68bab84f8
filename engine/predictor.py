"""Predictor: class probabilities for clips, from a checkpoint's network or from an exported file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from common.errors import UsageError, UserError
from dataloaders.transforms import to_model_input
from engine.export.runtimes import Program, is_exported, open_program
from engine.fusion import load_fused
from engine.hardware.device import autocast, pick_device, to_device
from engine.hardware.low_precision import probability_model
from engine.runs.checkpoint import TrainedModel, load_model, weights_hash
from network import InputSpec

Logits = Callable[[torch.Tensor], torch.Tensor]  # clips (B, T, h, w, 3) uint8 -> logits (B, K)


@dataclass(frozen=True)
class Predictor:
    """A network that answers clips. T is input_spec.read_len, and (w, h) its cut_size: the square that the network
    sees, or the whole frame for an exported file, which cuts by itself.

    name           of the model
    checkpoint     origin of the weights, under the keys of a checkpoint
    parameters     their number
    arithmetic     float32, or the precision that an exported file computes in
    model          the network on the device, in eval mode; None where it is inside an exported file
    logits_of      clips (B, T, h, w, 3) uint8 tensor -> logits (B, K) in float32, as evaluate.py computes them
    probabilities  clips (B, T, h, w, 3) uint8 array -> probabilities (B, K) in the precision asked for
    """

    name: str
    input_spec: InputSpec
    classes: list[str]
    checkpoint: dict
    parameters: int
    arithmetic: str
    device: torch.device
    model: nn.Module | None
    logits_of: Logits
    probabilities: Callable[[np.ndarray], np.ndarray]
    stored_hash: str | None = None  # of the weights inside an exported file

    @cached_property
    def weights_hash(self) -> str:
        """Hash of the weights, which tells whether two results are of one network."""
        return self.stored_hash or weights_hash(self.model)


def open_predictor(path: Path | Sequence[Path], device: str = "auto", amp: str = "auto") -> Predictor:
    """A checkpoint, or a .onnx or .pt2 file written by export.py; several checkpoints for the mean of their answers.

    amp: precision of .probabilities (see probability_model); an exported file has its own
    """
    if not isinstance(path, Path):
        if exported := next((one for one in path if is_exported(one)), None):
            raise UsageError(
                f"{exported} is an exported file, which does not answer together with others. Give its run."
            )
        return network_predictor(load_fused(path), device, amp)
    if is_exported(path):
        return _program_predictor(open_program(path, device), amp)
    return network_predictor(load_model(path), device, amp)


def network_predictor(trained: TrainedModel, device: str = "auto", amp: str = "auto") -> Predictor:
    """A network with its weights, moved to the device."""
    place = pick_device(device)
    model = to_device(trained.model.eval(), place)
    spec, in_low_precision = trained.input_spec, probability_model(model, place, amp)

    def probabilities(clips: np.ndarray) -> np.ndarray:
        x = to_model_input(torch.from_numpy(clips).to(place), spec)  # (B, C, T, S, S)
        return check_probabilities(in_low_precision(x).cpu().numpy())

    return Predictor(
        name=trained.name,
        input_spec=spec,
        classes=trained.classes,
        checkpoint=trained.checkpoint,
        parameters=sum(value.numel() for value in model.parameters()),
        arithmetic="float32",
        device=place,
        model=model,
        logits_of=network_logits(model, spec, place),
        probabilities=probabilities,
    )


def _program_predictor(program: Program, amp: str) -> Predictor:
    metadata = program.metadata
    if amp not in ("auto", {"float32": "off", "bfloat16": "bf16"}.get(metadata.arithmetic)):
        raise UsageError(f"--amp {amp}: the file computes in {metadata.arithmetic}, as exported. Leave --amp out.")

    def logits_of(frames: torch.Tensor) -> torch.Tensor:
        probs = torch.from_numpy(np.asarray(program(frames.numpy())))
        return probs.clamp(min=torch.finfo(probs.dtype).tiny).log()  # softmax gives the probabilities back

    return Predictor(
        name=metadata.model,
        input_spec=metadata.spec,
        classes=metadata.classes,
        checkpoint=metadata.checkpoint(),
        parameters=metadata.parameters,
        arithmetic=metadata.arithmetic,
        device=program.device,
        model=None,
        logits_of=logits_of,
        probabilities=lambda clips: check_probabilities(program(clips)),
        stored_hash=metadata.weights_hash,
    )


def network_logits(model: nn.Module, spec: InputSpec, device: torch.device, amp: torch.dtype | None = None) -> Logits:
    """The logits of a network that lies on the device."""

    def logits_of(clips: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), autocast(device, amp):
            return model(to_model_input(clips.to(device, non_blocking=True), spec))

    return logits_of


def check_probabilities(probs: np.ndarray) -> np.ndarray:
    """Returns the probabilities; raises a UserError where one is not a number."""
    if not np.isfinite(probs).all():
        raise UserError("The network's output is not a number (NaN): its weights are damaged, or diverged.")
    return probs
