"""Handwritten digits as images: a small convolutional network by name, and shifts by a pixel as augmentation."""

import torch

import fivestep as fs


def shift(images, generator):
    """Each image (channels, height, width) of a training batch moved by up to a pixel in each direction; what leaves on one side is lost, as in a crop."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    height, width = images.shape[2:]
    moves = torch.randint(3, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, down : down + height, right : right + width] for image, (down, right) in zip(padded, moves)])


def main():
    images, labels = fs.datasets.digits()  # uint8 (1797, 8, 8) and int64 (1797,); a folder with a folder for each class works too
    splits = fs.Data.images(images, labels).split(stratify=True, seed=0)
    run = fs.fit("cnn", splits, optimizer="AdamW", lr=3e-3, batch_size=64, epochs=12, augment=shift)
    print(run.evaluate("test"))

    print("labels      ", labels[:8].tolist())
    print("predictions ", [int(label) for label in run.predict(images[:8])])


if __name__ == "__main__":
    main()
