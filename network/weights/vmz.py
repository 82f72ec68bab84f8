"""VMZ's Caffe2 weights of R3D and R(2+1)D: a pickle {"blobs": {name: numpy array}}.

github.com/facebookresearch/VMZ, by the authors of the R(2+1)D paper. Its networks are those of network/video_resnet.py:
R(2+1)D with a mid width for each convolution (r2plus1d_18_paper, r2plus1d_34), and norms that add 1e-3 to a variance.

    stem      conv1_w, conv1_spatbn_relu; factored: conv1_middle_w, conv1_middle_spatbn_relu before them
    block i   comp_{i}_conv_{j}_w, comp_{i}_spatbn_{j}; factored: ..._middle before them; i counts blocks from 0 on
    shortcut  shortcut_projection_{i}_w, shortcut_projection_{i}_spatbn
    head      last_out_L{classes}_w, _b
    norms     _s weight, _b bias, _rm mean, _riv variance

A blob that is missing, superfluous or of another shape is an error, and so is a NaN or infinite value. A pickle can ask
for any code; the unpickler here admits arrays and plain containers only.
"""

import io
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.input_spec import KINETICS_MEAN, KINETICS_STD
from network.registry import create_model, input_spec, list_models
from network.video_resnet import VideoResNet
from network.weights.loaded import LoadedWeights, check_finite, refusing

# first bytes of a pickle of protocol 2 and later, and of Python 2's ASCII pickle of a dict
PICKLES = (b"\x80", b"(d", b"}")
TORCH_SAVE = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # the number with which torch.save's old format begins

NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}

BN_EPS = 1e-3

# blobs of the optimiser, in checkpoints taken during training
SOLVER_BLOB = re.compile(r"(.*_momentum|.*_grad|lr|learning_rate|.*optimizer_iteration.*|.*_lr)")


def recognises(head: bytes) -> bool:
    return head.startswith(PICKLES) and TORCH_SAVE not in head[:32]


def read(path: Path, model_name: str) -> LoadedWeights:
    content = load_arrays(path)
    blobs = content.get("blobs") if isinstance(content, dict) else None
    if not isinstance(blobs, dict) or not blobs:
        raise UserError(f"{path} is a pickle without 'blobs'. Of pickles only VMZ's weights are read.")
    arrays = {
        str(name).rpartition("/")[2]: blob  # gpu_0/conv1_w
        for name, blob in blobs.items()
        if not SOLVER_BLOB.fullmatch(str(name))
    }

    heads = [name for name in arrays if re.fullmatch(r"last_out_L\d+_w", name)]
    if len(heads) != 1:
        raise UserError(f"{path} has {len(heads)} last layers (last_out_L..._w). VMZ's R3D and R(2+1)D have one.")
    num_classes = len(arrays[heads[0]]) if isinstance(arrays[heads[0]], np.ndarray) and arrays[heads[0]].ndim else 0
    if heads[0] != f"last_out_L{num_classes}_w":
        raise UserError(f"{path} has a last layer {heads[0]} for {num_classes} classes: it is damaged.")

    problem = misfit(model_name, num_classes, arrays)
    if problem:
        families = [name for name in list_models() if name.startswith(("r3d", "mc3", "r2plus1d"))]
        fitting = [name for name in families if misfit(name, num_classes, arrays) is None]
        advice = f" Choose --model {fitting[0]}." if fitting else ""
        raise UserError(f"{path} does not fit {model_name}: {problem}.{advice}")

    names = blob_names(model_name, num_classes)
    state = {ours: to_tensor(arrays[theirs], shape) for theirs, (ours, shape) in names.items()}
    check_finite(path, state)
    return LoadedWeights(
        state=state,
        input_spec=replace(input_spec(model_name), frame_stride=1, fps=None, mean=KINETICS_MEAN, std=KINETICS_STD),
        classes=None,
        origin=f"{path} (VMZ)",
        renamed={theirs: ours for theirs, (ours, _) in names.items()},
        options={"bn_eps": BN_EPS},
        notes=["The clip length is the model's; the file has none."],
    )


def misfit(model_name: str, num_classes: int, arrays: dict[str, np.ndarray]) -> str | None:
    """The first difference between the file and the model; None where it fits."""
    names = blob_names(model_name, num_classes)
    if not names:
        return "VMZ's weights are those of R3D and R(2+1)D"
    for theirs, (_, shape) in names.items():
        if theirs not in arrays:
            return f"it has no {theirs}"
        there = arrays[theirs]
        if not isinstance(there, np.ndarray) or there.dtype.kind != "f":
            return f"{theirs} is no array of numbers"
        if there.shape not in (shape, (1, *shape)):  # some heads' biases have a 1 in front
            return f"{theirs} is {_size(there.shape)} and not {_size(shape)}"
    left = [name for name in arrays if name not in names]
    return f"{left[0]} has no place there" if left else None


