"""Entries of mypath.py: keys, spelling and types, checked before anything is read."""

import ast
import re
from difflib import get_close_matches
from pathlib import Path

from common.errors import UserError
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.layout import layouts

TEXT, PATH, SWITCH = "a text in quotes", "a path in quotes", "True or False, without quotes"
KEYS = {
    "layout": TEXT,
    "videos": PATH,
    "list": PATH,
    "classes": PATH,
    "frames": PATH,
    "splits": PATH,
    "flip": SWITCH,
    "groups": TEXT,
}
TYPES = {TEXT: str, PATH: (str, Path), SWITCH: bool}


def source_of_entry(name: str, entry: dict, root: Path) -> DataSource:
    """The data set that an entry of mypath.py describes. Raises UserError that names the line of a mistake."""
    _check_values(name, entry, root)
    if not entry.get("videos") and not entry.get("list"):
        raise UserError(f"mypath.py: '{name}' has no key 'videos', the folder of its videos. Add it.")
    if entry.get("classes") and not entry.get("list"):
        raise UserError(f"mypath.py: '{name}' has 'classes', which needs a 'list'; folders name their classes.")
    listed = _path(entry["list"], root) if entry.get("list") else None
    videos = _path(entry["videos"], root) if entry.get("videos") else listed.parent
    layout_name = entry.get("layout") or "folder"
    if layout_name not in layouts():
        raise UserError(f"mypath.py: '{name}' has the layout '{layout_name}'. Known layouts: {', '.join(layouts())}.")
    groups = entry.get("groups")
    if groups is not None:
        try:
            re.compile(groups)
        except re.error as error:
            raise UserError(f"mypath.py: groups={groups!r} of '{name}' is no regular expression: {error}.") from error
    beside = listed.with_name(f"{listed.stem}-frames") if listed else videos.with_name(f"{videos.name}-frames")
    return DataSource(
        name=name,
        videos=videos,
        frames=_path(entry["frames"], root) if entry.get("frames") else beside,
        layout=layout_name,
        splits=_path(entry["splits"], root) if entry.get("splits") else None,
        flip=entry.get("flip"),
        groups=groups,
        list=listed,
        classes=_path(entry["classes"], root) if entry.get("classes") else None,
    )


def _check_values(name: str, entry: dict, root: Path) -> None:
    """Keys that are misspelt, and values of another type: "False" in quotes would count as true."""
    for key, value in entry.items():
        if key not in KEYS:
            close = get_close_matches(str(key), KEYS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            where = _place(root, name, key)
            raise UserError(f"{where}: '{name}' has the key '{key}'.{hint} Known keys: {', '.join(KEYS)}.")
        kind = KEYS[key]
        if value is not None and not isinstance(value, TYPES[kind]):
            raise UserError(f"{_place(root, name, key)}: '{key}' of '{name}' is {value!r}. It must be {kind}.")


def _place(root: Path, name: str, key: str) -> str:
    """mypath.py, with the number of the key's line where the file shows it."""
    try:
        tree = ast.parse((root / "mypath.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return "mypath.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for entry_name, entry in zip(node.keys, node.values, strict=True):
                if isinstance(entry, ast.Dict) and isinstance(entry_name, ast.Constant) and entry_name.value == name:
                    lines = [found.lineno for found in entry.keys if getattr(found, "value", None) == key]
                    return f"mypath.py, line {lines[0]}" if lines else "mypath.py"
    return "mypath.py"


def _path(value: str | Path, root: Path) -> Path:
    return root / Path(value).expanduser()
