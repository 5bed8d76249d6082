"""The estimators are scikit-learn's in shape: its own checks, its tools around them, and the same numbers as `fit` behind them."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas
import polars
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

import fivestep as fs

# What scikit-learn's checks ask for and these estimators do not promise. Each entry needs its reason.
EXCEPTIONS = {
    "check_sample_weight_equivalence_on_dense_data": (
        "A row of weight 2 is not two rows here: a repeated row takes two places in the order of the batches, counts twice in the mean and deviation that "
        "columns are scaled by, and may stand in training and validation. The weights act on the loss, whose weighted mean is exact. (scikit-learn's own "
        "MLPClassifier fails it for the same reason and is excepted there.)"
    ),
}
NOT_INSTALLED_HERE = {"check_array_api_input"}  # skipped by scikit-learn itself unless SCIPY_ARRAY_API is set


@pytest.mark.parametrize("estimator", [fs.FivestepClassifier(), fs.FivestepRegressor()], ids=lambda estimator: type(estimator).__name__)
def test_scikit_learns_own_checks_pass_but_for_the_exceptions_that_are_argued(estimator: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_fail=None, on_skip=None, expected_failed_checks=EXCEPTIONS)
    failed = {result["check_name"]: repr(result["exception"])[:500] for result in results if result["status"] == "failed"}
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    excepted = {result["check_name"] for result in results if result["status"] == "xfail"}
    assert not failed
    assert skipped <= NOT_INSTALLED_HERE
    assert excepted == set(EXCEPTIONS), "an exception that is not needed any more is taken out of the list"
    assert len(results) > 40


class Net(nn.Module):
    """A user's own module, as any other."""

    def __init__(self, num_inputs: int, num_outputs: int, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, num_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_it_stands_in_pipelines_searches_and_cross_validation() -> None:
    X, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), fs.FivestepClassifier(Net, epochs=30, lr=0.05))
    assert cross_val_score(pipeline, X, y, cv=3).min() > 0.85
    search = GridSearchCV(fs.FivestepClassifier(Net, epochs=20), {"lr": [1e-6, 0.05], "model_args": [{"width": 3}, {"width": 9}]}, cv=2).fit(X, y)
    assert search.best_params_["lr"] == 0.05
    assert search.best_estimator_.run_.model.layers[0].out_features == search.best_params_["model_args"]["width"]


def test_it_predicts_what_fit_on_the_same_rows_predicts() -> None:
    X, y = load_diabetes(return_X_y=True)
    regressor = fs.FivestepRegressor(Net, epochs=5, lr=0.01, seed=3).fit(X, y)
    table = {f"x{k}": X[:, k] for k in range(X.shape[1])} | {"target": y}
    splits = fs.Data.table(table, target="target", columns=dict.fromkeys(table, "number")).split(train=0.85, val=0.15, seed=3)
    run = fs.fit(Net, splits, epochs=5, lr=0.01, seed=3, folder=None, quiet=True)
    assert np.array_equal(regressor.predict(X), run.predict(table)["target"])
    assert regressor.run_.weights_sha256 == run.weights_sha256


def test_scores_are_scikit_learns() -> None:
    from sklearn.metrics import accuracy_score, r2_score

    X, y = load_diabetes(return_X_y=True)
    several = np.stack([y, -2 * y + X[:, 0]], axis=1)
    weights = np.linspace(0, 2, len(y))
    regressor = fs.FivestepRegressor("linear", epochs=5).fit(X, several)
    assert regressor.predict(X).shape == several.shape
    assert regressor.score(X, several, weights) == pytest.approx(r2_score(several, regressor.predict(X), sample_weight=weights))
    X, y = load_breast_cancer(return_X_y=True)
    weights = np.linspace(0, 2, len(y))
    classifier = fs.FivestepClassifier("linear", epochs=3).fit(X, y)
    assert classifier.score(X, y, weights) == pytest.approx(accuracy_score(y, classifier.predict(X), sample_weight=weights))


