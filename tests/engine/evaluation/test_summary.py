"""The printed summary of an evaluation."""

from pathlib import Path
from types import SimpleNamespace

from engine.evaluation.report import ClassRow
from engine.evaluation.summary import print_classes

ROWS = [
    ClassRow("Biking", 10, 9, 90.0, 100.0, 88.0, "Golf", 1),
    ClassRow("Golf", 4, 1, 25.0, 75.0, 30.0, "Tai\nChi", 2),
    ClassRow("Tai\nChi", 8, 2, 25.0, 50.0, 20.0, "Biking", 5),
    ClassRow("Diving", 5, 5, 100.0, 100.0, 99.0),
    ClassRow("Empty"),
]


def test_the_worst_classes_come_first_and_the_table_fits_the_screen(capsys):
    print_classes(SimpleNamespace(by_class_table=lambda: ROWS), 9, Path("test/per_class.csv"))
    assert capsys.readouterr().out.splitlines() == [
        "  class     videos  top-1  most often taken for",
        "  Tai\\nChi       8   25.0  Biking (5)",
        "  Golf           4   25.0  Tai\\nChi (2)",
        "  Biking        10   90.0  Golf (1)",
        "  Diving         5  100.0",
    ]
    print_classes(SimpleNamespace(by_class_table=lambda: ROWS), 3, Path("test/per_class.csv"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[-1] == "  ... and 2 classes more: test/per_class.csv"
