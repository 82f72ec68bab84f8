import csv
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import features
from common.cli import run_cli
from common.errors import UserError
from engine.features.extraction import FeatureExtractor, cut_windows, feature_files
from engine.features.layers import layer_reader
from engine.features.pooling import pool_windows, unit
from engine.features.protocol import by_key, open_features, run_split
from engine.features.store import FeatureEntry, list_features, load_features
from engine.features.svm import fit_pca, fit_svm, load_svm, save_svm, search_c
from engine.hardware.low_precision import LowPrecisionModel, features_differ
from engine.runs.checkpoint import save_checkpoint
from network import create_model, input_spec, list_models
from tests.helpers.toy import frames_of, make_toy_videos, write_naming_video
from tests.helpers.training import run_tiny

SPEC = replace(input_spec("r3d_10"), clip_len=4, frame_stride=1, resize=(80, 60), crop_size=56)


def run(argv: list, capsys, monkeypatch) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `python features.py argv`, in float32 unless it says --amp:
    what is expected is the same on every processor."""
    if argv[0] in ("extract", "predict") and "--amp" not in argv:
        argv = [*argv, "--amp", "off"]
    monkeypatch.setattr(sys, "argv", ["features.py", *map(str, argv)])
    with pytest.raises(SystemExit) as ended:
        run_cli(features.main)
    return ended.value.code, *capsys.readouterr()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("run") / "best.pth"
    content = {"model": create_model("r3d_10", 3).state_dict(), "config": {"model": "r3d_10", "dataset": "other"}}
    save_checkpoint(path, {**content, "classes": ["a", "b", "c"], "input_spec": SPEC.to_dict()})
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for label in ("Jump", "Run"):
        (folder / label).mkdir()
        for clip in range(2):
            write_naming_video(folder / label / f"v_{label}_g0{1 + clip}_c01.avi", 20 + 7 * clip, label=clip)
    return folder


# --- layers and pooling


@pytest.mark.slow
def test_fc6_is_what_caffe_calls_so_rectified_and_without_dropout():
    with torch.device("meta"):
        model = create_model("c3d", 4).eval()
    model = model.to_empty(device="cpu")
    x = torch.randn(1, 3, 16, 112, 112)
    with torch.no_grad():
        for parameter in model.parameters():  # quicker than its own beginning
            parameter.zero_().view(-1)[::7].normal_(std=0.05)
        fc6, fc7 = layer_reader(model, "fc6")(x), layer_reader(model, "fc7")(x)
        assert fc6.shape == fc7.shape == (1, 4096) and (fc6 >= 0).all() and (fc6 == 0).any()
        assert torch.allclose(fc7, model.fc7(fc6).relu(), atol=1e-6)
        assert torch.allclose(layer_reader(model, "pool")(x), fc7), "the input of the last layer"
        assert torch.allclose(layer_reader(model, "prob")(x), model(x).softmax(1))


@pytest.mark.parametrize("name", ["r2plus1d_10", "cnn_mean_18", pytest.param("s3d", marks=pytest.mark.slow)])
def test_pool_is_the_input_of_the_head_of_every_model(name):
    model = create_model(name, 5).eval()
    x = torch.randn(1, 3, 16, *(2 * (224 if name == "s3d" else 64,)))
    with torch.no_grad():
        pooled = layer_reader(model, "pool")(x)
        head = model.get_submodule(model.head_name)
        # s3d's is a 1x1x1 convolution over positions, then their mean: linear, so the order is free
        assert torch.allclose(pooled @ head.weight.flatten(1).T + head.bias, model(x), atol=1e-4)


@pytest.mark.slow
def test_every_model_has_the_layer_pool():
    with torch.device("meta"):
        for name in list_models():
            assert hasattr(create_model(name, 2), "forward_features"), name


def test_a_layer_of_c3d_is_refused_for_others():
    with pytest.raises(UserError, match=r"--layer fc6 is a layer of C3D, not of VideoResNet\. .*pool, prob"):
        layer_reader(create_model("r3d_10", 2).eval(), "fc6")


def test_average_then_l2_and_not_l2_per_clip_before_averaging():
    """Trap 27: scaled before they are averaged, windows with little to say count as much as those with much."""
    windows = np.array([[3.0, 0.0], [0.0, 1.0]], np.float32)
    expected = np.array([3.0, 1.0]) / np.sqrt(10)
    assert np.allclose(pool_windows(windows), expected)
    assert not np.allclose(pool_windows(windows, norm="before"), expected)
    assert np.linalg.norm(pool_windows(windows)) == pytest.approx(1)
    assert np.allclose(pool_windows(windows, norm="before"), [0.5, 0.5])
    assert np.allclose(pool_windows(windows, "max", "none"), [3, 1])
    assert not unit(np.zeros((1, 3))).any(), "nothing is divided by nothing"


@pytest.mark.parametrize("num_frames, windows", [(4, 1), (11, 1), (12, 2), (20, 3), (3, 1)])
def test_windows_are_8_apart_and_a_short_video_repeats(tmp_path, num_frames, windows):
    path = write_naming_video(tmp_path / "v.avi", num_frames)
    clips = list(cut_windows(path, SPEC, 8))
    assert clips[0].shape == (4, 56, 56, 3)
    expected = [[(8 * number + place) % num_frames for place in range(4)] for number in range(windows)]
    assert [frames_of(clip) for clip in clips] == expected


# --- extraction


def test_a_folder_becomes_a_feature_a_video(videos, checkpoint, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    argv = ["extract", videos, "--checkpoint", checkpoint, "--output", out, "--batch-size", 4, "--device", "cpu"]
    status, printed, err = run(argv, capsys, monkeypatch)
    assert (status, err) == (0, "") and printed == f"4 features of layer pool in {out}\n"
    index = json.loads((out / "index.json").read_text())
    assert (index["layer"], index["step"], index["pooling"], index["norm"]) == ("pool", 8, "mean", "after")
    assert index["model"] == "r3d_10" and len(index["weights_hash"]) == 16
    assert [entry["file"] for entry in index["videos"]] == [
        f"{label}/v_{label}_g0{clip}_c01.npy" for label in ("Jump", "Run") for clip in (1, 2)
    ]
    assert [entry["num_windows"] for entry in index["videos"]] == [3, 3, 3, 3]

    model = create_model("r3d_10", 3).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    clips = (
        torch.from_numpy(np.stack(list(cut_windows(videos / "Run/v_Run_g02_c01.avi", SPEC, 8)))).permute(0, 4, 1, 2, 3)
        / 255
    )
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (SPEC.mean, SPEC.std))
    with torch.no_grad():
        expected = model.forward_features((clips - mean) / std).mean(0)
    feature = np.load(out / "Run/v_Run_g02_c01.npy")
    assert feature.shape == (128,) and feature.dtype == np.float32
    assert np.allclose(feature, expected / expected.norm(), atol=1e-5)


def test_an_interrupted_extraction_goes_on_and_other_settings_are_refused(
    videos, checkpoint, tmp_path, capsys, monkeypatch
):
    out, whole = tmp_path / "out", tmp_path / "whole"
    argv = ["extract", videos, "--checkpoint", checkpoint, "--device", "cpu", "--output"]
    assert run([*argv, whole], capsys, monkeypatch)[0] == 0

    asked = []

    def interrupted(self, clips):
        asked.append(len(clips))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return inside(self, clips)

    inside = FeatureExtractor.windows
    monkeypatch.setattr(FeatureExtractor, "windows", interrupted)
    assert run([*argv, out, "--batch-size", 3], capsys, monkeypatch)[0] == 130
    monkeypatch.setattr(FeatureExtractor, "windows", inside)
    done = sorted(path.name for path in out.rglob("*.npy"))
    assert 0 < len(done) < 4 and not (out / "index.json").exists()
    with pytest.raises(UserError, match="was interrupted. Repeat the command"):
        list_features(out)
    with (out / "index.partial.jsonl").open("a") as file:
        file.write('{"video": "Run/v_R')  # the line that was being written
    status, _, err = run([*argv, out, "--layer", "prob"], capsys, monkeypatch)
    assert status == 1 and "holds features of layer pool, not prob. Choose another --output" in err
    assert run([*argv, out, "--batch-size", 3], capsys, monkeypatch)[0] == 0
    for path in whole.rglob("*.npy"):
        assert np.allclose(np.load(path), np.load(out / path.relative_to(whole)), atol=1e-6)
    assert (out / "index.json").read_text() == (whole / "index.json").read_text()


def test_a_data_set_is_described_from_its_frames(toy_project, checkpoint, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    argv = ["extract", "--dataset", "toy", "--checkpoint", checkpoint, "--output", out, "--device", "cpu"]
    assert run(argv, capsys, monkeypatch)[0] == 0
    index = json.loads((out / "index.json").read_text())
    assert len(index["videos"]) == 24 and index["dataset"] == "toy" and len(index["classes"]) == 3
    assert sorted(path.parent.name for path in out.rglob("*.npy")) == sorted(
        entry["label"] for entry in index["videos"]
    )
    row = index["videos"][0]
    clips = np.stack(list(cut_windows(toy_project.source.videos / row["video"], SPEC, 8)))
    assert row["num_windows"] == len(clips)
    status, _, err = run([*argv[:-2], "--per-window"], capsys, monkeypatch)
    assert status == 1 and "per_window False, not True" in err
    assert run([*argv[:-3], tmp_path / "each", "--per-window"], capsys, monkeypatch)[0] == 0
    each = np.load(tmp_path / "each" / row["file"])
    assert each.shape == (row["num_windows"], 128)
    assert np.allclose(pool_windows(each), np.load(out / row["file"]), atol=1e-5)


def test_what_is_no_video_is_named_and_the_rest_is_described(videos, checkpoint, tmp_path, capsys, monkeypatch):
    shutil.copytree(videos, tmp_path / "in")
    (tmp_path / "in/Run/broken.mp4").write_bytes(b"no video")
    argv = ["extract", tmp_path / "in", "--checkpoint", checkpoint, "--output", tmp_path / "out", "--device", "cpu"]
    status, out, err = run(argv, capsys, monkeypatch)
    assert status == 1 and err.count("\n") == 1 and "broken.mp4 cannot be used as a video" in err
    assert out == f"4 features of layer pool in {tmp_path / 'out'}, 1 video could not be used\n"
    settings, entries = list_features(tmp_path / "out")
    assert len(entries) == 4 and settings["layer"] == "pool"


# --- the SVM


def make_features(folder: Path, num_classes: int = 4, dim: int = 20, noise: float = 0.3, seed: int = 0) -> Path:
    """Named as UCF101 names its videos, 25 groups of 2 clips: a class is a direction, a group a shift of its own."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_classes, dim))
    for number in range(num_classes):
        label = f"Class{chr(65 + number)}"
        (folder / label).mkdir(parents=True)
        for group in range(1, 26):
            shift = noise * rng.normal(size=dim)
            for clip in (1, 2):
                value = centres[number] + shift + 0.1 * rng.normal(size=dim)
                name = f"v_{label}_g{group:02d}_c{clip:02d}.proc.c3d-avg.npy"
                np.save(folder / label / name, (value / np.linalg.norm(value)).astype(np.float32))
    return folder


