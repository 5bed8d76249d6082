"""A few small networks by name, for tables and images.

Enters: a name ("mlp") and plain arguments, as JSON can hold them. Leaves: an ordinary `nn.Module`, or the names, dtypes and shapes of its weights without one
number being allocated. The list is closed and every argument has limits, since an artifact may bring name and arguments from a stranger (RELIABILITY A1): what
is out of bounds is refused before anything is built. Each network below needs only torch, so that its class can stand in an ejected script as it is.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fivestep.errors import ArtifactError, SettingsError

# -- the networks ----------------------------------------------------------------------------------------------------------------------------------------------


class LinearModel(nn.Module):
    """Each output is a weighted sum of the inputs and a constant: linear or logistic regression. Inputs `(batch, ...)` count as `(batch, num_inputs)`."""

    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs.flatten(1))


class MLP(nn.Module):
    """Layers of `widths` units, each followed by the activation and dropout, then a linear layer to the outputs.

    forward(inputs): `(batch, num_inputs)` -> `(batch, num_outputs)`. With `num_categories` (how many codes each category column has) forward(numbers, codes):
    codes are int64 `(batch, columns)` from 0; each column learns a vector of at most `embedding` numbers per code.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        widths: Sequence[int] = (128, 128),
        activation: str = "ReLU",
        dropout: float = 0.0,
        num_categories: Sequence[int] | None = None,
        embedding: int = 8,
    ):
        super().__init__()
        sizes = [min(embedding, count) for count in num_categories or ()]
        self.embeddings = nn.ModuleList(nn.Embedding(count, size, _weight=torch.empty(count, size)) for count, size in zip(num_categories or (), sizes))
        for table, size in zip(self.embeddings, sizes):
            nn.init.uniform_(table.weight, -(size**-0.5), size**-0.5)  # type: ignore[arg-type]  as Gorishniy et al. 2021; torch's N(0, 1) drowns the numbers
        width = num_inputs + sum(sizes)
        layers: list[nn.Module] = []
        for next_width in widths:
            # Identity, so that the weights have the same names with and without dropout
            layers += [nn.Linear(width, next_width), getattr(nn, activation)(), nn.Dropout(dropout) if dropout else nn.Identity()]
            width = next_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_outputs))

    def forward(self, inputs: Tensor, codes: Tensor | None = None) -> Tensor:
        features = inputs.flatten(1)
        if codes is not None:
            features = torch.cat([features, *(table(codes[:, column]) for column, table in enumerate(self.embeddings))], dim=1)
        return self.layers(features)


class ResNetBlock(nn.Module):
    """x + dropout(linear(dropout(relu(linear(norm(x)))))), `(batch, width)` -> `(batch, width)`."""

    def __init__(self, width: int, hidden: int, hidden_dropout: float, dropout: float):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.hidden_dropout = nn.Dropout(hidden_dropout) if hidden_dropout else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.hidden_dropout(functional.relu(self.widen(self.norm(features))))
        return features + self.dropout(self.narrow(hidden))


