"""Write the data files of the claims' studies: parts of MNIST and CIFAR, letter with a test split, SST-2 as counts.

`NAME-ROWS-half.npz` has images of half the side, each pixel the mean of four: a pass costs a quarter, so that two cores
carry as many epochs as a network needs to learn its training set by heart.

Run as `python reports/claims/prepare.py DATA claims-data`, DATA as `subsetopt download` lays it out, beside it
`tabular/letter.csv` (UCI, Slate 1991) and `text/sst2/{train,test}.tsv` (Socher et al. 2013; SENTENCE <tab> LABEL).
Data that are not there are left out. Rows are drawn with the class shares of the whole, by a fixed seed.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from subsetopt.data import draw, load_dataset
from subsetopt.errors import UserError

SEED = 19
IMAGES = (("mnist", 6000), ("cifar10", 4000))
HALVED = (("cifar10", 2000), ("cifar10", 4000), ("cifar100", 4000), ("cifar100", 10_000))
WORDS = 1000
LETTER_TEST_ROWS = 4000  # the last ones, as in the file's own description


def image_part(name: str, rows: int, data: Path, output: Path, *, half: bool = False) -> None:
    """Write `rows` training images and all test images as `NAME-ROWS.npz`, of half the side as `NAME-ROWS-half.npz`."""
    whole = load_dataset(name, data_dir=data, validation_fraction=0)
    x, y = np.asarray(whole.train.inputs), np.asarray(whole.train.targets)
    kept = draw(len(y), size=rows, seed=SEED, stratify=whole.train.targets).numpy()
    assert whole.test is not None, "image data sets have a test split"
    images, shrink = (x[kept], np.asarray(whole.test.inputs)), halved if half else np.asarray
    np.savez(
        output / f"{name}-{rows}{'-half' * half}.npz",
        x_train=shrink(images[0]),
        y_train=y[kept],
        x_test=shrink(images[1]),
        y_test=np.asarray(whole.test.targets),
    )


def halved(images: np.ndarray) -> np.ndarray:
    """Return uint8 images (n, C, H, W) of half the side, each pixel the rounded mean of four."""
    count, channels, height, width = images.shape
    blocks = images.reshape(count, channels, height // 2, 2, width // 2, 2)
    return np.asarray(np.rint(blocks.mean(axis=(3, 5))), dtype=np.uint8)


def letter(data: Path, output: Path) -> None:
    """Write the first 16 000 rows for training, the rest for testing, as `letter.npz`."""
    with (data / "tabular" / "letter.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    x, y = np.array([row[:-1] for row in rows], dtype=np.float32), np.array([row[-1] for row in rows])
    first = len(rows) - LETTER_TEST_ROWS
    np.savez(output / "letter.npz", x_train=x[:first], y_train=y[:first], x_test=x[first:], y_test=y[first:])


def sst2(data: Path, output: Path) -> None:
    """Write how often each of the commonest words of the training text is in a sentence, as `sst2.npz`."""
    texts = {part: _sentences(data / "text" / "sst2" / f"{part}.tsv") for part in ("train", "test")}
    counts = Counter(word for words, _ in texts["train"] for word in words)
    place = {word: number for number, (word, _) in enumerate(counts.most_common(WORDS))}
    arrays: dict[str, Any] = {}
    for part, sentences in texts.items():
        x = np.zeros((len(sentences), WORDS), dtype=np.float32)
        for row, (words, _) in enumerate(sentences):
            for word in words:
                if word in place:
                    x[row, place[word]] += 1
        arrays |= {f"x_{part}": x, f"y_{part}": np.array([label for _, label in sentences])}
    np.savez(output / "sst2.npz", **arrays)


def _sentences(path: Path) -> list[tuple[list[str], int]]:
    lines = (line.rpartition("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [(text.split(), int(label)) for text, _, label in lines]


def main(data: Path, output: Path) -> None:
    """Write every file whose data are there, and say which are not."""
    output.mkdir(parents=True, exist_ok=True)
    makers = [
        (name, partial(image_part, name, rows, data, output, half=half))
        for half, parts in ((False, IMAGES), (True, HALVED))
        for name, rows in parts
    ]
    for name, make in [*makers, ("letter", partial(letter, data, output)), ("sst2", partial(sst2, data, output))]:
        try:
            make()
        except (UserError, FileNotFoundError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
