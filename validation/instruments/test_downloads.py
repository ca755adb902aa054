"""Downloads from a real server on this machine: whole, cut off, resumed, changed in between, not what was published."""

import hashlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from layerwise.data import downloads
from layerwise.data.downloads import obtain
from layerwise.data.folders import VARIABLE
from layerwise.data.releases import RemoteFile

CONTENT = bytes(range(256)) * 4000  # 1 MB that does not look the same when it is shifted
HALF = len(CONTENT) // 2
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server:
    """Serves one file at any address. `requests` has the ranges that were asked for, None for the whole file."""

    def __init__(self):
        self.content, self.version, self.knows_ranges = CONTENT, '"v1"', True
        self.stop_after = None  # bytes of the file after which the connection is closed
        self.stall = None  # an event to wait for there, instead
        self.status, self.type = 200, "application/octet-stream"
        self.requests = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def file(self, **known):
        return RemoteFile(f"http://127.0.0.1:{self._http.server_port}/ml-1m.zip", **known)

    def close(self):
        self._http.shutdown()
        self._http.server_close()

    def _handler(server):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                server.requests.append(asked)
                is_same = self.headers.get("If-Range", server.version) == server.version
                begin = (
                    int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.knows_ranges and is_same else 0
                )
                if begin >= len(server.content):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if begin else server.status)
                self.send_header("Content-Type", server.type)
                self.send_header("Content-Length", str(len(server.content) - begin))
                if server.version:
                    self.send_header("ETag", server.version)
                self.end_headers()
                self.wfile.write(server.content[begin : server.stop_after])
                if server.stall:
                    self.wfile.flush()
                    server.stall.wait(30)

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(VARIABLE, raising=False)
    server = Server()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "grouplens" / "ml-1m"


def cut_off(server, cache, **known):
    """What is left after the server has closed the connection in the middle."""
    server.stop_after = HALF
    with pytest.raises(FileNotFoundError) as error:
        obtain(server.file(**known), "grouplens/ml-1m")
    server.stop_after = None
    server.requests.clear()
    return str(error.value)


def test_a_file_is_downloaded_once_and_then_found(server, cache, capsys):
    file = server.file(size=len(CONTENT), digest=MD5)

    paths = [obtain(file, "grouplens/ml-1m") for _ in range(2)]

    assert paths == [cache / "ml-1m.zip"] * 2
    assert paths[0].read_bytes() == CONTENT
    assert server.requests == [None]
    assert {path.name for path in cache.iterdir()} <= {"ml-1m.zip", "ml-1m.zip.lock"}
    shown = capsys.readouterr().err
    assert f"{file.url}\n" in shown
    assert "1.0/1.0 MB" in shown


def test_of_workers_that_want_the_same_file_one_downloads(server, cache):
    file = server.file(digest=MD5)

    with ThreadPoolExecutor(4) as workers:
        paths = list(workers.map(obtain, [file] * 4, ["grouplens/ml-1m"] * 4))

    assert paths == [cache / "ml-1m.zip"] * 4
    assert server.requests == [None]


def test_a_download_that_was_cut_off_goes_on_where_it_stopped(server, cache):
    message = cut_off(server, cache, digest=MD5)

    assert f"{HALF:,} bytes are here already" in message
    assert (cache / "ml-1m.zip.part").read_bytes() == CONTENT[:HALF]
    assert obtain(server.file(digest=MD5), "grouplens/ml-1m").read_bytes() == CONTENT
    assert server.requests == [f"bytes={HALF}-"]


def test_a_server_without_ranges_is_asked_for_the_whole_file_again(server, cache):
    server.knows_ranges = False
    cut_off(server, cache)

    assert obtain(server.file(), "grouplens/ml-1m").read_bytes() == CONTENT
    assert server.requests == [f"bytes={HALF}-"]  # it answered with the whole


def test_two_versions_of_a_file_are_never_joined(server, cache):
    cut_off(server, cache)
    server.content, server.version = CONTENT[::-1], '"v2"'

    assert obtain(server.file(), "grouplens/ml-1m").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("version", ["", 'W/"weak"'])
def test_without_a_version_to_hold_on_to_a_download_starts_over(server, cache, version):
    server.version = version
    cut_off(server, cache)

    assert obtain(server.file(), "grouplens/ml-1m").read_bytes() == CONTENT
    assert server.requests == [None]