class ResNet(nn.Module):
    """The ResNet for tables of Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", section 3.2.

    `(batch, num_inputs)` -> `(batch, num_outputs)`, through `depth` blocks of `width` units that each add `width * hidden_factor` hidden units' correction.
    BatchNorm needs at least two rows a batch in training.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        width: int = 128,
        depth: int = 2,
        hidden_factor: float = 2.0,
        hidden_dropout: float = 0.2,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.first = nn.Linear(num_inputs, width)
        hidden = max(1, int(width * hidden_factor))
        self.blocks = nn.Sequential(*(ResNetBlock(width, hidden, hidden_dropout, dropout) for _ in range(depth)))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.blocks(self.first(inputs.flatten(1)))
        return self.head(functional.relu(self.norm(features)))


class CNN(nn.Module):
    """For each of `channels` a 3x3 convolution, batch norm and ReLU, and halving by max pooling; then one linear layer over all that is left.

    `pooled` are the layers, counted from 0, after which the image is halved (None: after every one). With `residual` a layer that has as many channels as the
    one before adds what it makes of them to them (He et al. 2016, "Deep Residual Learning for Image Recognition").

    forward(images): float32 `(batch, channels, height, width)`, or the same images flat `(batch, channels * height * width)` -> `(batch, num_outputs)`.
    `image_shape` is (channels, height, width).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_outputs: int,
        channels: Sequence[int] = (24, 48, 96),
        dropout: float = 0.0,
        pooled: Sequence[int] | None = None,
        residual: int = 0,
    ):
        super().__init__()
        self.image_shape = tuple(image_shape)
        depth, height, width = image_shape
        layers: list[nn.Module] = []
        for layer, next_depth in enumerate(channels):
            # No bias, which the norm would subtract again.
            convolution = [nn.Conv2d(depth, next_depth, 3, padding=1, bias=False), nn.BatchNorm2d(next_depth), nn.ReLU()]
            layers += [Correction(*convolution)] if residual and depth == next_depth else convolution
            depth = next_depth
            if pooled is None or layer in pooled:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))  # a side of 1 stays 1, 7 becomes 4
                height, width = (height + 1) // 2, (width + 1) // 2
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(depth * height * width, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() == 2:  # only flat rows are reshaped: (batch, height, width, channels) would be scrambled in silence
            images = images.unflatten(1, self.image_shape)
        return self.head(self.dropout(self.features(channels_together(images)).flatten(1)))


class Correction(nn.Sequential):
    """What its layers make of the features is added to them."""

    def forward(self, features: Tensor) -> Tensor:
        return features + super().forward(features)


def channels_together(images: Tensor) -> Tensor:
    """The same images with the channels of a pixel side by side in memory (torch's channels_last): a step of a CNN takes three quarters of the time on a CPU.

    Through flat rows and back, as images of one channel are in both orders at once: by the strides that a slice or a stack left, torch would choose the kernels
    and with them the last bits.
    """
    by_pixel = images.permute(0, 2, 3, 1)
    return by_pixel.flatten(1).unflatten(1, by_pixel.shape[1:]).permute(0, 3, 1, 2)


class Ensemble(nn.Module):
    """`members` independent small networks in one: every weight has the members as its first axis, and one forward computes all of them.

    In training forward gives every member's outputs, `(members, batch, num_outputs)`, and `member_loss(loss)` gives each of them the loss it would have alone:
    no member's gradient depends on another's, and an elementwise optimizer (AdamW) keeps them independent. In `eval()` it gives their average
    `(batch, num_outputs)`: of probabilities for "binary", "multiclass" and "multilabel" (returned as logits, so that the same loss and decoding fit), else of
    outputs.

    Numbers are centered, scaled and clipped smoothly, x / sqrt(1 + (x / 3)^2), so that one typo cannot rule the prediction; and beside its raw value each
    number enters as `cosine_outputs` mixtures of `cosines` learned cosines (Gorishniy et al. 2022, "On Embeddings for Numerical Features").
    `number_columns` says which inputs are numbers (None: all; the others, one-hot and flags, enter as they are); `center` and `scale` hold one value for each
    of these columns, as `median_and_quartiles` gives. With `num_categories` forward(numbers, codes) as in `MLP`, each member with vectors of its own.
    Recipe and settings: QUALITY.md, "first try".
    """

    # Axes: m members, b batch, i inputs, n numbers, c cosines, o outputs of a layer, e embedding.

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        members: int = 8,
        widths: Sequence[int] = (128, 128),
        activation: str = "SiLU",
        dropout: float = 0.1,
        cosines: int = 8,
        cosine_outputs: int = 3,
        frequency: float = 0.1,
        number_columns: Sequence[int] | None = None,
        center: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        task: str | None = None,
        num_categories: Sequence[int] | None = None,
        embedding: int = 8,
        straight: int = 0,
    ):
        super().__init__()
        self.members, self.task = members, task
        columns = list(range(num_inputs)) if number_columns is None else list(number_columns)
        self.register_buffer("columns_n", torch.tensor(columns, dtype=torch.int64), persistent=False)  # given by the arguments, so not a weight
        self.register_buffer("center_n", torch.tensor([0.0] * len(columns) if center is None else list(center), dtype=torch.float32))
        self.register_buffer("scale_n", torch.tensor([1.0] * len(columns) if scale is None else list(scale), dtype=torch.float32))
        is_number = set(columns)
        others = [column for column in range(num_inputs) if column not in is_number]
        self.register_buffer("others", torch.tensor(others, dtype=torch.int64), persistent=False)

        # Uniform draws throughout: a normal one takes a second on the meta device (it imports sympy and torch._dynamo), where an artifact's shapes are looked up.
        def drawn(bound: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound))

        self.frequency_mnc = drawn(math.sqrt(3) * frequency, members, len(columns), cosines)
        self.phase_mnc = drawn(math.pi, members, len(columns), cosines)
        self.mix_mnco = drawn(1 / math.sqrt(cosines), members, len(columns), cosines, cosine_outputs)
        sizes = [min(embedding, count) for count in num_categories or ()]
        self.embeddings = nn.ModuleList(
            nn.Embedding(count, members * size, _weight=drawn(1 / math.sqrt(size), count, members * size).data)
            for count, size in zip(num_categories or (), sizes)
        )
        width = num_inputs + len(columns) * cosine_outputs + sum(sizes)
        self.straight_mio = nn.Parameter(torch.zeros(members, width, num_outputs)) if straight else None
        self.weights_mio, self.biases_mo = nn.ParameterList(), nn.ParameterList()
        for next_width in (*widths, num_outputs):
            bound = 1 / math.sqrt(max(width, 1))  # nn.Linear's own
            self.weights_mio.append(drawn(bound, members, width, next_width))
            self.biases_mo.append(drawn(bound, members, next_width))
            width = next_width
        self.activation = getattr(nn, activation)()
        self.dropped_of_256 = round(256 * dropout)

    def drop(self, features_mbi: Tensor) -> Tensor:
        """Dropout in training. All members draw the same units, and each draw is one random byte: a mask of their own took a third of a step's time."""
        if not self.training or self.dropped_of_256 == 0:
            return features_mbi
        shape = features_mbi.shape[1:]
        draws = torch.empty(-(-shape.numel() // 8), dtype=torch.int64, device=features_mbi.device).random_(-(2**63), None)
        kept_bi = (draws.view(torch.uint8)[: shape.numel()] >= self.dropped_of_256).view(shape)
        return features_mbi * (kept_bi * (256 / (256 - self.dropped_of_256))).to(features_mbi.dtype)

    def forward(self, inputs: Tensor, codes: Tensor | None = None) -> Tensor:
        outputs_mbo = self.member_outputs(inputs, codes)
        return outputs_mbo if self.training else self.average(outputs_mbo)

    def member_outputs(self, inputs: Tensor, codes: Tensor | None = None) -> Tensor:
        """The outputs of each member, `(members, batch, num_outputs)`; their spread tells how sure the average is."""
        inputs_bi = inputs.flatten(1)
        numbers_bn = (inputs_bi.index_select(1, self.columns_n) - self.center_n) / self.scale_n  # type: ignore[arg-type]
        numbers_bn = numbers_bn / torch.sqrt(1 + (numbers_bn / 3).square())
        plain_bi = torch.cat([numbers_bn, inputs_bi.index_select(1, self.others)], dim=1)  # type: ignore[arg-type]
        waves_mbnc = torch.cos(torch.addcmul(self.phase_mnc[:, None], numbers_bn[None, :, :, None], 2 * math.pi * self.frequency_mnc[:, None]))
        waves_mbno = torch.einsum("mbnc,mnco->mbno", waves_mbnc, self.mix_mnco)
        features = [plain_bi.expand(self.members, -1, -1), waves_mbno.flatten(2)]
        if codes is not None:
            for column, table in enumerate(self.embeddings):
                features.append(table(codes[:, column]).unflatten(1, (self.members, -1)).transpose(0, 1))  # (b, m * e) -> (m, b, e)
        features_mbi = torch.cat(features, dim=2)
        straight_mbo = None if self.straight_mio is None else torch.bmm(features_mbi, self.straight_mio)
        last = len(self.weights_mio) - 1
        for layer, (weight_mio, bias_mo) in enumerate(zip(self.weights_mio, self.biases_mo)):
            features_mbi = torch.baddbmm(bias_mo[:, None], features_mbi, weight_mio)
            if layer < last:
                features_mbi = self.drop(self.activation(features_mbi))
        return features_mbi if straight_mbo is None else features_mbi + straight_mbo

    def average(self, outputs_mbo: Tensor) -> Tensor:
        """One prediction from all members, `(batch, num_outputs)`: log-probabilities or logits of the mean probability, or the mean output."""
        if self.task in ("binary", "multilabel") and not (self.task == "binary" and outputs_mbo.shape[-1] == 2):
            yes = functional.logsigmoid(outputs_mbo).logsumexp(0)  # log of a sum of probabilities; the 1 / members cancels
            no = functional.logsigmoid(-outputs_mbo).logsumexp(0)
            return yes - no
        if self.task in ("binary", "multiclass"):
            return functional.log_softmax(outputs_mbo, dim=-1).logsumexp(0) - math.log(self.members)
        return outputs_mbo.mean(0)


def member_loss(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`loss`, for the outputs of an `Ensemble`: in training the mean of the members' own losses, in evaluation the loss of their average.

    Called like `loss` itself: `(outputs, targets)`, targets a tensor or a tuple of them, and whatever follows (weights) one value per example. The members'
    rows stand below each other as one larger batch, so any loss with a mean over its rows works unchanged, class weights and `ignore_index` too. Each member's
    gradient is its own times 1 / members, which Adam's family does not see.

    >>> loss = member_loss(nn.MSELoss())
    >>> float(loss(torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[0.0]])))  # two members, one example
    5.0
    """

    def loss_of_members(outputs: Tensor, targets: Any, *per_example: Any) -> Tensor:
        if outputs.dim() == 2:
            return loss(outputs, targets, *per_example)
        members = outputs.shape[0]

        def repeated(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.repeat(members, *[1] * (value.dim() - 1))
            return tuple(repeated(part) for part in value) if isinstance(value, tuple) else value

        return loss(outputs.flatten(0, 1), repeated(targets), *map(repeated, per_example))

    return loss_of_members


def median_and_quartiles(numbers: Tensor) -> tuple[list[float], list[float]]:
    """(center, scale) for `Ensemble`, one value a column of `numbers` (rows, columns), which must be training rows only.

    The median and the distance of the quartiles, which a typo cannot move; where half of a column is one value, half the range (Holzmueller et al. 2024,
    section C.1); 1 for a constant column.
    """
    center, scale = [], []
    for column in numbers.double().unbind(1):
        low, middle, high = torch.quantile(column, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
        half_range = float(column.max() - column.min()) / 2
        center.append(middle)
        scale.append((high - low) or half_range or 1.0)
    return center, scale


# -- the closed list -------------------------------------------------------------------------------------------------------------------------------------------

MAX_PARAMETERS = 2**31  # 8 GB in float32
MAX_INPUTS, MAX_WIDTH, MAX_DEPTH = 2**20, 2**16, 256
MAX_FEATURE_MAP = 2**28  # numbers of one image after the first convolution: 1 GB
ACTIVATIONS = ("ReLU", "SiLU", "GELU", "Mish", "SELU", "ELU", "LeakyReLU", "Tanh", "Sigmoid", "Softplus", "Identity")
TASKS = ("regression", "binary", "multiclass", "multilabel")
REQUIRED: Any = object()


@dataclass(frozen=True)
class Argument:
    """What a built-in network's argument may be. `kind`: "int", "float", "text", "ints" or "floats" (lists); `low` and `high` bound each number, ends included.

    `default` is `REQUIRED` where there is none; None is accepted only where it is the default. `length` bounds how many entries a list has.
    """

    kind: str
    low: float = 0
    high: float = 0
    default: Any = REQUIRED
    choices: tuple[str, ...] = ()
    length: tuple[int, int] = (0, MAX_DEPTH)

    def __str__(self) -> str:
        if self.kind == "text":
            allowed = "one of " + ", ".join(map(repr, self.choices))
        else:
            word = {"int": "a whole number", "float": "a number", "ints": "a list of whole numbers", "floats": "a list of numbers"}[self.kind]
            low, high = (f"{bound:g}" if self.kind in ("float", "floats") else f"{int(bound):,}" for bound in (self.low, self.high))
            allowed = f"{word} from {low} to {high}"
        return allowed + (" or None" if self.default is None else "")


@dataclass(frozen=True)
class Architecture:
    """A network that can be built by name: its class, what its arguments may be, and what it is in one line."""

    make: Callable[..., nn.Module]
    arguments: Mapping[str, Argument]
    meaning: str


_INPUTS = {"num_inputs": Argument("int", 0, MAX_INPUTS), "num_outputs": Argument("int", 1, MAX_INPUTS)}
_CODES = {
    "num_categories": Argument("ints", 1, 2**24, None, length=(0, 10_000)),
    "embedding": Argument("int", 1, 1024, 8),
}
_SHARE = {"dropout": Argument("float", 0.0, 0.95, 0.0)}

BUILT_IN: dict[str, Architecture] = {
    "linear": Architecture(LinearModel, _INPUTS, "linear or logistic regression"),
    "mlp": Architecture(
        MLP,
        {
            **_INPUTS,
            "widths": Argument("ints", 1, MAX_WIDTH, [128, 128]),
            "activation": Argument("text", default="ReLU", choices=ACTIVATIONS),
            **_SHARE,
            **_CODES,
        },
        "layers of units; with num_categories also embeddings of codes",
    ),
    "resnet": Architecture(
        ResNet,
        {
            **_INPUTS,
            "width": Argument("int", 1, MAX_WIDTH, 128),
            "depth": Argument("int", 0, MAX_DEPTH, 2),
            "hidden_factor": Argument("float", 0.01, 64.0, 2.0),
            "hidden_dropout": Argument("float", 0.0, 0.95, 0.2),
            **_SHARE,
        },
        "residual blocks with batch norm, for tables",
    ),
    "cnn": Architecture(
        CNN,
        {
            "image_shape": Argument("ints", 1, 4096, length=(3, 3)),
            "num_outputs": Argument("int", 1, MAX_INPUTS),
            "channels": Argument("ints", 1, 4096, [24, 48, 96], length=(0, 32)),
            **_SHARE,
            "pooled": Argument("ints", 0, 31, None, length=(0, 32)),
            "residual": Argument("int", 0, 1, 0),
        },
        "3x3 convolutions, for images",
    ),
    "ensemble": Architecture(
        Ensemble,
        {
            **_INPUTS,
            "members": Argument("int", 1, 1024, 8),
            "widths": Argument("ints", 1, MAX_WIDTH, [128, 128]),
            "activation": Argument("text", default="SiLU", choices=ACTIVATIONS),
            "dropout": Argument("float", 0.0, 0.95, 0.1),
            "cosines": Argument("int", 1, 256, 8),
            "cosine_outputs": Argument("int", 0, 256, 3),
            "frequency": Argument("float", 0.0, 1e6, 0.1),
            "number_columns": Argument("ints", 0, MAX_INPUTS - 1, None, length=(0, MAX_INPUTS)),
            "center": Argument("floats", -3e38, 3e38, None, length=(0, MAX_INPUTS)),
            "scale": Argument("floats", 1e-37, 3e38, None, length=(0, MAX_INPUTS)),
            "task": Argument("text", default=None, choices=TASKS),
            **_CODES,
            "straight": Argument("int", 0, 1, 0),
        },
        "several small networks as one module, their predictions averaged",
    ),
}


def complete_arguments(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """`args` checked against type and limits, with every default filled in: what a recipe records, so that it does not change with a later version's defaults.

    Where a network takes `widths`, `width=64, depth=3` is short for `widths=[64, 64, 64]`. Nothing is allocated. Raises SettingsError.

    >>> complete_arguments("linear", {"num_inputs": 3, "num_outputs": 2})
    {'num_inputs': 3, 'num_outputs': 2}
    """
    if not isinstance(name, str) or name not in BUILT_IN:
        raise SettingsError(f"There is no built-in model {_shown(name)}.{nearest(name, BUILT_IN)}")
    arguments = BUILT_IN[name].arguments
    given = dict(args)
    if "widths" in arguments and ("width" in given or "depth" in given):
        if given.get("widths") is not None:
            raise SettingsError(f"{name}: widths={given['widths']!r} gives one width a layer; width= and depth= beside it contradict it. Keep one of the two.")
        width = _checked(name, "width", Argument("int", 1, MAX_WIDTH), given.pop("width", 128))
        depth = _checked(name, "depth", Argument("int", 0, MAX_DEPTH), given.pop("depth", 2))
        given["widths"] = [width] * depth
    allowed = [*arguments, "width", "depth"] if "widths" in arguments else list(arguments)
    for key in given:
        if key not in arguments:
            raise SettingsError(f"{name} has no argument {_shown(key)}.{nearest(key, allowed)}")
    complete = {}
    for key, argument in arguments.items():
        value = given.get(key, argument.default)
        if value is REQUIRED:
            raise SettingsError(f"{name} needs {key} ({argument}), and the data do not say it. Give model_args={{{key!r}: ...}}.")
        complete[key] = _checked(name, key, argument, value)
    _check_together(name, complete)
    return complete


def build_built_in(name: str, args: Mapping[str, Any]) -> nn.Module:
    """The network, its weights drawn from torch's global generator. Raises SettingsError before anything is allocated."""
    complete = complete_arguments(name, args)
    _tensors_of(name, complete)
    return BUILT_IN[name].make(**complete)


def expected_tensors(name: str, args: Mapping[str, Any]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of each tensor in the network's state_dict, by name and in its order; nothing is allocated and no random number is drawn.

    >>> expected_tensors("linear", {"num_inputs": 3, "num_outputs": 2})
    {'linear.weight': (torch.float32, (2, 3)), 'linear.bias': (torch.float32, (2,))}
    """
    return _tensors_of(name, complete_arguments(name, args))


def expected_of_recipe(recipe: Mapping[str, Any]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]] | None:
    """What the weights of an artifact with this recipe must be; None where the model is the user's own. Raises ArtifactError for any other recipe."""
    kind = recipe.get("kind")
    if kind in ("import", "instance"):
        return None
    if kind != "built-in" or set(recipe) != {"kind", "name", "args"} or not isinstance(recipe["args"], dict):
        raise ArtifactError(f"The artifact's recipe is none that this version knows (kind {str(kind)[:40]!r}): it was made by a newer version, or damaged.")
    try:
        complete = complete_arguments(recipe["name"], recipe["args"])
        expected = _tensors_of(recipe["name"], complete)
    except SettingsError as error:
        raise ArtifactError(f"The artifact's recipe cannot be built: {error}") from error
    lacking = [key for key in complete if key not in recipe["args"]]
    if lacking:
        raise ArtifactError(f"The artifact's recipe lacks {', '.join(lacking)}: it is damaged, and a default might not be what the model was trained with.")
    return expected


def nearest(given: Any, allowed: Iterable[Any]) -> str:
    """The end of an error about an unknown name: " Did you mean 'lr'?", else the few names that there are, else nothing.

    >>> nearest("epoch", ["epochs", "lr"])
    " Did you mean 'epochs'?"
    """
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(given), names, n=1)
    if not near:
        near = [name for name in names if name.lower() == str(given).lower()]
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" There are: {', '.join(names)}." if 0 < len(names) <= 12 else ""


# -- checking arguments ----------------------------------------------------------------------------------------------------------------------------------------


def _checked(model: str, key: str, argument: Argument, value: Any) -> Any:
    """`value` as JSON holds it (lists for tuples, floats for whole floats); exact types, so True is no 1 and "64" no 64."""

    def refuse(problem: str) -> SettingsError:
        return SettingsError(f"{model}: {key}={_shown(value)} {problem}; it must be {argument}.")

    if value is None:
        if argument.default is None:
            return None
        raise refuse("is missing")
    if argument.kind == "text":
        if not isinstance(value, str) or value not in argument.choices:
            raise refuse("is not known")
        return value
    if argument.kind in ("ints", "floats"):
        if not isinstance(value, (list, tuple)):
            raise refuse(f"is of type {type(value).__name__}")
        fewest, most = argument.length
        if not fewest <= len(value) <= most:
            raise refuse(f"has {len(value):,} entries, not {fewest}" + ("" if fewest == most else f" to {most:,}"))
    entries: list[Any] | tuple[Any, ...] = value if argument.kind in ("ints", "floats") else [value]
    whole = argument.kind in ("int", "ints")
    for entry in entries:
        if isinstance(entry, bool) or not isinstance(entry, int if whole else (int, float)):
            raise refuse(f"is of type {type(entry).__name__}" if entries is not value else f"holds {_shown(entry)}")
        # Compared before float(): an int of a thousand digits has none.
        if not argument.low <= entry <= argument.high:  # NaN is neither
            raise refuse("is out of bounds" if entries is not value else f"holds {_shown(entry)}, which is out of bounds")
    plain: list[Any] = [entry if whole else float(entry) for entry in entries]
    return plain if entries is value else plain[0]


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**18:
        return "a number of more than 18 digits"  # repr of a huge int raises beyond 4300 digits
    if isinstance(value, (list, tuple, dict)) and len(value) > 8:
        return f"a {type(value).__name__} of {len(value):,} entries"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return ascii(value)[:80]


def _check_together(name: str, args: dict[str, Any]) -> None:
    """What one argument demands of another."""
    if args.get("num_inputs") == 0 and not args.get("num_categories"):
        raise SettingsError(f"{name}: num_inputs=0: there is nothing to predict from.")
    if name == "cnn" and args["pooled"] is not None and any(layer >= len(args["channels"]) for layer in args["pooled"]):
        raise SettingsError(
            f"cnn: pooled={_shown(args['pooled'])} names a layer that is not there: {len(args['channels'])} channels are layers 0 to {len(args['channels']) - 1}."
        )
    if name == "cnn" and args["channels"]:
        _, height, width = args["image_shape"]
        numbers = args["channels"][0] * height * width
        if numbers > MAX_FEATURE_MAP:
            raise SettingsError(
                f"cnn: {args['channels'][0]} channels on images of {height} x {width} are {numbers:,} numbers for one image after the first layer, more than "
                f"{MAX_FEATURE_MAP:,}. Use fewer first channels or smaller images (Data.images(size=...))."
            )
    if name == "ensemble":
        columns = args["number_columns"]
        if columns is not None and (len(set(columns)) != len(columns) or any(column >= args["num_inputs"] for column in columns)):
            raise SettingsError(f"ensemble: number_columns={_shown(columns)} must be different positions from 0 to {args['num_inputs'] - 1}.")
        numbers = args["num_inputs"] if columns is None else len(columns)
        for key in ("center", "scale"):
            if args[key] is not None and len(args[key]) != numbers:
                raise SettingsError(f"ensemble: {key} has {len(args[key])} values for {numbers} numbers; give one for each, as median_and_quartiles does.")


def _tensors_of(name: str, complete: dict[str, Any]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Names, dtypes and shapes; refuses more than MAX_PARAMETERS. On the meta device: shapes without memory."""
    with torch.device("meta"):
        state = BUILT_IN[name].make(**complete).state_dict()
    total = sum(tensor.numel() for tensor in state.values())
    if total > MAX_PARAMETERS:
        raise SettingsError(
            f"{name} with these arguments has {total:,} parameters, {total * 4 / 2**30:,.0f} GB in float32, more than the {MAX_PARAMETERS:,} that built-in "
            "models may have. Choose smaller layers, or give a module of your own."
        )
    return {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in state.items()}
