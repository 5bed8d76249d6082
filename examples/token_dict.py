"""Texts of different lengths as Hugging Face has them: a Dataset of dicts, a padding collate function, and batches of similar lengths."""

import torch
from torch import nn

import fivestep as fs


class Texts(torch.utils.data.Dataset):
    """Sequences of 3 to 40 tokens; the label says which of three kinds of token (1-9, 10-19, 20-29) comes most often."""

    def __init__(self, num_texts):
        draw = torch.Generator().manual_seed(0)
        self.lengths = torch.randint(3, 41, (num_texts,), generator=draw)
        self.tokens = [torch.randint(1, 30, (length,), generator=draw) for length in self.lengths.tolist()]
        self.labels = [int((tokens // 10).bincount(minlength=3).argmax()) for tokens in self.tokens]

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, row):
        return {"input_ids": self.tokens[row], "labels": self.labels[row]}


def pad(examples):
    """A list of examples -> one dict of tensors, (batch, longest); 0 is the padding, and attention_mask is 1 on real tokens."""
    input_ids = nn.utils.rnn.pad_sequence([example["input_ids"] for example in examples], batch_first=True)
    return {"input_ids": input_ids, "attention_mask": (input_ids > 0).long(), "labels": torch.tensor([example["labels"] for example in examples])}


class Classifier(nn.Module):
    def __init__(self, num_tokens=30, width=16, num_classes=3):
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, width, padding_idx=0)
        self.head = nn.Linear(width, num_classes)

    def forward(self, input_ids, attention_mask):  # the keys of the dict, less the labels
        mask = attention_mask.unsqueeze(2)
        return self.head((self.embedding(input_ids) * mask).sum(dim=1) / mask.sum(dim=1))


def main():
    texts = Texts(1500)
    splits = fs.Data.dataset(texts, targets="labels", collate=pad).split(seed=0)
    lengths = texts.lengths[splits.train.indices]

    def buckets(epoch, generator):
        """Rows of the training split, neighbours in length, so that little is padding; the order of the batches is new in each epoch."""
        batches = lengths.argsort(stable=True).split(32)
        return [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]

    run = fs.fit(Classifier, splits, loss="CrossEntropyLoss", optimizer="AdamW", lr=2e-2, epochs=8, batches=buckets)
    print(run.evaluate("test"))


if __name__ == "__main__":
    main()
