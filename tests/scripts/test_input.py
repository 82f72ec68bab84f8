"""--input: networks that see differences of neighbouring frames, alone or beside the frames."""

from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
import torch

import evaluate as evaluate_script
import train
from common.errors import UsageError, UserError
from common.files import ROOT
from dataloaders.dataset import EvalDataset, TrainDataset, WindowDataset
from dataloaders.frame_set import open_frames
from dataloaders.loader import ClipLoader
from dataloaders.preprocess.run import Settings, preprocess
from dataloaders.sources.find import find_source
from dataloaders.transforms import to_model_input
from engine.evaluation.evaluate import evaluate
from engine.runs.checkpoint import load_model, save_checkpoint
from engine.runs.pictures import clip_sheet
from engine.training.command_line import parse_configs
from engine.training.config import TrainConfig
from inference import Recognizer
from network import InputSpec, create_model, input_spec, list_models
from network.base import freeze
from network.input_channels import input_conv
from network.weights.loaded import LoadedWeights
from network.weights.read import load_into, read_weights
from tests.helpers.toy import CLASSES, TOY_SIZE, frame_naming, frames_of, write_naming_video, write_video

RGB = InputSpec(clip_len=6, frame_stride=2, resize=TOY_SIZE, crop_size=48)
DIFF, BOTH = replace(RGB, input="diff"), replace(RGB, input="rgb+diff")
STD = torch.tensor(RGB.std).view(3, 1, 1, 1) * 255
TINY = {"dataset": "toy", "model": "r3d_10", "epochs": 2, "batch_size": 6, "crop_size": 32, "clip_len": 4, "lr": 0.003}


