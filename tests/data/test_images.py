"""Promises of fivestep.data.images: a folder gives the same pixels in the same order everywhere, all its problems at once, and says what it changed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fivestep.data.batches import LoaderBatches
from fivestep.data.data import Data, Splits
from fivestep.data.images import array_source, folder_source, image_arrays, read_image_folder, scan_folder
from fivestep.data.sources import LoaderDataset, fingerprint, rows_repeat
from fivestep.errors import DataError, MissingInputError, UsageError

HEIGHT, WIDTH = 5, 7


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(folder, name, array, **options):
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of RGB images; dog/10 sorts before dog/2."""
    for number, name in enumerate(("dog/2.png", "dog/10.png", "cat/a.png", "cat/deeper/b.png", "cat/c.PNG")):
        save(tmp_path / "pets", name, pixels(number, HEIGHT, WIDTH, 3))
    return tmp_path / "pets"


def note(notes, text):
    return any(text in one for one in notes)


# -- folders -------------------------------------------------------------------------------------------------------------------------------------------------


def test_a_folder_per_class_is_read_in_the_order_of_names(folder):
    images, labels, classes, paths, notes = read_image_folder(folder)
    assert classes == ("cat", "dog") and labels.tolist() == [0, 0, 0, 1, 1] and labels.dtype == torch.int64
    assert paths == ("cat/a.png", "cat/c.PNG", "cat/deeper/b.png", "dog/10.png", "dog/2.png")
    assert images.shape == (5, 3, HEIGHT, WIDTH) and images.dtype == torch.uint8
    assert np.array_equal(images[4].numpy(), pixels(0, HEIGHT, WIDTH, 3).transpose(2, 0, 1))
    assert notes == ("5 images of 2 classes, RGB (3 channels), 5 x 7 (height x width)",)


def test_grey_only_where_every_file_is_grey(tmp_path):
    save(tmp_path, "a/1.png", pixels(0, HEIGHT, WIDTH))
    save(tmp_path, "b/1.png", Image.fromarray(pixels(1, HEIGHT, WIDTH) > 127))  # mode 1
    found = read_image_folder(tmp_path)
    assert found.images.shape == (2, 1, HEIGHT, WIDTH) and np.array_equal(found.images[0, 0].numpy(), pixels(0, HEIGHT, WIDTH))
    assert set(found.images[1].unique().tolist()) == {0, 255}
    save(tmp_path, "b/2.png", pixels(2, HEIGHT, WIDTH, 3))  # one file of colour, the last one
    found = read_image_folder(tmp_path)
    assert found.images.shape == (3, 3, HEIGHT, WIDTH) and note(found.notes, "modes 1 L, 1 1, 1 RGB were all made RGB")
    assert np.array_equal(found.images[0].numpy(), np.repeat(pixels(0, HEIGHT, WIDTH)[None], 3, axis=0))


def test_palettes_are_looked_up(tmp_path):
    colours = Image.fromarray(np.repeat(pixels(0, HEIGHT, 1, 3), WIDTH, axis=1))
    save(tmp_path, "a/1.png", colours.quantize(16))
    save(tmp_path, "b/1.gif", colours.quantize(16))
    found = read_image_folder(tmp_path)
    assert found.images.shape[1] == 3
    assert np.abs(found.images[0].int().numpy() - np.asarray(colours).transpose(2, 0, 1).astype(int)).max() < 16
    grey = Image.fromarray(pixels(1, HEIGHT, WIDTH)).convert("P")
    save(tmp_path / "grey", "a/1.png", grey)
    save(tmp_path / "grey", "b/1.png", grey)
    found = read_image_folder(tmp_path / "grey")
    assert found.images.shape[1] == 1 and np.array_equal(found.images[0, 0].numpy(), pixels(1, HEIGHT, WIDTH))


def test_transparency_is_laid_on_white_and_said(tmp_path):
    array = pixels(0, HEIGHT, WIDTH, 4)
    array[..., 3] = 255
    array[0, 0, 3] = 0
    save(tmp_path, "a/1.png", array)
    save(tmp_path, "b/1.png", pixels(1, HEIGHT, WIDTH, 3))
    found = read_image_folder(tmp_path)
    assert found.images[0, :, 0, 0].tolist() == [255, 255, 255] and found.images[0, :, 2, 3].tolist() == array[2, 3, :3].tolist()
    assert note(found.notes, "1 image laid on white")


