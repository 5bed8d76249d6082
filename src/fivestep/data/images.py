"""Images from a folder with one folder of files per class, or from arrays, as float32 (n, channels, height, width) from 0 to 1.

Enters: a folder, or arrays (n, height, width[, channels]). Leaves: a source, the classes, and notes on all that was decided (channels, turned, resized or
reduced files, files left out). The decision that shaped it: the whole folder is looked at before a pixel is used, so that all problems come in one error and
the number of channels does not depend on which file came first. Pillow is imported inside the functions that read files.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fivestep.data.sources import ArraySource, DatasetSource, make_array_source
from fivestep.errors import DataError, MissingInputError, UsageError

EXTENSIONS = {".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif"}
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
ALPHA_MODES = {"RGBA", "RGBa", "LA", "La", "PA"}
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


class ImageFolder(NamedTuple):
    """A folder of images, read: `images` uint8 (n, channels, height, width), `labels` int64 (n,), `classes` by label, `paths` relative to the folder."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Scan:
    """What a look at all file headers has found: which files, of which class, and how they become pixels of one shape."""

    folder: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    channels: int
    height: int
    width: int
    resize: bool  # whether a size was asked for
    notes: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Memory of all pixels as float32."""
        return len(self.paths) * self.channels * self.height * self.width * 4


class ImageFolderDataset(Dataset):
    """The images of a folder read one by one: `(float32 (channels, height, width) from 0 to 1, label)`. Raises DataError that names a file it cannot read."""

    def __init__(self, scan: Scan):
        self.scan = scan

    def __len__(self) -> int:
        return len(self.scan.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        try:
            pixels = read_pixels(self.scan, row)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"{Path(self.scan.folder) / self.scan.paths[row]} cannot be read as an image: {error}. Repair it or take it out of the folder."
            ) from error
        return to_unit(torch.from_numpy(pixels)), self.scan.labels[row]


# -- what Data.images calls ----------------------------------------------------------------------------------------------------------------------------------


def folder_source(folder: Any, *, size: Any = None, channels: int | None = None, memory_bytes: int | None = None) -> tuple[Any, tuple[str, ...], list[str]]:
    """A folder as `(source, classes, notes)`: in memory where the float32 pixels take at most `memory_bytes`, else read from disk batch by batch.

    `memory_bytes=None` is a quarter of the machine's memory. Both give the same numbers. The labels are at `source.targets` either way. `size` is a number or
    (height, width) to which all images are resized; `channels` 1 or 3 makes all of them grey or RGB. Raises DataError with every problem of the folder.
    """
    scan = scan_folder(folder, size)
    scan = scan if channels is None else replace(scan, channels=channels)
    limit = _machine_memory() // 4 if memory_bytes is None else memory_bytes
    if scan.num_bytes > limit:
        labels = torch.tensor(scan.labels, dtype=torch.int64)
        note = f"{len(scan.paths):,} images would take {scan.num_bytes / 1e9:,.1f} GB in memory and are read from disk batch by batch; a broken file is found when it is read"
        return DatasetSource(ImageFolderDataset(scan), known_targets=(labels,)), scan.classes, [*scan.notes, note]
    found = _read_all(scan)
    return ArraySource(to_unit(found.images), (found.labels,)), found.classes, list(found.notes)


def renumbered(source: DatasetSource, number: Tensor, classes: tuple[str, ...]) -> DatasetSource:
    """A folder that is read from disk batch by batch, label `k` as `number[k]` of `classes`."""
    scan = source.dataset.scan
    labels = number[torch.tensor(scan.labels, dtype=torch.int64)]
    return DatasetSource(ImageFolderDataset(replace(scan, labels=tuple(labels.tolist()), classes=classes)), known_targets=(labels,))


def new_images(path: Any, channels: int, height: int, width: int) -> tuple[ImageFolderDataset, list[str]]:
    """Images to predict, `(dataset, notes)`: one file, or every image in and below a folder by the order of their names; their folders' names mean nothing here.

    Each is brought to the shape that the model was trained on, grey or RGB, resized where it has another. Raises MissingInputError where nothing is, DataError
    where a folder holds no image; a file that is no image is named when it is read.
    """
    root = Path(path)
    if not root.exists():
        raise MissingInputError(f"There is no file or folder {str(root)!r}.")
    if channels not in (1, 3):
        raise UsageError(f"Files hold 1 channel or 3, and this model was trained on images of {channels}. Give the array.")
    if root.is_dir():
        found = sorted(file.relative_to(root) for file in root.rglob("*") if file.is_file())
        paths = tuple(path.as_posix() for path in found if path.suffix.lower() in EXTENSIONS and not any(_hidden(part) for part in path.parts))
        if not paths:
            raise DataError(f"{str(root)!r} holds no images ({', '.join(sorted(EXTENSIONS))}).")
    else:
        root, paths = root.parent, (root.name,)
    from PIL import Image

    others = 0
    for name in paths:
        with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(root / name) as image:  # what cannot be read is named when its pixels are wanted
            others += sorted(image.size) != sorted((width, height))
    notes = [f"{others:,} of {len(paths):,} images are not {height} x {width} (height x width) and were resized"] if others else []
    return ImageFolderDataset(Scan(str(root), paths, (0,) * len(paths), (), channels, height, width, True, ())), notes


def array_source(images: Any, targets: Any = None, *, size: Any = None) -> tuple[ArraySource, tuple[Any, ...] | None, list[str]]:
    """Arrays of images and their targets as `(source, classes, notes)`; see `image_arrays` for the images and `make_array_source` for the targets."""
    pixels, notes = image_arrays(images, size=size)
    source, classes, more = make_array_source(pixels, targets)
    return source, classes, [*notes, *more]


def read_image_folder(folder: Any, size: Any = None) -> ImageFolder:
    """All images of a folder that has one folder of files for each class; classes and files in the order of their names.

    Files are turned as their EXIF orientation says. All become grey (1 channel) where every file is grey, else RGB. Transparency is laid on white; 16-bit grey
    becomes 8-bit; of several frames the first is taken; each of these is said in `notes`, as are hidden files and files that are no images, which are left out.
    Raises MissingInputError where there is no folder, and DataError with every problem found: broken files, empty class folders, different sizes without `size`.
    """
    return _read_all(scan_folder(folder, size))


def image_arrays(images: Any, *, size: Any = None) -> tuple[Tensor, list[str]]:
    """Images (n, h, w), (n, c, h, w) or (n, h, w, c) as float32 (n, c, h, w), and notes on what was decided.

    Channels are last where the last axis has 1, 3 or 4 values and the second has not, or where it is by far the shortest. Bytes (and other integers up to 255)
    are divided by 255, 16-bit integers beyond by 65,535; floats keep their values. Raises DataError for anything that is no array of images.
    """
    if isinstance(images, list) and len(images) and all(hasattr(image, "convert") and hasattr(image, "mode") for image in images):
        images = [np.asarray(image) for image in images]  # images of Pillow's
    if isinstance(images, list) and len(images) and all(hasattr(image, "shape") for image in images):
        shapes = Counter(tuple(image.shape) for image in images)
        if len(shapes) > 1:
            raise DataError(
                f"The images have different shapes: {_counted(shapes)}. Images of one batch need one shape: resize them, or give a folder and size=."
            )
    elif isinstance(images, (tuple, dict)):
        raise UsageError("Data.images takes one array of images. Several inputs go through Data.arrays((images, others), targets).")
    source, _, notes = make_array_source(images)
    pixels: Tensor = source.inputs
    if pixels.dim() not in (3, 4):
        raise DataError(f"The images have shape {tuple(pixels.shape)}. Give (n, height, width), (n, channels, height, width) or (n, height, width, channels).")
    if pixels.is_complex():
        raise DataError("The images hold complex numbers. Give their real and imaginary parts, or their size and angle, as channels.")
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(1)
        notes.append(f"images {_shape(pixels)}: one grey channel was added")
    else:
        second, third, last = pixels.shape[1:]
        if (last in (1, 3, 4) and second not in (1, 3, 4)) or (second not in (1, 3, 4) and last * 2 <= min(second, third)):
            was = _shape(pixels)
            pixels = pixels.permute(0, 3, 1, 2).contiguous()
            notes.append(f"images {was}: channels came last and were moved to {_shape(pixels)}, as torch has them")
        elif last in (1, 3, 4) and second in (1, 3, 4) and last != third:
            notes.append(f"images {_shape(pixels)}: read as (n, channels, height, width); if channels are last, give images.transpose(0, 3, 1, 2)")
    kind = pixels.dtype
    if kind == torch.bool:
        pixels = pixels.float()
    elif not kind.is_floating_point:
        smallest, largest = int(pixels.min()), int(pixels.max())
        if smallest < 0 or largest > 65_535:
            raise DataError(
                f"The images hold integers from {smallest} to {largest}, which are neither 8-bit nor 16-bit pixels. Give floats in the range that the model should see."
            )
        whole = 255 if largest <= 255 else 65_535
        notes.append(f"images: {str(kind)[6:]} pixels from {smallest} to {largest} were divided by {whole:,}")
        pixels = pixels.float().div_(whole)
    else:
        pixels = pixels.to(torch.float32) if kind != torch.float32 else pixels
        largest = float(pixels.nan_to_num(0).abs().max()) if pixels.numel() else 0.0
        if largest > 1:
            notes.append(f"images: floats up to {largest:.6g} keep their values; divide them by their largest possible value (often 255) if 0 to 1 is meant")
    if size is not None:
        height, width = _size(size)
        if (height, width) != tuple(pixels.shape[2:]):
            notes.append(f"images were resized from {pixels.shape[2]} x {pixels.shape[3]} to {height} x {width} (height x width)")
            pixels = torch.nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return pixels, notes


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels as float32 from 0 to 1."""
    return pixels.to(torch.float32).div_(255)


