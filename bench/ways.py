"""One way to train one workload, in a process of its own: `python bench/ways.py lightning W2` prints its seconds as JSON.

Every way gets the same rows, network, loss, optimizer, rate and batch size, shuffles each epoch, and is told when an epoch ends. What is timed is the time
between the ends of epochs, from the first epoch's end on, divided by steps: no import, compilation or first step is in it. `before` is the time from the call
to the end of the first epoch, less an epoch. A way is written as its own documentation writes it; `-off` switches off what its users can switch off.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from workloads import WORKLOADS, Workload

Ended = Callable[[float | None], None]  # to be called at the end of each epoch, with its mean training loss where the way knows it


def fivestep(work: Workload, x: Any, y: Any, epochs: int, ended: Ended, **settings: Any) -> None:
    import fivestep as fs

    def observer(event: Any) -> None:
        if type(event).__name__ == "EpochEnded":
            ended(event.train_loss)

    with tempfile.TemporaryDirectory() as folder:
        fs.fit(work.make, fs.Splits((x, y)), loss=work.loss, optimizer=work.optimizer, lr=work.lr, batch_size=work.batch, epochs=epochs, observers=[observer],
               folder=folder, device="cpu", **settings)  # fmt: skip


def tuned_loop(work: Workload, x: Any, y: Any, epochs: int, ended: Ended, *, by_attribute: bool = False) -> None:
    """One gather an epoch, views as batches, the optimizer with the arguments that fivestep records; each loss is read, as fivestep's guard reads it.

    `by_attribute`: the gradients are set to None one by one, as fivestep's plain step does, instead of by `optimizer.zero_grad()`.
    """
    model, criterion = work.make(), getattr(nn, work.loss)()
    optimizer = getattr(torch.optim, work.optimizer)(model.parameters(), lr=work.lr, **work.recorded)
    parameters = list(model.parameters())
    for _ in range(epochs):
        order = torch.randperm(len(x))
        losses = []
        for inputs, targets in zip(x.index_select(0, order).split(work.batch), y.index_select(0, order).split(work.batch)):
            loss = criterion(model(inputs), targets)
            losses.append(loss.item())
            if by_attribute:
                for parameter in parameters:
                    parameter.grad = None
            else:
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ended(sum(losses) / len(losses))


def tutorial_loop(work: Workload, x: Any, y: Any, epochs: int, ended: Ended) -> None:
    """A DataLoader, five lines and `.item()`."""
    model, criterion = work.make(), getattr(nn, work.loss)()
    optimizer = getattr(torch.optim, work.optimizer)(model.parameters(), lr=work.lr)
    loader = DataLoader(TensorDataset(x, y), batch_size=work.batch, shuffle=True)
    for _ in range(epochs):
        total = 0.0
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            total += loss.item()
        ended(total / len(loader))


def lightning(work: Workload, x: Any, y: Any, epochs: int, ended: Ended, *, off: bool = False) -> None:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.criterion, self.losses = work.make(), getattr(nn, work.loss)(), []

        def training_step(self, batch, batch_idx):
            inputs, targets = batch
            loss = self.criterion(self.model(inputs), targets)
            if not off:
                self.log("train_loss", loss, on_step=False, on_epoch=True)
            self.last = loss
            return loss

        def on_train_epoch_end(self):
            ended(float(self.last))

        def configure_optimizers(self):
            return getattr(torch.optim, work.optimizer)(self.parameters(), lr=work.lr)

    quiet: dict[str, Any] = dict(enable_progress_bar=False, logger=False, enable_checkpointing=False, enable_model_summary=False) if off else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, default_root_dir=folder, **quiet)
        trainer.fit(Module(), DataLoader(TensorDataset(x, y), batch_size=work.batch, shuffle=True))


def keras(work: Workload, x: Any, y: Any, epochs: int, ended: Ended) -> None:
    import keras

    keras.config.set_image_data_format("channels_first")
    layers: list[Any] = [keras.Input(work.shape)]
    for kind, *given in work.layers:
        if kind == "linear":
            layers.append(keras.layers.Dense(given[0]))
        elif kind == "conv":
            layers.append(keras.layers.Conv2D(given[0], 3, padding="same"))
        elif kind == "relu":
            layers.append(keras.layers.ReLU())
        elif kind == "pool":
            layers.append(keras.layers.MaxPooling2D(2))
        elif kind == "flatten":
            layers.append(keras.layers.Flatten())
    model = keras.Sequential(layers)
    loss = "mse" if work.loss == "MSELoss" else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=getattr(keras.optimizers, work.optimizer)(learning_rate=work.lr), loss=loss)
    told = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ended(logs["loss"]))
    model.fit(x.numpy(), y.numpy(), batch_size=work.batch, epochs=epochs, callbacks=[told])


def skorch(work: Workload, x: Any, y: Any, epochs: int, ended: Ended) -> None:
    from skorch import NeuralNet
    from skorch.callbacks import Callback

    class Told(Callback):
        def on_epoch_end(self, net, **kwargs):
            ended(net.history[-1]["train_loss"])

    net = NeuralNet(
        work.make(), criterion=getattr(nn, work.loss), optimizer=getattr(torch.optim, work.optimizer), lr=work.lr, batch_size=work.batch, max_epochs=epochs,
        train_split=None, iterator_train__shuffle=True, callbacks=[Told()],
    )  # fmt: skip
    net.fit(x, y)


def fastai(work: Workload, x: Any, y: Any, epochs: int, ended: Ended) -> None:
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    class Told(Callback):
        order = 100

        def after_train(self):
            ended(float(self.learn.smooth_loss))

    rows, few = TensorDataset(x, y), TensorDataset(x[: work.batch], y[: work.batch])
    loaders = DataLoaders.from_dsets(rows, few, bs=work.batch, device=torch.device("cpu"), num_workers=0)
    optimizer = partial(OptimWrapper, opt=getattr(torch.optim, work.optimizer))
    with tempfile.TemporaryDirectory() as folder:
        Learner(loaders, work.make(), loss_func=getattr(nn, work.loss)(), opt_func=optimizer, lr=work.lr, cbs=[Told()], path=folder).fit(epochs)


def ignite(work: Workload, x: Any, y: Any, epochs: int, ended: Ended) -> None:
    from ignite.engine import Events, create_supervised_trainer

    model = work.make()
    optimizer = getattr(torch.optim, work.optimizer)(model.parameters(), lr=work.lr)
    trainer = create_supervised_trainer(model, optimizer, getattr(nn, work.loss)())
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: ended(engine.state.output))
    trainer.run(DataLoader(TensorDataset(x, y), batch_size=work.batch, shuffle=True), max_epochs=epochs)


def accelerate(work: Workload, x: Any, y: Any, epochs: int, ended: Ended) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, criterion = work.make(), getattr(nn, work.loss)()
    optimizer = getattr(torch.optim, work.optimizer)(model.parameters(), lr=work.lr)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(TensorDataset(x, y), batch_size=work.batch, shuffle=True))
    for _ in range(epochs):
        total = 0.0
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            total += loss.item()
        ended(total / len(loader))


def hf_trainer(work: Workload, x: Any, y: Any, epochs: int, ended: Ended) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.criterion = work.make(), getattr(nn, work.loss)()

        def forward(self, inputs, labels):
            outputs = self.model(inputs)
            return {"loss": self.criterion(outputs, labels), "logits": outputs}

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, index):
            return {"inputs": x[index], "labels": y[index]}

    class Told(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            ended(None)

    def collate(rows):
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    model = Wrapped()
    optimizer = getattr(torch.optim, work.optimizer)(model.parameters(), lr=work.lr)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, num_train_epochs=epochs, per_device_train_batch_size=work.batch, use_cpu=True, report_to=[], max_grad_norm=0.0)
        constant = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        Trainer(model, arguments, train_dataset=Rows(), data_collator=collate, callbacks=[Told()], optimizers=(optimizer, constant)).train()


def scikit_learn(work: Workload, x: Any, y: Any, epochs: int, ended: Ended) -> None:
    """MLPRegressor or MLPClassifier; it tells nobody when an epoch ends, so `partial_fit` (one epoch over what it is given, in batches) is called."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    hidden = tuple(layer[1] for layer in work.layers if layer[0] == "linear")[:-1]
    kind = MLPRegressor if work.loss == "MSELoss" else MLPClassifier
    settings: dict[str, Any] = dict(momentum=0.0, solver="sgd") if work.optimizer == "SGD" else dict(solver="adam")
    model = kind(hidden_layer_sizes=hidden, learning_rate_init=work.lr, batch_size=work.batch, alpha=0.0, **settings)
    rows, targets = x.numpy(), y.numpy().ravel()
    for epoch in range(epochs):
        first = dict(classes=list(range(10))) if epoch == 0 and kind is MLPClassifier else {}
        model.partial_fit(rows, targets, **first)
        ended(model.loss_ * (2 if kind is MLPRegressor else 1))  # its squared error is halved