def frames() -> dict[str, np.ndarray | list]:
    random = np.random.default_rng(0)
    colour = random.choice(["red", "green", "blue"], 300)
    size = random.normal(size=300)
    size[::7] = np.nan
    return {"size": size, "colour": colour.tolist(), "label": np.where((colour == "red") ^ (np.nan_to_num(size) > 1), "yes", "no").tolist()}


@pytest.mark.parametrize("library", [pandas, polars], ids=["pandas", "polars"])
def test_frames_with_text_and_missing_values_go_in_as_they_are(library: object) -> None:
    frame = library.DataFrame(frames())
    X, y = frame[["size", "colour"]], frame["label"]
    classifier = fs.FivestepClassifier("mlp", epochs=30).fit(X, y)
    assert classifier.score(X, y) > 0.95
    assert classifier.classes_.tolist() == ["no", "yes"] and classifier.feature_names_in_.tolist() == ["size", "colour"]
    probabilities = classifier.predict_proba(X)
    assert np.array_equal(classifier.classes_[probabilities.argmax(1)], classifier.predict(X))
    assert np.allclose(probabilities.sum(1), 1)
    assert np.array_equal(classifier.predict(frame[["colour", "size"]]), classifier.predict(X))  # columns are found by name
    with pytest.raises(fs.DataError, match="Missing: 'colour'"):
        classifier.predict(frame[["size"]])


def test_pandas_and_polars_give_the_same_bits() -> None:
    columns = frames()
    found = [
        fs.FivestepClassifier("mlp", epochs=4).fit(frame[["size", "colour"]], frame["label"]).predict_proba(frame[["size", "colour"]])
        for frame in (pandas.DataFrame(columns), polars.DataFrame(columns))
    ]
    assert np.array_equal(*found)


def test_a_pipeline_that_makes_polars_frames_goes_in_as_it_is() -> None:
    frame = pandas.DataFrame(frames())
    scale = make_column_transformer((StandardScaler(), ["size"]), remainder="passthrough", verbose_feature_names_out=False).set_output(transform="polars")
    seen = []

    def look(X: object) -> object:
        seen.append(type(X).__module__.partition(".")[0])
        return X

    pipeline = make_pipeline(scale, FunctionTransformer(look), fs.FivestepClassifier("mlp", epochs=30)).fit(frame[["size", "colour"]], frame["label"])
    assert seen[0] == "polars"
    assert pipeline.score(frame[["size", "colour"]], frame["label"]) > 0.95
    assert pipeline[-1].feature_names_in_.tolist() == ["size", "colour"]


def test_images_go_to_the_model_as_they_are() -> None:
    images, labels = fs.datasets.digits()

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1:] == (8, 8)
            return self.layer(x.flatten(1))

    kept = labels < 3
    X, y = images[kept] / 255, labels[kept]
    classifier = fs.FivestepClassifier(Flat, epochs=10, lr=0.01).fit(X, y)
    assert classifier.score(X, y) > 0.95 and classifier.predict_proba(X[:5]).shape == (5, 3)


def test_labels_come_back_in_the_type_they_had() -> None:
    X = np.random.default_rng(0).normal(size=(60, 2))
    for labels in ([10, 9, -3], [True, False], ["b", "a"], [2.0, 1.0]):
        y = np.array(labels)[(X[:, 0] > 0).astype(int) + (X[:, 1] > 1) * (len(labels) > 2)]
        classifier = fs.FivestepClassifier("linear", epochs=2).fit(X, y)
        assert classifier.predict(X).dtype == y.dtype
        assert classifier.classes_.tolist() == sorted(labels)


def test_an_instance_is_left_as_it_was_and_starts_each_fit_anew() -> None:
    X, y = load_iris(return_X_y=True)
    net = Net(4, 3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    classifier = fs.FivestepClassifier(net, epochs=2)
    first = classifier.fit(X, y).predict_proba(X)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())
    assert np.array_equal(first, classifier.fit(X, y).predict_proba(X))
    assert np.array_equal(first, clone(classifier).fit(X, y).predict_proba(X))