@pytest.mark.slow
def test_files_made_elsewhere_are_tested_on_the_official_splits(tmp_path, capsys, monkeypatch):
    folder = make_features(tmp_path / "made", noise=1.0)
    status, out, err = run(["svm", folder, "--split", "all", "--pca", 1, 10], capsys, monkeypatch)
    assert (status, err) == (0, "")
    data = open_features([folder], None)
    assert data.source.layout == "ucf101" and len(data.videos) == 200
    [outcome] = run_split(data, "1", [None], 1.0)
    assert outcome.groups == [f"{v.label}/g{int(v.group[-2:]):02d}" for v in data.videos if int(v.group[-2:]) <= 7]
    assert f"all values  split 1: {outcome.accuracy:6.2f} %" in out and "of 56 videos" in out
    found = json.loads((folder / "svm/svm.json").read_text())["results"]
    assert [(entry["split"], entry["pca"]) for entry in found] == [(s, n) for s in "123" for n in (None, 1, 10)]
    mean = np.mean([entry["top1"] for entry in found if entry["pca"] is None])
    assert f"all values  mean of 3: {mean:5.2f}" in out
    assert mean > 90 > np.mean([entry["top1"] for entry in found if entry["pca"] == 1]), "one value is too few"
    rows = list(csv.DictReader((folder / "svm/split1-per_class.csv").open()))
    assert [row["class"] for row in rows] == data.classes and {row["videos"] for row in rows} == {"14"}
    assert (folder / "svm/split1-confusion.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("classes", "dim", "said"),
    [(1, 20, r"all of one class \(ClassA\). An SVM needs two or more"), (2, 0, "have no values. Extract them again")],
)
def test_features_that_no_svm_can_be_trained_on_are_one_line(tmp_path, capsys, monkeypatch, classes, dim, said):
    folder = make_features(tmp_path / "made", num_classes=classes, dim=dim)
    status, _, err = run(["svm", folder, "--split", "1"], capsys, monkeypatch)
    assert status == 1 and re.search(said, err) and err.count("\n") == 1


