"""`fivestep demo`: the whole workflow on real data that ships with the package."""

from __future__ import annotations

import sys
import time
from typing import Any


def run_demo(folder: str, *, quiet: bool = False, as_json: bool = False) -> dict[str, Any]:
    """Penguins as a table, digits as images: split, train, score, save, load, predict again, and say where everything lies."""
    import torch

    import fivestep as fs
    from fivestep import datasets

    results: dict[str, Any] = {}

    def say(text: str) -> None:
        if not as_json:  # then stdout holds one JSON object, and the same facts stand in it
            print(text)

    images, labels = datasets.digits()
    sets = {
        "penguins": ("a table of 344 penguins: which species?", fs.Data.table(datasets.penguins(), target="species", missing=["NA"]), "auto"),
        "digits": ("1,797 images of handwritten digits, 8 x 8 pixels", fs.Data.images(images, labels), "cnn"),
    }
    for name, (title, data, model) in sets.items():
        if not quiet:
            print(f"\n== {name}: {title}", file=sys.stderr)
        started = time.perf_counter()
        splits = data.split(stratify=True)
        run = fs.fit(model, splits, folder=folder, epochs=60 if name == "penguins" else 20, quiet=quiet)
        assert run.folder is not None
        scores = run.evaluate("test")
        say(f"{name}, test split\n{scores}")
        loaded = fs.load(run.folder / "model.fivestep")
        again = loaded.full_model
        same = torch.equal(run._predictor.outputs(run._encoded["test"]), loaded._predictor.outputs(run._encoded["test"]))
        say(f"saved and loaded: predictions equal to the bit: {'yes' if same else 'NO'}; {sum(p.numel() for p in again.parameters()):,} parameters")
        report = run.report()
        say(f"run    {run.folder}\nmodel  {run.folder}/model.fivestep\nreport {report}")
        results[name] = {
            "run": str(run.folder),
            "report": str(report),
            "seconds": round(time.perf_counter() - started, 1),
            "equal_after_load": same,
            "scores": scores.to_json(),
        }
    return results
