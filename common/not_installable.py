"""The build backend that `pip install .` finds: this project is used from its clone, and says so."""


def build_wheel(*_: object) -> str:
    raise SystemExit(
        "This project is not installed as a package. In its folder, install what it needs with "
        "'pip install -r requirements.txt', then run 'python train.py --help'."
    )


build_editable = build_sdist = build_wheel
