"""An exported file answers as the network does, says what it is, and is not there where it does not."""

import json
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript", reason="pip install onnx onnxscript onnxruntime")
import onnx

import evaluate as evaluation
import export as script
import inference
from common.cli import run_cli
from common.errors import UsageError, UserError
from common.files import ROOT
from engine.evaluation.published import pretraining_of
from engine.export.check import answer_of, compare, random_clips
from engine.export.metadata import KEY, describe, read_metadata
from engine.export.program import FrameProgram
from engine.export.runtimes import open_program
from engine.export.write import build_program, export_model, half_of, write_program
from engine.inference.windows import prepare_pixels
from engine.runs.checkpoint import TrainedModel, load_model, save_checkpoint
from inference import Recognizer
from network import create_model, input_spec
from tests.helpers.exports import SPEC, save_toy_checkpoint
from tests.helpers.toy import CLASSES, write_naming_video

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = pytest.mark.parametrize("suffix", [".onnx", ".pt2"])


def pictures(height: int, width: int, number: int = 4) -> np.ndarray:
    """(1, T, H, W, 3) uint8: slopes and noise."""
    y, x = np.mgrid[0:height, 0:width]
    slopes = np.stack([255 * y // height, 255 * x // width, 128 + 0 * x], axis=2)
    noise = np.random.default_rng(height).integers(-30, 30, (1, number, height, width, 3))
    return (slopes + noise).clip(0, 255).astype(np.uint8)


def run(argv: list, capsys, monkeypatch) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `python export.py argv`."""
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, argv)])
    with pytest.raises(SystemExit) as ended:
        run_cli(script.main)
    return ended.value.code, *capsys.readouterr()


# --- the graph


@pytest.mark.parametrize("keep_aspect", [False, True])
@pytest.mark.parametrize(("height", "width"), [(240, 320), (33, 47), (720, 405), (61, 80), (59, 79), (64, 64)])
def test_frames_of_any_size_are_resized_and_cut_as_everywhere_within_one_level(height, width, keep_aspect, tmp_path):
    trained = load_model(save_toy_checkpoint(tmp_path / "best.pth", keep_aspect=keep_aspect))
    frames = pictures(height, width)
    ours = FrameProgram(trained.model, trained.input_spec).middle_squares(torch.from_numpy(frames))[0].numpy()
    theirs = np.stack([prepare_pixels(frame[..., ::-1], trained.input_spec) for frame in frames[0]])
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.8


@pytest.mark.parametrize(("keep_aspect", "size"), [(False, (60, 80)), (True, (60, 80)), (True, (82, 60))])
def test_frames_of_the_stored_size_pass_as_they_are(keep_aspect, size, tmp_path):
    trained = load_model(save_toy_checkpoint(tmp_path / "best.pth", keep_aspect=keep_aspect))
    frames = pictures(*size)
    ours = FrameProgram(trained.model, trained.input_spec).middle_squares(torch.from_numpy(frames)).numpy()
    top, left = (size[0] - 32) // 2, (size[1] - 32) // 2
    assert np.array_equal(ours, frames[:, :, top : top + 32, left : left + 32])


@BOTH
def test_a_file_answers_as_the_network_for_any_number_of_clips_and_size_of_frames(toy_export, suffix):
    trained, program = load_model(toy_export.checkpoint), open_program(toy_export[suffix], "cpu")
    for batch in (1, 2, 5):
        frames = random_clips(SPEC, batch)
        assert program(frames) == pytest.approx(answer_of(trained.model, SPEC, frames), abs=1e-5)
    for height, width in ((240, 320), (47, 33)):
        frames = pictures(height, width)
        squares = np.stack([prepare_pixels(frame[..., ::-1], SPEC) for frame in frames[0]])
        expected = Recognizer(toy_export.checkpoint, device="cpu", amp="off").probabilities(squares[None])
        assert program(frames) == pytest.approx(expected, abs=0.01), "a level of rounding in an eighth of the pixels"
    assert np.ptp(program(random_clips(SPEC, 1))) > 0.1, "answers that are all alike would show nothing"


@BOTH
def test_frames_of_another_type_are_refused(toy_export, suffix):
    """Numbers of 0 to 1 would all be black."""
    with pytest.raises(Exception, match=r"uint8|data type|Tensor dtype"):
        open_program(toy_export[suffix], "cpu")(random_clips(SPEC, 1).astype(np.float32) / 255)


@pytest.mark.slow
def test_differences_of_frames_are_taken_inside(tmp_path):
    trained = load_model(save_toy_checkpoint(tmp_path / "best.pth", input="rgb+diff", keep_aspect=True))
    export_model(trained, tmp_path / "diff.pt2")
    program = open_program(tmp_path / "diff.pt2", "cpu")
    frames = random_clips(trained.input_spec, 2)
    assert frames.shape[1] == 5, "one more than clip_len"
    assert program(frames[:0]).shape == (0, len(CLASSES))
    assert program(frames) == pytest.approx(answer_of(trained.model, trained.input_spec, frames), abs=1e-5)
    backwards = frames[:, ::-1].copy()
    assert np.abs(program(backwards) - program(frames)).max() > 1e-3


def test_half_is_half_the_file_and_nearly_the_answer(toy_export, tmp_path):
    trained = load_model(toy_export.checkpoint)
    script.main([str(toy_export.checkpoint), "--output", str(tmp_path / "half.pt2"), "--half"])
    size, whole = ((path.stat().st_size) for path in (tmp_path / "half.pt2", toy_export.pt2))
    assert 0.45 * whole < size < 0.6 * whole
    program, frames = open_program(tmp_path / "half.pt2"), random_clips(SPEC, 2)
    assert program.metadata.arithmetic == "bfloat16"
    assert program(frames) == pytest.approx(answer_of(trained.model, SPEC, frames), abs=0.05)


# --- what a file says of itself


@BOTH
def test_a_file_says_what_it_is_without_this_program(toy_export, suffix):
    if suffix == ".onnx":
        model = onnx.load(toy_export.onnx, load_external_data=False)
        assert not [one for one in model.graph.initializer if one.external_data]
        text = {entry.key: entry.value for entry in model.metadata_props}[KEY]
    else:
        with zipfile.ZipFile(toy_export.pt2) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(f"/extra/{KEY}.json")]
            text = archive.read(name).decode()
    about = json.loads(text)
    assert about["classes"] == list(CLASSES)
    assert about["input_spec"] == json.loads(json.dumps(SPEC.to_dict()))
    assert (about["model"], about["config"]["dataset"], about["split"]["name"]) == ("r3d_10", "toy", "1")
    assert re.fullmatch(r"[0-9a-f]{16}", about["weights_hash"])
    assert {"torch", "python"} <= set(about["versions"])


@BOTH
def test_a_file_does_not_tell_where_it_was_made(toy_export, suffix):
    content = toy_export[suffix].read_bytes()
    if suffix == ".pt2":
        with zipfile.ZipFile(toy_export.pt2) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    for path in (str(ROOT), "site-packages", str(toy_export.checkpoint.parent)):
        assert path.encode() not in content


@pytest.mark.parametrize("weights", ["/home/anna/secret/c3d-sports1m.pickle", r"C:\secret\c3d-sports1m.pickle"])
def test_a_file_tells_the_name_of_the_weights_that_training_began_with_and_not_their_folder(toy_checkpoint, weights):
    trained = load_model(toy_checkpoint)
    trained.checkpoint["config"]["weights"] = weights
    about = describe(trained, "float32", {})
    assert about.config["weights"] == "c3d-sports1m.pickle"
    assert pretraining_of(about.config) == "sports1m"
    assert "secret" not in about.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "newer version"),
        ({"format": "1"}, "was it written by export.py?"),
        ({"classes": []}, "no class names"),
        ({"classes": [1, 2]}, "no class names"),
        ({"input_spec": {"crop_size": "112"}}, "crop_size"),
        ({"input_spec": {"resize": [171]}}, "resize"),
        ({"input_spec": {"crop_size": 1000}}, "does not fit"),
        ({"split": {"training_groups": [1]}}, "'split' is damaged"),
        ({"date": None}, "'date' is missing"),
    ],
)
def test_metadata_that_anybody_may_have_written_is_looked_at(toy_export, change, message):
    about = json.loads(open_program(toy_export.pt2, "cpu").metadata.to_json())
    with pytest.raises(UserError, match=re.escape(message)):
        read_metadata(json.dumps(about | change), "x.onnx")


def test_foreign_files_are_refused_in_one_line(toy_export, tmp_path):
    node = onnx.helper.make_node("Identity", ["frames"], ["probabilities"])
    value = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("frames", "probabilities")]
    graph = onnx.helper.make_graph([node], "other", value[:1], value[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "other.onnx",
    )
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "text.pt2").write_text("no model")
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),)), tmp_path / "other.pt2")
    (tmp_path / "cut.pt2").write_bytes(toy_export.pt2.read_bytes()[:-1000])
    for name, message in (
        ("other.onnx", "was it written by export.py"),
        ("text.onnx", "cannot be read by ONNX Runtime"),
        ("text.pt2", "is not a torch.export program"),
        ("other.pt2", "was it written by export.py"),
        ("cut.pt2", "is not a torch.export program"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            Recognizer(tmp_path / name, device="cpu")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["only", "two"]}, r"it gives 3 probabilities for 2 classes"),
        ({"input_spec": {"clip_len": 5}}, r"it takes \d+ frames, but its metadata has \d+"),
    ],
)
@BOTH
def test_a_file_that_is_not_what_it_says_is_not_used(toy_export, suffix, change, message, tmp_path):
    def changed(text: str) -> str:
        about = json.loads(text)
        for name, value in change.items():
            about[name] = about[name] | value if isinstance(value, dict) else value
        return json.dumps(about)

    path = tmp_path / f"other{suffix}"
    if suffix == ".onnx":
        model = onnx.load(toy_export.onnx)
        [entry] = [entry for entry in model.metadata_props if entry.key == KEY]
        entry.value = changed(entry.value)
        onnx.save(model, path)
    else:
        rewrite(toy_export.pt2, path, f"{KEY}.json", changed)
    with pytest.raises(UserError, match=message):
        open_program(path, "cpu")


@pytest.mark.parametrize(
    "member", ["data/constants/opaque_obj_0", "data/sample_inputs/model.pt", "data/aotinductor/a.so"]
)
def test_an_archive_with_more_than_tensors_in_it_is_not_opened(toy_export, tmp_path, member):
    """torch would unpickle it, and so run what it says."""
    with zipfile.ZipFile(toy_export.pt2) as old, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as new:
        for name in old.namelist():
            if not name.endswith(member):
                new.writestr(name, old.read(name))
        new.writestr(f"{root_of(old)}/{member}", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="It is not opened"):
        open_program(tmp_path / "bad.pt2", "cpu")


CALL = "__import__('os').system('touch {}')"


def rewrite(path: Path, output: Path, member: str, change: Callable[[str], str]) -> Path:
    """The archive with another text in one of its members."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(output, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content.decode()) if name.endswith(member) else content)
    return output


def root_of(archive: zipfile.ZipFile) -> str:
    return archive.namelist()[0].partition("/")[0]


@pytest.mark.parametrize("place", ["guard", "expression", "target", "spec"])
def test_code_in_the_graph_of_an_archive_is_not_run(toy_export, tmp_path, place):
    """torch evaluates guards and expressions as Python, and takes a target of any name from its modules."""
    call = CALL.format(tmp_path / "hacked")

    def hack(text: str) -> str:
        graph = json.loads(text)
        module = graph["graph_module"]
        if place == "guard":
            graph["guards_code"] = [f"{call} == 0"]
        elif place == "expression":
            module["graph"]["sym_int_values"] = {
                name: {"as_expr": value["as_expr"] | {"expr_str": call}}
                for name, value in module["graph"]["sym_int_values"].items()
            }
        elif place == "target":
            module["graph"]["nodes"][0]["target"] = "torch.os.system"
        else:
            root = module["module_call_graph"][0]["signature"]
            root["in_spec"] = root["in_spec"].replace("builtins.dict", "collections.defaultdict")
        return json.dumps(graph)

    with pytest.raises(UserError, match="which no file written by export.py does. It is not opened"):
        program = open_program(rewrite(toy_export.pt2, tmp_path / "bad.pt2", "/models/model.json", hack), "cpu")
        program(random_clips(SPEC, 1))
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("root", ["same", "other"])
def test_an_archive_that_is_read_in_two_ways_is_not_opened(toy_export, tmp_path, root):
    """Of two members of one name, or under two roots, torch may take the one that was not looked at."""
    with zipfile.ZipFile(toy_export.pt2) as old, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        [name] = [name for name in old.namelist() if name.endswith("/models/model.json")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile says that the name is there twice
            new.writestr(name if root == "same" else f"other/{name.partition('/')[2]}", old.read(name))
    with pytest.raises(UserError, match=r"holds 2 members models/model\.json, .* It is not opened"):
        open_program(tmp_path / "bad.pt2", "cpu")


# --- the script


@BOTH
def test_a_file_that_does_not_agree_is_deleted_and_the_older_one_stays(
    toy_export, suffix, tmp_path, capsys, monkeypatch
):
    content = torch.load(toy_export.checkpoint, weights_only=True)
    content["model"]["fc.bias"][0] = float("nan")  # no answer equals itself any more
    save_checkpoint(tmp_path / "best.pth", content)
    output = tmp_path / f"out{suffix}"
    output.write_text("an older file")
    status, _, error = run([tmp_path / "best.pth", "--output", output], capsys, monkeypatch)
    assert (status, error.count("\n")) == (1, 1)
    assert "its probabilities differ from the network's" in error
    assert output.read_text() == "an older file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pth", output.name]


def test_two_exports_to_one_name_do_not_meet(toy_export, tmp_path):
    """Each compares and renames the file that it has written itself, and the last one stays."""
    trained, output = load_model(toy_export.checkpoint), tmp_path / "a.pt2"

    class Meanwhile(list):
        def __len__(self) -> int:  # asked when the first file is written and not yet compared
            export_model(trained, output)
            return 0

    export_model(trained, output, real=Meanwhile())
    assert open_program(output, "cpu").metadata.classes == list(CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]


def test_each_of_the_real_clips_is_compared(toy_export):
    trained, program = load_model(toy_export.checkpoint), open_program(toy_export.pt2, "cpu")
    clips = list(random_clips(SPEC, 5))

    def wrong_for(place: int) -> Callable[[np.ndarray], np.ndarray]:
        """The program, with another answer where it sees this clip."""
        return lambda frames: program(frames) + np.array([[np.array_equal(one, clips[place])] for one in frames], "f4")

    for place in range(5):
        assert compare(wrong_for(place), trained.model, SPEC, clips).real == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("where", ["several clips", "another size"])
def test_a_file_that_is_wrong_for_some_inputs_only_does_not_hold(toy_export, where):
    trained, program = load_model(toy_export.checkpoint), open_program(toy_export.pt2, "cpu")

    def wrong(frames: np.ndarray) -> np.ndarray:
        is_there = len(frames) > 1 if where == "several clips" else frames.shape[2] != SPEC.resize[1]
        return program(frames[..., ::-1].copy() if is_there else frames)  # the colours reversed

    assert compare(program, trained.model, SPEC).holds
    assert not compare(wrong, trained.model, SPEC).holds


def test_the_script_says_what_it_compared(toy_export, toy_project, tmp_path, capsys, monkeypatch):
    video = write_naming_video(tmp_path / "clip.mp4", 20)
    status, out, _ = run([toy_export.checkpoint, "--output", tmp_path / "a.pt2", "--video", video], capsys, monkeypatch)
    assert status == 0
    assert re.search(r"real clips \d\.\de[-+]\d\d \(allowed: 0\.0001\)\n  Real clips: .*clip\.mp4", out)
    status, out, error = run([toy_export.checkpoint, "--output", tmp_path / "b.pt2"], capsys, monkeypatch)
    assert (status, error) == (0, "")
    assert "of the run's validation videos" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{checkpoint}", "--output", "a.pth"], "must end in .onnx (ONNX), .pt2 (torch.export) or .safetensors"),
        (["{onnx}", "--output", "a.pt2"], "is an exported file"),
        (["--output", "a.onnx"], "No network is given. Give CHECKPOINT"),
        (["{checkpoint}", "--model", "r3d_10", "--output", "a.onnx"], "Leave --model out"),
        (["{checkpoint}", "--video", "{onnx}", "--output", "{onnx}"], "is also an input and would be overwritten"),
    ],
)
def test_usage_mistakes_are_said_at_once(toy_checkpoint, argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx = toy_checkpoint.with_name("of-another-test.onnx")
    onnx.touch()
    argv = [word.format(checkpoint=toy_checkpoint, onnx=onnx) for word in argv]
    status, _, error = run(argv, capsys, monkeypatch)
    assert (status, error.count("\n")) == (2, 1)
    assert message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(toy_checkpoint, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(UserError, match=f'needs {package}, which is not installed: pip install "onnx>='):
        export_model(load_model(toy_checkpoint), tmp_path / "a.onnx")


# --- where a checkpoint is taken


@BOTH
def test_inference_from_a_file_is_inference_from_the_checkpoint(toy_export, suffix, tmp_path):
    video = write_naming_video(tmp_path / "clip.mp4", 20, 1)
    options = {"device": "cpu", "stride": 3, "batch_size": 2}
    ours = Recognizer(toy_export.checkpoint, amp="off", **options)
    theirs = Recognizer(toy_export[suffix], **options)
    assert (theirs.classes, theirs.name) == (ours.classes, "r3d_10")
    for left, right in (
        (theirs.predict(video), ours.predict(video)),
        (theirs.classify(video, 3), ours.classify(video, 3)),
    ):
        assert (left.label(), left.num_frames) == (right.label(), right.num_frames)
        for one, other in zip(left.windows, right.windows, strict=True):
            assert (one.first_frame, one.last_frame) == (other.first_frame, other.last_frame)
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_onnx_runtime_takes_as_many_threads_as_torch(toy_export):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        options = open_program(toy_export.onnx, "cpu").session.get_session_options()
    finally:
        torch.set_num_threads(before)
    assert options.intra_op_num_threads == 3


def test_what_a_file_cannot_do_is_said(toy_export, tmp_path):
    video = write_naming_video(tmp_path / "clip.mp4", 20)
    argv = [str(video), "--checkpoint", str(toy_export.pt2), "--device", "cpu"]
    with pytest.raises(UsageError, match="--explain needs the network's layers"):
        inference.main([*argv, "--explain", "--json", str(tmp_path / "a.json")])
    with pytest.raises(UsageError, match="--amp bf16: the file computes in float32"):
        inference.main([*argv, "--amp", "bf16"])
    with pytest.raises(UsageError, match="--crops 3: toy.pt2 contains the centre crop"):
        evaluation.main([str(toy_export.pt2), "--crops", "3"])


def test_a_gpu_that_onnx_runtime_cannot_use_is_not_said_to_be_used(toy_export, monkeypatch):
    """onnxruntime-gpu names CUDA on every machine, and takes the processor where there is no driver."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this one, without CUDA, says so
        if "CUDAExecutionProvider" in onnxruntime.InferenceSession(toy_export.onnx).get_providers():
            pytest.skip("it can be used")
        assert open_program(toy_export.onnx).device == torch.device("cpu")
        with pytest.raises(UserError, match="--device cuda: ONNX Runtime does not find this GPU"):
            open_program(toy_export.onnx, "cuda")


@BOTH
def test_evaluation_of_a_file_is_evaluation_of_the_checkpoint(toy_export, toy_project, suffix, tmp_path):
    argv = ["--num-clips", "2", "--device", "cpu", "--output", str(tmp_path)]
    [ours] = evaluation.main([str(toy_export.checkpoint), *argv])
    [theirs] = evaluation.main([str(toy_export[suffix]), *argv])
    assert theirs["normal"].probs == pytest.approx(ours["normal"].probs, abs=1e-5)
    assert theirs["normal"].loss == pytest.approx(ours["normal"].loss, abs=1e-4)
    record = json.loads((tmp_path / f"toy-{suffix[1:]}-test.json").read_text())
    before = json.loads((tmp_path / "best-test.json").read_text())
    assert (record["checkpoint"], record["arithmetic"]) == (f"toy{suffix}", "float32")
    for key in ("weights_hash", "parameters", "model", "input_spec", "split_hash", "num_clips_total", "per_class"):
        assert record[key] == before[key]
    with pytest.raises(UserError, match="his checkpoint has seen 2 of the recordings"):
        evaluation.main([str(toy_export[suffix]), *argv, "--split", "2"])


@pytest.mark.parametrize("fps", [None, 10.0])
def test_the_client_of_the_documentation_needs_none_of_our_code(toy_export, tmp_path, monkeypatch, capsys, fps):
    video = write_naming_video(tmp_path / "clip.mp4", 20, 2, size=(80, 60))
    file = onnx.load(toy_export.onnx)
    [entry] = [entry for entry in file.metadata_props if entry.key == KEY]
    about = json.loads(entry.value)
    about["input_spec"]["fps"] = fps
    entry.value = json.dumps(about)
    onnx.save(file, tmp_path / "r3d_18.onnx")
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(encoding="utf-8"), re.DOTALL)
    imported = set(re.findall(r"^import (\w+)", code, re.MULTILINE))
    assert imported == {"av", "json", "numpy", "onnxruntime"}
    exec(compile(code, "docs/export.md", "exec"), {})
    label, probability = capsys.readouterr().out.split()
    [window, *_] = Recognizer(tmp_path / "r3d_18.onnx", device="cpu").predict(video).windows
    assert label == CLASSES[window.probabilities.argmax()]
    assert float(probability) == pytest.approx(window.probabilities.max(), abs=1e-3)


# --- every family


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["r2plus1d_10", "mc3_10", "cnn_lstm_18", "cnn_mean_18", "s3d", "swin3d_t", "mvit_v2_s"]
)
@BOTH
def test_networks_of_every_family_are_exported(name, suffix, tmp_path):
    """All of the registry: benchmarks/export_speed.py --table."""
    torch.manual_seed(0)
    spec, model = input_spec(name), create_model(name, 7).eval()
    with torch.no_grad():
        model.get_submodule(model.head_name).weight.mul_(30)
    trained = TrainedModel(model, spec, [str(number) for number in range(7)], name, {"config": {}})
    write_program(build_program(trained), trained, tmp_path / f"model{suffix}")
    comparison = compare(open_program(tmp_path / f"model{suffix}", "cpu"), model, spec)
    assert comparison.holds, comparison


@pytest.mark.slow
def test_a_network_that_has_no_half_here_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    """Of torch's pooling with overlaps there is none in bfloat16 on a processor."""
    model = create_model("s3d", 3)
    content = {"model": model.state_dict(), "config": {"model": "s3d"}, "classes": list("abc")}
    save_checkpoint(tmp_path / "best.pth", {**content, "input_spec": input_spec("s3d").to_dict()})
    status, _, error = run([tmp_path / "best.pth", "--output", tmp_path / "a.pt2", "--half"], capsys, monkeypatch)
    if status == 0:
        pytest.skip("this torch has it")
    assert (status, error.count("\n")) == (1, 1)
    assert "--half: s3d cannot run in half precision here" in error
    assert [path.name for path in tmp_path.iterdir()] == ["best.pth"]


def test_half_of_an_onnx_file_is_half_its_size_and_nearly_its_answer(toy_export, tmp_path):
    comparison = export_model(load_model(toy_export.checkpoint), tmp_path / "half.onnx", half_of(".onnx"))
    assert comparison.largest < 0.01
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * toy_export.onnx.stat().st_size


class LastDigits(torch.nn.Module):
    """Its answer hangs on the last digits of a float32: a sum that has lost most of them."""

    def __init__(self, gain: float):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor([gain, -gain]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level = (x[:, 0] - x[:, 2]).to(self.gain.dtype).mean(dim=(1, 2, 3))
        return (level + 1e4 - 1e4)[:, None] * self.gain


def test_what_float32_itself_does_not_know_is_not_asked_of_a_file():
    network = LastDigits(2.0).eval()
    exact = FrameProgram(LastDigits(2.0).double(), SPEC).eval()  # a runtime that rounds in other places

    @torch.no_grad()
    def program(frames: np.ndarray) -> np.ndarray:
        return exact(torch.from_numpy(frames)).float().numpy()

    comparison = compare(program, network, SPEC)
    assert comparison.random > 1e-4 and comparison.holds and comparison.tolerance <= 0.01
    assert not compare(lambda frames: program(frames[..., ::-1].copy()), network, SPEC).holds  # the colours reversed
