"""Where the published data sets come from: official files, their checksums, and where they are laid."""

from __future__ import annotations

from dataclasses import dataclass

_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class PublishedFile:
    """One file to download into DATA/`folder`: mirrors in order of preference and its MD5.

    `contents_md5` is that of the decompressed bytes of a `.gz` file, so that a copy compressed by another program
    counts as complete. `members` of a tar archive are the files it must have laid out, relative to DATA. More than
    `most_bytes` are never taken from a server.
    """

    name: str
    urls: tuple[str, ...]
    md5: str
    folder: str = "."
    contents_md5: str = ""
    members: tuple[str, ...] = ()
    most_bytes: int = 2**28


def _mnist(name: str, md5: str, contents_md5: str) -> PublishedFile:
    urls = tuple(f"{mirror}{name}" for mirror in _MNIST_MIRRORS)
    return PublishedFile(name, urls, md5, "MNIST/raw", contents_md5)


def _cifar(archive: str, md5: str, folder: str, *members: str) -> PublishedFile:
    return PublishedFile(archive, (_CIFAR_HOME + archive,), md5, members=tuple(f"{folder}/{name}" for name in members))


_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

PUBLISHED: dict[str, tuple[PublishedFile, ...]] = {
    "mnist": (
        _mnist("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
        _mnist("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
        _mnist("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
        _mnist("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
    ),
    "cifar10": (
        _cifar(
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-batches-bin",
            *(f"{name}.bin" for name in _BATCHES),
        ),
    ),
    "cifar10-python": (
        _cifar("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py", *_BATCHES),
    ),
    "cifar100": (
        _cifar(
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            "cifar-100-binary",
            "train.bin",
            "test.bin",
        ),
    ),
    "cifar100-python": (
        _cifar("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python", "train", "test"),
    ),
}