def test_pca_and_the_search_for_c_see_the_training_list_alone(tmp_path):
    folder = make_features(tmp_path / "made")
    data = open_features([folder], None)
    changed = data.features.copy()
    test = [int(video.group[-2:]) <= 7 for video in data.videos]
    changed[test] = 1e3 * np.random.default_rng(1).normal(size=changed[test].shape)
    for c in (1.0, None):
        before = run_split(data, "1", [5], c, say=lambda _: None)[0].svm
        after = run_split(replace(data, features=changed), "1", [5], c, say=lambda _: None)[0].svm
        assert np.array_equal(before.weights, after.weights) and before.c == after.c
        assert np.array_equal(before.pca_components, after.pca_components)


def test_the_search_for_c_holds_out_whole_groups():
    """Where a group's videos are alike and groups say nothing, only a search that tears groups apart is sure."""
    rng = np.random.default_rng(0)
    of_group = rng.normal(size=(20, 50))
    groups = np.repeat(np.arange(20), 10)
    x = of_group[groups] + 0.01 * rng.normal(size=(200, 50))
    labels = rng.integers(0, 2, 20)[groups]
    _, scores = search_c(x, labels, [str(group) for group in groups])
    assert max(scores.values()) <= 80, "torn apart it would be 100"


def test_the_classifier_is_scikit_learns_and_comes_back_from_its_file(tmp_path):
    from sklearn.svm import LinearSVC

    rng = np.random.default_rng(0)
    for num_classes in (2, 3):
        x, labels = rng.normal(size=(60, 8)).astype(np.float32), np.arange(60) % num_classes
        x[np.arange(60), labels] += 2
        svm = fit_svm(x, labels, [f"c{i}" for i in range(num_classes)], 0.5)
        theirs = LinearSVC(C=0.5, dual=True, max_iter=20_000, random_state=0).fit(x.astype(np.float64), labels)
        assert (svm.margins(x).argmax(1) == theirs.predict(x)).all()
        small = fit_svm(x, labels, svm.classes, 0.5, fit_pca(x, 3))
        save_svm(tmp_path / "a.npz", small, {"layer": "fc6"})
        again, settings = load_svm(tmp_path / "a.npz")
        assert settings == {"layer": "fc6"} and again.classes == small.classes
        assert np.array_equal(again.margins(x), small.margins(x)) and again.num_features == 8
    with pytest.raises(UserError, match="features of 8 values, and these have 5"):
        again.margins(np.zeros((1, 5)))


