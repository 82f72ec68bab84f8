"""Labels that are wrong on purpose are among the first that the audit doubts."""

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import train
from common.errors import UsageError
from dataloaders.audit import __main__ as audit
from engine.features.mislabelled import doubts_of_features, out_of_fold
from engine.features.protocol import open_features
from engine.training.config import TrainConfig
from tests.helpers.toy import write_naming_video
from tests.helpers.training import TINY

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, RECORDINGS, VIDEOS = "abcde", 10, 4


def write_features(folder: Path, changed: float = 0.0, seed: int = 0) -> set[str]:
    """Features made elsewhere, <class>/<recording>_<take>.npy: a cluster per class, and within it one per recording.
    Returns the videos whose folder, and so class, is another one than that of their feature."""
    rng = np.random.default_rng(seed)
    centres = {name: rng.normal(size=64) for name in CLASSES}
    wrong = set()
    for name in CLASSES:
        for recording in range(RECORDINGS):
            place = centres[name] + 0.8 * rng.normal(size=64)
            for take in range(VIDEOS):
                label = name
                if rng.random() < changed:
                    label = rng.choice([other for other in CLASSES if other != name])
                file = folder / label / f"{name}{recording}_{take}.npy"
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, (place + 0.3 * rng.normal(size=64)).astype(np.float32))
                if label != name:
                    wrong.add(f"{label}/{file.stem}")
    return wrong


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_changed_labels_come_first(tmp_path, seed):
    wrong = write_features(tmp_path / "features", changed=0.03, seed=seed)
    order = sorted(doubts_of_features(tmp_path / "features", None), key=lambda doubt: doubt.own)
    first = {str(Path(doubt.video).with_suffix("")) for doubt in order[: round(0.06 * len(order))]}
    assert len(wrong) >= 3 and len(first & wrong) >= len(wrong) / 2
    assert all(0 <= doubt.own <= doubt.probability <= 1 for doubt in order)


def test_no_video_is_judged_by_its_own_recording(tmp_path):
    """A recording of noise of its own: by its neighbours its label could be told, by other recordings it cannot."""
    write_features(tmp_path / "features")
    noise = np.random.default_rng(1).normal(size=(20, 64)).astype(np.float32) * 20
    for take in range(8):
        np.save(tmp_path / "features" / "a" / f"odd_{take}.npy", noise[0] + 0.01 * noise[take])
    data = open_features([tmp_path / "features"], None)
    probs = out_of_fold(data)
    odd = [number for number, video in enumerate(data.videos) if "odd" in video.video]
    assert np.allclose(probs.sum(1), 1) and len({data.videos[number].group for number in odd}) == 1
    own = probs[odd, data.labels[odd]]
    assert own.max() < 0.5, "its own recording would tell its label"


def test_the_command_lists_features_and_draws_their_videos(tmp_path, capsys):
    wrong = write_features(tmp_path / "features", changed=0.02)
    videos = tmp_path / "videos"
    for file in sorted((tmp_path / "features").rglob("*.npy"))[:3]:
        write_naming_video(videos / file.parent.name / f"{file.stem}.avi", 12)
    assert audit.main(["--labels", str(tmp_path / "features")]) == 0
    out = capsys.readouterr().out
    assert "Labels by doubt, 200 videos" in out and "no pictures" in out
    rows = list(csv.DictReader((tmp_path / "features" / "labels.csv").open()))
    assert [int(row["rank"]) for row in rows] == list(range(1, 201))
    assert {str(Path(row["video"]).with_suffix("")) for row in rows[:12]} & wrong


@pytest.mark.slow
def test_a_cross_validation_judges_all_and_a_run_its_test_videos(toy_project, capsys):
    folder = train.main(TrainConfig(**TINY | {"epochs": 1, "folds": "2"}))
    capsys.readouterr()
    assert audit.main(["--labels", folder.name]) == 0
    out = capsys.readouterr().out
    assert "Labels by doubt, 24 videos" in out and "Note" not in out
    sheet = cv2.imread(str(folder / "labels.jpg"))
    assert sheet.shape[0] > 12 * 120 and np.ptp(sheet) > 100
    single = toy_project.runs / "single"
    shutil.copytree(folder / "fold-1", single)
    assert audit.main(["--labels", str(single)]) == 0
    assert "test videos can be judged" in capsys.readouterr().out


def test_what_cannot_be_audited_is_said(toy_project, tmp_path):
    with pytest.raises(UsageError, match="there is no run and no folder of features of this name"):
        audit.main(["--labels", "nothing"])
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="this run is not tested yet. Do: python evaluate.py"):
        audit.main(["--labels", str(tmp_path / "begun")])
