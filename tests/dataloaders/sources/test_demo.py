import itertools
import json
import re
import subprocess
import sys

import av
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from common.errors import UserError
from common.files import ROOT
from dataloaders.sources.demo import (
    CLASSES,
    FPS,
    LOG_SIZE,
    MARKER,
    MOTIONS,
    OPPOSITE,
    draw_paths,
    draw_scene,
    generate_demo,
    object_boxes,
    object_states,
    render_video,
    video_path,
)

SMALL = {"classes": ("MoveLeft", "TurnClockwise"), "num_groups": 2, "clips_per_group": 1}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    generate_demo(folder, num_groups=2, clips_per_group=2)
    return folder


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.avi")}


def test_files_lie_and_are_named_as_in_ucf101(demo):
    names = {path.relative_to(demo).as_posix() for path in demo.rglob("*.avi")}

    assert len(names) == 8 * 2 * 2
    assert all(re.fullmatch(r"(\w+)/v_\1_g0[12]_c0[12]\.avi", name) for name in names)
    assert {path.name for path in demo.iterdir() if path.is_dir()} == set(CLASSES)
    assert not list(demo.rglob("*.part"))


def test_files_are_mpeg4_of_160x120_at_25_frames_a_second(demo):
    for path in demo.rglob("*.avi"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            num_frames = sum(1 for _ in container.decode(video=0))

            assert container.format.name == "avi"
            assert stream.codec_context.name == "mpeg4"
            assert (stream.width, stream.height, stream.average_rate) == (160, 120, FPS)
            assert 36 <= num_frames == stream.frames <= 44


def test_files_show_what_was_drawn(demo):
    for class_name in CLASSES:
        frames = render_video(class_name, 2, 1)

        shown = decode(demo / video_path(class_name, 2, 1))

        assert shown.shape == frames.shape
        # chroma is stored at half the size, so edges differ; an exchange of colours or frames would be far above this
        assert np.abs(shown.astype(int) - frames).mean() < 6


@pytest.mark.slow
def test_same_seed_gives_same_pixels_however_many_videos_are_made(demo, tmp_path):
    draw_scene.cache_clear()
    generate_demo(tmp_path / "again", **SMALL)

    again = contents(tmp_path / "again")
    assert len(again) == 4
    for path in again:
        np.testing.assert_array_equal(decode(tmp_path / "again" / path), decode(demo / path))


def test_pixels_do_not_depend_on_what_was_drawn_before():
    first = render_video("ZoomIn", 3, 2)
    draw_scene.cache_clear()
    render_video("MoveUp", 9, 4)

    np.testing.assert_array_equal(render_video("ZoomIn", 3, 2), first)


def test_another_seed_group_or_clip_gives_other_pixels():
    videos = [render_video("MoveUp", 1, 1), render_video("MoveUp", 1, 1, seed=1)]
    videos += [render_video("MoveUp", 2, 1), render_video("MoveUp", 1, 2)]

    for i, one in enumerate(videos):
        for other in videos[:i]:
            assert np.abs(one[0].astype(int) - other[0]).mean() > 5


def test_pixels_are_those_of_this_version():
    """They change only together with VERSION: folders made before would otherwise mix old videos and new ones."""
    frames = render_video("TurnClockwise", 4, 3, seed=5)

    assert frames.shape == (42, 120, 160, 3)
    assert int(frames.sum(dtype=np.int64)) == 189679555


def test_opposite_is_mutual_and_another_class():
    assert set(OPPOSITE) == set(CLASSES)
    assert all(OPPOSITE[OPPOSITE[name]] == name != OPPOSITE[name] for name in CLASSES)
    assert OPPOSITE["MoveLeft"] == "MoveRight" and OPPOSITE["TurnClockwise"] == "TurnCounterclockwise"


@pytest.mark.slow
def test_reversed_video_is_the_opposite_class():
    for name in CLASSES:
        np.testing.assert_array_equal(render_video(name, 5, 1)[::-1], render_video(OPPOSITE[name], 5, 1))


def test_classes_move_as_they_are_named():
    def change(name):
        return np.diff(object_states(name, 6, 2), axis=0)  # (T - 1, 4)

    for name, (axis, direction) in MOTIONS.items():
        assert (direction * change(name)[:, axis] > 0).all()
        assert (np.delete(change(name), axis, axis=1) == 0).all()

    left, down, zoom = (object_boxes(name, 6, 2) for name in ("MoveLeft", "MoveDown", "ZoomIn"))
    assert left[-1, 0] < left[0, 0] and left[-1, 2] < left[0, 2]
    assert down[-1, 1] > down[0, 1] and down[-1, 3] > down[0, 3]
    assert np.ptp(zoom[-1, ::2]) > np.ptp(zoom[0, ::2])


def test_clockwise_is_clockwise_on_the_screen():
    """The eye sits above the centre at angle 0, so it goes right of it first and below it then."""
    scene = draw_scene(1, 1)
    eye = np.array([0.0, -1.0])  # the direction in which it lies, y down
    angles = object_states("TurnClockwise", 1, 1)[:, 3]
    assert scene.texture.view(np.uint16).reshape(256, 256, 4)[128 - 58, 128, 3] == 255

    turned = [(np.cos(a) * eye[0] - np.sin(a) * eye[1], np.sin(a) * eye[0] + np.cos(a) * eye[1]) for a in angles]
    crosses = [x0 * y1 - y0 * x1 for (x0, y0), (x1, y1) in zip(turned, turned[1:], strict=False)]
    assert all(cross > 0 for cross in crosses)  # with y down, a positive cross product is clockwise

    # and the picture itself turns so: the drawn eye is where the angle says
    frames, boxes = render_video("TurnClockwise", 1, 1), object_states("TurnClockwise", 1, 1)
    colours = []
    for frame, (x, y, log_size, angle) in zip(frames, boxes, strict=True):
        away = np.exp(log_size) * 58 / 120
        colours.append(frame[int(y - away * np.cos(angle)), int(x + away * np.sin(angle))])
    assert np.ptp(np.array(colours, int), axis=0).max() < 30


@pytest.mark.slow
def test_boxes_match_the_pixels():
    for name in CLASSES:
        for group in (1, 2, 3):
            ground = draw_scene(group, 1).ground.astype(int)
            changed = (np.abs(render_video(name, group, 1) - ground) > 12).any(axis=3)  # (T, H, W)
            for mask, box in zip(changed, object_boxes(name, group, 1), strict=True):
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                # a point of the shape covers little of its outermost pixels
                np.testing.assert_allclose(box, seen, atol=2.5)


def test_object_stays_in_sight_of_the_centre_crop():
    """56x56 of 76x57 is 21..139 x 1..119 here: the object's centre is seen in every frame."""
    for group in range(1, 26):
        for name in ("MoveLeft", "MoveUp"):
            x, y = object_states(name, group, 1)[:, :2].T
            assert x.min() > 21 and x.max() < 139 and y.min() > 4 and y.max() < 116


def frame_number(which, num_frames, seed, group, clip, label):
    """Of the first, the middle or some frame."""
    any_frame = np.random.default_rng([seed, group, clip, label]).integers(num_frames)
    return {"first": 0, "middle": num_frames // 2, "any": any_frame}[which]


def states_of_frames(groups, which, seeds):
    """Position, size and angle in one frame a video: (N, 5), and the class numbers (N,)."""
    states, labels = [], []
    for seed, group, clip in itertools.product(seeds, groups, (1, 2, 3, 4)):
        for label, name in enumerate(CLASSES):
            state = object_states(name, group, clip, seed)
            x, y, size, angle = state[frame_number(which, len(state), seed, group, clip, label)]
            states.append((x, y, size, np.cos(angle), np.sin(angle)))
            labels.append(label)
    return np.array(states), np.array(labels)


def thumbnails_of_frames(groups, which):
    """20x15 pixels of one frame a video: (N, 900), and the class numbers (N,)."""
    pictures, labels = [], []
    for group, clip in itertools.product(groups, (1, 2)):
        for label, name in enumerate(CLASSES):
            video = render_video(name, group, clip)
            frame = video[frame_number(which, len(video), 0, group, clip, label)]
            pictures.append(frame.reshape(15, 8, 20, 8, 3).mean((1, 3)).ravel() / 255)
            labels.append(label)
    return np.array(pictures), np.array(labels)


# What moves is on one side of its range first, so the first frame tells a little (28 % at best, see MIDDLE).
@pytest.mark.parametrize(("which", "limit"), [("first", 30), ("middle", 20), ("any", 20)])
def test_no_single_frame_tells_the_class(which, limit):
    model = make_pipeline(StandardScaler(), PolynomialFeatures(2), LogisticRegression(max_iter=500))
    model.fit(*states_of_frames(range(8, 26), which, seeds=range(6)))
    top1 = 100 * model.score(*states_of_frames(range(1, 8), which, seeds=range(6)))

    assert top1 < limit, f"{top1:.1f} % by position, size and angle of the {which} frame; chance is 12.5 %"


@pytest.mark.slow
def test_no_picture_tells_the_class():
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
    model.fit(*thumbnails_of_frames(range(8, 26), "any"))
    top1 = 100 * model.score(*thumbnails_of_frames(range(1, 8), "any"))

    assert top1 < 25, f"{top1:.1f} % by the pixels of one frame; chance is 12.5 %"


def test_classes_of_one_scene_share_a_frame():
    """So no look can go with a class: at the moment, or at its mirror when played backwards, all eight are the same."""
    _, moment = draw_paths(7, 3)
    shared = [render_video(name, 7, 3)[:: MOTIONS[name][1]][moment] for name in CLASSES]

    assert all((frame == shared[0]).all() for frame in shared)


def test_properties_at_rest_spread_as_those_in_motion():
    """Over all frames: a size that stands is drawn like the sizes that a zoom runs through, and so for the others."""
    for axis in range(4):
        moving = [name for name in CLASSES if MOTIONS[name][0] == axis][0]
        resting = [name for name in CLASSES if MOTIONS[name][0] != axis][0]
        spread = {
            name: np.concatenate([object_states(name, g, c)[::6, axis] for g in range(1, 99) for c in (1, 2)])
            for name in (moving, resting)
        }
        tenths = {name: np.percentile(values, [10, 50, 90]) for name, values in spread.items()}
        difference = np.abs(tenths[moving] - tenths[resting]) / np.ptp(spread[resting])
        assert difference.max() < 0.1, f"{moving}: {tenths}"


def test_sizes_stay_readable_and_within_the_frame():
    radii = [np.exp(object_states("ZoomIn", group, 1)[:, LOG_SIZE]) for group in range(1, 99)]

    assert min(r.min() for r in radii) > 12 and max(r.max() for r in radii) < 60


def test_stopped_run_goes_on_and_keeps_what_is_there(tmp_path, monkeypatch):
    generate_demo(tmp_path / "whole", **SMALL)
    encode, calls = sys.modules["dataloaders.sources.demo"]._encode, []

    def stop_in_third(path, frames):
        encode(path, frames)
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    monkeypatch.setattr("dataloaders.sources.demo._encode", stop_in_third)
    with pytest.raises(KeyboardInterrupt):
        generate_demo(folder, **SMALL)
    assert len(contents(folder)) == 2
    assert not list(folder.rglob("*.part"))

    generate_demo(folder, **SMALL)
    assert len(calls) == 3 + 2
    assert contents(folder) == contents(tmp_path / "whole")

    generate_demo(folder, **SMALL)
    assert len(calls) == 3 + 2


def test_another_seed_or_version_makes_the_folder_anew(tmp_path):
    generate_demo(tmp_path, **SMALL)
    before = contents(tmp_path)

    generate_demo(tmp_path, **SMALL, seed=1)
    assert contents(tmp_path).keys() == before.keys()
    assert all(content != before[path] for path, content in contents(tmp_path).items())

    (tmp_path / MARKER).write_text(json.dumps({"generator": "demo", "version": 0, "seed": 0}))
    generate_demo(tmp_path, **SMALL)
    assert contents(tmp_path) == before


def test_folder_with_other_files_is_left_alone(tmp_path):
    theirs = tmp_path / "Run" / "v_Run_g01_c01.avi"
    theirs.parent.mkdir()
    theirs.write_bytes(b"somebody's video")

    with pytest.raises(UserError, match="holds other files"):
        generate_demo(tmp_path, **SMALL)
    assert contents(tmp_path) == {theirs.relative_to(tmp_path): b"somebody's video"}


def test_wrong_numbers_and_names_are_told(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'MoveLeft'"):
        generate_demo(tmp_path / "demo", classes=("MoveLef",))
    with pytest.raises(UserError, match="groups 1 to 99, not 100"):
        generate_demo(tmp_path / "demo", num_groups=100)
    with pytest.raises(UserError, match="seed must not be negative"):
        generate_demo(tmp_path / "demo", seed=-1)
    assert not (tmp_path / "demo").exists()


def test_demo_loads_no_torch():
    code = "import sys, dataloaders.sources.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
