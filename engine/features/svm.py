"""A linear SVM on features, one against the rest (LIBLINEAR, through scikit-learn), with PCA before it or not."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import atomic_write, relative_to_cwd

SEARCHED = (0.01, 0.1, 1.0, 10.0, 100.0)  # values of C for --search-c
FOLDS = 5
FORMAT = 1


@dataclass(frozen=True)
class LinearSvm:
    """weights (K, D), bias (K,), classes, C, and the PCA in front of it: mean (F,), components (D, F), or None."""

    weights: np.ndarray
    bias: np.ndarray
    classes: list[str]
    c: float
    pca_mean: np.ndarray | None = None
    pca_components: np.ndarray | None = None

    @property
    def num_features(self) -> int:
        return len(self.pca_mean) if self.pca_mean is not None else self.weights.shape[1]

    def margins(self, features: np.ndarray) -> np.ndarray:
        """(V, F) -> (V, K): how far on its side of each class's plane a feature lies, in units of the SVM's margin.
        Raises UserError for features of another length."""
        if features.shape[1] != self.num_features:
            raise UserError(
                f"This SVM was trained on features of {self.num_features} values, and these have "
                f"{features.shape[1]}. Extract them with the layer and network that it names."
            )
        x = features.astype(np.float64)
        if self.pca_mean is not None:
            x = (x - self.pca_mean) @ self.pca_components.T
        return x @ self.weights.T + self.bias


def fit_svm(
    features: np.ndarray, labels: np.ndarray, classes: Sequence[str], c: float = 1.0, pca: "Pca | None" = None
) -> LinearSvm:
    """(V, F) float32, (V,) ids of classes -> the classifier. Every class needs a training video."""
    from sklearn.svm import LinearSVC

    x = pca.project(features) if pca else features.astype(np.float64)
    svm = LinearSVC(C=c, dual=True, max_iter=20_000, random_state=0).fit(x, labels)
    weights, bias = svm.coef_, svm.intercept_
    if len(classes) == 2:  # scikit-learn keeps one plane for two classes
        weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
    mean, components = (pca.mean, pca.components) if pca else (None, None)
    return LinearSvm(weights, bias, list(classes), c, mean, components)


@dataclass(frozen=True)
class Pca:
    """mean (F,), components (N, F), of the features it was fitted on: those of the training list alone."""

    mean: np.ndarray
    components: np.ndarray

    def project(self, features: np.ndarray) -> np.ndarray:
        return (features.astype(np.float64) - self.mean) @ self.components.T

    def first(self, number: int) -> "Pca":
        return Pca(self.mean, self.components[:number])


def fit_pca(features: np.ndarray, number: int) -> Pca:
    """Fits a PCA. Raises UserError where the features have fewer components."""
    from sklearn.decomposition import PCA

    most = min(features.shape)
    if number > most:
        raise UserError(
            f"--pca {number}: {len(features)} training videos with {features.shape[1]} values have at most {most} "
            "components."
        )
    fitted = PCA(number, random_state=0).fit(features.astype(np.float64))
    return Pca(fitted.mean_, fitted.components_)


def search_c(features: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> tuple[float, dict[float, float]]:
    """The C that does best when whole groups of the training list are held out in turn, and the accuracy of each."""
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.svm import LinearSVC

    folds = min(FOLDS, len(set(groups)))
    if folds < 2:
        raise UserError("--search-c needs at least two groups of training videos to hold one out.")
    svm = LinearSVC(dual=True, max_iter=20_000, random_state=0)
    search = GridSearchCV(svm, {"C": list(SEARCHED)}, cv=GroupKFold(folds)).fit(features, labels, groups=groups)
    scores = dict(zip(SEARCHED, 100 * search.cv_results_["mean_test_score"], strict=True))
    return float(search.best_params_["C"]), scores


def save_svm(path: Path, svm: LinearSvm, settings: dict) -> None:
    """Arrays and a JSON text in an .npz: nothing in it can run code when it is loaded."""
    arrays = {"weights": svm.weights, "bias": svm.bias}
    if svm.pca_mean is not None:
        arrays |= {"pca_mean": svm.pca_mean, "pca_components": svm.pca_components}
    meta = {"format": FORMAT, "classes": svm.classes, "c": svm.c, "features": settings}
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    except OSError as error:
        raise UserError(f"{relative_to_cwd(path)} cannot be written: {error.strerror}.") from error


def load_svm(path: Path) -> tuple[LinearSvm, dict]:
    """Returns the classifier, and the settings of the features that it was trained on."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        meta = json.loads(arrays.pop("meta").tobytes())
        known = meta["format"] == FORMAT
        svm = LinearSvm(classes=meta["classes"], c=meta["c"], **arrays)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Train an SVM first: python features.py svm") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not an SVM of features.py.") from error
    if not known:
        raise UserError(f"{path} was written by another version of this program. Train it anew.")
    return svm, meta["features"]