def jax_scan(work: Workload, x: Any, y: Any, epochs: int, ended: Ended) -> None:
    """The epoch as one compiled `lax.scan`: the limit. The last, smaller batch is left out of the scan and done by a step of its own."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    torch_model = work.make()
    tensors = [jnp.asarray(parameter.detach().numpy()) for parameter in torch_model.parameters()]

    def forward(parameters, inputs):
        left = iter(parameters)
        value = inputs
        for kind, *_ in work.layers:
            if kind == "linear":
                weight, bias = next(left), next(left)
                value = value @ weight.T + bias
            elif kind == "conv":
                weight, bias = next(left), next(left)
                value = jax.lax.conv(value, weight, (1, 1), "SAME") + bias[:, None, None]
            elif kind == "relu":
                value = jax.nn.relu(value)
            elif kind == "pool":
                value = jax.lax.reduce_window(value, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
            elif kind == "flatten":
                value = value.reshape(len(value), -1)
        return value

    def loss_of(parameters, inputs, targets):
        outputs = forward(parameters, inputs)
        if work.loss == "MSELoss":
            return ((outputs - targets) ** 2).mean()
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()

    rule = {"SGD": optax.sgd(work.lr), "Adam": optax.adam(work.lr), "AdamW": optax.adamw(work.lr, weight_decay=0.01)}[work.optimizer]

    def step(carry, batch):
        parameters, state = carry
        loss, gradients = jax.value_and_grad(loss_of)(parameters, *batch)
        updates, state = rule.update(gradients, state, parameters)
        return (optax.apply_updates(parameters, updates), state), loss

    whole = len(x) // work.batch * work.batch

    @jax.jit
    def epoch_of(carry, rows, targets, order):
        rows, targets = rows[order], targets[order]
        cut = lambda array: array[:whole].reshape(whole // work.batch, work.batch, *array.shape[1:])  # noqa: E731
        carry, losses = jax.lax.scan(step, carry, (cut(rows), cut(targets)))
        if whole < len(x):
            carry, last = step(carry, (rows[whole:], targets[whole:]))
            losses = jnp.append(losses, last)
        return carry, losses.mean()

    rows, targets = jnp.asarray(x.numpy()), jnp.asarray(y.numpy().astype(np.int32) if y.dtype == torch.int64 else y.numpy())
    carry = (tensors, rule.init(tensors))
    for _ in range(epochs):
        carry, loss = epoch_of(carry, rows, targets, jnp.asarray(torch.randperm(len(x)).numpy()))
        ended(float(loss))


WAYS: dict[str, Callable[..., None]] = {
    "fivestep": fivestep,
    "fivestep compiled": partial(fivestep, compile="epoch"),
    "tuned loop": tuned_loop,
    "tuned loop; .grad = None": partial(tuned_loop, by_attribute=True),
    "tutorial loop": tutorial_loop,
    "Ignite": ignite,
    "Accelerate": accelerate,
    "skorch": skorch,
    "Lightning": lightning,
    "Lightning, all off": partial(lightning, off=True),
    "HF Trainer": hf_trainer,
    "fastai": fastai,
    "Keras (torch)": keras,
    "scikit-learn MLP": scikit_learn,
    "JAX scan": jax_scan,
}


def measure(way: str, workload: str, epochs: int | None = None) -> dict[str, Any]:
    """Seconds a step, seconds before the first step, and the mean training loss of the last epoch, of one way."""
    work = WORKLOADS[workload]
    x, y = work.data()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    ends: list[float] = []
    losses: list[float | None] = []

    def ended(loss: float | None) -> None:
        ends.append(time.perf_counter())
        losses.append(None if loss is None else float(loss))

    began = time.perf_counter()
    timed = epochs or work.epochs
    WAYS[way](work, x, y, timed + 1, ended)
    steps = -(-len(x) // work.batch)
    epoch_seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    return {"seconds_a_step": epoch_seconds / steps, "before": max(0.0, ends[0] - began - epoch_seconds), "loss": losses[-1]}


if __name__ == "__main__":
    stdout = os.dup(1)
    os.dup2(2, 1)  # what a framework prints is not the answer
    found = measure(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
    os.write(stdout, (json.dumps(found) + "\n").encode())
