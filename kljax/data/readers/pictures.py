"""A folder of small PNG or JPEG images; class sub-folders are the labels."""

import pathlib

import numpy as np

from kljax.data.guard import brief, reader
from kljax.data.readers.folders import left_alone, place_of, split_places, visible
from kljax.data.readers.idx import is_idx
from kljax.data.readers.raw import LARGEST, SMALLEST, Raw, split_of
from kljax.data.readers.values import byte_levels
from kljax.errors import DataError

__all__ = ["read_pictures"]

ENDINGS = (".png", ".jpg", ".jpeg")
SIGNATURE, DEPTH = b"\x89PNG\r\n\x1a\n", 24
"""How a PNG file starts, and where it says how many bits a channel has."""

PICTURED = {"image", "images", "img", "imgs"}
OTHER = {"label", "labels", "mask", "masks", "annotation", "annotations", "targets"}
"""What folders are called that hold the images of all classes, and what beside them."""

Classes = dict[str, list[pathlib.Path]]
"""The images of each class; class "" for a flat folder."""


@reader
def read_pictures(path: pathlib.Path) -> Raw:
    """Reads `path/{train,val,test}/CLASS/*.png`, or any part of that layout.

    Class folders are numbered in order of their names (numerically when all names are
    integers); a flat folder has no labels. Grey images give one channel; as soon as
    one image is in color, all get three. Images are turned as their EXIF orientation
    says. Hidden files and documents are counted and left alone.

    Args:
      path: a folder with `train` and `test` or `val` (or `valid`, `validation`, ...),
        or with class folders, or with images.

    Raises:
      DataError: an image is not square, of another size than the first one, larger
        than 64 or smaller than 8 pixels, transparent, animated, of 16 bits or
        unreadable; a file would not be used; or the layout is unclear. The message
        names the file.
    """
    roots, ignored, documents = _roots(path)
    listed: dict[str, Classes] = {}
    for split, root in roots.items():
        listed[split], hidden, found = _list(root)
        ignored += hidden
        documents += found
    names = _class_names(path, listed)

    reading = _Reader()
    read = {}
    for split, classes in listed.items():
        images = [
            reading.read(file)
            for name in (names or ("",))
            for file in classes.get(name, ())
        ]
        counts = [len(classes.get(name, ())) for name in names]
        labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
        read[split] = (images, labels if names else None)
    splits = {s: (_stack(x, reading.color), y) for s, (x, y) in read.items()}
    notes = {"ignored_files": ignored + len(documents), "left_alone": documents}
    levels = byte_levels(str(path), *(images for images, _ in splits.values()))
    return Raw(str(path), splits, levels, class_names=names, notes=notes)


def _roots(path: pathlib.Path) -> tuple[dict[str, pathlib.Path], int, list[str]]:
    """The folder of each split, and what was left alone beside them."""
    files, folders, hidden = visible(path)
    if not folders or None in map(place_of, folders):
        return {"all": path}, 0, []
    roots, documents = split_places(path, folders, files)
    return roots, hidden, documents


def _list(root: pathlib.Path) -> tuple[Classes, int, list[str]]:
    """The images of each class, the number of hidden files, and documents."""
    files, folders, ignored = visible(root)
    if not folders:
        images, documents = _images(root, files)
        return {"": images}, ignored, documents
    loose = [file for file in files if _is_picture(file)]
    rest = [file for file in files if not _is_picture(file)]
    documents = left_alone(rest, "only class folders")
    classes: Classes = {}
    for folder in folders:
        files, inside, hidden = visible(folder)
        if inside:
            raise DataError(
                f"{inside[0]}: a folder inside a class folder. Remedy: "
                f"{_instead(inside[0])}put the images straight into one folder per "
                f"class{_beside(root, folder, folders)}."
            )
        classes[folder.name], found = _images(folder, files)
        ignored += hidden
        documents += found
    if loose:
        raise DataError(
            f"{loose[0]}: an image beside class folders. Remedy: move it into one."
        )
    return classes, ignored, documents


def _is_picture(file: pathlib.Path) -> bool:
    return file.suffix.lower() in ENDINGS


def _images(
    folder: pathlib.Path, files: list[pathlib.Path]
) -> tuple[list[pathlib.Path], list[str]]:
    images = [file for file in files if _is_picture(file)]
    if not images:
        others = f", but {brief(', '.join(x.name for x in files))}" if files else ""
        raise DataError(
            f"{folder}: holds no {', '.join(ENDINGS)} files{others}. Remedy: give a "
            "folder of images, of class folders, of train and test, of idx files, or "
            "an .npz file; remove empty class folders."
        )
    rest = [file for file in files if not _is_picture(file)]
    return images, left_alone(rest, "PNG or JPEG images")