def random_clips(num_frames: int, num_clips: int = 2) -> torch.Tensor:
    shape = (num_clips, num_frames, 48, 48, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


# what the network gets


def test_differences_take_one_frame_more_and_span_more_of_the_video():
    assert (RGB.read_len, RGB.span, RGB.channels) == (6, 11, 3)
    assert (DIFF.read_len, DIFF.span, DIFF.channels) == (7, 13, 3)
    assert (BOTH.read_len, BOTH.span, BOTH.channels) == (7, 13, 6)
    with pytest.raises(UsageError, match="input must be rgb, diff, rgb.diff, but is 'flow'"):
        replace(RGB, input="flow")


def test_a_static_video_is_exactly_zero():
    still = random_clips(1).expand(-1, 7, -1, -1, -1)
    assert torch.equal(to_model_input(still, DIFF), torch.zeros(2, 3, 6, 48, 48))
    both = to_model_input(still, BOTH)
    assert torch.equal(both[:, :3], to_model_input(still[:, :6], RGB))
    assert not both[:, 3:].any()


def test_differences_are_the_next_frame_less_this_one_over_std_below_zero_too():
    clips = random_clips(7)
    frames = clips.permute(0, 4, 1, 2, 3).long()
    expected = (frames[:, :, 1:] - frames[:, :, :-1]) / STD  # (B, 3, 6, 48, 48)
    assert expected.min() < -1 and expected.max() > 1, "differences of uint8 must not wrap around"
    assert torch.allclose(to_model_input(clips, DIFF), expected)
    both = to_model_input(clips, BOTH)
    assert both.shape == (2, 6, 6, 48, 48)
    assert torch.allclose(both[:, 3:], expected)
    assert torch.equal(both[:, :3], to_model_input(clips[:, :6], RGB))
    assert torch.equal(to_model_input(clips, replace(DIFF, mean=(0.0, 0.1, 0.9))), to_model_input(clips, DIFF))


@pytest.mark.parametrize("spec", [DIFF, BOTH])
def test_a_mirrored_clip_has_mirrored_differences_and_channels_lie_last_in_memory(spec):
    clips = random_clips(7)
    x = to_model_input(clips, spec)
    assert x.is_contiguous(memory_format=torch.channels_last_3d)
    mirrored = to_model_input(clips, spec, torch.tensor([True, False]))
    assert torch.equal(mirrored[0], x[0].flip(3)) and torch.equal(mirrored[1], x[1])


@pytest.fixture(scope="module")
def toy_set(toy_source, toy_frames):
    return open_frames(toy_source, DIFF)


def test_a_moving_toy_gives_its_known_difference(toy_set):
    """The red of a toy video rises by 14 a frame and falls by 210 after each 16th; green stands still."""
    train_set, val_set = TrainDataset(toy_set, DIFF), EvalDataset(toy_set, DIFF, "val", num_clips=1)
    assert train_set.clip_shape == (7, 48, 48, 3) and val_set.clip_shape == (1, 7, 48, 48, 3)
    for dataset in (train_set, val_set):
        out = np.empty(dataset.clip_shape, np.uint8)
        dataset.load(0, 0, out)
        x = to_model_input(torch.from_numpy(out).view(1, 7, 48, 48, 3), DIFF)[0] * STD  # (3, 6, 48, 48), levels
        red, green = x[0].mean((1, 2)), x[1].mean((1, 2))
        assert all(abs(level - 28) < 4 or abs(level + 196) < 4 for level in red.tolist())
        assert green.abs().max() < 4


def test_frozen_frames_are_exactly_nothing_to_a_network_of_differences(toy_set):
    dataset = EvalDataset(toy_set, DIFF, "test", num_clips=2, order="frozen")
    out = np.empty(dataset.clip_shape, np.uint8)
    dataset.load(0, 3, out)
    assert not to_model_input(torch.from_numpy(out), DIFF).any()


def test_the_last_start_leaves_room_for_the_further_frame(tmp_path):
    """A video of 13 frames holds one clip of differences at stride 2, one of 12 repeats."""
    for number in (12, 13, 14):
        write_naming_video(tmp_path / "videos" / "train" / "run" / f"{number}.avi", number)
    source = find_source(str(tmp_path / "videos"), {}, ROOT)
    preprocess(source, Settings(TOY_SIZE))
    dataset = EvalDataset(open_frames(source, DIFF, val="none"), DIFF, "train", num_clips=2)
    last = []
    for position in range(3):
        out = np.empty(dataset.clip_shape, np.uint8)
        dataset.load(0, position, out)
        last.append(frames_of(out[1]))
    assert last == [[0, 2, 4, 6, 8, 10, 0], [0, 2, 4, 6, 8, 10, 12], [1, 3, 5, 7, 9, 11, 13]]


def test_every_window_has_its_further_frame_too(toy_set):
    """Videos of 20 frames hold windows of span 13 at 0 and 4; the last frame of the last one is frame 16."""
    dataset = WindowDataset(toy_set, DIFF, "test", window_step=4)
    assert dataset.clip_shape == (1, 7, 48, 48, 3) and len(dataset) == 2 * 6
    out = np.empty(dataset.clip_shape, np.uint8)
    dataset.load(0, 1, out)
    assert frames_of(out[0]) == [4, 6, 8, 10, 12, 14, 16]
    with pytest.raises(AssertionError, match="6 frames do not make 6 differences"):
        to_model_input(torch.from_numpy(out[:, :6]), DIFF)


def test_the_picture_of_the_clips_shows_differences_around_grey():
    still = to_model_input(random_clips(1).expand(-1, 7, -1, -1, -1), DIFF)
    assert (clip_sheet(still, DIFF) == 128).all()
    clips = random_clips(7)
    assert np.array_equal(
        clip_sheet(to_model_input(clips, BOTH), BOTH), clip_sheet(to_model_input(clips[:, :6], RGB), RGB)
    )


# networks of six channels


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_network_can_read_six_channels(name):
    spec = input_spec(name)
    with torch.device("meta"):
        plain, wide = create_model(name, 5).eval(), create_model(name, 5, in_channels=6).eval()
        assert wide(torch.empty(2, 6, spec.clip_len, spec.crop_size, spec.crop_size)).shape == (2, 5)
    layer, conv = input_conv(wide)
    before, after = plain.state_dict(), wide.state_dict()
    assert list(before) == list(after)
    assert [key for key in before if before[key].shape != after[key].shape] == [f"{layer}.weight"]
    assert conv.in_channels == 6 and type(conv) is type(input_conv(plain)[1])
    assert wide.options == {"in_channels": 6}
    assert {id(parameter) for parameter in conv.parameters()} <= {id(parameter) for parameter in wide.parameters()}


def test_a_widened_layer_begins_as_loud_as_before_and_every_channel_counts():
    torch.manual_seed(0)
    narrow = input_conv(create_model("r3d_18", 2))[1].weight
    wide = input_conv(create_model("r3d_18", 2, in_channels=6))[1].weight
    assert wide.square().sum().item() == pytest.approx(narrow.square().sum().item(), rel=0.05)
    assert wide[:, 3:].std().item() == pytest.approx(wide[:, :3].std().item(), rel=0.05)
    assert not torch.equal(wide[:, 3:], wide[:, :3])


@pytest.mark.parametrize(("seen", "known"), [("rgb", slice(0, 3)), ("diff", slice(3, 6))])
def test_weights_of_three_channels_answer_as_before_until_the_new_ones_have_learnt(seen, known):
    torch.manual_seed(0)
    old = create_model("r2plus1d_10", 4).eval()
    wide = create_model("r2plus1d_10", 4, in_channels=6).eval()
    weights = LoadedWeights(old.state_dict(), replace(RGB, input=seen), None, "a file")
    report = load_into(wide, weights)
    assert "widened from 3 to 6 channels" in report.table()
    assert not report.reinitialised and not report.skipped

    x = torch.randn(2, 6, 4, 32, 32)
    assert torch.allclose(wide(x), old(x[:, known]), atol=1e-5)
    wide(x).sum().backward()
    assert (input_conv(wide)[1].weight.grad.abs().amax((0, 2, 3, 4)) > 0).all(), "zeros that never learn"


# a whole run


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["diff", "rgb+diff"])
def test_a_run_trains_is_resumed_is_tested_and_recognises(toy_project, tmp_path, capsys, one_thread, seen):
    run_dir = train.main(TrainConfig(**TINY, input=seen))
    assert "differences" in capsys.readouterr().out
    train.main(TrainConfig(resume=str(run_dir), epochs=3))
    [results] = evaluate_script.main([str(run_dir), "--num-clips", "2", "--temporal"])
    assert results["normal"].probs.shape == (6, 3)

    trained = load_model(run_dir / "best.pth")
    assert trained.input_spec.input == seen
    assert input_conv(trained.model)[1].in_channels == trained.input_spec.channels
    if seen == "diff":  # all videos look alike to it once they stand still
        assert np.ptp(results["frozen"].probs, axis=0).max() < 1e-6 < np.ptp(results["normal"].probs, axis=0).max()

    video = write_naming_video(tmp_path / "clip.avi", 20)
    recognizer = Recognizer(run_dir / "best.pth", stride=100)
    prediction = recognizer.predict(video)
    assert prediction.windows[0].last_frame == 4 * 3, "5 frames at a stride of 3"
    explanation = recognizer.explain(video, prediction)
    assert explanation.heat.shape[0] == 20 and not explanation.heat[13:].any()

    again = train.main(TrainConfig(**TINY | {"epochs": 1}, weights=str(run_dir)))
    assert load_model(again / "best.pth").input_spec.input == seen, "weights bring what they see"
    other = train.main(TrainConfig(**TINY | {"epochs": 1}, weights=str(run_dir), input="rgb"))
    assert load_model(other / "best.pth").input_spec.input == "rgb"
    assert "the weights were trained on" in capsys.readouterr().out


