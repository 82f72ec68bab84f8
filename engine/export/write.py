"""A network -> one file, written beside its target under another name and put in its place once it has been checked."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from common.errors import UserError
from common.files import atomic_write, printable
from engine.export.check import TOLERANCES, Comparison, compare
from engine.export.metadata import KEY, Metadata, describe
from engine.export.program import FrameProgram
from engine.export.runtimes import open_program, optional
from engine.runs.checkpoint import TrainedModel, load_model, weights_hash
from network.fuse_batch_norm import fuse_batch_norms
from network.weights.safetensors import import_safetensors

EXAMPLE = (48, 40)  # height and width of the frames that the graph is traced with; it takes any
LARGEST = 1 << 15  # pixels in a line


def half_of(suffix: str) -> torch.dtype:
    """The precision of --half: float16 for ONNX on GPUs, bfloat16 for torch."""
    return torch.float16 if suffix == ".onnx" else torch.bfloat16


def build_program(trained: TrainedModel, dtype: torch.dtype = torch.float32) -> FrameProgram:
    """Builds the program of the file. Below float32, batch norms are folded into the convolutions first, in float32, so
    that their small variances are not rounded."""
    network, spec = trained.model, trained.input_spec
    if dtype != torch.float32:
        example = torch.zeros(1, spec.channels, spec.clip_len, spec.crop_size, spec.crop_size)
        network = fuse_batch_norms(network, example).to(dtype)
    return FrameProgram(network, spec, dtype).eval()


def write_program(program: FrameProgram, trained: TrainedModel, path: Path) -> Metadata:
    """Writes path, .onnx or .pt2 by its ending."""
    arithmetic = str(program.dtype).removeprefix("torch.")
    if path.suffix == ".onnx":
        packages = {name: optional(name, path.name).__version__ for name in ("onnx", "onnxscript", "onnxruntime")}
        metadata = describe(trained, arithmetic, packages)
        _write_onnx(trace(program), metadata, path)
    else:
        metadata = describe(trained, arithmetic, {})
        traced = trace(program)
        traced.example_inputs = None
        torch.export.save(traced, path, extra_files={f"{KEY}.json": metadata.to_json()})
    return metadata


def trace(program: FrameProgram) -> ExportedProgram:
    """The graph of a program, for any number of clips and any size of frames."""
    frames = torch.zeros((2, program.spec.read_len, *EXAMPLE, 3), dtype=torch.uint8)
    shape = {0: Dim("batch"), 2: Dim("height", min=2, max=LARGEST), 3: Dim("width", min=2, max=LARGEST)}
    with torch.no_grad(), _quiet():
        traced = torch.export.export(program, (frames,), dynamic_shapes={"frames": shape})
    for module in traced.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:  # paths on this machine are nobody else's business
                node.meta.pop("stack_trace", None)
    return traced


def _write_onnx(traced: ExportedProgram, metadata: Metadata, path: Path) -> None:
    with _quiet():
        written = torch.onnx.export(
            traced, dynamo=True, verbose=False, input_names=["frames"], output_names=["probabilities"]
        )
    model = written.model
    for graph in [model.graph, *model.functions.values()]:
        for node in graph.all_nodes() if hasattr(graph, "all_nodes") else graph:
            node.metadata_props.clear()
            node.doc_string = None
    model.metadata_props.clear()
    model.metadata_props[KEY] = metadata.to_json()
    written.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell of their own steps, and warn of what they replace; what fails is raised all the same."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def export_weights(trained: TrainedModel, output: Path) -> str:
    """Writes the weights alone, a .safetensors file with the metadata; returns words on the comparison. Raises
    UserError where the file, read again, holds other weights."""
    package = import_safetensors(output.name)
    metadata = describe(trained, "float32", {"safetensors": package.__version__})
    state = {name: value.contiguous() for name, value in trained.model.state_dict().items()}
    with atomic_write(output) as temporary:
        package.torch.save_file(state, temporary, {"format": "pt", KEY: metadata.to_json()})
        again = load_model(temporary)
        if weights_hash(again.model) != metadata.weights_hash or again.classes != trained.classes:
            raise UserError(f"{printable(output)} is not written: read again, its weights are others.")
    return f"{len(state)} tensors, read again and equal"


def export_model(
    trained: TrainedModel, output: Path, dtype: torch.dtype = torch.float32, real: Sequence[np.ndarray] = ()
) -> Comparison:
    """Writes a file and compares it with the network. Raises UserError where the two disagree; then, as after an
    interruption, an earlier file of that name stays."""
    temporary = output.with_name(f".{output.stem}.{uuid4().hex[:8]}{output.suffix}")  # another export may be at work
    with atomic_write(output, temporary):
        write_program(build_program(trained, dtype), trained, temporary)
        program = open_program(temporary, "cpu")
        try:
            comparison = compare(program, trained.model, trained.input_spec, real, TOLERANCES[dtype])
        except NotImplementedError as error:  # an operation that torch does not have in half precision
            raise UserError(
                f"--half: {trained.name} cannot run in half precision here ({error}). Leave --half out."
            ) from error
        if not comparison.holds:
            raise UserError(
                f"{printable(output)} is not written: its probabilities differ from the network's, {comparison}."
            )
    return comparison
