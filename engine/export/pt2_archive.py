"""Checks a .pt2 archive before torch loads it: torch would unpickle, and so run, foreign code in it, and evaluate
strings of its graph as Python."""

import io
import json
import re
import zipfile
from collections import Counter
from pathlib import Path

from common.errors import UserError
from engine.export.metadata import KEY

MEMBERS = re.compile(  # of what torch.export.save writes for one program of tensors
    r"data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json)"
    rf"|sample_inputs/model\.pt)|models/model\.json|extra/{KEY}\.json|archive_format|archive_version|byteorder"
    r"|\.data/\w+|version"
)
TARGET = re.compile(r"torch\.ops\.(aten\.(?!from_file\.)\w+\.\w+|higher_order\.cond)|_operator\.[a-z]+")
EXPRESSION = re.compile(  # Mul(Integer(3), Symbol('s80', positive=True, integer=True))
    r"(Symbol\('\w+'(, [a-z]+=(True|False))*\)|[A-Z][A-Za-z]*\(|True|False|[-\d), ])+"
)
CALLS_NOTHING = re.compile(r"[^()]*")
PATTERNS = {"target": TARGET, "as_operator": TARGET, "expr_str": EXPRESSION}
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")  # torch would import others


def read_archive(path: Path) -> tuple[str | None, io.BytesIO]:
    """The JSON text in a .pt2 file, None where it has none, and the archive for torch.export.load. That is written
    anew: whoever reads the file itself once more may see other members in it (two of one name, a second directory).
    Raises UserError where it holds more than tensors, a graph of torch's operations, and text."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = {name.partition("/")[2]: name for name in archive.namelist()}
            text = content.get(f"extra/{KEY}.json")
            if text is None:
                return None, io.BytesIO()
            _check_members(path, archive)
            members = {name: archive.read(stored) for name, stored in content.items()}
        _check_content(path, members)
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is not a torch.export program, or is damaged. Export it again.") from error

    anew = io.BytesIO()
    with zipfile.ZipFile(anew, "w") as archive:
        for name, member in members.items():
            archive.writestr(f"model/{name}", member)
    anew.seek(0)
    return members[f"extra/{KEY}.json"].decode("utf-8"), anew


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    names = Counter(name.partition("/")[2] for name in archive.namelist())
    for name, number in names.items():
        if number > 1 or not MEMBERS.fullmatch(name):
            raise _foreign(path, f"{number} members {name}" if number > 1 else name)
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):  # may be large without end
        raise _foreign(path, "compressed members")


def _check_content(path: Path, members: dict[str, bytes]) -> None:
    for kind in ("weights", "constants"):
        config = json.loads(members[f"data/{kind}/model_{kind}_config.json"])
        if any(entry["use_pickle"] for entry in config["config"].values()):
            raise UserError(f"{path} holds objects that are not tensors. It is not opened.")
        _check_strings(path, config)
    if members["data/sample_inputs/model.pt"]:  # it would be unpickled; ours is empty
        raise _foreign(path, "example inputs")
    _check_strings(path, json.loads(members["models/model.json"]))


def _check_strings(path: Path, value: object, key: str = "") -> None:
    """Checks that the strings which torch evaluates have the form that torch writes; no other could be a call."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_strings(path, name)
            _check_strings(path, item, name)
    elif isinstance(value, list):
        if key == "guards_code" and value:
            raise _foreign(path, "guards")
        for item in value:
            _check_strings(path, item, key)
    elif isinstance(value, str):
        fits = PATTERNS.get(key, CALLS_NOTHING).fullmatch(value)
        if not fits or (key in ("in_spec", "out_spec") and not _is_plain(json.loads(value)[1])):
            raise _foreign(path, f"{key} {value[:60]!r}")


def _is_plain(spec: dict) -> bool:
    return spec["type"] in CONTAINERS and all(map(_is_plain, spec["children_spec"]))


def _foreign(path: Path, what: str) -> UserError:
    return UserError(f"{path} holds {what}, which no file written by export.py does. It is not opened.")
