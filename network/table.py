"""The table of `python -m network`. Counting its rows takes some seconds, so table.json has those of the models as they
come; after a change of this folder they are counted anew and kept in .cache/. Imports no PyTorch where rows are kept.

After a change, tests/network/test_main.py asks for `python -m network.table`, which writes table.json.
"""

import contextlib
import hashlib
import json
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

from common.console import table_line
from common.errors import UserError
from common.files import ROOT, write_atomically
from network.registry import list_models

SHIPPED = Path(__file__).with_name("table.json")
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
    if torchvision_fits() and (rows := _read(SHIPPED, source_hash())):
        return rows
    return _read(CACHE, _key())


def _read(path: Path, key: str) -> dict[str, list[str]]:
    """The rows of a file of that key; none where the file is missing, damaged or of another key."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept["rows"]
    return {}


def source_hash() -> str:
    """A hash of the code that builds the models. Git may have changed the ends of its lines."""
    digest = hashlib.sha256()
    for path in [ROOT / "common" / "input_spec.py", *sorted(Path(__file__).parent.rglob("*.py"))]:
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def torchvision_fits() -> bool:
    """Whether the installed torchvision is the one for the installed torch (2.N and 0.(N + 15)) and is the one that
    would be imported."""
    try:
        torch, torchvision = (distribution(name).version.split(".") for name in ("torch", "torchvision"))
    except PackageNotFoundError:
        return False
    found = find_spec("torchvision")
    home = distribution("torchvision").locate_file("torchvision/__init__.py")
    fits = torch[0] == "2" and torchvision[:2] == ["0", str(int(torch[1]) + 15)]
    return fits and bool(found and found.origin) and Path(found.origin) == Path(home)


def _key() -> str:
    """A hash of everything that counted rows follow from: the code, PyTorch and torchvision."""
    parts = [source_hash()]
    for package in ("torch", "torchvision"):
        with contextlib.suppress(PackageNotFoundError):
            parts.append(version(package))
        found = find_spec(package)
        parts.append(str(found and found.origin))  # another one may lie in its way
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _write_shipped() -> None:
    """Writes table.json, a line a model."""
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(_count(name))}" for name in list_models())
    SHIPPED.write_text(f'{{"key": "{source_hash()}", "rows": {{\n{rows}\n}}}}\n', encoding="utf-8")


if __name__ == "__main__":
    _write_shipped()
