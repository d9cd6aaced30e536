"""Downloads from an HTTP server of our own: resumed, verified, refused."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from subsetopt.data import PUBLISHED, PublishedFile, download, load_dataset
from subsetopt.data import archive as archive_module
from subsetopt.data.archive import extract

CONTENT = bytes(range(256)) * 4000


@dataclass
class Server:
    """What is served under which name, how badly, and which ranges were asked for."""

    url: str
    files: dict[str, bytes]
    ranges: list[str | None] = field(default_factory=list)
    honour_range: bool = True
    cut_after: int | None = None  # close the connection after so many bytes of each reply
    redirects: dict[str, str] = field(default_factory=dict)  # name to address
    endless: bool = False  # send without end and without a length

    def source(self, name: str, content: bytes, folder: str = ".", members: tuple[str, ...] = ()) -> PublishedFile:
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return PublishedFile(name, (self.url + name,), md5, folder, members=members)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve `server.files` on 127.0.0.1."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            if self.path[1:] in state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects[self.path[1:]])
                self.end_headers()
                return
            if state.endless:
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(CONTENT)
            content = state.files.get(self.path[1:])
            if content is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.honour_range else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            body = content[start:]
            self.wfile.write(body if state.cut_after is None else body[: state.cut_after])

        def log_message(self, *_: object) -> None: ...

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{http_server.server_port}/", {"file": CONTENT})
    thread = threading.Thread(target=http_server.serve_forever, args=(0.01,))
    thread.start()
    yield state
    http_server.shutdown()
    http_server.server_close()
    thread.join()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once_verified_and_reported(server: Server, tmp_path: Path) -> None:
    source, seen = server.source("file", CONTENT, folder="A/raw"), []
    paths = download("any", tmp_path, sources=[source], progress=lambda done, total: seen.append((done, total)))
    assert paths == [tmp_path / "A/raw/file"] and paths[0].read_bytes() == CONTENT and _names(tmp_path) == ["file"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    download("any", tmp_path, sources=[source])
    assert server.ranges == [None]


def test_a_cut_connection_is_resumed_within_one_call(server: Server, tmp_path: Path) -> None:
    server.cut_after = 400_000
    (path,) = download("any", tmp_path, sources=[server.source("file", CONTENT)])
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=400000-", "bytes=800000-"]


def test_a_transfer_given_up_is_resumed_by_the_next_call(server: Server, tmp_path: Path, message) -> None:
    source, server.cut_after = server.source("file", CONTENT), 100_000
    text = message(download, "any", tmp_path, sources=[source])
    assert "400000 of 1024000 bytes" in text and "run the same command again" in text
    assert _names(tmp_path) == ["file.part"]
    server.cut_after = None
    download("any", tmp_path, sources=[source])
    assert server.ranges[-1] == "bytes=400000-" and _names(tmp_path) == ["file"]


def test_a_server_that_ignores_ranges_sends_everything_again(server: Server, tmp_path: Path) -> None:
    server.honour_range = False
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    (path,) = download("any", tmp_path, sources=[server.source("file", CONTENT)])
    assert path.read_bytes() == CONTENT and server.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("part", [b"wrong" * 100, CONTENT + b"beyond the end"])
def test_a_bad_part_is_thrown_away_and_fetched_afresh(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "file.part").write_bytes(part)
    (path,) = download("any", tmp_path, sources=[server.source("file", CONTENT)])
    assert path.read_bytes() == CONTENT and server.ranges == [f"bytes={len(part)}-", None]


def test_a_complete_part_is_taken_without_another_transfer(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    download("any", tmp_path, sources=[server.source("file", CONTENT)])
    assert _names(tmp_path) == ["file"] and server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_wrong_checksum_leaves_nothing_and_tries_the_next_mirror(server: Server, tmp_path: Path, message) -> None:
    source = server.source("file", CONTENT)
    server.files["file"], server.files["good"] = b"corrupt" + CONTENT[7:], CONTENT
    text = message(download, "any", tmp_path, sources=[source])
    assert f"file: wrong checksum, expected MD5 {source.md5}" in text and _names(tmp_path) == []
    both = PublishedFile("file", (source.urls[0], server.url + "missing", server.url + "good"), source.md5)
    assert download("any", tmp_path, sources=[both])[0].read_bytes() == CONTENT


def test_missing_files_and_unreachable_hosts_are_one_line(server: Server, tmp_path: Path, message) -> None:
    text = message(download, "any", tmp_path, sources=[server.source("none", CONTENT)])
    assert "none: HTTP 404" in text and "check the connection" in text
    unreachable = PublishedFile("file", ("http://127.0.0.1:1/file",), "0" * 32)
    text = message(download, "any", tmp_path, sources=[unreachable])
    assert "http://127.0.0.1:1/file: cannot be reached (Connection refused)" in text


def test_a_full_disk_or_a_file_in_the_way_is_one_line(server: Server, tmp_path: Path, message, monkeypatch) -> None:
    source = server.source("file", CONTENT)
    (tmp_path / "occupied").write_text("")
    assert "occupied/x: cannot be written (Not a directory)" in message(
        download, "any", tmp_path / "occupied" / "x", sources=[source]
    )

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    assert "No space left on device" in message(download, "any", tmp_path, sources=[source], progress=full)


def _tar(members: dict[str, bytes], link: tuple[str, str] | None = None, kind: bytes = tarfile.SYMTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = kind, link[1]
            tar.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize("target", ["file", "{url}file", "ftp://\x00", "http://[::1", "http://127.0.0.1:99999/x", "//"])
def test_redirections_that_lead_nowhere_are_one_line(server: Server, tmp_path: Path, message, target: str) -> None:
    server.redirects["file"] = target.format(url=server.url)
    text = message(download, "any", tmp_path, sources=[server.source("file", CONTENT)])
    assert text.startswith("file: download failed (") and _names(tmp_path) == []


def test_an_endless_body_ends_at_the_size_of_the_file(server: Server, tmp_path: Path, message) -> None:
    server.endless = True
    source = replace(server.source("file", CONTENT), most_bytes=3 * len(CONTENT))
    assert f"sends more than {3 * len(CONTENT)} bytes" in message(download, "any", tmp_path, sources=[source])
    assert _names(tmp_path) == []
    server.endless = False
    source = replace(source, most_bytes=len(CONTENT) - 1)
    assert "sends more than" in message(download, "any", tmp_path, sources=[source]) and _names(tmp_path) == []
    assert len(download("any", tmp_path, sources=[replace(source, most_bytes=len(CONTENT))])) == 1


def test_an_archive_is_unpacked_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.files["a.tar.gz"] = _tar({"set/one": b"1", "set/two": b"2"})
    source = server.source("a.tar.gz", server.files["a.tar.gz"], members=("set/one", "set/two"))
    assert download("any", tmp_path, sources=[source]) == [tmp_path / "set/one", tmp_path / "set/two"]
    (tmp_path / "set/one").unlink()
    download("any", tmp_path, sources=[source])
    assert (tmp_path / "set/one").read_bytes() == b"1" and len(server.ranges) == 1
    assert _names(tmp_path) == ["a.tar.gz", "one", "two"]


@pytest.mark.parametrize(
    "archive",
    [
        _tar({"ok": b"1", "../escaped": b"x"}),
        _tar({}, ("link", "/etc/passwd")),
        _tar({}, ("link", "../../x")),
        _tar({"ok": b"1", "/absolute": b"x"}),
        _tar({"ok": b"1", "a\x1b[2J": b"x"}),
        _tar({"ok": b"1", "x" * 3000: b"x"}),
        _tar({"ok": b"1"}, ("device", ""), tarfile.CHRTYPE),
        _tar({"ok": b"1"}, ("pipe", ""), tarfile.FIFOTYPE),
        _tar({"ok": b"1"}, ("hard", "ok"), tarfile.LNKTYPE),
    ],
    ids=lambda archive: f"{len(archive)} bytes",
)
def test_an_archive_that_leaves_its_folder_is_refused(server: Server, tmp_path: Path, message, archive: bytes) -> None:
    server.files["a.tar.gz"] = archive
    source = server.source("a.tar.gz", archive, members=("ok", "more"))
    text = message(download, "any", tmp_path / "data", sources=[source])
    assert "a.tar.gz: refused, an unsafe member" in text
    assert _names(tmp_path) == ["a.tar.gz"]


@pytest.mark.parametrize(
    "archive",
    [b"no archive", _tar({"one": CONTENT})[:-400], _tar({"other": b"1"})],
    ids=["no archive", "cut", "another"],
)
def test_a_damaged_or_different_archive_is_one_line(server: Server, tmp_path: Path, message, archive: bytes) -> None:
    server.files["a.tar.gz"] = archive
    source = server.source("a.tar.gz", archive, members=("one",))
    assert "a.tar.gz: " in message(download, "any", tmp_path, sources=[source])
    assert "one" not in _names(tmp_path)


def test_an_archive_that_does_not_fit_on_the_disk_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.tar.gz").write_bytes(_tar({"one": CONTENT}))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(CONTENT) - 1))
    with pytest.raises(OSError, match="are needed"):
        extract(tmp_path / "a.tar.gz", tmp_path)
    assert _names(tmp_path) == ["a.tar.gz"]


def test_a_bomb_of_an_archive_is_refused(tmp_path: Path, message, monkeypatch) -> None:
    monkeypatch.setattr(archive_module, "SUSPECT_BYTES", 2**16)
    (tmp_path / "a.tar.gz").write_bytes(_tar({"one": bytes(2**22)}))
    assert "more than 100 times as many" in message(extract, tmp_path / "a.tar.gz", tmp_path)
    assert _names(tmp_path) == ["a.tar.gz"]


def test_names_without_a_download_and_unknown_names_are_explained(tmp_path: Path, message) -> None:
    assert "digits: nothing to download" in message(download, "digits", tmp_path)
    assert "data_file=" in message(download, "npz", tmp_path)
    assert "did you mean 'cifar10'" in message(download, "cifar-10", tmp_path)


def test_mnist_compressed_by_another_program_counts_as_complete(server: Server, tmp_path: Path) -> None:
    """The contents decide: no request is made for a .gz whose decompressed bytes are the published ones."""
    contents_md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    (tmp_path / "file.gz").write_bytes(gzip.compress(CONTENT, 1))
    source = PublishedFile("file.gz", (server.url + "none",), "0" * 32, contents_md5=contents_md5)
    assert download("any", tmp_path, sources=[source]) == [tmp_path / "file.gz"] and server.ranges == []


def test_what_is_downloaded_lies_where_the_readers_look(tmp_path: Path, message) -> None:
    """Each published file is one that the missing-data message of its reader asks for."""
    for name, files in PUBLISHED.items():
        text = message(load_dataset, name.removesuffix("-python"), data_dir=tmp_path)
        places = [member.rsplit("/", 1)[0] for file in files for member in file.members] or ["MNIST/raw"]
        assert all(f"{tmp_path}/{place}" in text for place in places)


def test_real_mnist_needs_no_download(real_data_dir: Path) -> None:
    paths = download("mnist", real_data_dir)
    assert [path.name for path in paths] == [source.name for source in PUBLISHED["mnist"]]