def test_evaluation_and_inference_agree_with_differences_taken_by_hand(toy_set, tmp_path):
    torch.manual_seed(3)
    model = create_model("r3d_10", 3, in_channels=6).eval()
    model.fc.weight.data.mul_(50)

    def by_hand(pictures: list[np.ndarray]) -> np.ndarray:
        """7 pictures of 80x60 -> (3,) probabilities"""
        crops = np.stack([picture[6:54, 16:64] for picture in pictures]).astype(np.float64) / 255  # (7, 48, 48, 3)
        colours = (crops[:6] - np.array(RGB.mean)) / np.array(RGB.std)
        x = np.concatenate([colours, (crops[1:] - crops[:6]) / np.array(RGB.std)], axis=3)  # (6, 48, 48, 6)
        with torch.no_grad():
            return model(torch.tensor(x.transpose(3, 0, 1, 2)[None], dtype=torch.float32)).softmax(1)[0].numpy()

    dataset = EvalDataset(toy_set, BOTH, "test", num_clips=1)
    result = evaluate(model, ClipLoader(dataset, 4), BOTH, torch.device("cpu"))
    for row, probs in zip(dataset.rows, result.probs, strict=True):
        start = (20 - 13) // 2
        frames = list(toy_set.read_frames(row, [start + 2 * k for k in range(7)]))
        assert np.allclose(probs, by_hand(frames), atol=1e-5)

    content = {
        "model": model.state_dict(), "config": {"model": "r3d_10"}, "classes": list(CLASSES),
        "input_spec": BOTH.to_dict(), "model_options": {"in_channels": 6},
    }  # fmt: skip
    save_checkpoint(tmp_path / "best.pth", content)
    video = write_video(tmp_path / "v.avi", (frame_naming(index, 1) for index in range(16)))
    with av.open(str(video)) as container:
        decoded = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    frames = [cv2.resize(frame, TOY_SIZE)[..., ::-1] for frame in decoded]
    windows = Recognizer(tmp_path / "best.pth", device="cpu", stride=3, amp="off").predict(video).windows
    assert [window.first_frame for window in windows] == [0, 3]
    for window in windows:
        pictures = [frames[window.first_frame + 2 * k] for k in range(7)]
        assert np.allclose(window.probabilities, by_hand(pictures), atol=1e-4)


def test_a_checkpoint_from_before_there_were_differences_sees_frames(tmp_path):
    spec = {key: value for key, value in RGB.to_dict().items() if key != "input"}
    content = {
        "model": create_model("r3d_10", 3).state_dict(), "config": {"model": "r3d_10"}, "classes": list(CLASSES),
        "input_spec": spec,
    }  # fmt: skip
    save_checkpoint(tmp_path / "best.pth", content)
    assert load_model(tmp_path / "best.pth").input_spec == RGB
    assert read_weights(tmp_path / "best.pth", "r3d_10").input_spec == RGB


def test_a_stem_that_is_blind_to_half_of_its_input_is_not_frozen(toy_project, tmp_path):
    torch.save(create_model("r3d_10", 400).state_dict(), tmp_path / "trunk.pth")
    with pytest.raises(UserError, match="--freeze would keep the first layer's new channels at zero"):
        train.main(TrainConfig(**TINY, weights=str(tmp_path / "trunk.pth"), freeze="stem", input="rgb+diff"))
    assert not toy_project.runs.exists()
    assert freeze(create_model("r3d_10", 3, in_channels=6), "stem") == ("stem",)


def test_channels_follow_from_the_input_and_are_no_option_of_their_own():
    with pytest.raises(UsageError, match="sets the number of input channels"):
        parse_configs(["--model-options", "in_channels=6"], "toy", "r3d_10")[0].build_options()