def test_features_of_several_networks_are_put_side_by_side(tmp_path, capsys, monkeypatch):
    one, two = make_features(tmp_path / "one", seed=0), make_features(tmp_path / "two", dim=12, seed=1)
    data = open_features([one, two], None)
    assert data.features.shape == (200, 32)
    single = open_features([two], None)
    assert np.array_equal(data.features[:, 20:], single.features)
    status, out, _ = run(["svm", "--features", one, two, "--split", 1, "--output", tmp_path / "o"], capsys, monkeypatch)
    assert status == 0 and "200 features of 32 values, 4 classes" in out
    next((two / "ClassA").iterdir()).unlink()
    status, _, err = run(["svm", one, two], capsys, monkeypatch)
    assert status == 1 and "has features of 1 video that the other folders lack" in err


def test_bad_features_are_counted_and_named(tmp_path, capsys, monkeypatch):
    def broken(name: str, change) -> tuple[int, str]:
        folder = make_features(tmp_path / name)
        change(folder)
        status, _, err = run(["svm", folder, "--split", 1], capsys, monkeypatch)
        assert err.count("\n") == 1
        return status, err

    first = "ClassA/v_ClassA_g01_c01.proc.c3d-avg.npy"
    status, err = broken("size", lambda f: np.save(f / first.replace("g01", "g02"), np.zeros(7, np.float32)))
    assert status == 1 and "1 feature cannot be used" in err and "has 7 values, and the first file 20" in err
    status, err = broken("nan", lambda f: np.save(f / first, np.full(20, np.nan, np.float32)))
    assert status == 1 and "has values that are not numbers" in err
    status, err = broken("cut", lambda f: (f / first).write_bytes(b"\x93NUMPY"))
    assert status == 1 and "cannot be read" in err

    def without_training(folder: Path) -> None:
        for path in (folder / "ClassB").iterdir():
            if int(path.name.split("_g")[1][:2]) > 7:
                path.unlink()

    status, err = broken("class", without_training)
    assert status == 1 and "Split 1 has no training video of 1 class (first: ClassB)" in err

    def without_test(folder: Path) -> None:
        for path in folder.rglob("*_g0[1-7]_*.npy"):
            path.unlink()

    status, err = broken("test", without_test)
    assert status == 1 and "has none of its test videos" in err
    status, _, err = run(["svm", tmp_path / "nothing"], capsys, monkeypatch)
    assert status == 1 and "There is no folder" in err
    status, _, err = run(["svm"], capsys, monkeypatch)
    assert status == 2 and "No features are given" in err
    status, _, err = run(["svm", make_features(tmp_path / "pca"), "--pca", 30], capsys, monkeypatch)
    assert status == 1 and "at most 20 components" in err


