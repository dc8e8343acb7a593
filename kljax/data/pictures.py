"""A folder of small PNG or JPEG images; class sub-folders are the labels."""

import pathlib

import numpy as np

from kljax.data.raw import LARGEST, SMALLEST, Raw
from kljax.errors import DataError

__all__ = ["read_pictures"]

ENDINGS = (".png", ".jpg", ".jpeg")


def read_pictures(path: pathlib.Path) -> Raw:
    """Reads `path/{train,test}/CLASS/*.png`, or any part of that layout.

    Class folders are numbered in order of their names (numerically when all names are
    integers); a flat folder has no labels. Grey images give one channel; as soon as
    one image is in colour, all get three. Hidden files and other endings are counted
    and left alone.

    Args:
      path: a folder with `train` and `test`, or with class folders, or with images.

    Raises:
      DataError: an image is not square, of another size than the first one, larger
        than 64 or smaller than 8 pixels, transparent, of 16 bits or unreadable; or
        the layout is unclear. The message names the file.
    """
    parts = {folder.name for folder in _folders(path)}
    if parts == {"train", "test"}:
        roots = {"train": path / "train", "test": path / "test"}
    elif parts == {"train"}:
        roots = {"all": path / "train"}
    else:
        roots = {"all": path}
    listed = {split: _list(root) for split, root in roots.items()}
    names = _class_names(path, listed)

    reader = _Reader()
    splits = {}
    for split, (classes, _) in listed.items():
        images = [
            reader.read(file)
            for name in (names or ("",))
            for file in classes.get(name, ())
        ]
        counts = [len(classes.get(name, ())) for name in names]
        labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
        splits[split] = (images, labels if names else None)
    notes = {"ignored_files": sum(ignored for _, ignored in listed.values())}
    return Raw(
        str(path),
        {s: (_stack(images, reader.color), y) for s, (images, y) in splits.items()},
        class_names=names,
        notes=notes,
    )


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != ".")


def _list(root: pathlib.Path) -> tuple[dict[str, list[pathlib.Path]], int]:
    """The images of each class (class "" for a flat folder) and the files left out."""
    folders = _folders(root)
    classes, ignored = {}, 0
    for folder in folders or [root]:
        files = sorted(p for p in folder.iterdir() if p.is_file())
        images = [p for p in files if p.suffix.lower() in ENDINGS and p.name[0] != "."]
        ignored += len(files) - len(images)
        if folders and _folders(folder):
            raise DataError(
                f"{_folders(folder)[0]}: a folder inside a class folder. Remedy: put "
                "the images straight into one folder per class."
            )
        if not images:
            raise DataError(
                f"{folder}: holds no {', '.join(ENDINGS)} files. Remedy: give a folder "
                "of images, of class folders, of train and test, of idx files, or an "
                ".npz file; remove empty class folders."
            )
        classes[folder.name if folders else ""] = images
    loose = [p for p in root.iterdir() if folders and p.suffix.lower() in ENDINGS]
    if loose:
        raise DataError(
            f"{loose[0]}: an image beside class folders. Remedy: move it into one."
        )
    return classes, ignored


def _class_names(
    path: pathlib.Path, listed: dict[str, tuple[dict[str, list[pathlib.Path]], int]]
) -> tuple[str, ...]:
    found = [set(classes) for classes, _ in listed.values()]
    if found.count(found[0]) != len(found):
        odd = sorted(set.union(*found) - set.intersection(*found))
        raise DataError(
            f"{path}: train and test differ in the classes {odd or ['(flat)']}. "
            "Remedy: give both the same class folders."
        )
    names = found[0] - {""}
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


class _Reader:
    """Reads image after image and remembers what the first one was like."""

    def __init__(self):
        try:
            from PIL import Image
        except ImportError as error:
            raise DataError(
                "an image folder needs Pillow. Remedy: pip install pillow."
            ) from error
        self._image = Image
        self._first: tuple[pathlib.Path, int] | None = None
        self.color = False

    def read(self, file: pathlib.Path) -> np.ndarray:
        """uint8 `[h, w]` or `[h, w, 3]`."""
        try:
            # Pillow tries both formats only, whatever else it could open.
            with self._image.open(file, formats=("PNG", "JPEG")) as image:
                self._check_size(file, *image.size)
                return self._pixels(file, image)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"{file}: cannot be read as PNG or JPEG ({error}). Remedy: save it "
                "again or remove it."
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

    def _pixels(self, file: pathlib.Path, image) -> np.ndarray:
        if image.mode.startswith(("I", "F")):
            raise DataError(
                f"{file}: more than 8 bits per channel (mode {image.mode}). Remedy: "
                "convert it to 8 bits."
            )
        if image.has_transparency_data:
            if image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                raise DataError(
                    f"{file}: has transparent pixels. Remedy: paste it onto a "
                    "background of one color and save it without transparency."
                )
        gray = image.mode in ("1", "L", "LA", "La")
        self.color |= not gray
        return np.asarray(image.convert("L" if gray else "RGB"))


def _stack(images: list[np.ndarray], color: bool) -> np.ndarray:
    side = images[0].shape[0]
    stacked = np.empty((len(images), side, side, 3 if color else 1), np.uint8)
    for row, image in zip(stacked, images):
        row[:] = image if image.ndim == 3 else image[..., None]
    return stacked
