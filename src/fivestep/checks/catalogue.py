"""The catalogue of silent mistakes: what `fivestep explain CODE` prints. Data only.

The letter of a code is the stage: D data, S split and leakage, M model, L loss and target, O optimizer and rate, T dynamics, E evaluation, P persistence, I inference.
`when`: "data" (from data or module alone), "probe" (on copies before the run), "during", "after", "verify" (by `fivestep verify`), or "never" where the loop makes the mistake impossible or torch says it
aloud. `severity` is what the rule gives at most. `wrong` and `right` are a line each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One entry: a code's short name, when it is looked for, how loud it is, what happens and why, and the mistake beside its mend."""

    code: str
    name: str
    when: str
    severity: str
    explanation: str
    wrong: str
    right: str

    @property
    def letter(self) -> str:
        return self.code[0]

    def __str__(self) -> str:
        return f"{self.code} {self.name} ({self.when}, {self.severity})\n\n{self.explanation}\n\n  wrong  {self.wrong}\n  right  {self.right}"


ENTRIES = (
    Rule("C00", "Could not be checked", "probe", "note", "A rule needed something that this model, data or loss does not offer (it cannot be copied, it is no tensor, it refused a made-up batch). The reason stands in the note.", "model.handle = open(path)  # a model that holds an open file cannot be copied", "def forward(self, x): open the file there, or load it in __init__"),
    # data
    Rule("D01", "One column dwarfs the rest", "data", "warning", "A column with a spread over 30 and over 100 times the usual one dominates every first product. The loss starts huge, units saturate, the other columns never matter. Quiet where the model brings the scales together itself (BatchNorm first).", "x = torch.stack([age, income_in_cents], 1)", "x = (x - train.mean(0)) / train.std(0)"),
    Rule("D02", "Raw 0-255 pixels", "data", "warning", "Bytes of a picture are 100 times larger than what default weights are made for.", "x = images.float()", "x = images.float() / 127.5 - 1"),
    Rule("D03", "NaN or infinity in the data", "data", "error", "One NaN cell makes the loss NaN and, a step later, every weight. A note where the model masks them and loss and gradients stay finite.", "x = torch.tensor(frame.values)", "frame = frame.fillna(train_median)"),
    Rule("D04", "A code for missing taken as a number", "data", "warning", "-999 or 9999 repeated exactly, far outside all other values, is a missing value. As a number it sets the column's scale.", "age = [34, 51, -999, 28]", "missing=['-999']"),
    Rule("D05", "No relation between rows and targets", "after", "warning", "Neither neighbours nor single columns tell anything about the targets, and training did not beat a constant on validation rows. Often features and labels were shuffled or sorted apart.", "x = x[torch.randperm(n)]  # and y stays", "order = torch.randperm(n); x, y = x[order], y[order]"),
    Rule("D06", "A column (or everything) is constant", "data", "error", "What never varies teaches nothing; if all inputs are constant only the share of each target can be learnt.", "x = torch.zeros(n, d)", "x = torch.as_tensor(frame[columns].to_numpy())"),
    Rule("D07", "One row for every index", "data", "error", "A Dataset that does not use its index, or a loop variable captured late, gives the same row again and again.", "def __getitem__(self, i): return self.x[0], self.y[i]", "def __getitem__(self, i): return self.x[i], self.y[i]"),
    Rule("D08", "Reading changes the data", "data", "error", "An in-place operation inside __getitem__ changes what is stored: rows drift a little at each reading.", "x = self.x[i]; x += noise", "x = self.x[i] + noise"),
    Rule("D09", "Same row, other label", "data", "warning", "Rows that occur exactly again with different targets put a ceiling on accuracy.", "two annotators, both rows kept", "one row, the vote as its label"),
    Rule("D10", "Channels last, reshaped as channels first", "data", "warning", "Reshaping (N, H, W, C) to (N, C, H, W) scrambles pixels; only permute keeps the picture.", "x.reshape(n, 3, h, w)", "x.permute(0, 3, 1, 2)"),
    Rule("D11", "Integer division emptied the inputs", "data", "error", "bytes // 255 is 0 for all but white.", "x = images // 255", "x = images / 255"),
    Rule("D12", "Precision does not fit", "data", "warning", "float16 ends at 65504; mixed precisions are cast or fail.", "x.half()  # with values of 1e5", "x.bfloat16(), or scale first"),
    Rule("D13", "Row number used as a feature", "data", "warning", "A column that counts the rows of a sorted file predicts perfectly inside the file and nothing outside.", "features = frame.columns", "Data.table(frame, target, drop=['id'])"),
    Rule("D14", "Category codes fed as numbers", "data", "warning", "Codes have no order; a linear layer gives them one. Told by target means that jump from code to code.", "x = city_code.float()", "columns={'city': 'category'}"),
    Rule("D15", "Scaled twice", "data", "warning", "Inputs that never exceed 0.02 leave the first layer with almost nothing.", "x = x / 255 / 255", "x = x / 255"),
    Rule("D16", "The same column twice", "data", "warning", "Two columns with a correlation over 0.9999 share one effect by chance.", "celsius and fahrenheit", "drop one"),
    Rule("D17", "Augmentation changes the label", "probe", "warning", "If an augmented row looks like another class, its label is wrong.", "horizontal flip of a left arrow", "small shifts, noise"),
    Rule("D18", "Sorted rows without shuffling", "data", "warning", "Batches of one class each pull the weights to and fro; the last one wins.", "shuffle=False", "shuffle=True"),
    Rule("D19", "Padding counted as data", "probe", "warning", "If the output changes with the number of padding items, a row's answer depends on its neighbours in the batch.", "h.mean(1)", "(h * mask).sum(1) / mask.sum(1)"),
    Rule("D20", "A large offset in float32", "data", "warning", "float32 has 24 bits: unix seconds have steps of 128 s.", "t.float()", "(t - t.min()).float()"),
    Rule("D21", "Numbers read as text", "data", "warning", "One odd value makes a column of a frame text, and each number a category of its own; read back as numbers, what is none is lost without a word.", "['1.5', '2.25', 'n/a']", "missing=['n/a']"),
    # split and leakage
    Rule("S01", "Duplicate rows across splits", "data", "warning", "Rows that stand in training and test are remembered, not predicted. Quiet for discrete data, whose rows repeat by chance.", "split(frame)", "split(frame.drop_duplicates())"),
    Rule("S02", "Groups cross the splits", "data", "warning", "Rows of one patient on both sides let the model recognise the patient.", "split()", "split(group='patient')"),
    Rule("S03", "Random split of a time series", "data", "warning", "Neighbours in time resemble each other: a random split tests interpolation.", "split()", "split(time='day')"),
    Rule("S04", "A feature known only afterwards", "data", "warning", "One column alone tells the answer: usually it was written after the outcome.", "'refund_amount' for 'complained'", "drop=['refund_amount']"),
    Rule("S05", "The target among the inputs", "data", "warning", "A column is the target, or the target in another unit.", "price and price_in_dollars", "drop=['price_in_dollars']"),
    Rule("S06", "A class absent from training", "data", "warning", "What was never seen cannot be predicted.", "split() with classes of two rows", "split(stratify=...)"),
    Rule("S07", "Scaled over all rows", "data", "note", "Means of exactly zero over all rows tell that test rows took part in the scaling. Never more than a note: published data is often scaled as a whole, and the harm is small.", "scale(x); split(x)", "split(x); scale by train"),
    Rule("S08", "Target encoding over all rows", "data", "warning", "A category's mean target that contains the row's own target hands it over.", "frame.groupby('shop').y.transform('mean')", "means of the other folds"),
    Rule("S09", "Validation rows inside training", "data", "warning", "Validation on training rows cannot warn of overfitting.", "Splits(train, val=train)", "Splits(train, val=.15)"),
    Rule("S10", "Validation set too small", "data", "warning", "With twenty rows one lucky epoch looks like progress.", "val=.01", "val=.15"),
    Rule("S11", "Ordered split of ordered data", "data", "warning", "Sorted rows cut in order give two populations.", "split(shuffle=False)", "split()"),
    Rule("S13", "Augmented copies across splits", "data", "warning", "Jittered copies made before the split stand on both sides.", "augment(x); split(x)", "split(x); fit(augment=...)"),
    Rule("S14", "Splits prepared differently", "data", "warning", "Training standardised, test raw: the model sees numbers it never met.", "x_test raw", "x_test = (x_test - mean) / std"),
    Rule("S15", "Label map differs between splits", "after", "warning", "High accuracy in training and below chance in validation, and a renaming of the labels mends it.", "LabelEncoder().fit(val)", "encoder.transform(val)"),
    Rule("S16", "Placeholder labels", "data", "warning", "A split whose targets are all one value was never labelled.", "y_test = zeros", "predict, do not score"),
    # model
    Rule("M01", "super().__init__ forgotten", "never", "error", "torch says it aloud at the first assignment.", "def __init__(self): self.a = ...", "super().__init__()"),
    Rule("M02", "Unregistered layers or tensors", "data", "warning", "Layers in a plain list and tensors without nn.Parameter are neither trained nor saved.", "self.layers = [nn.Linear(2, 2)]", "self.layers = nn.ModuleList(...)"),
    Rule("M03", "A layer built inside forward", "probe", "warning", "It is random at every call and never trained.", "def forward(self, x): return nn.Linear(4, 2)(x)", "self.out = nn.Linear(4, 2)"),
    Rule("M04", "The graph is cut", "probe", "warning", "detach, data, numpy, argmax or a comparison stop the gradient: everything before stays as initialised.", "self.head(h.detach())", "self.head(h)"),
    Rule("M05", "A gradient of exactly zero", "probe", "warning", "A parameter whose gradient is zero in every batch never moves.", "x * 0 + skip", "x + skip"),
    Rule("M06", "Rows of a batch are mixed", "probe", "warning", "view in place of transpose, or batch_first forgotten, lets one row's output depend on another row.", "x.view(t, n, f)", "x.transpose(0, 1)"),
    Rule("M07", "Softmax or centring over the batch", "probe", "warning", "A prediction then depends on which rows stand beside it.", "x.softmax(0)", "x.softmax(-1)"),
    Rule("M08", "Dead ReLUs at the start", "probe", "warning", "Units that fire for no row have no gradient and never will.", "nn.init.constant_(bias, -10)", "nn.init.zeros_(bias)"),
    Rule("M09", "Output cannot reach the targets", "probe", "warning", "A ReLU, sigmoid or tanh at the end of a regression bounds what can be predicted.", "nn.Sequential(..., nn.Linear(8, 1), nn.ReLU())", "nn.Sequential(..., nn.Linear(8, 1))"),
    Rule("M10", "ReLU on logits", "probe", "warning", "A logit cut at zero has no gradient there; classes die. How many are cut at the start is chance.", "F.relu(self.out(x))", "self.out(x)"),
    Rule("M11", "No activation between layers", "probe", "warning", "Linear after linear is linear.", "Sequential(Linear(4, 8), Linear(8, 2))", "Sequential(Linear(4, 8), ReLU(), Linear(8, 2))"),
    Rule("M12", "Input columns ignored", "probe", "warning", "The output does not change with a column: usually a slice is off by one.", "self.f(x[:, 1:])", "self.f(x)"),
    Rule("M13", "A layer is defined and never called", "probe", "warning", "The model is smaller than it looks.", "def forward(self, x): return self.out(x)", "self.out(self.hidden(x))"),
    Rule("M14", "One layer repeated by multiplication", "data", "warning", "[layer] * 3 is one layer three times.", "nn.ModuleList([nn.Linear(4, 1)] * 3)", "nn.ModuleList([nn.Linear(4, 1) for _ in range(3)])"),
    Rule("M15", "Constant initialisation", "probe", "warning", "Units that start equal get equal gradients and stay equal.", "nn.init.zeros_(hidden.weight)", "nn.init.kaiming_uniform_(hidden.weight)"),
    Rule("M16", "Weights far too large", "probe", "warning", "The first loss is many times that of guessing.", "nn.init.normal_(weight, std=1)", "the default, or std = 1 / sqrt(inputs)"),
    Rule("M17", "Vanishing gradient", "probe", "warning", "Ten sigmoids multiply ten slopes of at most a quarter.", "act=nn.Sigmoid, depth=10", "act=nn.ReLU, residual connections"),
    Rule("M18", "Batch norm with one row", "data", "warning", "One row has no variance.", "batch_size=1 with BatchNorm1d", "GroupNorm, or larger batches"),
    Rule("M19", "Dropout given the share to keep", "data", "warning", "p is the share that is dropped.", "nn.Dropout(0.9)", "nn.Dropout(0.1)"),
    Rule("M20", "Dropout on the output", "probe", "warning", "A zeroed prediction cannot be right.", "Sequential(Linear(8, 1), Dropout())", "Sequential(Dropout(), Linear(8, 1))"),
    Rule("M21", "Train and eval mode disagree", "after", "warning", "The same rows cost three times as much in eval mode: running statistics lag or come from tiny batches.", "BatchNorm1d(8, momentum=0.001)", "momentum=0.1"),
    Rule("M22", "squeeze() without an axis", "probe", "warning", "A batch of one row loses its batch axis.", "out.squeeze()", "out.squeeze(-1)"),
    Rule("M23", "The model changes its input", "probe", "warning", "In-place operations on the input change the rows that others still read.", "x -= x.mean()", "x = x - x.mean()"),
    Rule("M24", "No causal mask", "probe", "warning", "A model that predicts the next item and can see it copies it.", "layer(x)", "layer(x, src_mask=causal, is_causal=True)"),
    Rule("M25", "Norm over the wrong axis", "probe", "warning", "Normalising over the batch makes rows depend on each other.", "F.normalize(x, dim=0)", "F.normalize(x, dim=1)"),
    Rule("M26", "padding_idx is a real code", "probe", "warning", "That item's embedding stays zero.", "Embedding(10, 4, padding_idx=0)  # 0 is a city", "Embedding(10, 4)"),
    Rule("M27", "Output width is not the number of classes", "probe", "error", "Too few outputs fail at the first such label; too many are a note.", "Linear(8, 9) for 10 classes", "Linear(8, 10)"),
    Rule("M28", "Dropout or noise in eval mode", "probe", "warning", "F.dropout has training=True by default.", "F.dropout(x, 0.5)", "F.dropout(x, 0.5, self.training)"),
    Rule("M30", "State kept between batches", "probe", "warning", "A hidden state carried over makes a prediction depend on what was asked before.", "out, self.h = self.rnn(x, self.h)", "out, _ = self.rnn(x)"),
    Rule("M31", "The signal is pooled away", "probe", "warning", "A model that cannot learn eight rows by heart cannot learn.", "mean pooling right after one 1x1 convolution", "convolve first, pool last"),
    Rule("M32", "No positional information", "probe", "note", "Permuting the steps changes nothing. Never more than a note: for sets that is right, and tensors do not say which they are.", "attention without positions", "+ positional embedding"),
    Rule("M36", "Norm over one element", "probe", "warning", "A number minus its own mean is zero.", "nn.LayerNorm(1)", "nn.LayerNorm(16)  # over the features"),
    Rule("M38", "Output does not depend on the input", "probe", "warning", "All rows get one answer, also after five steps.", "self.f(x * mask)  # the mask is all zero", "self.f(x)"),
    # loss and target
    Rule("L01", "Softmax before CrossEntropyLoss", "probe", "warning", "It applies its own: the loss has a floor of log(1 + (C-1)/e).", "return self.out(x).softmax(1)", "return self.out(x)"),
    Rule("L02", "NLLLoss without log_softmax", "probe", "error", "It takes values as log-probabilities and falls without bound; so does -scores.gather(1, y).mean() written by hand.", "NLLLoss()(logits, y)", "CrossEntropyLoss()(logits, y)"),
    Rule("L03", "Sigmoid before BCEWithLogitsLoss", "probe", "warning", "It applies its own: probabilities stay between 0.5 and 0.73.", "BCEWithLogitsLoss()(x.sigmoid(), y)", "BCEWithLogitsLoss()(x, y)"),
    Rule("L04", "Logits clamped for BCELoss", "probe", "warning", "Beyond the clamp there is no gradient.", "BCELoss()(x.clamp(0, 1), y)", "BCEWithLogitsLoss()(x, y)"),
    Rule("L05", "Shapes are broadcast", "probe", "error", "(N, 1) against (N,) compares each output with every target: the mean is learnt.", "loss(out, y)  # (32, 1), (32,)", "loss(out, y[:, None])"),
    Rule("L06", "The loss cannot see the output", "probe", "error", "Cross-entropy over one output is exactly 0.", "CrossEntropyLoss on Linear(8, 1)", "BCEWithLogitsLoss"),
    Rule("L07", "Several labels with cross-entropy", "data", "warning", "Softmax lets labels that are all right compete.", "CrossEntropyLoss()(o, [[1., 0., 1.]])", "BCEWithLogitsLoss()(o, [[1., 0., 1.]])"),
    Rule("L08", "Distance to class numbers", "probe", "warning", "MSE puts class 3 between 2 and 4.", "MSELoss()(out, label.float())", "CrossEntropyLoss()(out, label)"),
    Rule("L09", "BCE targets outside [0, 1]", "data", "error", "The loss falls without bound.", "y in {-1, 1} or {0, 255}", "y in {0, 1}"),
    Rule("L10", "Labels do not begin at 0", "data", "error", "The first output is wasted, or the loss fails.", "y in {1, 2, 3}", "y - 1"),
    Rule("L11", "Unscaled regression target", "probe", "warning", "Outputs begin near 0 with spread 1; targets in the thousands take hundreds of epochs to reach.", "y = price", "y = (price - mean) / std"),
    Rule("L12", "The loss cannot see the direction", "probe", "warning", "A mean of plain differences has no best value; an even function is blind to the sign.", "(out - y).mean()", "(out - y).abs().mean()"),
    Rule("L13", "Sum in place of mean", "probe", "warning", "Steps grow with the batch size.", "MSELoss(reduction='sum'), lr=0.1", "MSELoss()"),
    Rule("L14", "A loss with the wrong sign", "probe", "warning", "Wrong answers cost less than right ones.", "return cosine_similarity(o, y).mean()", "return 1 - cosine_similarity(o, y).mean()"),
    Rule("L15", "Arguments swapped", "probe", "warning", "An asymmetric loss learns the other side. Told by a declared quantile, or by a call that hands targets on before outputs.", "pinball(y, out)", "pinball(out, y)"),
    Rule("L16", "ignore_index is a real class", "probe", "warning", "That class is never learnt.", "CrossEntropyLoss(ignore_index=0)", "CrossEntropyLoss()"),
    Rule("L17", "Class weights inverted", "data", "warning", "The frequent class gets the large weight.", "weight=counts / counts.sum()", "weight=counts.sum() / counts"),
    Rule("L18", "pos_weight inverted", "data", "warning", "It multiplies the positives: negatives / positives.", "pos_weight=positives / negatives", "pos_weight=negatives / positives"),
    Rule("L20", "The loss reads a part of the output", "probe", "warning", "Columns without gradient stay random.", "loss(out[:, :1], y[:, :1])", "loss(out, y)"),
    Rule("L21", "log of zero", "probe", "warning", "A probability rounds to 1, log(1 - p) is -inf, the weights NaN.", "-(y * p.log() + (1 - y) * (1 - p).log())", "BCEWithLogitsLoss"),
    Rule("L22", "Classes and time swapped", "probe", "warning", "CrossEntropyLoss takes axis 1 as classes; silent where both have one length.", "loss(out, y)  # (N, T, C)", "loss(out.transpose(1, 2), y)"),
    Rule("L23", "Labels permuted consistently", "never", "note", "Cannot be told from tensors: names are wrong, the score is right.", "classes = ['dog', 'cat']  # 0 is cat", "classes = ['cat', 'dog']"),
    Rule("L25", "Constant target", "data", "warning", "Nothing to learn: the wrong column was read.", "y = frame['year']  # one year", "y = frame['price']"),
    Rule("L26", "Metric in scaled units", "never", "note", "Scores are given in the target's unit.", "((o - t) ** 2).mean().sqrt()  # both standardised", "run.evaluate()['rmse']  # in the target's unit"),
    Rule("L31", "Softmax over one unit", "probe", "warning", "Always 1.", "Linear(8, 1), Softmax(1)", "Linear(8, 1), Sigmoid()"),
    Rule("L32", "The loss refuses outputs and targets", "probe", "error", "Shapes or dtypes do not fit: the first step would fail.", "MSELoss()(Linear(4, 3)(x), labels)", "CrossEntropyLoss()(Linear(4, 3)(x), labels)"),
    # optimizer
    Rule("O01", "Learning rate too high", "during", "warning", "A step as large as the weights themselves forgets them.", "Adam, lr=1", "Adam, lr=1e-3"),
    Rule("O02", "Learning rate too low", "during", "warning", "All steps together hardly move the weights.", "SGD, lr=1e-6", "SGD, lr=0.05"),
    Rule("O03", "Trainable parameters not in the optimizer", "data", "warning", "They stay as they were initialised.", "Adam(model.head.parameters())", "Adam(model.parameters())"),
    Rule("O04", "Nothing trainable in the optimizer", "data", "error", "All parameters have requires_grad=False.", "model.requires_grad_(False)", "model.body.requires_grad_(False)  # the head learns"),
    Rule("O05", "Optimizer of another copy", "data", "error", "The model was copied or rebuilt after the optimizer was made.", "Adam(old_model.parameters())", "Adam(model.parameters())"),
    Rule("O06", "Weight decay too large", "data", "warning", "Coupled decay of 0.3 pulls all weights to zero.", "Adam(weight_decay=1)", "Adam(weight_decay=1e-4)"),
    Rule("O07", "Weight decay on norms and biases", "data", "note", "Slightly worse. Never more than a note: it is the default of most code.", "AdamW(model.parameters(), weight_decay=0.1)", "two groups: matrices with 0.1, norms and biases with 0"),
    Rule("O08", "Momentum or betas out of range", "data", "warning", "Momentum 0.99 remembers a hundred steps; beta2 of 0.5 follows single batches.", "SGD(momentum=0.999)", "SGD(momentum=0.9)"),
    Rule("O09", "Schedule stepped each batch", "data", "warning", "Numbers meant for epochs are used up within a few batches.", "ExponentialLR(0.9) each batch", "ExponentialLR(0.9) each epoch"),
    Rule("O10", "Gradient clip far too tight", "probe", "warning", "Every step gets the clip's length.", "clip_norm=1e-4", "clip_norm=1"),
    Rule("O11", "A handful of updates", "data", "warning", "Fewer than fifteen steps in all.", "batch_size=1024 for 600 rows, 5 epochs", "batch_size=32"),
    Rule("O12", "zero_grad missing or twice", "never", "error", "The loop owns it.", "loss.backward(); optimizer.step()  # gradients add up", "optimizer.zero_grad(); loss.backward(); optimizer.step()"),
    Rule("O13", "maximize=True", "data", "error", "The loss is made as large as it can.", "SGD(maximize=True)", "SGD()"),
    Rule("O14", "A group with rate 0", "data", "warning", "Its weights never move.", "{'params': body, 'lr': 0.}", "freeze=['body.*'] if it is meant"),
    Rule("O15", "A parameter in two groups", "never", "error", "torch refuses it.", "[{'params': model.parameters()}, {'params': model.head.parameters()}]", "[{'params': model.body.parameters()}, {'params': model.head.parameters()}]"),
    Rule("O16", "The rate is never reached", "data", "warning", "A warm-up longer than the run: the largest rate that is ever used is a fraction of the one asked for.", "OneCycleLR(total_steps=100_000) in a run of 500 steps", "OneCycleLR(total_steps=500)"),
    # dynamics
    Rule("T01", "Exploding gradients", "probe", "warning", "A norm over 10,000 at the first step, or a thousand times the running median.", "targets in the millions, SGD(lr=0.1)", "clip_norm=1, scaled inputs and targets"),
    Rule("T02", "A layer stops learning", "during", "warning", "Its gradient was like the others' at the start and is under a millionth of theirs later: units died or saturated on the way.", "nn.Sigmoid() between, lr=1", "nn.GELU(), lr=1e-3, a norm layer"),
    Rule("T03", "ReLUs died during training", "during", "warning", "A layer that fired at the start is over 90 % dead at the end.", "lr=1", "lr=1e-3"),
    Rule("T04", "Not better than the best constant", "after", "warning", "Neighbours or single columns see a relation that the trained model does not: its loss is that of a constant.", "lr=1e-6, or a loss that cannot see the rows", "lr='find'; eight rows learnt by heart first"),
    Rule("T05", "Overfitting", "during", "warning", "Validation loss has risen by half above its least, training loss still falls, and the last epoch is kept.", "keep='last', 200 epochs", "keep='best', patience=10"),
    Rule("T06", "Stopped too early", "during", "note", "The last fifth of the epochs still brought over a tenth of the gain. Never more than a note: a budget may be meant.", "epochs=10, and validation still falls", "epochs=50, patience=10"),
    Rule("T07", "Loss spikes", "during", "warning", "Batches cost over ten times the running median, and more than at the start, again and again.", "a few targets of 9999 among numbers of one digit", "look at these rows; clip_norm=1; HuberLoss"),
    Rule("T08", "Weights move too far or not at all", "during", "note", "An epoch that moves all weights by their own size never settles; one that moves them by a millionth learns nothing. Never more than a note: the loss decides.", "SGD(lr=1) without a schedule", "a schedule that falls"),
    Rule("T09", "Every step is clipped", "during", "note", "The gradient has the clip's length whenever it is looked at: the step's length is rate times clip, whatever the loss says. Never more than a note: large transformers are trained so.", "clip_norm=1e-2", "clip_norm=1"),
    Rule("T10", "Saturated tanh or sigmoid", "probe", "warning", "Values at the ends have no slope: layers before do not learn.", "tanh(500 * x)", "scaled inputs"),
    # evaluation
    Rule("E01", "Accuracy on imbalanced classes", "after", "warning", "97 % by never predicting the rare class.", "metrics=['accuracy']", "balanced accuracy, F1, AUROC"),
    Rule("E02", "Metric direction", "data", "warning", "The worst epoch is kept.", "monitor='loss', mode='max'", "mode='min'"),
    Rule("E03", "Chosen on the test set", "data", "warning", "Validation and test share rows: the score is that of the luckiest choice.", "Splits(train, val=test, test=test)", "three splits"),
    Rule("E04", "Threshold on the wrong scale", "probe", "warning", "0.5 belongs to probabilities, 0 to logits.", "(logits > 0.5) == y", "(logits > 0) == y"),
    Rule("E05", "Metric broken", "probe", "warning", "Right and wrong answers get the same number.", "(out == y[:, None]).mean()", "(out.flatten() == y.flatten()).float().mean()"),
    Rule("E06", "Evaluation in train mode", "never", "error", "The loop calls eval().", "model(x_val)  # still in train mode", "model.eval(); model(x_val)"),
    Rule("E07", "Mean of batch metrics", "never", "note", "Scores come from all predictions at once.", "mean([accuracy(b) for b in batches])", "correct / rows"),
    Rule("E08", "Predictions in shuffled order", "never", "error", "Prediction keeps the order.", "predict(DataLoader(test, shuffle=True))", "run.predict('test')"),
    Rule("E12", "argmax along the batch", "probe", "warning", "It gives one row for each class, not one class for each row.", "out.argmax(0)", "out.argmax(1)"),
    Rule("E13", "One class for all rows", "after", "warning", "All rows of a split are given one class. A note where it is the most frequent one: with a weak relation nothing else is right more often.", "CrossEntropyLoss(weight=1000 for one class)", "CrossEntropyLoss(weight=rows / (classes * rows of the class))"),
    # persistence
    Rule("P01", "State in plain attributes", "after", "warning", "state_dict does not hold it: the loaded model predicts something else.", "self.mean = x.mean(0)", "self.register_buffer('mean', ...)"),
    Rule("P02", "Weights loaded by half", "data", "warning", "strict=False passes over names that do not match.", "load_state_dict(w, strict=False)  # 'module.' prefix", "strict=True"),
    Rule("P03", "best = state_dict() without a copy", "never", "error", "The best weights are copied.", "best = model.state_dict()  # the same tensors go on changing", "best = copy.deepcopy(model.state_dict())"),
    Rule("P04", "Optimizer state not restored", "never", "warning", "The loss jumps after resuming. resume restores optimizer, schedule, averages and random streams.", "model.load_state_dict(w); Adam(model.parameters())", "resume(folder)"),
    Rule("P05", "Scaler not saved", "never", "error", "Columns are saved with the model.", "torch.save(model.state_dict())  # the scaler is gone", "run.save(path)  # columns and scale with it"),
    Rule("P06", "A fitted buffer that is not persistent", "after", "warning", "register_buffer(persistent=False) leaves it out of state_dict.", "register_buffer('mean', m, persistent=False)", "register_buffer('mean', m)"),
    Rule("P07", "Same shapes, other hyper-parameters", "never", "warning", "The recipe is saved and compared.", "Net(heads=4) loads the weights of Net(heads=2)", "load(path): the recipe is compared"),
    Rule("P08", "Artifact damaged", "verify", "error", "A byte of the saved model is not what was written, or the model does not answer its self-test rows as it did: a copy was cut off, a file was exchanged, or the disk failed.", "cp -r model.fivestep/weights.safetensors other.fivestep/", "fivestep verify MODEL after each copy"),
    Rule("P09", "Checkpoint damaged", "verify", "error", "A checkpoint's bytes are not those that were hashed. A resume passes over it with a warning, keeps it aside and goes on from the one before.", "cp runs/a/checkpoints/step-000000000400/state.json elsewhere  # moved, not copied", "keep_checkpoints=3; copy whole folders"),
    Rule("P10", "Record of a run damaged", "verify", "error", "settings.json, environment.json, findings.json or scores.json is lacking or cannot be read.", "edit settings.json", "fivestep fit --config RUN/settings.json --set lr=0.1"),
    Rule("P11", "History does not add up", "verify", "error", "An epoch is missing in history.jsonl or stands there twice.", "cat a/history.jsonl >> b/history.jsonl", "fivestep resume RUN"),
    Rule("P12", "Parts of two runs in one folder", "verify", "error", "A checkpoint or the model is whole, but was made with other settings or other data than the folder's record tells.", "cp -r runs/a/checkpoints runs/b/", "fivestep resume runs/a"),
    Rule("P13", "Run has not ended", "verify", "note", "No model is saved yet: the run was stopped or killed, or still trains.", "fivestep predict RUN new.csv  # of a run that was killed", "fivestep resume RUN"),
    Rule("P14", "Leftovers beside the checkpoints", "verify", "note", "Damaged checkpoints that a resume kept aside, or what a killed writer left.", "step-000000000400.bad stands beside the good ones", "delete *.bad when you have looked at them"),
    Rule("P15", "Not repeatable", "probe", "warning", "Rows or a module hold state that neither a seed nor a checkpoint reaches (a generator of a Dataset's own, an object in an attribute that forward changes): the run trains, but a resume or a second run does not end in the same bits.", "self.rng = numpy.random.default_rng()  # in a Dataset", "numpy.random.normal(...), seeded by (seed, epoch, row)"),
    # inference
    Rule("I01", "Raw rows at prediction", "after", "warning", "Rows were prepared for training and not for prediction.", "predict(raw)", "predict((raw - mean) / std)"),
    Rule("I02", "Columns reordered", "after", "warning", "The same columns in another order.", "predict(x[:, [3, 0, 1, 2]])", "predict a frame with names"),
    Rule("I03", "Batch norm in train mode at prediction", "never", "error", "Prediction calls eval().", "model(x)  # after training, without eval()", "run.predict(x)"),
    Rule("I05", "Unseen category", "after", "warning", "A level that training did not have has no learnt meaning: predict warns, with the values and the first row.", "predict city='Basle', trained on 'Basel'", "one spelling; or a level 'other' in training"),
    Rule("I07", "Class names lost", "never", "note", "Names are saved with the model.", "prediction 2", "prediction 'virginica'"),
    Rule("I08", "Precision or device differs", "never", "note", "Rows are cast at the border.", "model(x.double())", "run.predict(x)  # cast at the border"),
)  # fmt: skip

CATALOGUE: dict[str, Rule] = {rule.code: rule for rule in ENTRIES}