def test_a_part_that_is_already_the_whole_is_downloaded_again(server, cache):
    cut_off(server, cache)
    (cache / "ml-1m.zip.part").write_bytes(CONTENT)

    assert obtain(server.file(), "grouplens/ml-1m").read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-", None]


def test_a_process_that_is_killed_leaves_a_part_to_go_on_with(server, cache):
    server.stop_after, server.stall = HALF, threading.Event()
    code = (
        "import sys; from pathlib import Path; from layerwise.data import downloads\n"
        "downloads.cache_folder = lambda: Path(sys.argv[1])\n"
        "downloads.obtain(downloads.RemoteFile(sys.argv[2]), 'grouplens/ml-1m')"
    )
    arguments = [sys.executable, "-c", code, str(cache.parents[1]), server.file().url]
    part = cache / "ml-1m.zip.part"
    with subprocess.Popen(arguments, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL) as process:
        waited = threading.Event()
        while not (part.is_file() and part.stat().st_size) and process.poll() is None:
            waited.wait(0.05)
        process.kill()
    server.stall.set()
    server.stop_after, server.stall = None, None
    server.requests.clear()
    have = part.stat().st_size

    assert 0 < have <= HALF
    assert obtain(server.file(digest=MD5), "grouplens/ml-1m").read_bytes() == CONTENT
    assert server.requests == [f"bytes={have}-"]


def test_a_file_with_another_hash_than_the_published_one_is_refused_and_not_kept(server, cache):
    server.content = CONTENT[:-1] + b"x"

    with pytest.raises(ValueError, match=r"did not give the file that was published.*hash.*try again"):
        obtain(server.file(digest=MD5), "grouplens/ml-1m")
    assert not list(cache.glob("ml-1m.zip")) + list(cache.glob("*.part"))


def test_a_file_of_another_length_than_the_published_one_is_refused(server, cache):
    with pytest.raises(ValueError, match=r"it has 1,024,000 bytes, 1,024,001 were published"):
        obtain(server.file(size=len(CONTENT) + 1), "grouplens/ml-1m")
    assert not list(cache.glob("*.part"))


def test_a_web_page_is_no_data(server, cache):
    server.content, server.type = b"<html>please log in</html>", "text/html; charset=utf-8"

    with pytest.raises(ValueError, match="web page instead of data"):
        obtain(server.file(), "grouplens/ml-1m")
    assert not list(cache.glob("ml-1m.zip")) + list(cache.glob("*.part"))


def test_without_a_published_hash_the_first_download_is_trusted_and_holds(server, cache, capsys):
    path = obtain(server.file(), "grouplens/ml-1m")

    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (cache / "ml-1m.zip.sha256").read_text() == f"{digest}  ml-1m.zip\n"
    shown = " ".join(capsys.readouterr().err.split())
    assert "nobody published a hash of ml-1m.zip" in shown
    assert obtain(server.file(), "grouplens/ml-1m") == path

    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=rf"but {digest} by the first download.*delete it and get it again from http"):
        obtain(server.file(), "grouplens/ml-1m")


def test_what_the_user_put_below_the_folder_of_the_variable_comes_first(server, cache, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    own = tmp_path / "mine" / "grouplens" / "ml-1m" / "ml-1m.zip"
    own.parent.mkdir(parents=True)
    own.write_bytes(CONTENT)

    assert obtain(server.file(digest=MD5), "grouplens/ml-1m") == own
    assert server.requests == []

    own.write_bytes(b"another edition")
    with pytest.raises(ValueError, match=r"mine.*has md5 .*damaged or another edition"):
        obtain(server.file(digest=MD5), "grouplens/ml-1m")


@pytest.mark.parametrize(("size", "words"), [(5_917_549, "5,917,549 bytes"), (None, "its size is not published")])
def test_without_a_network_the_message_says_which_file_to_put_where(server, cache, size, words):
    server.close()
    file = server.file(size=size)

    with pytest.raises(FileNotFoundError) as error:
        obtain(file, "grouplens/ml-1m")

    message = str(error.value)
    assert f"get {file.url} ({words}) elsewhere and put it to {cache / 'ml-1m.zip'}" in message
    assert f"{Path('grouplens/ml-1m/ml-1m.zip')} in the folder that LAYERWISE_DATA names" in message


def test_an_address_that_the_server_does_not_know_is_said(server, cache):
    server.status = 404

    with pytest.raises(FileNotFoundError, match="404"):
        obtain(server.file(), "grouplens/ml-1m")