# -- reading a folder ----------------------------------------------------------------------------------------------------------------------------------------


def scan_folder(folder: Any, size: Any = None) -> Scan:
    """A look at every file's header: which files there are, and whether they fit together.

    Only of PNG files the pixels are decoded already here, as their orientation may stand behind them.
    """
    from PIL import Image

    wanted = None if size is None else _size(size)
    root = Path(folder)
    if not root.exists():
        raise MissingInputError(f"There is no folder {str(root)!r}.")
    if not root.is_dir():
        raise DataError(f"{str(root)!r} is a file. Data.images takes a folder that holds one folder of images for each class.")
    entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    folders = [entry for entry in entries if entry.is_dir() and not _hidden(entry.name)]
    left_out = [entry.name for entry in entries if entry not in folders]
    if not folders:
        loose = sum(entry.suffix.lower() in EXTENSIONS for entry in entries)
        raise DataError(
            f"{str(root)!r} holds no folders"
            + (f" but {loose:,} images" if loose else "")
            + ", and the folder of an image names its class. Sort them like this: "
            f"{root.name}/cat/1.png, {root.name}/dog/2.png; or read them yourself and use Data.images(arrays, labels)."
        )
    if all(entry.name.casefold() in SPLIT_NAMES for entry in folders):
        names = [entry.name for entry in folders]
        raise DataError(
            f"The folders of {str(root)!r} ({', '.join(names)}) are named like splits, and would be learned as classes. Give each on its own: "
            f"Splits({', '.join(f'Data.images({str(entry)!r})' for entry in folders[:3])})."
        )

    problems: list[str] = []
    files: list[tuple[str, int]] = []
    for label, class_folder in enumerate(folders):
        found = []
        for place, subfolders, names in os.walk(class_folder):
            subfolders[:] = sorted(name for name in subfolders if not _hidden(name))
            for name in names:
                path = (Path(place) / name).relative_to(root).as_posix()
                if _hidden(name) or Path(name).suffix.lower() not in EXTENSIONS:
                    left_out.append(path)
                else:
                    found.append(path)
        if not found:
            problems.append(f"The class folder {class_folder.name!r} holds no images. Put some in, or take the folder away.")
        files.extend((path, label) for path in sorted(found))

    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    grey = True
    for path, _ in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large photograph; real bombs raise
                with Image.open(root / path) as image:
                    width, height = image.size
                    turned = image.getexif().get(0x0112, 1)
                    if turned in (5, 6, 7, 8):  # a quarter turn
                        width, height = height, width
                    sizes[(height, width)] += 1
                    modes[image.mode] += 1
                    counts["turned"] += turned in range(2, 9)
                    counts["transparent"] += image.mode in ALPHA_MODES or "transparency" in image.info
                    counts["frames"] += getattr(image, "n_frames", 1) > 1
                    counts["deep"] += image.mode.startswith("I")
                    grey = grey and (image.mode in GREY_MODES or (image.mode == "P" and _grey_palette(image)))
                    if image.mode == "F":
                        problems.append(f"{path} holds floats, whose range is not known. Convert it to 8 bits, or use Data.images(arrays, labels).")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            problems.append(f"{path} cannot be read as an image: {_reason(error, root)}. Repair it or take it out.")
    if len(sizes) > 1 and wanted is None:
        common = sizes.most_common(1)[0][0]
        problems.append(
            f"The images have {len(sizes):,} sizes (height x width): {_counted(sizes)}. A batch needs one: name it, such as size=({common[0]}, {common[1]})."
        )
    if len(folders) < 2 and files:
        problems.append(f"There is one class folder, {folders[0].name!r}, and nothing to tell it from. Give the folder that holds all class folders.")
    if problems:
        raise DataError(_joined(root, problems), problems)

    height, width = wanted or next(iter(sizes))
    notes = [f"{len(files):,} images of {len(folders):,} classes, {'grey (1 channel)' if grey else 'RGB (3 channels)'}, {height} x {width} (height x width)"]
    mixed = ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common())
    if len(modes) > 1 or not set(modes) <= {"L", "RGB"}:
        notes.append(f"files of modes {mixed} were all made {'grey' if grey else 'RGB'}")
    for key, text in {
        "turned": "turned as their EXIF orientation says",
        "transparent": "laid on white where they are transparent",
        "frames": "with several frames or pages: the first was taken",
        "deep": "reduced from 16 to 8 bits",
    }.items():
        if counts[key]:
            notes.append(f"{counts[key]:,} {'image' if counts[key] == 1 else 'images'} {text}")
    other = {found: count for found, count in sizes.items() if found != (height, width)}
    if other:
        notes.append(
            f"{sum(other.values()):,} images were resized to {height} x {width}"
            + ("; their proportions changed" if _proportions_change(other, height, width) else "")
        )
    if left_out:
        notes.append(
            f"{len(left_out):,} {'file' if len(left_out) == 1 else 'files'} left out as hidden, no image or in no class folder: {_listed(sorted(left_out))}"
        )
    paths, labels = tuple(path for path, _ in files), tuple(label for _, label in files)
    return Scan(str(root), paths, labels, tuple(entry.name for entry in folders), 1 if grey else 3, height, width, wanted is not None, tuple(notes))