def test_an_index_without_its_files_is_refused(videos, checkpoint, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    argv = ["extract", videos, "--checkpoint", checkpoint, "--output", out, "--device", "cpu"]
    assert run(argv, capsys, monkeypatch)[0] == 0
    (out / "Run/v_Run_g02_c01.npy").unlink()
    with pytest.raises(UserError, match=r"lists 1 file that are missing \(first: Run/v_Run_g02_c01.npy\)"):
        list_features(out)
    for damage in ("{", '{"format": 1}', '{"format": 1, "videos": [{"video": "Run/v_Run_g02_c01.avi"}]}'):
        (out / "index.json").write_text(damage)
        with pytest.raises(UserError, match="index.json is damaged"):
            list_features(out)


def test_features_of_a_network_that_has_seen_the_test_list_are_refused(tmp_path, capsys, monkeypatch):
    """Trap 28 for features: 89 to 91 % on UCF101 came from it."""
    folder = make_features(tmp_path / "made")
    entries = list_features(folder)[1]
    groups = [f"ClassA/g{number:02d}" for number in (8, 9)]
    videos = [{**vars(entry), "group": f"{entry.label}/{entry.stem.split('_')[2]}"} for entry in entries]
    index = {"format": 1, "layer": "fc6", "trained_on": {"dataset": "ucf101", "split": "1", "groups": groups}}
    (folder / "index.json").write_text(json.dumps({**index, "videos": videos}))
    status, _, err = run(["svm", folder, "--split", 2], capsys, monkeypatch)
    assert status == 1 and "was trained on 2 recordings that split 2 tests on" in err
    assert run(["svm", folder, "--split", 1], capsys, monkeypatch)[0] == 0
    status, out, _ = run(["svm", folder, "--split", 2, "--allow-leak"], capsys, monkeypatch)
    assert status == 0 and "LEAK: the network of these features" in out
    assert json.loads((folder / "svm/svm.json").read_text())["leak"]


def test_windows_kept_one_by_one_are_averaged_and_scaled_for_the_svm(tmp_path):
    folder = make_features(tmp_path / "made")
    entries = list_features(folder)[1]
    windows = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    np.save(folder / entries[3].file, windows)
    assert np.allclose(load_features(folder, entries)[3], pool_windows(windows), atol=1e-6)


def test_one_window_kept_is_scaled_as_many_are(videos, checkpoint, tmp_path, capsys, monkeypatch):
    """A short video has one window; its feature must not be the only one that is not of length 1."""
    shutil.copytree(videos, tmp_path / "in")
    write_naming_video(tmp_path / "in/Run/v_Run_g03_c01.avi", 5)
    for path in (tmp_path / "in").rglob("*.avi"):
        shutil.copy(path, path.with_name(path.name.replace("_g0", "_g1")))
    out = tmp_path / "out"
    network = ["--checkpoint", checkpoint, "--device", "cpu"]
    argv = ["extract", tmp_path / "in", *network, "--output", out, "--per-window"]
    assert run(argv, capsys, monkeypatch)[0] == 0
    data = open_features([out], None)
    assert np.load(out / "Run/v_Run_g03_c01.npy").shape == (1, 128)
    assert np.allclose(np.linalg.norm(data.features, axis=1), 1)

    # and a raw video is described for this SVM as it was in training
    assert run(["svm", out, "--split", 1], capsys, monkeypatch)[0] == 0
    svm, _ = load_svm(out / "svm/split1.npz")
    for number, name in ((0, "v_Jump_g01_c01"), (-1, "v_Run_g13_c01")):
        video = tmp_path / "in" / name[2:].split("_")[0] / f"{name}.avi"
        printed = run(["predict", video, "--svm", out / "svm/split1.npz", *network], capsys, monkeypatch)[1]
        assert data.videos[number].stem == name
        margins = svm.margins(data.features[number][None])[0]
        best = int(margins.argmax())
        assert printed.startswith(f"{video}: {svm.classes[best]} {margins[best]:+.2f}, ")


def test_a_second_folder_does_not_write_over_the_first(videos, checkpoint, tmp_path, capsys, monkeypatch):
    network = ["--checkpoint", checkpoint, "--device", "cpu"]
    (tmp_path / "a/Run").mkdir(parents=True)
    (tmp_path / "b/Run").mkdir(parents=True)
    shutil.copy(videos / "Run/v_Run_g01_c01.avi", tmp_path / "a/Run/clip.avi")
    shutil.copy(videos / "Run/v_Run_g02_c01.avi", tmp_path / "b/Run/clip.mp4")
    assert run(["extract", tmp_path / "a", *network, "--output", tmp_path / "o"], capsys, monkeypatch)[0] == 0
    before = (tmp_path / "o/Run/clip.npy").read_bytes()
    status, _, err = run(["extract", tmp_path / "b", *network, "--output", tmp_path / "o"], capsys, monkeypatch)
    assert status == 1 and "Run/clip.avi and Run/clip.mp4 would both be written as Run/clip.npy" in err
    assert (tmp_path / "o/Run/clip.npy").read_bytes() == before
    both = ["extract", tmp_path / "a/Run/clip.avi", tmp_path / "b/Run/clip.mp4"]
    status, _, err = run([*both, *network, "--output", tmp_path / "new"], capsys, monkeypatch)
    assert status == 1 and "would both be written as Run/clip.npy" in err and not list((tmp_path / "new").iterdir())


# --- raw video to label


def test_a_raw_video_gets_its_label_with_a_margin(videos, checkpoint, tmp_path, capsys, monkeypatch):
    shutil.copytree(videos, tmp_path / "in")
    for path in (tmp_path / "in").rglob("*.avi"):
        shutil.copy(path, path.with_name(path.name.replace("_g01", "_g11").replace("_g02", "_g12")))
    out = tmp_path / "out"
    argv = ["extract", tmp_path / "in", "--checkpoint", checkpoint, "--output", out, "--device", "cpu"]
    assert run(argv, capsys, monkeypatch)[0] == 0
    assert run(["svm", out, "--split", 1], capsys, monkeypatch)[0] == 0
    video = videos / "Run/v_Run_g01_c01.avi"
    argv = ["predict", video, "--svm", out / "svm/split1.npz", "--checkpoint", checkpoint, "--device", "cpu"]
    status, printed, err = run(argv, capsys, monkeypatch)
    svm, _ = load_svm(out / "svm/split1.npz")
    margins = svm.margins(np.load(out / "Run/v_Run_g01_c01.npy")[None])[0]
    best = int(margins.argmax())
    assert (status, err) == (0, "") and printed.startswith(f"{video}: {svm.classes[best]} {margins[best]:+.2f}, ")

    (tmp_path / "text.mp4").write_text("x")
    status, printed, err = run([*argv[:1], tmp_path / "text.mp4", *argv[1:]], capsys, monkeypatch)
    assert status == 1 and printed.count("\n") == 1 and "text.mp4 cannot be used as a video" in err
    torch.manual_seed(9)
    other = torch.load(checkpoint, weights_only=True) | {"model": create_model("r3d_10", 3).state_dict()}
    save_checkpoint(tmp_path / "other.pth", other)
    status, _, err = run([*argv[:-3], tmp_path / "other.pth"], capsys, monkeypatch)
    assert status == 1 and "not of this network" in err
    status, _, err = run([*argv[:3], tmp_path / "no.npz", *argv[4:]], capsys, monkeypatch)
    assert status == 1 and "There is no file" in err
    status, _, err = run([*argv[:3], checkpoint, *argv[4:]], capsys, monkeypatch)
    assert status == 1 and "is not an SVM of features.py" in err


def test_weights_without_a_last_layer_describe_all_the_same(tmp_path, videos, capsys, monkeypatch):
    torch.manual_seed(0)
    state = create_model("r3d_10", 4).state_dict()
    torch.save({name: value for name, value in state.items() if not name.startswith("fc.")}, tmp_path / "trunk.pth")
    argv = ["extract", videos, "--model", "r3d_10", "--weights", tmp_path / "trunk.pth", "--output", tmp_path / "out"]
    assert run(argv, capsys, monkeypatch)[0] == 0
    status, _, err = run([*argv[:-1], tmp_path / "prob", "--layer", "prob"], capsys, monkeypatch)
    assert status == 1 and "has no last layer (fc)" in err


def test_bad_usage_is_one_line(videos, checkpoint, tmp_path, capsys, monkeypatch):
    output = ["--output", tmp_path / "o"]
    for argv, message in (
        (["extract", *output, "--checkpoint", checkpoint], "Give either videos or folders of them"),
        (
            ["extract", videos, "--dataset", "toy", *output, "--checkpoint", checkpoint],
            "Give either videos or folders of them",
        ),
        (["extract", videos, *output], "No network is given"),
        (["extract", videos, *output, "--model", "r3d_18"], "needs --weights kinetics400 or FILE"),
        (["extract", videos, "--frames", "x", *output, "--checkpoint", checkpoint], "give --dataset, too"),
        (["extract", "rtsp://x", *output, "--checkpoint", checkpoint], "is a camera or a stream"),
        (["extract", videos, "--per-window", "--norm", "none", *output, "--checkpoint", checkpoint], "Leave --pooling"),
    ):
        status, out, err = run(argv, capsys, monkeypatch)
        assert (status, out) == (2, "") and message in err and err.count("\n") == 1, err
    (tmp_path / "full").mkdir()
    np.save(tmp_path / "full/x.npy", np.zeros(3))
    argv = ["extract", videos, "--output", tmp_path / "full", "--checkpoint", checkpoint]
    status, _, err = run(argv, capsys, monkeypatch)
    assert status == 1 and "has .npy files but no index.json" in err


def test_low_precision_says_the_same_within_its_rounding(videos, checkpoint, tmp_path, capsys, monkeypatch):
    found = {}
    for amp in ("off", "bf16"):
        argv = ["extract", videos, "--checkpoint", checkpoint, "--output", tmp_path / amp, "--device", "cpu"]
        assert run([*argv, "--amp", amp], capsys, monkeypatch)[0] == 0
        settings, entries = list_features(tmp_path / amp)
        found[settings["precision"]] = load_features(tmp_path / amp, entries)
    exact, low = found["float32"], found["bfloat16"]
    assert 0 < np.linalg.norm(low - exact, axis=1).max() < 0.05  # something else was computed, and the same was said
    status, _, err = run([*argv[:-2], "--device", "cpu", "--amp", "off"], capsys, monkeypatch)
    assert status == 1 and "holds features of precision bfloat16, not float32" in err


class Wrong(torch.nn.Module):
    """In low precision another network: as where a kernel has a fault."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        features = x.flatten(1)[:, :8]
        return features.flip(1) if torch.is_autocast_enabled("cpu") else features

    forward = forward_features


def test_where_low_precision_says_something_else_float32_stays(capsys):
    x = torch.rand(2, 3, 1, 4, 4)
    cpu = torch.device("cpu")
    reader = LowPrecisionModel(
        Wrong().eval(), lambda model: layer_reader(model, "pool"), cpu, torch.bfloat16, features_differ
    )
    for _ in range(2):
        assert torch.equal(reader(x), x.flatten(1)[:, :8])
    err = capsys.readouterr().err
    assert err.count("float32 is used, which is slower") == 1 and "computes other features in bf16" in err


def test_videos_of_one_name_in_train_and_test_have_a_file_each():
    """18 videos were written into 10 files."""
    rows = [
        SimpleNamespace(video=f"{part}/{label}/clip_{n}.avi", label=label, folder=f"{part}/{label}/clip_{n}")
        for part in ("train", "test")
        for label in ("jack", "run")
        for n in (1, 2)
    ]
    rows.append(SimpleNamespace(video="train/run/alone.avi", label="run", folder="train/run/alone"))
    files = feature_files(rows)
    assert len(set(files.values())) == 9 and files["train/run/alone.avi"] == "run/alone.npy"
    entries = [FeatureEntry(row.video, row.label, "", files[row.video], 1, "") for row in rows]
    assert len(by_key(entries)) == 9 and "run/alone" in by_key(entries)


# --- videos that change, and videos that the network has seen


def test_features_follow_their_videos(videos, checkpoint, tmp_path, capsys, monkeypatch):
    data, out = shutil.copytree(videos, tmp_path / "data"), tmp_path / "out"
    argv = ["extract", data, "--checkpoint", checkpoint, "--device", "cpu", "--output", out]
    assert run(argv, capsys, monkeypatch)[0] == 0
    kept, old = (out / "Jump/v_Jump_g01_c01.npy").stat().st_mtime_ns, np.load(out / "Run/v_Run_g01_c01.npy")
    write_naming_video(data / "Run/v_Run_g01_c01.avi", 30, label=2)
    status, said, _ = run(argv, capsys, monkeypatch)
    assert status == 0 and "Of videos that have changed: 1 feature (first: Run/v_Run_g01_c01.avi)." in said
    assert not np.array_equal(np.load(out / "Run/v_Run_g01_c01.npy"), old)
    assert (out / "Jump/v_Jump_g01_c01.npy").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_features_of_a_data_set_follow_its_videos(videos, checkpoint, tmp_path, capsys, monkeypatch):
    data, out = shutil.copytree(videos, tmp_path / "data"), tmp_path / "out"
    network = ["--checkpoint", checkpoint, "--device", "cpu", "--output", out]
    assert run(["extract", "--dataset", data, *network], capsys, monkeypatch)[0] == 0
    before = {entry.video: entry for entry in list_features(out)[1]}
    (data / "Run/v_Run_g01_c01.avi").rename(data / "Jump/v_Run_g01_c01.avi")
    write_naming_video(data / "Jump/v_Jump_g02_c01.avi", 22, label=2)
    status, said, _ = run(["extract", "--dataset", data, *network], capsys, monkeypatch)

    assert status == 0 and "Of videos that are gone, and removed: 1 feature (first: Run/v_Run_g01_c01.avi)." in said
    assert "Of videos that have changed: 1 feature (first: Jump/v_Jump_g02_c01.avi)." in said
    after = {entry.video: entry for entry in list_features(out)[1]}
    assert before.keys() ^ after.keys() == {"Run/v_Run_g01_c01.avi", "Jump/v_Run_g01_c01.avi"}
    assert not (out / "Run/v_Run_g01_c01.npy").exists() and after["Jump/v_Run_g01_c01.avi"].label == "Jump"
    other = make_toy_videos(tmp_path / "other", groups=(1, 8), clips=1)
    status, _, err = run(["extract", "--dataset", other, *network], capsys, monkeypatch)
    assert status == 1 and "holds features of 4 other videos" in err and len(list_features(out)[1]) == 4


@pytest.mark.slow
def test_a_network_trained_on_a_folder_is_known_whatever_the_features_are_called(
    toy_project, tmp_path, capsys, monkeypatch, one_thread
):
    """The index says which videos the network has seen, also where no data set is named."""
    data, out = make_toy_videos(tmp_path / "mine", naming="folder"), tmp_path / "out"
    for number, path in enumerate(sorted(data.rglob("*.avi"))):
        write_naming_video(path, 12 + number, label=number % 3)
    run_dir = run_tiny(dataset=str(data), epochs=1)
    argv = ["extract", "--checkpoint", run_dir, "--device", "cpu", "--output", out, "--dataset"]
    assert run([*argv, data], capsys, monkeypatch)[0] == 0
    seen = {entry.video for entry in list_features(out)[1] if entry.seen}
    split = torch.load(run_dir / "last.pth", weights_only=True)["split"]
    assert seen == {*split["training_videos"], *split["validation_videos"]}

    shutil.copytree(data, tmp_path / "renamed")
    argv[argv.index(out)] = tmp_path / "again"
    assert run([*argv, tmp_path / "renamed"], capsys, monkeypatch)[0] == 0
    assert {entry.video for entry in list_features(tmp_path / "again")[1] if entry.seen} == seen
    for features_of in (out, tmp_path / "again"):
        assert run(["svm", features_of], capsys, monkeypatch)[0] == 0  # tests what the run left for testing
    index = json.loads((out / "index.json").read_text())
    for entry in index["videos"]:
        entry["seen"] = True
    (out / "index.json").write_text(json.dumps(index))
    status, _, err = run(["svm", out], capsys, monkeypatch)
    assert status == 1 and "was trained on 3 videos that split random tests on" in err