def test_a_pickled_estimator_predicts_the_same_bits_and_holds_no_training_rows() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    classifier = fs.FivestepClassifier(Net, epochs=2).fit(X, y)
    content = pickle.dumps(classifier)
    assert np.array_equal(pickle.loads(content).predict_proba(X), classifier.predict_proba(X))
    assert len(content) < X.nbytes / 2
    assert not hasattr(pickle.loads(content), "run_")


def test_a_class_of_one_row_is_trained_on_and_has_its_column() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    classifier = fs.FivestepClassifier("linear", epochs=2).fit(X, np.array(["rare"] + ["a", "b"] * 14 + ["a"]))
    assert classifier.predict_proba(X).shape == (30, 3) and classifier.run_.splits.val is None


def test_nothing_is_written_or_printed_unless_asked_for(tmp_path: object, capfd: pytest.CaptureFixture[str]) -> None:
    from pathlib import Path

    X, y = load_iris(return_X_y=True)
    fs.FivestepClassifier("linear", epochs=1).fit(X, y)
    assert capfd.readouterr() == ("", "")
    assert not list(Path().iterdir())
    classifier = fs.FivestepClassifier("linear", epochs=1, folder="runs", name="iris").fit(X, y)
    assert (Path("runs/iris/model.fivestep")).is_dir()
    assert np.array_equal(fs.load("runs/iris").predict({f"x{k}": X[:, k] for k in range(4)})["target"], classifier.predict(X))


def test_an_unknown_setting_and_a_use_before_fit_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="'epoch' is none of them\\. Did you mean 'epochs'"):
        fs.FivestepClassifier(epoch=3)
    with pytest.raises(NotFittedError):
        fs.FivestepRegressor().predict([[1.0]])


