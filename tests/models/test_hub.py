"""The hub and plain HTTPS as sources, against a stand-in hub and a server on this machine."""

import hashlib
import http.server
import threading
from types import SimpleNamespace

import pytest

from models import hub
from models.entry import RemoteFile
from models.fetch import FetchError, Published, fetch_model
from models.hub import HubRemote
from models.registry import find

CONTENT = bytes(range(256)) * 20
ENTRY = find("longlive-1.3b")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        start, ranges = 0, self.headers.get("Range")
        if ranges and self.server.ranges:
            start = int(ranges.removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            return self.send_error(416)
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: self.server.cut])
            self.close_connection = True
        return None

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.ranges, running.cut = True, None
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        running.address = f"http://127.0.0.1:{running.server_port}/file.bin"
        yield running
        running.shutdown()
        thread.join()


def test_a_plain_download_arrives_and_tells_how_far_it_is(tmp_path, server):
    told = []
    path = hub._download(server.address, tmp_path / "file.bin", told.append)
    assert path.read_bytes() == CONTENT
    assert told[-1] == len(CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_goes_on_where_it_stopped(tmp_path, server, ranges):
    server.cut = 1000
    with pytest.raises(OSError, match=r"bytes"):
        hub._download(server.address, tmp_path / "file.bin", lambda done: None)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "file.bin").exists()
    server.cut, server.ranges = None, ranges
    told = []
    hub._download(server.address, tmp_path / "file.bin", told.append)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert told[-1] == len(CONTENT)


def test_a_finished_part_is_taken_as_it_is(tmp_path, server):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    path = hub._download(server.address, tmp_path / "file.bin", lambda done: None)
    assert path.read_bytes() == CONTENT


class StandInApi:
    """Answers as the hub does, for repositories of one invented file each."""

    def model_info(self, repo, revision):
        return SimpleNamespace(sha="c0ffee")

    def get_paths_info(self, repo, paths, revision):
        assert revision == "c0ffee"
        if "absent" in paths[0]:
            return []
        if paths[0].endswith("spiece.model"):
            blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
            return [SimpleNamespace(size=len(CONTENT), lfs=None, blob_id=blob)]
        lfs = SimpleNamespace(size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
        return [SimpleNamespace(size=len(CONTENT), lfs=lfs, blob_id="pointer")]


def stand_in_download(repo, path, *, revision, local_dir, tqdm_class):
    assert revision == "c0ffee"
    target = local_dir / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with tqdm_class(total=len(CONTENT), unit="B", unit_scale=True, initial=0, desc=path) as bar:
        for start in range(0, len(CONTENT), 1000):
            bar.update(len(CONTENT[start : start + 1000]))
        bar.set_postfix_str("fast", refresh=False)
    target.write_bytes(CONTENT)
    return str(target)


@pytest.fixture
def remote(monkeypatch, server):
    monkeypatch.setattr(hub, "hf_hub_download", stand_in_download)
    monkeypatch.setattr(hub, "_address", lambda file: server.address)
    remote = HubRemote(StandInApi())
    published = remote.published

    def with_blob(file):
        found = published(file)
        if file.git_blob is None:
            return found
        blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
        return Published(found.size_bytes, git_blob=blob)

    monkeypatch.setattr(remote, "published", with_blob)
    return remote


def test_a_whole_model_is_fetched_through_both_kinds_of_source(tmp_path, remote, capsys):
    bars = []
    fetch_model(
        ENTRY,
        tmp_path,
        lambda path, done, total: bars.append((path, done, total)),
        remote=remote,
    )
    assert not ENTRY.missing(tmp_path)
    for file in ENTRY.files():
        assert file.local(tmp_path).read_bytes() == CONTENT
        own = [done for path, done, _ in bars if path == file.path]
        assert own == sorted(own)
        assert own[-1] == len(CONTENT)
    assert capsys.readouterr().err == ""  # the hub's own bars stay quiet


def test_checksums_come_from_the_hub(remote):
    pickle = remote.published(ENTRY.files()[0])
    assert pickle.sha256 == hashlib.sha256(CONTENT).hexdigest()
    small = remote.published(ENTRY.files()[-1])
    assert small.sha256 is None
    assert small.git_blob is not None
    assert small.revision == "c0ffee"


def test_an_absent_file_and_a_strange_failure_are_clear_errors(tmp_path, remote, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such file at c0ffee"):
        remote.published(RemoteFile("some/repo", "absent.pt", 1))

    def fails(*args, **options):
        raise ZeroDivisionError("transport")

    monkeypatch.setattr(hub, "hf_hub_download", fails)
    with pytest.raises(FetchError, match=r"broke off \(transport\)"):
        fetch_model(ENTRY, tmp_path, remote=remote)