def read_pixels(scan: Scan, row: int) -> np.ndarray:
    """The pixels of one file, uint8 (channels, height, width)."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(Path(scan.folder) / scan.paths[row]) as file:
            image: Any = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):
                deep = np.asarray(image).astype(np.int64)
                if deep.min() < 0 or deep.max() > 65_535:
                    raise ValueError(f"its integers from {deep.min()} to {deep.max()} are no 16-bit pixels")
                image = Image.fromarray((deep >> 8).astype(np.uint8))
            if image.mode in ALPHA_MODES or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
            if image.mode != ("L" if scan.channels == 1 else "RGB"):
                image = image.convert("L" if scan.channels == 1 else "RGB")
            if image.size != (scan.width, scan.height) and not scan.resize:
                raise ValueError(f"it is {image.height} x {image.width} now, and was {scan.height} x {scan.width} when the folder was looked at")
            if image.size != (scan.width, scan.height):
                image = image.resize((scan.width, scan.height), Image.Resampling.BILINEAR)
            pixels = np.array(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels[None] if scan.channels == 1 else pixels.transpose(2, 0, 1))


def _read_all(scan: Scan) -> ImageFolder:
    from PIL import Image

    images = torch.empty((len(scan.paths), scan.channels, scan.height, scan.width), dtype=torch.uint8)
    problems = []
    for row, path in enumerate(scan.paths):
        try:
            images[row] = torch.from_numpy(read_pixels(scan, row))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            problems.append(f"{path} cannot be read as an image: {_reason(error, Path(scan.folder))}. Repair it or take it out.")
    if problems:
        raise DataError(_joined(Path(scan.folder), problems), problems)
    return ImageFolder(images, torch.tensor(scan.labels, dtype=torch.int64), scan.classes, scan.paths, scan.notes)


# -- small pieces --------------------------------------------------------------------------------------------------------------------------------------------


def _size(size: Any) -> tuple[int, int]:
    """(height, width) of `size`, a number or a pair."""
    pair = (size, size) if isinstance(size, (int, np.integer)) and not isinstance(size, bool) else size
    if (
        not isinstance(pair, (tuple, list))
        or len(pair) != 2
        or not all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) and side > 0 for side in pair)
    ):
        raise UsageError(f"size={size!r} must be a number of pixels, such as size=64, or (height, width), such as size=(48, 64).")
    return int(pair[0]), int(pair[1])


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name in ("Thumbs.db", "desktop.ini")


def _grey_palette(image: Any) -> bool:
    colours = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _proportions_change(sizes: dict[tuple[int, int], int], height: int, width: int) -> bool:
    # Rounding to whole pixels is no change: 2 % of a side is less than a pixel of a 48-pixel image.
    return any(abs(found[0] * width / (found[1] * height) - 1) > 0.02 for found in sizes)


def _machine_memory() -> int:
    """Bytes of memory that this machine has; 8 GB where it does not tell (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 10**9


def _reason(error: BaseException, root: Path) -> str:
    """Pillow's words without the path, which the message has named."""
    text = str(error) or type(error).__name__
    return (
        "it is no image, or of a kind that Pillow does not know" if text.startswith("cannot identify image file") else text.replace(str(root), "").rstrip(".")
    )


def _joined(root: Path, problems: Sequence[str]) -> str:
    shown = "\n".join(problems[:20])
    return f"{str(root)!r}: {shown}" + (f"\n... and {len(problems) - 20:,} more problems" if len(problems) > 20 else "")


def _counted(sizes: Counter[Any]) -> str:
    return ", ".join(f"{' x '.join(map(str, size))}: {count:,}" for size, count in sizes.most_common(5)) + (", ..." if len(sizes) > 5 else "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
