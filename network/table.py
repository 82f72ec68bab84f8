"""The table of `python -m network`. Counting its rows takes some seconds, so they are kept in .cache/ until a file of
this folder or PyTorch changes. Imports no PyTorch where the rows are kept."""

import contextlib
import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from common.console import table_line
from common.errors import UserError
from common.files import ROOT, write_atomically
from network.registry import list_models

CACHE = ROOT / ".cache" / "network.json"
HEADER = ("model", "parameters", "GMACs", "input, THW", "stride", "optimizer", "lr", "epochs", "batch", "weights")
WIDTHS = (10, 6, 10, 6, 9, 6, 6, 5)
FOOTER = """
GMACs are billions of multiply-adds of one clip. optimizer, lr, epochs and batch are train.py's defaults.
After kinetics400: the top-1 of these weights on Kinetics-400 in %, as torchvision's documentation states it."""


def print_models() -> None:
    """Prints a row for each model as soon as it is known. A model that cannot be built here, because torchvision is
    missing or broken, keeps its row, and the reason follows below the table."""
    names = list_models()
    widths = [max(map(len, names)), *WIDTHS]
    print(table_line(HEADER, widths))
    kept, rows, reasons = _kept_rows(), {}, {}
    for name in names:
        try:
            rows[name] = kept[name] if name in kept else _count(name)
            print(table_line(rows[name], widths), flush=True)
        except UserError as error:
            reasons[str(error)] = None
            print(table_line(_row_without_numbers(name), widths), flush=True)
    print(FOOTER)
    for reason in reasons:
        print(reason)
    if not kept and not reasons:
        with contextlib.suppress(OSError):  # a folder that cannot be written: counted again next time
            CACHE.parent.mkdir(exist_ok=True)
            write_atomically(CACHE, json.dumps({"key": _key(), "rows": rows}))


def _count(name: str) -> tuple[str, ...]:
    from network.cost import describe_model

    return describe_model(name)


def _row_without_numbers(name: str) -> tuple[str, ...]:
    from network.cost import describe_settings

    return name, "-", "-", *describe_settings(name)[:-1], "cannot be built, see below"


def _kept_rows() -> dict[str, list[str]]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(CACHE.read_text(encoding="utf-8"))
        if kept["key"] == _key():
            return kept["rows"]
    return {}


def _key() -> str:
    """A hash of everything that the rows follow from: the source of this folder, PyTorch and torchvision."""
    digest = hashlib.sha256()
    for path in [ROOT / "common" / "input_spec.py", *sorted(Path(__file__).parent.rglob("*.py"))]:
        digest.update(path.read_bytes())
    for package in ("torch", "torchvision"):
        with contextlib.suppress(PackageNotFoundError):
            digest.update(version(package).encode())
        found = find_spec(package)
        digest.update(str(found and found.origin).encode())  # another one may lie in its way
    return digest.hexdigest()
