import pytest

from engine.training.checks import warn_of_class_names


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["Biking", "HammerThrow", "Walk"], ""),
        (["C", "C2", "++", "+"], ""),
        (["Biking", "biking", "walk"], "WARNING: Biking and biking are separate classes"),
        (["run fast", "run-fast", "Sit", "sit", "SIT"], "Sit and sit and SIT|run fast and run-fast"),
        (["nan", "walk"], "WARNING: there is a class 'nan', as programs write a label that is missing."),
    ],
)
def test_class_names_that_are_probably_a_mistake_are_said(classes, said, capsys):
    warn_of_class_names(classes)
    out = capsys.readouterr().out
    assert any(text in out for text in said.split("|")) and bool(out) == bool(said)
