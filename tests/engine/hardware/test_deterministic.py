"""--deterministic: what it sets, what it refuses, and equal bits on a GPU where there is one."""

import pytest
import torch

import train
from common.errors import UsageError
from engine.hardware.deterministic import check_deterministic_kernels, set_deterministic
from engine.training.config import TrainConfig
from network import create_model, input_spec
from tests.helpers.training import TINY, assert_equal_weights

pytestmark = pytest.mark.usefixtures("one_thread")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def as_before():
    yield
    set_deterministic(False)


def test_deterministic_holds_for_a_run_and_the_next_one_without_it_is_free_again(toy_project, monkeypatch):
    seen, make_step = [], train.train_step

    def note(run, batches):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
        return make_step(run, batches)

    monkeypatch.setattr(train, "train_step", note)
    exact = train.main(TrainConfig(**TINY | {"epochs": 1, "deterministic": True}))
    assert set(seen) == {(True, False)}
    train.main(TrainConfig(resume=str(exact), epochs=2))
    assert set(seen) == {(True, False)}, "a resumed run keeps it"
    seen.clear()
    train.main(TrainConfig(**TINY | {"epochs": 1}))
    assert set(seen) == {(False, True)}


@needs_gpu
@pytest.mark.parametrize("model", ["r3d_10", "r2plus1d_10"])
def test_deterministic_runs_are_equal_on_a_gpu(toy_project, model):
    runs = [train.main(TrainConfig(**TINY | {"model": model, "deterministic": True})) for _ in range(2)]
    assert_equal_weights(runs[0] / "last.pth", runs[1] / "last.pth")


@needs_gpu
def test_what_has_no_deterministic_kernel_on_a_gpu_is_named_before_a_run():
    set_deterministic(True)
    device, spec = torch.device("cuda"), input_spec("s3d")
    with pytest.raises(UsageError, match="avg_pool3d_backward_cuda, which this network needs, has no deterministic"):
        check_deterministic_kernels(create_model("s3d", 3).to(device), spec, device, None)
