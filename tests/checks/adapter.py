"""From a case of ../shared/cases to a Subject, without `fit`: the checks are held against the cases by themselves.

`subject_of(case)` splits 60/20/20 as the cases' harness does; `findings_of(case)` checks before, trains with a plain five-step loop under a Watch, and checks after.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from fivestep.checks.after import check_trained
from fivestep.checks.after_prediction import check_prediction_rows, training_statistics
from fivestep.checks.after_scores import check_scores
from fivestep.checks.before import check_before
from fivestep.checks.during import Watch
from fivestep.checks.findings import Finding
from fivestep.checks.probe import SECONDS, Probe
from fivestep.checks.subject import Part, Subject, part_of
from fivestep.train.loop import forward

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


def case_names() -> list[str]:
    if not CASES.is_dir():
        return []
    return sorted(path.stem for path in CASES.glob("*.py") if not path.name.startswith("_") and path.stem not in ("harness", "judge"))


def load_case(name: str, folder: Path = CASES) -> Any:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(f"case_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def split_rows(num_rows: int, case: dict[str, Any]) -> list[Tensor]:
    how = case.get("split") or {}
    method = how.get("method", "random")
    first, second = int(0.6 * num_rows), int(0.8 * num_rows)
    if method == "ordered":
        order = torch.arange(num_rows)
    elif method == "time":
        order = torch.argsort(torch.as_tensor(case["table"][how["column"]]))
    elif method == "group":
        _, group = numpy.unique(numpy.asarray(case["table"][how["column"]]), return_inverse=True)
        groups = torch.randperm(int(group.max()) + 1, generator=torch.Generator().manual_seed(0))
        cuts = numpy.split(groups.numpy(), [int(0.6 * len(groups)), int(0.8 * len(groups))])
        return [torch.as_tensor(numpy.flatnonzero(numpy.isin(group, cut))) for cut in cuts]
    else:
        order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))
    return [order[:first], order[first:second], order[second:]]


def parts_of(case: dict[str, Any]) -> tuple[list[Part | None], dict[str, Any]]:
    if "train" in case:
        return [None if case.get(name) is None else part_of(*case[name]) for name in ("train", "val", "test")], {"split": "given"}
    if "dataset" in case:
        dataset = case["dataset"]
        rows = split_rows(len(dataset), case)

        class Source:
            def __init__(self, dataset: Any, rows: Tensor):
                self.dataset, self.rows = dataset, rows

            def take(self, indices: Tensor) -> tuple[Any, tuple[Tensor, ...], None]:
                items = [self.dataset[int(self.rows[place])] for place in indices]
                return torch.stack([torch.as_tensor(item[0]) for item in items]), (torch.stack([torch.as_tensor(item[1]) for item in items]),), None

        return [Part(Source(dataset, cut).take, len(cut), rows=cut.numpy()) for cut in rows], {"dataset": dataset}
    if "table" in case:
        table, target = case["table"], case["target"]
        raw = {name: numpy.asarray(values) for name, values in table.items()}
        rows = split_rows(len(raw[target]), case)
        used = [name for name in raw if name != target and name not in set(case.get("drop", ()))]
        encoded = []
        for name in used:
            values = raw[name]
            if values.dtype.kind not in "fiub":
                values = numpy.unique(values.astype(str), return_inverse=True)[1]
            numbers = torch.as_tensor(values.astype(numpy.float64))
            known = numbers[rows[0]]
            encoded.append(((numbers - known.nanmean()) / known[~known.isnan()].std().clamp_min(1e-12)).nan_to_num().float())
        inputs, targets = torch.stack(encoded, 1), torch.as_tensor(table[target])
        method = (case.get("split") or {}).get("method", "random")
        facts = dict(
            table=raw,
            target=target,
            used=tuple(used),
            dropped=tuple(case.get("drop", ())),
            standardised=True,
            split=method,
            split_column=(case.get("split") or {}).get("column"),
        )
        return [part_of(inputs[cut], targets[cut], rows=cut) for cut in rows], facts
    rows = split_rows(len(case["y"]), case)
    return [part_of(case["X"][cut], case["y"][cut], rows=cut) for cut in rows], {"split": (case.get("split") or {}).get("method", "random")}


def subject_of(case: dict[str, Any]) -> Subject:
    """The Subject that `fit` would hold for this case."""
    model: nn.Module = case["model"]
    (train, val, test), facts = parts_of(case)
    assert train is not None
    report, tuned = None, False
    if "checkpoint" in case:
        own = set(model.state_dict())
        matched = own & set(case["checkpoint"])
        model.load_state_dict(case["checkpoint"], strict=case.get("load_strict", True))
        report, tuned = SimpleNamespace(matched=sorted(matched), missing=sorted(own - matched)), bool(matched)
    loss = getattr(nn, case["loss"])() if isinstance(case["loss"], str) else case["loss"]
    name = type(loss).__name__ if isinstance(loss, nn.Module) and type(loss).__module__.startswith("torch.") else None
    parameters = list(case["params"](model)) if "params" in case else list(model.parameters())
    optimizer = getattr(torch.optim, case["optimizer"])(parameters, lr=case["lr"], **case.get("optimizer_kwargs", {}))
    steps = -(-len(train) // case["batch_size"])

    def simulated(count: int) -> list[float]:
        probe = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=case["lr"])
        planned, found = case["scheduler"](probe), []
        for step in range(count):
            found.append(probe.param_groups[0]["lr"])
            if case.get("scheduler_on", "epoch") == "batch" or (step + 1) % steps == 0:
                planned.step()
        return found

    metrics = {}
    if "metric" in case and callable(case["metric"]):
        metrics = {case.get("metric_name", "score"): case["metric"]}
    names: tuple[str, ...] = tuple(metrics) if metrics else (str(case["metric"]),) if "metric" in case else ()
    default = not names
    return Subject(
        model=model, train=train, val=val, test=test, loss=loss, loss_name=name, task=case["task"] if case["task"] in ("binary", "multiclass", "multilabel", "regression") else None,
        optimizer=optimizer, schedule=simulated if "scheduler" in case else None, batch_size=case["batch_size"], epochs=case["epochs"], shuffle=case.get("shuffle", True), clip_norm=case.get("clip_grad_norm"),
        metrics=metrics, metric_names=names, default_metrics=default, monitor={"val_loss": "loss", "val_acc": "accuracy"}.get(case.get("monitor", ""), "loss"), mode=case.get("mode"),
        keep="best" if "monitor" in case else "last", weights=report, fine_tuned=tuned, predict_rows=case.get("predict_X"), **facts,
    )  # fmt: skip


def train(subject: Subject, case: dict[str, Any], watch: Watch) -> nn.Module:
    """A plain five-step loop; the events that `fit` would send go to `watch`."""
    model, optimizer = subject.model, subject.optimizer
    scheduler = case["scheduler"](optimizer) if "scheduler" in case else None
    torch.manual_seed(0)
    best = None
    for epoch in range(subject.epochs):
        model.train()
        order = torch.randperm(len(subject.train)) if subject.shuffle else torch.arange(len(subject.train))
        losses = []
        for start in range(0, len(order), subject.batch_size):
            inputs, targets, _ = subject.train.take(order[start : start + subject.batch_size])
            outputs = forward(model, inputs)
            value = subject.loss(*(outputs if isinstance(outputs, tuple) else (outputs,)), *targets)
            if not torch.isfinite(value):
                return model
            losses.append(float(value))
            if not value.requires_grad:
                continue
            optimizer.zero_grad()
            value.backward()
            if subject.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), subject.clip_norm)
            optimizer.step()
            if scheduler and case.get("scheduler_on") == "batch":
                scheduler.step()
        if scheduler and case.get("scheduler_on", "epoch") == "epoch":
            scheduler.step()
        watch.steps_ended(losses)
        val_loss = None
        if subject.val is not None:
            model.eval()
            inputs, targets, _ = subject.val.take(torch.arange(len(subject.val)))
            with torch.no_grad():
                outputs = forward(model, inputs)
                val_loss = float(subject.loss(*(outputs if isinstance(outputs, tuple) else (outputs,)), *targets))
            if subject.keep == "best" and (best is None or (val_loss > best[0] if subject.mode == "max" else val_loss < best[0])):
                best = (val_loss, copy.deepcopy(model.state_dict()))
        watch.epoch_ended(epoch, sum(losses) / len(losses), val_loss, optimizer.param_groups[0]["lr"], {})
    if best:
        model.load_state_dict(best[1])
    return model


def findings_of(case: dict[str, Any], *, training: bool = True, seconds: float = SECONDS) -> tuple[list[Finding], float]:
    """All findings, and the seconds of this thread's time that the checks before the run took (they may take `seconds`)."""
    subject = subject_of(case)
    begun = time.thread_time()
    probe = Probe(subject, seconds)
    found = check_before(subject, probe=probe)
    seconds = time.thread_time() - begun
    if subject.predict_rows is not None:
        found += check_prediction_rows(training_statistics(subject), subject.predict_rows)
    if any(finding.severity == "error" for finding in found) or not training:
        return found, seconds
    watch = Watch(subject, found, probe=probe)
    model = train(subject, case, watch)
    watch.trained(model)
    found = found + watch.findings() + check_trained(subject, model, watch=watch)
    if subject.test is not None:
        inputs, targets, _ = subject.test.take(torch.arange(len(subject.test)))
        model.eval()
        with torch.no_grad():
            found += check_scores(subject, "test", forward(model, inputs), targets)
    return found, seconds


def loud(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings if finding.severity != "note"}


__all__ = ["CASES", "case_names", "findings_of", "load_case", "loud", "subject_of"]
