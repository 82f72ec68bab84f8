"""The optimiser step: batches, accumulated or not, and what it says when memory is too small."""

import pytest
import torch
import torch.nn as nn

import train
from engine.config import TrainConfig
from engine.tracking import read_metrics
from network.freezing import Freezable
from network.registry import MODELS, InputSpec, ModelEntry, TrainDefaults
from tests.test_train import TINY, assert_equal_weights, one_thread, stop_after, weights_of  # noqa: F401


class NormFree(Freezable):
    """A network without batch norm, in which no clip of a batch touches another."""

    head_name, stem_names = "fc", ("stem",)

    def __init__(self, num_classes: int):
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3, stride=(1, 2, 2), padding=1)
        self.body = nn.Conv3d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, num_classes) logits."""
        x = self.body(self.stem(x).tanh()).tanh()
        return self.fc(x.mean(dim=(2, 3, 4)))


@pytest.fixture
def norm_free(monkeypatch, toy_project) -> dict:
    spec = InputSpec(clip_len=4, frame_stride=2, resize=(80, 60), crop_size=32)
    monkeypatch.setitem(MODELS, "norm_free", ModelEntry("norm_free", NormFree, spec, TrainDefaults()))
    return {**TINY, "model": "norm_free", "epochs": 2, "optimizer": "sgd", "lr": 0.1}


@pytest.mark.parametrize(("batch_size", "accumulate"), [(5, 2), (2, 5), (4, 3)])
def test_accumulating_equals_the_large_batch_a_short_last_step_included(norm_free, batch_size, accumulate):
    large = train.main(TrainConfig(**norm_free | {"batch_size": batch_size * accumulate}))  # 12 clips: 10 + 2, or 12
    small = train.main(TrainConfig(**norm_free | {"batch_size": batch_size, "accumulate": accumulate}))
    left, right = weights_of(large / "last.pth"), weights_of(small / "last.pth")
    for name in left:
        assert torch.allclose(left[name], right[name], rtol=0, atol=1e-6), name
    for one, other in zip(read_metrics(large), read_metrics(small), strict=True):
        assert one["step"] == other["step"]
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-5)
        assert one["train/lr"] == other["train/lr"]


def test_an_accumulating_run_counts_optimiser_steps_and_goes_on_in_the_middle_of_an_epoch(toy_project, monkeypatch):
    settings = {**TINY, "batch_size": 2, "accumulate": 2, "epochs": 2}  # 12 clips: 3 steps of 2 batches
    whole = train.main(TrainConfig(**settings))
    assert [record["step"] for record in read_metrics(whole)] == [3, 6]
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(train.Stopped, match="after step 4"):
            train.main(TrainConfig(**settings, name="stopped"))
    assert_equal_weights(whole / "last.pth", train.main(TrainConfig(resume="stopped")) / "last.pth")