def test_it_works_without_scikit_learn() -> None:
    code = """
import sys
sys.modules["sklearn"] = None
import numpy as np, fivestep as fs
X = np.random.default_rng(0).normal(size=(80, 2))
classifier = fs.FivestepClassifier("linear", epochs=30, lr=0.05)
classifier.set_params(**(classifier.get_params() | {"seed": 4}))
print(classifier.fit(X, X[:, 0] > 0).score(X, X[:, 0] > 0) > 0.9, classifier.seed)
try:
    fs.FivestepRegressor().predict(X)
except fs.UsageError as error:
    print("not fitted yet" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "4", "True"], done.stderr


# -- what users pass that scikit-learn's own checks do not ------------------------------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(3)
ROWS = 120
NUMBERS = GENERATOR.normal(size=ROWS)
KINDS = GENERATOR.integers(0, 3, ROWS)
QUICK = dict(epochs=60, lr=0.05, checks=False)


def test_numbers_of_pictures_are_as_many_as_rows() -> None:
    pictures = GENERATOR.normal(size=(60, 1, 4, 4))
    regressor = fs.FivestepRegressor(nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), epochs=2).fit(pictures, pictures.mean((1, 2, 3)))
    assert regressor.predict(pictures).shape == (60,)
    assert fs.FivestepRegressor(nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), epochs=1).fit(pictures, pictures.mean((2, 3))).predict(pictures).shape == (60, 1)


def test_a_picture_with_a_missing_value_is_refused_when_it_is_predicted() -> None:
    pictures = GENERATOR.normal(size=(60, 1, 4, 4))
    classifier = fs.FivestepClassifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), epochs=1).fit(pictures, np.arange(60) % 2)
    pictures[3, 0, 1, 1] = np.nan
    with pytest.raises(fs.DataError, match="contains NaN"):
        classifier.predict(pictures)


def test_a_category_of_whole_numbers_is_the_same_as_ints_and_as_floats_with_gaps() -> None:
    labels = np.where(KINDS == 1, "one", "other")
    classifier = fs.FivestepClassifier("linear", **QUICK).fit(pandas.DataFrame({"kind": pandas.Series(KINDS).astype("category"), "number": NUMBERS}), labels)
    gaps = pandas.Series(KINDS.astype(float))
    gaps[0] = np.nan
    assert classifier.score(pandas.DataFrame({"kind": gaps.astype("category"), "number": NUMBERS})[1:], labels[1:]) == 1.0


def test_a_category_of_numbers_too_large_for_integers_is_not_lost() -> None:
    from fivestep.data.tables import whole_as_integers

    large = polars.Series("k", [1e300, 2.0])
    assert whole_as_integers(large).to_list() == [1e300, 2.0] and whole_as_integers(polars.Series("k", [1.0, None])).to_list() == [1, None]


def test_frames_may_hold_durations_and_intervals() -> None:
    frame = pandas.DataFrame({"took": pandas.to_timedelta(KINDS * 30, unit="s"), "part": pandas.cut(NUMBERS, 4)})
    labels = np.where(KINDS == 2, "long", "short")
    classifier = fs.FivestepClassifier("linear", **QUICK).fit(frame, labels)
    assert classifier.score(frame, labels) == 1.0
    assert classifier.run_.splits.columns.inputs[1].vocabulary == tuple(sorted({str(part) for part in frame["part"]}))


def test_a_frame_whose_columns_are_numbered_says_itself_what_it_holds() -> None:
    frame = pandas.DataFrame({0: NUMBERS, 1: [f"kind {kind}" for kind in KINDS]})
    labels = np.where(KINDS == 1, "one", "other")
    assert fs.FivestepClassifier("linear", **QUICK).fit(frame, labels).score(frame, labels) == 1.0
    by_position = fs.FivestepClassifier("linear", columns={1: "category"}, **QUICK).fit(np.stack([NUMBERS, KINDS], axis=1), labels)
    assert by_position.score(np.stack([NUMBERS, KINDS], axis=1), labels) == 1.0


def test_a_refit_that_fails_leaves_the_estimator_as_it_was() -> None:
    x = NUMBERS[:, None]
    classifier = fs.FivestepClassifier("linear", **QUICK).fit(x, np.where(NUMBERS > 0, "up", "down"))
    before = classifier.predict(x)
    with pytest.raises(fs.DataError):
        classifier.fit(np.full((ROWS, 1), np.nan), np.arange(ROWS) % 2)
    assert classifier.predict(x).tolist() == before.tolist()


def test_class_weights_may_be_named_by_their_labels() -> None:
    x, labels = NUMBERS[:, None], np.where(NUMBERS > 1, "rare", "usual")
    by_name = fs.FivestepClassifier("linear", class_weights={"usual": 1.0, "rare": 5.0}, **QUICK).fit(x, labels)
    in_order = fs.FivestepClassifier("linear", class_weights=[5.0, 1.0], **QUICK).fit(x, labels)
    assert by_name.run_.weights_sha256 == in_order.run_.weights_sha256
    with pytest.raises(fs.SettingsError, match="class_weights names rar, usual, and the classes are rare, usual"):
        fs.FivestepClassifier("linear", class_weights={"usual": 1.0, "rar": 5.0}).fit(x, labels)


@pytest.mark.parametrize("val", [-0.1, 1.0, "x"])
def test_a_share_for_validation_that_is_none_is_refused(val: object) -> None:
    with pytest.raises(fs.UsageError, match="is no share of the rows"):
        fs.FivestepClassifier("linear", val=val).fit(NUMBERS[:, None], NUMBERS > 0)


def test_labels_of_pandas_with_a_missing_one_are_refused_in_words() -> None:
    labels = pandas.array([True, False, None] * 40, dtype="boolean")
    with pytest.raises(fs.DataError, match="missing values"):
        fs.FivestepClassifier("linear").fit(NUMBERS[:, None], labels)