def _instead(inside: pathlib.Path) -> str:
    """Where the data begin further down, that folder."""
    if any(is_idx(file) for file in inside.iterdir()):
        return f"give {inside}, or "
    return "" if split_of(inside.name) is None else f"give {inside.parent}, or "


def _beside(
    root: pathlib.Path, folder: pathlib.Path, folders: list[pathlib.Path]
) -> str:
    """Where one of the folders is a split, the others are what is odd."""
    odd = [other.name for other in folders if split_of(other.name) is None]
    if split_of(folder.name) is None or not odd:
        return ""
    return (
        f"; if {folder.name} is a split, {', '.join(odd)} in {root} cannot be classes, "
        "name it train, val or test"
    )


def _class_names(path: pathlib.Path, listed: dict[str, Classes]) -> tuple[str, ...]:
    found = {split: set(classes) for split, classes in listed.items()}
    first = "train" if "train" in found else next(iter(found))
    for other in found:
        # A small part may lack a class; none may have one that training never shows.
        flat = "" in found[first] | found[other]
        odd = found[first] ^ found[other] if flat else found[other] - found[first]
        if odd:
            raise DataError(
                f"{path}: {first} and {other} differ in the classes "
                f"{[name or '(flat)' for name in sorted(odd)]}. Remedy: give both the "
                "same class folders."
            )
    names = found[first] - {""}
    if names & PICTURED and names <= PICTURED | OTHER:
        raise DataError(
            f"{path}: {', '.join(sorted(names))} are no classes. Remedy: give the "
            "folder of the images alone, with one folder per class in it for labels."
        )
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


class _Reader:
    """Reads image after image and remembers what the first one was like."""

    def __init__(self):
        try:
            from PIL import Image, ImageOps
        except ImportError as error:
            raise DataError(
                "an image folder needs Pillow. Remedy: pip install pillow."
            ) from error
        self._image, self._turned = Image, ImageOps.exif_transpose
        self._first: tuple[pathlib.Path, int] | None = None
        self.color = False

    def read(self, file: pathlib.Path) -> np.ndarray:
        """uint8 `[h, w]` or `[h, w, 3]`."""
        try:
            # Pillow tries both formats only, whatever else it could open.
            with self._image.open(file, formats=("PNG", "JPEG")) as image:
                self._check_size(file, *image.size)
                self._check_kind(file, image)
                return self._pixels(file, image)
        except DataError:
            raise
        # Damaged files end in whatever the decoder came across.
        except Exception as error:
            raise DataError(
                f"{file}: cannot be read as PNG or JPEG ({brief(error)}). Remedy: "
                "save it again or remove it."
            ) from error

    def _check_size(self, file: pathlib.Path, width: int, height: int) -> None:
        if width != height or not SMALLEST <= width <= LARGEST:
            raise DataError(
                f"{file}: {width} x {height} pixels, expected a square of {SMALLEST} "
                f"to {LARGEST}. Remedy: crop and resize the images first."
            )
        first, side = self._first = self._first or (file, width)
        if width != side:
            raise DataError(
                f"{file}: {width} pixels wide, but {first} has {side}. Remedy: resize "
                "the images to one size."
            )

    def _check_kind(self, file: pathlib.Path, image) -> None:
        with file.open("rb") as opened:
            head = opened.read(DEPTH + 1)
        # Of color images Pillow keeps the upper byte alone, and does not say so.
        deep = head.startswith(SIGNATURE) and head[DEPTH] == 16
        if deep or image.mode.startswith(("I", "F")):
            raise DataError(
                f"{file}: more than 8 bits per channel (mode {image.mode}). Remedy: "
                "save its pixels // 257 as 8 bits (Pillow's convert would clip them), "
                "or all images in one .npz file, divided by 65535."
            )
        if getattr(image, "n_frames", 1) > 1:
            raise DataError(
                f"{file}: holds {image.n_frames} pictures. Remedy: save the one that "
                "counts as a file of its own."
            )

    def _pixels(self, file: pathlib.Path, image) -> np.ndarray:
        gray = image.mode in ("1", "L", "LA", "La")
        self.color |= not gray
        image = self._turned(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if np.asarray(image.getchannel("A")).min() < 255:
                raise DataError(
                    f"{file}: has transparent pixels. Remedy: paste it onto a "
                    "background of one color and save it without transparency."
                )
            image = image.convert("RGB")
        return np.asarray(image.convert("L" if gray else "RGB"))


def _stack(images: list[np.ndarray], color: bool) -> np.ndarray:
    side = images[0].shape[0]
    stacked = np.empty((len(images), side, side, 3 if color else 1), np.uint8)
    for row, image in zip(stacked, images):
        row[:] = image if image.ndim == 3 else image[..., None]
    return stacked