def blob_names(model_name: str, num_classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """VMZ's name -> our name and shape, for each parameter of the model; empty unless it is a VideoResNet."""
    with torch.device("meta"):
        model = create_model(model_name, num_classes)
    if not isinstance(model, VideoResNet):
        return {}
    modules = {}  # VMZ's name without ending -> ours
    factored = "stem.3.weight" in model.state_dict()
    if factored:
        modules |= {"conv1_middle": "stem.0", "conv1_middle_spatbn_relu": "stem.1"}
        modules |= {"conv1": "stem.3", "conv1_spatbn_relu": "stem.4"}
    else:
        modules |= {"conv1": "stem.0", "conv1_spatbn_relu": "stem.1"}

    blocks = [f"layer{stage}.{i}" for stage in (1, 2, 3, 4) for i in range(len(model.get_submodule(f"layer{stage}")))]
    for number, block in enumerate(blocks):
        for j in (1, 2):
            conv = f"{block}.conv{j}"
            if factored:
                modules[f"comp_{number}_conv_{j}_middle"] = f"{conv}.0.0"
                modules[f"comp_{number}_spatbn_{j}_middle"] = f"{conv}.0.1"
            modules[f"comp_{number}_conv_{j}"] = f"{conv}.0.3" if factored else f"{conv}.0"
            modules[f"comp_{number}_spatbn_{j}"] = f"{conv}.1"
        if model.get_submodule(block).downsample is not None:
            modules[f"shortcut_projection_{number}"] = f"{block}.downsample.0"
            modules[f"shortcut_projection_{number}_spatbn"] = f"{block}.downsample.1"

    state, names = model.state_dict(), {}
    for theirs, ours in modules.items():
        endings = NORM if "spatbn" in theirs else {"w": "weight"}
        names |= {f"{theirs}_{ending}": f"{ours}.{part}" for ending, part in endings.items()}
    names |= {f"last_out_L{num_classes}_w": "fc.weight", f"last_out_L{num_classes}_b": "fc.bias"}

    assert set(names.values()) == {name for name in state if not name.endswith("num_batches_tracked")}
    return {theirs: (ours, tuple(state[ours].shape)) for theirs, ours in names.items()}


def to_tensor(array: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32).reshape(shape))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


# --- a pickle without code


def load_arrays(path: Path) -> object:
    """The arrays, numbers, strings and containers of a pickle. Raises UserError where it asks for anything else."""
    # a damaged pickle makes the unpickler raise anything, from EOFError to MemoryError
    with refusing(path, "pickle", Exception):
        return with_arrays(ArrayUnpickler(io.BytesIO(path.read_bytes()), path).load())


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that admits NumPy's arrays and no other class or function. Python 2's strings are read as latin-1.

    Kind and Values replace NumPy's own classes, whose __setstate__ does not check the pickle: a dtype of object
    pointers over chosen bytes would access memory that was never allocated.
    """

    def __init__(self, file: io.BytesIO, path: Path):
        super().__init__(file, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> object:
        known = ADMITTED.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise UserError(
                f"{self.path} asks for {module}.{name}, and code is not run out of a weights file. Of pickles only "
                "VMZ's weights are read, which are arrays and nothing else."
            )
        return known

    def persistent_load(self, _: object) -> object:
        raise pickle.UnpicklingError("it points outside itself")


class Kind:
    """Replaces numpy.dtype, for plain numbers only, such as ("f4", False, True)."""

    def __init__(self, code: str, *_: object):
        if not (isinstance(code, str) and re.fullmatch(r"[<>=|]?[fiub][1248]", code)):
            raise pickle.UnpicklingError("numbers of an unknown kind")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        _, order, *structure, size, alignment, flags = state
        if any(part is not None for part in structure) or (size, alignment, flags) != (-1, -1, 0):
            raise pickle.UnpicklingError("numbers of an unknown kind")
        self.dtype = self.dtype.newbyteorder(order)


class Values:
    """Replaces numpy.ndarray."""

    def __init__(self, array: np.ndarray | None = None):
        self.array = array

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, columns_first, data = state
        self.array = array_of(data, kind, shape, "F" if columns_first else "C").array


def empty_array(kind: type, shape: tuple, _: object) -> Values:
    """Replaces NumPy's _reconstruct; the pickle fills the array afterwards."""
    if kind is not Values or shape != (0,):
        raise pickle.UnpicklingError("an array of an unknown kind")
    return Values()


def array_of(data: bytes | str, kind: Kind, shape: tuple[int, ...], order: str) -> Values:
    if not isinstance(kind, Kind):
        raise pickle.UnpicklingError("an array of an unknown kind")
    data = data.encode("latin1") if isinstance(data, str) else data  # a Python 2 string
    return Values(np.frombuffer(data, kind.dtype).reshape(shape, order=order))


def scalar_of(kind: Kind, data: bytes | str) -> np.generic:
    return array_of(data, kind, (1,), "C").array[0]


def with_arrays(content: object) -> object:
    """The containers with NumPy arrays in place of Values."""
    if isinstance(content, Values):
        if content.array is None:
            raise pickle.UnpicklingError("an array without values")
        return content.array
    if isinstance(content, dict):
        return {key: with_arrays(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [with_arrays(value) for value in content]
    return content


def latin1_bytes(text: str, encoding: str) -> bytes:
    """Decodes bytes that Python 3 wrote into a pickle for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


ADMITTED = {
    ("numpy", "ndarray"): Values,
    ("numpy", "dtype"): Kind,
    ("numpy._core.multiarray", "_reconstruct"): empty_array,
    ("numpy._core.multiarray", "scalar"): scalar_of,
    ("numpy._core.numeric", "_frombuffer"): array_of,
    ("_codecs", "encode"): latin1_bytes,
}
