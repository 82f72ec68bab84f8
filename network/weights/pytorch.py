"""State dicts of other PyTorch programs that have our C3D, under other names or for another input.

They are recognised by their keys:

    features.0 ... classifier.6   c3d-pretrained.pth of jfzhang95/pytorch-video-recognition: Caffe's Sports-1M weights.
                                  B, G, R less 90, 98, 102, as that program feeds them.
    conv1 ... fc8 and 487 classes DavideA's c3d.pickle: Caffe's Sports-1M weights. B, G, R less Caffe's means.
    conv1 ... fc8 with opt_dict   a checkpoint of jfzhang95/pytorch-video-recognition. B, G, R less 90, 98, 102.
    conv1a.conv ... fc7           mmaction2's backbone; a whole checkpoint has backbone. in front, and cls_head.fc_cls.
                                  R, G, B less 104, 117, 128 in this order: these look like means in B, G, R, but its
                                  configuration subtracts them from R, G, B, and that is what its networks saw.

Checkpoints of eriklindernoren/Action-Recognition are read by convlstm.py. conv1 ... fc8 for any other number of
classes, without the keys of a program, is taken for a state dict of ours.

pool5 depends on the training. Weights converted from Caffe need Caffe's windows ("ceil"), though each of these programs
pools symmetrically. Weights that were trained further in such a program need "symmetric".
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from common.errors import UserError
from network.weights.caffe import LAYERS, c3d_input, check_shapes, from_bgr
from network.weights.convlstm import is_convlstm, read_convlstm
from network.weights.loaded import LoadedWeights, check_finite, check_is_c3d

JFZHANG_MEAN_BGR = (90.0, 98.0, 102.0)
MMACTION_MEAN_RGB = (104.0, 117.0, 128.0)
SPORTS1M_CLASSES = 487

OUR_LAYERS = tuple(LAYERS.values())
SEQUENTIAL = ("features.0", "features.3", "features.6", "features.8", "features.11", "features.13", "features.16")
SEQUENTIAL += ("features.18", "classifier.0", "classifier.3", "classifier.6")
MMACTION = (*(f"{layer}.conv" for layer in LAYERS if layer.startswith("conv")), "fc6", "fc7", "cls_head.fc_cls")


def from_ancestor(
    path: Path, content: dict, state: dict[str, Tensor], renamed: dict[str, str], model_name: str
) -> LoadedWeights | None:
    """The weights under our names, or None where the keys belong to no known program.

    content: the whole file. state: its parameters without wrapper prefixes. renamed: name with prefix -> name in
    `state`.
    """
    for prefix, network in (("res3d.", "R3D"), ("res2plus1d.", "R2Plus1D")):
        if any(name.startswith(prefix) for name in state):
            raise UserError(
                f"{path} is an {network} of pytorch-video-recognition. That is another network: it norms and rectifies "
                "a second time after each convolution, so its weights do not fit. Begin with kinetics400."
            )

    if is_convlstm(state):
        return read_convlstm(path, state, renamed, model_name)
    if "feature_extractor.0.weight" in state:
        raise UserError(
            f"{path} is a ConvClassifier of Action-Recognition, which has a layer more than cnn_mean and averages "
            "nothing. Only that program's ConvLSTM can be used."
        )

    find = next((read for has_marks, read in KINDS if has_marks(content, state)), None)
    if find is None:
        return None
    check_is_c3d(path, model_name)
    return find(path, state, renamed)


def is_sequential(_: dict, state: dict[str, Tensor]) -> bool:
    return "features.18.weight" in state and "classifier.0.weight" in state


def read_sequential(path: Path, state: dict[str, Tensor], renamed: dict[str, str]) -> LoadedWeights:
    ours, renamed = rename(state, renamed, dict(zip(SEQUENTIAL, OUR_LAYERS, strict=True)))
    return from_bgr(
        path, ours, renamed, f"{path} (c3d-pretrained, from Caffe)", {"pool5": "ceil"}, mean_bgr=JFZHANG_MEAN_BGR
    )


def is_jfzhang(content: dict, state: dict[str, Tensor]) -> bool:
    return has_our_names(state) and "opt_dict" in content


def read_jfzhang(path: Path, state: dict[str, Tensor], renamed: dict[str, str]) -> LoadedWeights:
    origin = f"{path} (pytorch-video-recognition)"
    loaded = from_bgr(path, state, renamed, origin, {"pool5": "symmetric"}, mean_bgr=JFZHANG_MEAN_BGR)
    note = "It was trained on every 4th frame (of short videos on more): the frame stride is 4."
    return replace(loaded, input_spec=replace(loaded.input_spec, frame_stride=4), notes=[*loaded.notes, note])


def is_davidea(_: dict, state: dict[str, Tensor]) -> bool:
    head = state.get("fc8.weight")
    return has_our_names(state) and head is not None and head.ndim == 2 and head.shape[0] == SPORTS1M_CLASSES


def read_davidea(path: Path, state: dict[str, Tensor], renamed: dict[str, str]) -> LoadedWeights:
    return from_bgr(path, state, renamed, f"{path} (487 classes: from Caffe's Sports-1M)", {"pool5": "ceil"})


def is_mmaction(_: dict, state: dict[str, Tensor]) -> bool:
    return any(f"{prefix}conv5b.conv.weight" in state for prefix in ("", "backbone."))


def read_mmaction(path: Path, state: dict[str, Tensor], renamed: dict[str, str]) -> LoadedWeights:
    places = dict(zip(MMACTION, OUR_LAYERS, strict=True))
    ours, renamed = rename(state, renamed, {**places, **{f"backbone.{name}": layer for name, layer in places.items()}})
    check_shapes(path, ours)
    check_finite(path, ours)
    trained = "fc8.weight" in ours  # a bare backbone is the converted Caffe model that training begins with
    return LoadedWeights(
        state=ours,
        input_spec=c3d_input(MMACTION_MEAN_RGB),
        classes=None,
        origin=f"{path} (mmaction2)",
        renamed=renamed,
        options={"pool5": "symmetric" if trained else "ceil"},
        notes=[f"From each colour, 0 to 255, its mean is taken: R, G, B = {_numbers(MMACTION_MEAN_RGB)}."],
    )


KINDS: list[tuple[Callable[[dict, dict], bool], Callable[[Path, dict, dict], LoadedWeights]]] = [
    (is_sequential, read_sequential),
    (is_mmaction, read_mmaction),
    (is_jfzhang, read_jfzhang),
    (is_davidea, read_davidea),
]


def has_our_names(state: dict[str, Tensor]) -> bool:
    """C3D's names, without norms."""
    return all(f"{layer}.{part}" in state for layer in OUR_LAYERS[:-1] for part in ("weight", "bias"))


def rename(
    state: dict[str, Tensor], renamed: dict[str, str], places: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Replaces layer names by `places` in state and renamed; names without a place stay."""
    before = {new: old for old, new in renamed.items()}
    ours, pairs = {}, {}
    for name, value in state.items():
        layer, _, part = name.rpartition(".")
        new = f"{places[layer]}.{part}" if layer in places else name
        ours[new] = value
        if new != before.get(name, name):
            pairs[before.get(name, name)] = new
    return ours, pairs


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
