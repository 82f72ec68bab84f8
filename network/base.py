"""VideoModel, the base class of every network, the freezing of its stem or trunk, and UndrawnWeights.

freeze(model, "trunk")
model.train()            # the trunk stays in eval mode

In train mode, the batch norms of a frozen part would still normalise with the mean of each batch and update their
statistics, so that the features of unchanged weights would drift. VideoModel.train() therefore keeps them in eval mode.
"""

from collections.abc import Iterator

import torch.nn as nn
from torch.overrides import TorchFunctionMode

from common.errors import UsageError

PARTS = ("none", "stem", "trunk")
FILLS = {"fill_", "normal_", "uniform_", "zero_"}


class VideoModel(nn.Module):
    """A network with named parts, which subclasses set.

    head_name    the last layer, which is initialised anew for other classes
    stem_names   the first layers, which detect colours and edges
    stage_names  the last module of each resolution, from fine to coarse, whose maps --explain uses; empty for networks
                 without convolutions
    frozen       the modules that freeze() chose; train() leaves them in eval mode
    """

    head_name: str
    stem_names: tuple[str, ...]
    stage_names: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()

    @property
    def trunk_names(self) -> tuple[str, ...]:
        """The fewest modules that together hold all parameters and statistics except the head's."""
        return tuple(_beside(self.head_name, self))

    def train(self, mode: bool = True) -> "VideoModel":
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self


class UndrawnWeights(TorchFunctionMode):
    """A context in which new networks keep their parameters unset, for weights that are loaded right after it: drawing
    those of C3D takes 1.8 seconds. Buffers get their values. Transformers are drawn nevertheless (trunc_normal_)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func.__name__ in FILLS:
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


def freeze(model: VideoModel, part: str) -> tuple[str, ...]:
    """Freezes the model's "stem" or "trunk", or with "none" unfreezes all of it; returns the names of frozen modules.

    Frozen parameters get no gradient, and frozen modules stay in eval mode when model.train() is called. Dropout
    outside them, such as the one before the head, stays active. A state dict does not store what is frozen: call this
    again on a rebuilt model.
    """
    if part not in PARTS:
        raise UsageError(f"The part to freeze must be {', '.join(PARTS)}, but is '{part}'.")
    model.frozen = {"none": (), "stem": model.stem_names, "trunk": model.trunk_names}[part]
    model.requires_grad_(True)
    for name in model.frozen:
        model.get_submodule(name).requires_grad_(False)
    model.train(model.training)
    return model.frozen


def _beside(head_name: str, module: nn.Module, path: str = "") -> Iterator[str]:
    """Names of the largest modules that have parameters or statistics and do not contain the head."""
    for name, child in module.named_children():
        name = path + name
        if head_name.startswith(f"{name}."):
            yield from _beside(head_name, child, f"{name}.")
        elif name != head_name and child.state_dict():
            yield name
