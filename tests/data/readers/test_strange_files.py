"""Damaged archives of every kind end in data, or in a `DataError` with their name."""

import gzip
import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from kljax.data import load
from kljax.data.guard import reader
from kljax.data.readers.delimited import read_csv
from kljax.data.readers.text import read_texts
from kljax.errors import DataError

ROUNDS = 60
X = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
Y = np.arange(12, dtype=np.uint8) % 3


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(images, labels):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("images.npy", images)
        members.writestr("labels.npy", labels)
    return file.getvalue()


def picture(kind, mode, **options):
    file = io.BytesIO()
    Image.fromarray(X[0]).convert(mode).save(file, kind, **options)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def idx(array):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def damaged(rng, content, head=None):
    """One to four bytes changed, taken out or put in, perhaps only at the beginning."""
    found = bytearray(content)
    for _ in range(rng.integers(1, 5) if len(found) > 20 else 1):
        i, width = int(rng.integers(min(len(found), head or len(found)))), 4
        fresh = rng.integers(0, 256, width, dtype=np.uint8).tobytes()
        what = (fresh[:1], b"", fresh, b"\xff" * width, bytes([found[i] ^ 1]))
        found[i : i + width] = what[rng.integers(len(what))]
    cut = rng.random() < 0.1
    return bytes(found[: int(rng.integers(1 + len(found)))] if cut else found)


def whole_chunks(rng, content):
    """A PNG whose damaged chunk has the right checksum."""
    chunks, at = [], 8
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    odd = (
        (b"tRNS", b"\1\2"),
        (b"acTL", bytes(8)),
        (b"eXIf", b"MM\0*"),
        (b"iCCP", b"a\0"),
    )
    chunks.insert(1, odd[rng.integers(len(odd))])
    i = int(rng.integers(len(chunks) - 1))
    chunks[i] = chunks[i][0], damaged(rng, chunks[i][1])
    return content[:8] + b"".join(
        struct.pack(">I", len(data)) + name + data
        + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )  # fmt: skip


ROWS = b"\n".join(
    b",".join(b"%d" % v for v in row) for row in X.reshape(12, -1)[:, :65]
)
LINES = "\n".join(json.dumps({"text": "é" * 9}) for _ in range(3)).encode()
PNGS = [picture("PNG", mode) for mode in ("L", "RGB", "RGBA", "P", "1", "LA")]
JPEGS = [picture("JPEG", mode, exif=turned(6)) for mode in ("L", "RGB", "CMYK")]


def images(path):
    return load(path, split="all")


KINDS = {
    "npz": (images, lambda rng: damaged(rng, zipped(npy(X), npy(Y)), 200)),
    "npz, arrays": (images, lambda rng: zipped(damaged(rng, npy(X), 128), npy(Y))),
    "npz, labels": (images, lambda rng: zipped(npy(X), damaged(rng, npy(Y)))),
    "png": (images, lambda rng: damaged(rng, PNGS[rng.integers(6)])),
    "png, chunks": (images, lambda rng: whole_chunks(rng, PNGS[rng.integers(6)])),
    "jpg": (images, lambda rng: damaged(rng, JPEGS[rng.integers(3)])),
    "idx": (images, lambda rng: damaged(rng, idx(X[..., 0]), 20)),
    "idx.gz": (images, lambda rng: damaged(rng, gzip.compress(idx(X[..., 0]), 1))),
    "csv.gz": (
        lambda path: read_csv(path, (8, 8, 1), 256),
        lambda rng: gzip.compress(damaged(rng, ROWS), 1),
    ),
    "jsonl": (read_texts, lambda rng: damaged(rng, LINES)),
    "txt.gz": (read_texts, lambda rng: gzip.compress(damaged(rng, LINES), 1)),
}


@pytest.mark.parametrize(("read", "make"), KINDS.values(), ids=KINDS)
def test_damage_ends_in_data_or_in_an_error_that_names_the_file(
    tmp_path, request, read, make
):
    kind = request.node.callspec.id.partition(",")[0]
    in_folder = kind in ("png", "jpg")
    file = tmp_path / f"a.{kind}"
    refused = 0
    for seed in range(ROUNDS):
        file.write_bytes(make(np.random.default_rng(seed)))
        try:
            read(tmp_path if in_folder else file)
        except DataError as error:
            refused += 1
            assert str(tmp_path) in str(error) and "Remedy: " in str(error)
            assert len(str(error)) < 1000
    assert 0 < refused


TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].T,
    8: np.rot90,
}
"""How a stored picture is to be shown, by the definition of the EXIF tag."""


def test_pictures_are_turned_as_they_are_to_be_shown(tmp_path):
    for orientation in TURNS:
        image = Image.fromarray(X[0, ..., 0])
        image.save(tmp_path / f"{orientation}.png", exif=turned(orientation))
    found = load(tmp_path, split="all").images[..., 0]
    np.testing.assert_array_equal(
        found, [turn(X[0, ..., 0]) for turn in TURNS.values()]
    )


def test_inks_become_light(tmp_path):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red.save(tmp_path / "a.jpg", quality=100)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    found = load(tmp_path, split="all").images
    assert np.abs(found[0] - np.array([255.0, 0, 0])).max() <= 2 and not found[1].any()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "here: asks for more memory than there is. Remedy: "),
        (struct.error("a\n" * 999), r"here: cannot be read \(error: a a .* \.\.\.\)"),
        (DataError("there: as it was"), "^there: as it was$"),
    ],
)
def test_whatever_a_reader_raises_is_said_in_the_same_words(error, message):
    @reader
    def read(path, further):
        """What it reads."""
        raise error

    assert (read.__name__, read.__doc__) == ("read", "What it reads.")
    with pytest.raises(DataError, match=message):
        read("here", further=1)
