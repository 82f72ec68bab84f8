"""Recordings: which videos were cut from one source, as mypath.py's expression, the layout or counters in names say."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median

from common.console import plural, print_once
from common.errors import UserError
from dataloaders.sources.data_source import DataSource

# match_s000001, film-Scene-003, talk_000012_000022, clip (2)
COUNTER = re.compile(
    r"(?:[ _.-]+(?:s|scene|clip|part|seg|segment|shot|cut)?[ _.-]*\d+){1,2}$|[ _.-]*\(\d+\)$", re.IGNORECASE
)
MIN_RECORDINGS = 3  # of a class: one each to train, to validate and to test


def groups_of(source: DataSource, names: Sequence[tuple[str, str]]) -> list[str]:
    """The recording of each (class, name without ending). Raises UserError where mypath.py's 'groups' matches no name.

    mypath.py's expression counts first, then the layout's rule. In a plain folder without an expression it is the name
    before a counter, where most names have one; else each video is a recording of its own.
    """
    if source.groups is not None:
        return _by_expression(source, names)
    if source.layout == "folder" and source.drawing >= 2:
        stems = [COUNTER.sub("", stem) for _, stem in names]
        if _are_recordings(stems, names):
            example = next(stem for (_, stem), short in zip(names, stems, strict=True) if short != stem)
            print_once(
                f"Note: names end in counters ({example}): videos with the same text before it are one recording "
                f"({plural(len(set(stems)), 'recording')} in all). If each is a recording of its own, say in mypath.py "
                "groups=r'.+'."
            )
            return stems
    return [source.kind.group(label, stem) for label, stem in names]


def _are_recordings(stems: Sequence[str], names: Sequence[tuple[str, str]]) -> bool:
    """Whether most names share the part before a counter with another one, and enough of these parts are left to divide
    each class by them. (run_001, run_002, ... only count the videos of a class.)"""
    sizes = Counter(stems)
    counted = [short for short, (_, stem) in zip(stems, names, strict=True) if short != stem]
    if "" in sizes or 2 * sum(sizes[short] > 1 for short in counted) <= len(stems):
        return False
    of_class = defaultdict(set)
    for (label, _), stem in zip(names, stems, strict=True):
        of_class[label].add(stem)
    return median(map(len, of_class.values())) >= MIN_RECORDINGS and 2 * max(sizes.values()) <= len(stems)


def _by_expression(source: DataSource, names: Sequence[tuple[str, str]]) -> list[str]:
    """An expression that matches nothing would put one recording into training and test without a word."""
    matches = [re.search(source.groups, stem) for _, stem in names]
    missed = [stem for (_, stem), match in zip(names, matches, strict=True) if not match]
    if names and len(missed) == len(names):
        raise UserError(
            f"mypath.py: groups r'{source.groups}' of '{source.name}' matches none of the {len(names)} names "
            f"(first: {missed[0]}). Correct it, or leave it out."
        )
    if missed:
        print_once(f"Note: groups r'{source.groups}' does not match {len(missed)} names (first: {missed[0]}).")
    groups = [
        next((part for part in match.groups() if part is not None), match.group(0)) if match else f"{label}/{stem}"
        for (label, stem), match in zip(names, matches, strict=True)
    ]
    [(largest, size)] = Counter(groups).most_common(1) or [("", 0)]
    if len(groups) > 3 and size > 0.8 * len(groups):
        print_once(
            f"WARNING: groups r'{source.groups}' of '{source.name}' puts {size} of {len(groups)} videos into one "
            f"recording ('{largest}'), which no split can divide. Correct it in mypath.py, or leave it out."
        )
    return groups
