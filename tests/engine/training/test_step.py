"""The optimiser step: batches, accumulated or not, and what it says when memory is too small."""

import json
import subprocess
import sys

import pytest
import torch

import mypath
import train
from common.errors import UserError
from common.files import ROOT
from engine.runs.tracking import read_metrics
from engine.training.config import TrainConfig
from engine.training.divergence import out_of_memory
from network.registry import MODELS
from tests.helpers.norm_free import ENTRY
from tests.helpers.training import TINY, assert_equal_weights, run_tiny, stop_after, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def norm_free(monkeypatch, toy_project) -> dict:
    monkeypatch.setitem(MODELS, "norm_free", ENTRY)
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


# what a person sees


SMALL_MEMORY = """
import resource, mypath
mypath.DATASETS, mypath.RUNS = {datasets!r}, {runs!r}
import train
from engine.training.config import TrainConfig
from common.cli import run_cli
from network.registry import MODELS
from tests.helpers.norm_free import ENTRY
MODELS["norm_free"] = ENTRY
from train import train_step
def with_little_left(*arguments):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 50 * 2**20, resource.RLIM_INFINITY))
    return train_step(*arguments)
train.train_step = with_little_left
run_cli(lambda argv: train.main(TrainConfig(**{settings!r})))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory as Linux does")
def test_out_of_memory_is_one_line_that_says_what_would_fit(norm_free, toy_project):
    """A real allocation that fails: 480 frames of 56x56 a clip, in a process that may have 50 MB more than it has."""
    settings = norm_free | {"clip_len": 480, "crop_size": 56, "batch_size": 12, "workers": 0, "val": "none"}
    code = SMALL_MEMORY.format(datasets=mypath.DATASETS, runs=str(toy_project.runs), settings=settings)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr == (
        "Out of memory with --batch-size 12 (clips of 480 frames, 56x56). "
        "--batch-size 6 --accumulate 2 takes about half of the memory, for the same steps.\n"
    )
    assert done.returncode == 1


def test_out_of_memory_names_the_step_that_an_odd_batch_gives_and_what_a_single_clip_needs():
    odd = out_of_memory(TrainConfig(batch_size=5, accumulate=3, clip_len=16, crop_size=112))
    assert str(odd).endswith("--batch-size 3 --accumulate 6 takes about half of the memory, for steps of 18 clips.")
    one = out_of_memory(TrainConfig(batch_size=1, clip_len=16, crop_size=112))
    assert "A single clip does not fit: lower --clip-len" in str(one)


def test_the_rate_of_a_model_grows_with_the_clips_of_a_step_and_a_given_one_does_not(norm_free, capsys):
    plain = {name: value for name, value in norm_free.items() if name != "lr"}
    run_dir = train.main(TrainConfig(**plain | {"batch_size": 3, "accumulate": 4, "epochs": 1}))
    assert json.loads((run_dir / "config.json").read_text())["lr"] == pytest.approx(0.1 * 12 / 4)
    out = capsys.readouterr().out
    assert "Learning rate 0.3: 0.1 for steps of 4 clips, the model's own, in proportion to 12." in out
    assert "steps of 12 clips (4 x 3)" in out

    run_dir = train.main(TrainConfig(**norm_free | {"batch_size": 3, "accumulate": 4, "epochs": 1, "lr": 0.05}))
    assert json.loads((run_dir / "config.json").read_text())["lr"] == 0.05
    assert "Learning rate 0.05 as given, for steps of 12 clips." in capsys.readouterr().out


def test_the_gradient_norm_is_that_of_the_whole_step(norm_free):
    large = train.main(TrainConfig(**norm_free | {"batch_size": 10}))
    small = train.main(TrainConfig(**norm_free | {"batch_size": 5, "accumulate": 2}))
    norms = [[record["train/grad_norm"] for record in read_metrics(run)] for run in (large, small)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert all(norm > 0 for norm in norms[0])


def test_config_json_says_under_what_the_run_was_made_and_loads_all_the_same(norm_free):
    path = train.main(TrainConfig(**norm_free | {"epochs": 1})) / "config.json"
    values = json.loads(path.read_text())
    found = values["environment"]
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0] or found["packages"]["torch"] == str(
        torch.__version__
    )
    assert (found["threads"], found["processes"], found["cudnn"]) == (torch.get_num_threads(), 1, None)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if commit.returncode == 0:
        assert found["git"]["commit"] == commit.stdout.strip()
        assert found["git"]["dirty"] in (True, False)
    assert found["command"]
    assert TrainConfig.from_dict(values).model == "norm_free"


def test_a_run_that_ended_before_its_first_checkpoint_begins_again_in_its_folder(norm_free):
    whole = train.main(TrainConfig(**norm_free))
    begun = train.main(TrainConfig(**norm_free, name="begun"))
    for path in begun.glob("*.pth"):
        path.unlink()
    assert train.main(TrainConfig(resume="begun")) == begun
    assert_equal_weights(whole / "last.pth", begun / "last.pth")
    assert [record["epoch"] for record in read_metrics(begun)] == [0, 1]


def test_last_is_written_in_the_middle_of_an_epoch(norm_free, monkeypatch):
    """After each step here, so that the fourth finds what three have left; then the process ends without a word."""
    make_step, made = train.train_step, []

    def step_or_end(run, batches):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(run.progress.step)
        return make_step(run, batches)

    settings = norm_free | {"batch_size": 4, "save_every": 1e-9, "ema": 0.9}
    whole = train.main(TrainConfig(**settings))
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", step_or_end)
        with pytest.raises(KeyboardInterrupt):
            train.main(TrainConfig(**settings, name="ended"))
    left = torch.load(whole.with_name("ended") / "last.pth", weights_only=True)
    assert (left["epoch"], left["step"]) == (1, 4)
    resumed = train.main(TrainConfig(resume="ended", workers=3))
    assert_equal_weights(whole / "last.pth", resumed / "last.pth")
    averages = [torch.load(run / "last.pth", weights_only=True)["ema"] for run in (whole, resumed)]
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])


def test_a_loss_far_above_guessing_is_said_as_clearly_as_nan(toy_project, monkeypatch):
    """--lr 1e3 ended with Done at a loss of 4e8."""
    inside = torch.nn.functional.cross_entropy
    huge = lambda *values, **named: inside(*values, **named) + 4e8  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", huge)
    message = r"^The loss of epoch 1 is .*, where guessing gives 1\.10 \(learning rate .*Try a lower rate"
    with pytest.raises(UserError, match=message):
        run_tiny(epochs=2)