def test_16_bits_become_8_and_are_said(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    save(tmp_path, "a/1.png", deep)
    save(tmp_path, "b/1.tif", deep)
    found = read_image_folder(tmp_path)
    assert np.array_equal(found.images[0, 0].numpy(), deep >> 8) and torch.equal(found.images[0], found.images[1])
    assert note(found.notes, "2 images reduced from 16 to 8 bits")


def test_exif_orientation_is_followed(tmp_path):
    upright = pixels(0, HEIGHT, WIDTH, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown after a quarter turn to the right
    save(tmp_path, "a/1.png", np.ascontiguousarray(np.rot90(upright)), exif=exif)
    save(tmp_path, "b/1.png", upright)
    found = read_image_folder(tmp_path)  # stored 7 x 5 and shown 5 x 7: no size is needed
    assert torch.equal(found.images[0], found.images[1]) and note(found.notes, "1 image turned")


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.fromarray(pixels(number, HEIGHT, WIDTH)) for number in range(3)]
    save(tmp_path, "a/1.tif", frames[0], save_all=True, append_images=frames[1:])
    save(tmp_path, "b/1.png", frames[0])
    found = read_image_folder(tmp_path)
    assert torch.equal(found.images[0], found.images[1]) and note(found.notes, "1 image with several frames")


def test_different_sizes_need_size_and_are_counted(folder):
    save(folder, "dog/big.png", pixels(9, 20, 30, 3))
    with pytest.raises(DataError, match=r"2 sizes \(height x width\): 5 x 7: 5, 20 x 30: 1.*size=\(5, 7\)"):
        read_image_folder(folder)
    found = read_image_folder(folder, size=(4, 6))
    assert found.images.shape == (6, 3, 4, 6) and note(found.notes, "6 images were resized to 4 x 6; their proportions changed")
    assert read_image_folder(folder, size=8).images.shape == (6, 3, 8, 8)


def test_an_image_that_has_the_size_is_not_touched_and_even_ones_stay_even(tmp_path):
    save(tmp_path, "a/1.png", pixels(0, HEIGHT, WIDTH, 3))
    save(tmp_path, "b/1.png", np.full((HEIGHT * 2, WIDTH * 2, 3), 77, np.uint8))
    found = read_image_folder(tmp_path, size=(HEIGHT, WIDTH))
    assert np.array_equal(found.images[0].numpy(), pixels(0, HEIGHT, WIDTH, 3).transpose(2, 0, 1)) and (found.images[1] == 77).all()
    assert note(found.notes, "1 images were resized to 5 x 7") and not note(found.notes, "proportions")


@pytest.mark.parametrize("size", [0, -3, 2.5, (3,), (3, 4, 5), "big", True, (3, 0)])
def test_a_size_that_is_none_is_refused(folder, size):
    with pytest.raises(UsageError, match="size="):
        read_image_folder(folder, size=size)


def test_hidden_files_and_files_that_are_no_images_are_named(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "README.txt").write_text("x")
    (folder / "dog" / "labels.csv").write_text("x")
    (folder / "dog" / "._2.png").write_bytes(b"x")
    (folder / ".hidden").mkdir()
    save(folder, "loose.png", pixels(0, HEIGHT, WIDTH, 3))
    found = read_image_folder(folder)
    assert len(found.paths) == 5
    assert found.notes[-1].startswith("6 files left out") and all(
        name in found.notes[-1] for name in (".DS_Store", "README.txt", "dog/labels.csv", "dog/._2.png", "loose.png", ".hidden")
    )


def test_all_problems_of_a_folder_come_at_once(folder):
    (folder / "bird").mkdir()
    (folder / "dog" / "empty.png").write_bytes(b"")
    (folder / "dog" / "text.jpg").write_text("no image at all")
    save(folder, "cat/big.png", pixels(9, 20, 30, 3))
    with pytest.raises(DataError) as caught:
        read_image_folder(folder)
    assert len(caught.value.problems) == 4
    for text in ("'bird' holds no images", "dog/empty.png cannot be read", "dog/text.jpg cannot be read as an image: it is no image", "2 sizes"):
        assert text in str(caught.value)


def cut_short(folder, name):
    path = save(folder, name, pixels(7, HEIGHT, WIDTH, 3))
    path.write_bytes(path.read_bytes()[:-60])


def test_files_that_break_off_are_all_named(folder):
    cut_short(folder, "dog/half.png")
    cut_short(folder, "cat/half.png")
    with pytest.raises(DataError) as caught:
        read_image_folder(folder)
    assert len(caught.value.problems) == 2 and "cat/half.png" in str(caught.value) and "dog/half.png" in str(caught.value)


@pytest.mark.parametrize(
    "names, lesson",
    [
        (["a.png", "b.png"], "holds no folders but 2 images"),
        ([], "holds no folders, and"),
        (["train/cat/1.png", "val/cat/1.png"], r"named like splits.*Splits\(Data.images\("),
        (["cat/1.png"], "one class folder, 'cat'"),
    ],
)
def test_folders_without_classes_are_refused(tmp_path, names, lesson):
    for name in names:
        save(tmp_path, name, pixels(0, HEIGHT, WIDTH, 3))
    with pytest.raises(DataError, match=lesson):
        read_image_folder(tmp_path)


def test_a_folder_that_is_not_there_or_is_a_file(tmp_path):
    with pytest.raises(MissingInputError, match="There is no folder"):
        read_image_folder(tmp_path / "none")
    with pytest.raises(DataError, match="is a file"):
        read_image_folder(save(tmp_path, "a.png", pixels(0, HEIGHT, WIDTH)))


def test_floats_have_no_known_range(tmp_path):
    save(tmp_path, "a/1.tif", np.random.default_rng(0).random((HEIGHT, WIDTH)).astype(np.float32))
    save(tmp_path, "b/1.png", pixels(0, HEIGHT, WIDTH))
    with pytest.raises(DataError, match=r"a/1.tif holds floats"):
        read_image_folder(tmp_path)


# -- sources -------------------------------------------------------------------------------------------------------------------------------------------------


def test_in_memory_and_from_disk_give_the_same_bits(folder):
    here, classes, _ = folder_source(folder)
    lazy, lazy_classes, notes = folder_source(folder, memory_bytes=100)
    assert classes == lazy_classes == ("cat", "dog") and note(notes, "read from disk batch by batch")
    rows = torch.tensor([4, 0, 2])
    (inputs, targets, _), (lazy_inputs, lazy_targets, _) = here.take(rows), lazy.take(rows)
    assert inputs.dtype == torch.float32 and inputs.shape == (3, 3, HEIGHT, WIDTH) and inputs.min() >= 0 and inputs.max() <= 1
    assert torch.equal(inputs, lazy_inputs) and torch.equal(targets[0], lazy_targets[0])
    assert torch.equal(here.targets[0], lazy.targets[0])  # known without reading, for stratified splits
    assert np.array_equal(inputs[0].numpy(), pixels(0, HEIGHT, WIDTH, 3).transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    assert rows_repeat(lazy.dataset, 1) and len(fingerprint(lazy)) == 64


def test_the_lazy_dataset_works_in_worker_processes(folder):
    lazy, _, _ = folder_source(folder, memory_bytes=0)
    pickle.loads(pickle.dumps(lazy.dataset))
    arguments = dict(collate=lazy.collate, unpack=lazy.unpack, device=torch.device("cpu"), batch_size=2)
    read = [list(LoaderBatches(LoaderDataset(lazy.dataset, 0), torch.arange(5), workers=workers, **arguments).epoch(0)) for workers in (0, 1)]
    assert len(read[0]) == 3 and all(torch.equal(one.inputs, two.inputs) for one, two in zip(*read))


def test_a_broken_file_of_the_lazy_dataset_is_named_when_it_is_read(folder):
    cut_short(folder, "dog/half.jpg")
    lazy, _, _ = folder_source(folder, memory_bytes=0)
    with pytest.raises(DataError, match=r"dog/half\.jpg cannot be read as an image"):
        lazy.take(torch.arange(6))


def test_a_file_that_changed_its_size_since_the_look_is_refused(folder):
    lazy, _, _ = folder_source(folder, memory_bytes=0)
    save(folder, "dog/2.png", pixels(0, 3, 4, 3))
    with pytest.raises(DataError, match="is 3 x 4 now, and was 5 x 7"):
        lazy.take(torch.tensor([4]))


def test_the_scan_knows_its_memory(folder):
    assert scan_folder(folder).num_bytes == 5 * 3 * HEIGHT * WIDTH * 4


# -- arrays --------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, expected, text",
    [
        ((2, 5, 7), (2, 1, 5, 7), "one grey channel was added"),
        ((2, 3, 5, 7), (2, 3, 5, 7), ""),
        ((2, 5, 7, 3), (2, 3, 5, 7), "channels came last"),
        ((2, 5, 7, 1), (2, 1, 5, 7), "channels came last"),
        ((2, 32, 48, 10), (2, 10, 32, 48), "channels came last"),
        ((2, 10, 32, 48), (2, 10, 32, 48), ""),
        ((2, 3, 5, 4), (2, 3, 5, 4), "if channels are last"),
    ],
)
def test_channels_are_found_wherever_they_stand(shape, expected, text):
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    found, notes = image_arrays(array)
    assert tuple(found.shape) == expected and found.dtype == torch.float32 and found.is_contiguous()
    assert note(notes, text) if text else notes == []
    moved = array.transpose(0, 3, 1, 2) if "came last" in text else array.reshape(expected)
    assert np.array_equal(found.numpy(), moved)


def test_integers_are_scaled_and_floats_are_not():
    array = pixels(0, 2, 3, 5, 7)
    found, notes = image_arrays(array)
    assert np.array_equal(found.numpy(), array.astype(np.float32) / np.float32(255)) and note(notes, "uint8 pixels from")
    assert torch.equal(image_arrays(array.astype(np.int64))[0], found)
    deep, notes = image_arrays(np.full((2, 5, 7), 65535, np.uint16))
    assert (deep == 1).all() and note(notes, "divided by 65,535")
    floats, notes = image_arrays(array.astype(np.float64))
    assert floats.max() == array.max() and note(notes, "floats up to 249 keep their values")
    assert image_arrays(array > 100)[0].unique().tolist() == [0, 1]


def test_targets_and_classes_of_arrays():
    source, classes, _ = array_source(pixels(0, 3, 5, 7), ["cat", "dog", "cat"])
    assert classes == ("cat", "dog") and source.targets[0].tolist() == [0, 1, 0] and source.inputs.shape == (3, 1, 5, 7)
    with pytest.raises(DataError, match=r"inputs has 3 rows .* targets has 2"):
        array_source(pixels(0, 3, 5, 7), [0, 1])


def test_lists_of_images():
    images = [pixels(number, 5, 7, 3) for number in range(4)]
    assert image_arrays(images)[0].shape == (4, 3, 5, 7)
    assert torch.equal(image_arrays([Image.fromarray(image) for image in images])[0], image_arrays(images)[0])
    with pytest.raises(DataError, match="different shapes: 5 x 7 x 3: 4, 6 x 7 x 3: 1"):
        image_arrays([*images, pixels(0, 6, 7, 3)])


def test_arrays_can_be_resized():
    found, notes = image_arrays(np.full((2, 10, 12), 0.25, np.float32), size=(5, 6))
    assert found.shape == (2, 1, 5, 6) and torch.allclose(found, torch.tensor(0.25)) and note(notes, "resized from 10 x 12 to 5 x 6")


@pytest.mark.parametrize(
    "images, kind, lesson",
    [
        (np.zeros((2, 5)), DataError, r"shape \(2, 5\)"),
        (np.full((2, 5, 7), -1), DataError, "integers from -1 to -1"),
        (np.full((2, 5, 7), 70_000), DataError, "neither 8-bit nor 16-bit"),
        ((np.zeros((2, 5, 7)), np.zeros((2, 5, 7))), UsageError, "one array of images"),
        (np.zeros((2, 5, 7), complex), DataError, "complex"),
        (np.zeros((0, 5, 7)), DataError, "no rows"),
    ],
)
def test_what_is_no_array_of_images_is_refused(images, kind, lesson):
    with pytest.raises(kind, match=lesson):
        image_arrays(images)


def test_another_folder_is_numbered_by_the_names_of_training_in_memory_and_from_disk(tmp_path):
    for folder, names in (("train", "abc"), ("val", "bc")):
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(2):
                Image.new("L", (4, 3), 10 * number).save(tmp_path / folder / name / f"{number}.png")
    splits = Splits(Data.images(tmp_path / "train"), val=Data.images(tmp_path / "val"))
    assert splits.val.data.source.targets[0].tolist() == [1, 1, 2, 2]
    source, classes, _ = folder_source(tmp_path / "val", memory_bytes=0)
    renumbered = Data("images", "val", source=source, classes=classes).numbered_as(("a", "b", "c"))
    assert renumbered.source.targets[0].tolist() == [1, 1, 2, 2] and renumbered.source.take(torch.tensor([0, 3]))[1][0].tolist() == [1, 2]
