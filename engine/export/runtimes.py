"""Exported files as their runtimes read them: one small face for ONNX Runtime and for torch.export programs."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

from common.errors import UsageError, UserError
from common.torchrun import local_rank
from engine.export.metadata import KEY, Metadata, read_metadata
from engine.export.pt2_archive import read_archive
from engine.hardware.device import pick_device

FORMATS = (".onnx", ".pt2")
CUDA = "CUDAExecutionProvider"
INSTALL = 'pip install "onnx>=1.18" "onnxscript>=0.6" "onnxruntime>=1.22"'


class Program(Protocol):
    """frames (B, T, H, W, 3) uint8 RGB -> (B, num_classes) float32 probabilities"""

    metadata: Metadata
    device: torch.device

    def __call__(self, frames: np.ndarray) -> np.ndarray: ...


def is_exported(path: str | Path) -> bool:
    return Path(path).suffix.lower() in FORMATS


def open_program(path: Path, device: str = "auto") -> Program:
    """Raises UserError for a file that export.py has not written, and for a device that its runtime does not have."""
    return (OnnxProgram if path.suffix.lower() == ".onnx" else TorchProgram)(path, device)


class OnnxProgram:
    """A .onnx file in ONNX Runtime, with as many threads as torch would take (OMP_NUM_THREADS)."""

    def __init__(self, path: Path, device: str = "auto"):
        runtime = optional("onnxruntime", path.name)
        with_gpu = _has_cuda(runtime, device)
        number = int(device.partition(":")[2] or local_rank())  # of several processes each takes a GPU of its own
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised, too, and said in our own words
        gpu = [(CUDA, {"device_id": number})] if with_gpu else []
        providers = [*gpu, "CPUExecutionProvider"]
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # of classes that ONNX Runtime makes at run time
            raise UserError(f"{path} cannot be read by ONNX Runtime: {_first_line(error)}") from error
        on_gpu = CUDA in self.session.get_providers()  # without a driver, CUDA or cuDNN it takes the processor instead
        if device.startswith("cuda") and not on_gpu:
            raise UserError(
                f"--device {device}: ONNX Runtime does not find this GPU, or its versions of CUDA and cuDNN. "
                "Use --device cpu, or a .pt2 file."
            )
        self.device = torch.device("cuda", number) if on_gpu else torch.device("cpu")
        given = self.session.get_modelmeta().custom_metadata_map
        self.metadata = read_metadata(given.get(KEY), str(path))
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        fits = [one.name for one in inputs] == ["frames"] and [one.name for one in outputs] == ["probabilities"]
        if not fits or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 5:
            raise UserError(f"{path} does not take frames and give probabilities; was it written by export.py?")
        _check_shapes(path, self.metadata, inputs[0].shape, outputs[0].shape)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return self.session.run(["probabilities"], {"frames": frames})[0]


class TorchProgram:
    """A .pt2 file: torch reads and runs it; the code of this project is not needed for it."""

    def __init__(self, path: Path, device: str = "auto"):
        text, archive = read_archive(path)
        self.metadata = read_metadata(text, str(path))
        self.device = pick_device(device)
        if self.device.type == "mps":
            if device != "auto":
                raise UserError(f"--device {device}: a .pt2 file uses float64, which Apple's GPUs do not support.")
            self.device = torch.device("cpu")
        try:
            program = torch.export.load(archive)
            values = {node.name: node.meta.get("val") for node in program.graph.nodes}
            signature = program.graph_signature
            frames, answers = (values[name].shape for name in (*signature.user_inputs, *signature.user_outputs))
        except Exception as error:  # RuntimeError, ValueError, KeyError, pickle's own and others, by what is wrong
            raise UserError(f"{path} cannot be read by torch.export: {_first_line(error)}") from error
        _check_shapes(path, self.metadata, frames, answers)
        if self.device.type != "cpu":
            program = move_to_device_pass(program, str(self.device))
        self.module = program.module()

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return self.module(torch.from_numpy(frames).to(self.device)).cpu().numpy()


def optional(package: str, purpose: str) -> ModuleType:
    """A package that only exported files need. Raises UserError with the line that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{purpose} needs {package}, which is not installed: {INSTALL}") from error


def _has_cuda(runtime: ModuleType, device: str) -> bool:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device}: a .onnx file runs on auto, cpu, cuda or cuda:1.")
    there = CUDA in runtime.get_available_providers()
    if device.startswith("cuda") and not there:
        raise UserError(
            f"--device {device}: this ONNX Runtime is built without CUDA (pip install onnxruntime-gpu has it). Use "
            "--device cpu, or a .pt2 file."
        )
    return there and device != "cpu"


def _check_shapes(path: Path, metadata: Metadata, frames: Sequence, answers: Sequence) -> None:
    """Raises UserError unless the graph has the shapes that the metadata describes."""
    if frames[1] != metadata.spec.read_len:
        raise UserError(
            f"{path} is damaged: it takes {frames[1]} frames, but its metadata has {metadata.spec.read_len}."
        )
    if answers[-1] != len(metadata.classes):
        raise UserError(f"{path} is damaged: it gives {answers[-1]} probabilities for {len(metadata.classes)} classes.")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
