"""Downloads from a server of our own that breaks off, lies, or has nothing: resumed, compared, never in silence."""

import gzip
import http.server
import json
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from forked import Killer, allow_little, become_nobody, forked

from weighted_freezing_fairseq.data import fetch
from weighted_freezing_fairseq.data.archives import find_unpacked
from weighted_freezing_fairseq.data.fetch import find_local, identity, obtain, sha256
from weighted_freezing_fairseq.data.recipe import Archive
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.files import explain

CONTENT = gzip.compress(bytes(range(256)) * 4000, mtime=0) + b"x" * 300_000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        name = self.path.strip("/")
        server.free.wait(20)
        if name == "missing":
            self.send_error(404)
            return
        if name == "busy":
            self.send_error(503)
            return
        content = b"<html>quota exceeded</html>" if name == "page" else server.content
        begin = 0
        if (asked := self.headers.get("Range")) and self.headers.get("If-Range") == server.tag:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        stop = begin + server.breaks_after if server.breaks_after and len(server.asked) <= server.broken else None
        self.wfile.write(content[begin:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.free = threading.Event()
    made.free.set()
    made.asked, made.content, made.tag, made.breaks_after, made.broken = [], CONTENT, '"1"', 0, 0
    threading.Thread(target=made.serve_forever, daemon=True).start()
    made.address = f"http://127.0.0.1:{made.server_port}"
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def public():
    """A folder that every user may look into."""
    folder = Path(tempfile.mkdtemp())
    (folder / "archives").mkdir()
    folder.chmod(0o755)
    yield folder / "archives"
    shutil.rmtree(folder)


def archive(server, *names):
    return Archive("a.tgz", tuple(f"{server.address}/{name}" for name in names))


def get(folder, *archives, **more):
    """The file for one need that any of `archives` serves."""
    return obtain({"need": archives}, folder, **more)["need"]


def test_a_download_is_recorded_and_not_made_again(server, tmp_path):
    found = get(tmp_path, archive(server, "good"))
    assert found.read_bytes() == CONTENT
    record = json.loads((tmp_path / "fetched.json").read_text())["a.tgz"]
    assert record["sha256"] == sha256(found) and record["bytes"] == len(CONTENT) and record["mirror"].endswith("/good")
    assert get(tmp_path, archive(server, "good")) == found and len(server.asked) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a.tgz", "fetched.json"]
    assert identity(found) == {"bytes": len(CONTENT), "sha256": sha256(found), "from": f"{server.address}/good"}


def test_a_download_that_breaks_off_goes_on_where_it_was(server, tmp_path):
    server.breaks_after, server.broken = 100_000, 2
    assert get(tmp_path, archive(server, "good")).read_bytes() == CONTENT
    assert server.asked == [("/good", None), ("/good", "bytes=100000-"), ("/good", "bytes=200000-")]


def test_of_two_at_once_one_downloads(server, tmp_path):
    server.free.clear()
    found = []
    calls = [threading.Thread(target=lambda: found.append(get(tmp_path, archive(server, "good")))) for _ in range(2)]
    for call in calls:
        call.start()
    calls[0].join(0.5)
    server.free.set()
    for call in calls:
        call.join(20)
    assert found == [tmp_path / "a.tgz"] * 2 and found[0].read_bytes() == CONTENT
    assert server.asked == [("/good", None)]


def test_a_kill_at_any_change_of_a_file_leaves_nothing_behind(server, tmp_path):
    def killed(name, at=0):
        killer = Killer(tmp_path / name, at)
        status, _ = forked(tmp_path, lambda: get(tmp_path / name, archive(server, "good")) and 0, killer)
        assert status == (-signal.SIGKILL if at else 0)
        return killer.count

    for at in range(1, killed("whole") + 1):
        folder = tmp_path / str(at)
        killed(folder.name, at)
        found = get(folder, archive(server, "good"))
        assert found.read_bytes() == CONTENT and identity(found)["from"] == f"{server.address}/good", at
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "a.tgz", "fetched.json"], at


def test_a_whole_part_is_not_asked_for_again(server, tmp_path):
    (tmp_path / "a.tgz.part").write_bytes(CONTENT)
    note = {"address": f"{server.address}/good", "tag": server.tag, "bytes": len(CONTENT)}
    (tmp_path / "a.tgz.part.json").write_text(json.dumps(note))
    found = get(tmp_path, archive(server, "good"))
    assert server.asked == [] and identity(found)["from"] == f"{server.address}/good"


def test_archives_that_are_there_need_no_folder_that_can_be_written(server, public):
    get(public, archive(server, "good"))
    (public / ".lock").unlink()
    public.chmod(0o555)
    call = lambda name: lambda: str(get(public, archive(server, name))) and 0  # noqa: E731
    assert forked(public.parent, call("good"), become_nobody) == (0, [])


@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_a_disk_that_cannot_take_a_download_is_not_blamed_on_the_mirror(kind, server, public):
    public.chmod(0o555 if kind == "read-only" else 0o777)

    def call():
        with pytest.raises(OSError) as caught:
            get(public, archive(server, "good"))
        print(explain(caught.value), file=sys.stderr)
        return 0

    status, (said,) = forked(public.parent, call, become_nobody if kind == "read-only" else allow_little)
    assert status == 0 and f"{public}/" in said and "a.tgz.part" in said
    assert ("Permission denied" if kind == "read-only" else "File too large") in said
    assert len(server.asked) == 1
    public.chmod(0o755)
    assert get(public, archive(server, "good")).read_bytes() == CONTENT


def test_a_later_call_goes_on_too(server, tmp_path):
    server.breaks_after, server.broken = 50_000, 3
    with pytest.raises(UserError, match=r"broke off after 150,000 of .* bytes, 3 times"):
        get(tmp_path, archive(server, "good"))
    server.breaks_after = 0
    assert get(tmp_path, archive(server, "good")).read_bytes() == CONTENT
    assert server.asked[-1] == ("/good", "bytes=150000-")


def test_a_file_that_changed_meanwhile_is_begun_anew(server, tmp_path):
    server.breaks_after, server.broken = 50_000, 3
    with pytest.raises(UserError):
        get(tmp_path, archive(server, "good"))
    server.breaks_after, server.tag, server.content = 0, '"2"', gzip.compress(b"another")
    assert get(tmp_path, archive(server, "good")).read_bytes() == gzip.compress(b"another")


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server, tmp_path):
    (tmp_path / "a.tgz.part").write_bytes(CONTENT + b"more")
    (tmp_path / "a.tgz.part.json").write_text(json.dumps({"address": f"{server.address}/good", "tag": server.tag}))
    assert get(tmp_path, archive(server, "good")).read_bytes() == CONTENT


def test_the_next_mirror_is_asked_where_one_fails(server, tmp_path):
    found = get(tmp_path, archive(server, "missing", "page", "busy", "good"))
    assert found.read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/missing", "/page", "/busy", "/busy", "/busy", "/good"]


def test_the_next_archive_is_asked_where_one_cannot_be_had(server, tmp_path):
    other = Archive("b.tgz", (f"{server.address}/good",))
    needs = {"one": (Archive("one.tgz", ()), archive(server, "missing"), other), "two": (other,)}
    assert obtain(needs, tmp_path) == {"one": tmp_path / "b.tgz", "two": tmp_path / "b.tgz"}
    assert [path for path, _ in server.asked] == ["/missing", "/good"]


def test_where_every_mirror_fails_it_says_once_what_to_fetch_and_what_to_type(server, tmp_path):
    needs = {"one": (archive(server, "missing", "page"),), "two": (Archive("b.tgz", (f"{server.address}/missing",)),)}
    with pytest.raises(UserError) as caught:
        obtain(needs, tmp_path, command="wff prepare iwslt14")
    assert str(caught.value).splitlines() == [
        "no mirror has what is needed. Fetch by hand, from any of these addresses:",
        "a.tgz:",
        f"  {server.address}/missing (the server says 404 Not Found)",
        f"  {server.address}/page (it sent no gzip archive but perhaps a web page: a quota, or a moved file)",
        "b.tgz:",
        f"  {server.address}/missing (the server says 404 Not Found)",
        "then type: wff prepare iwslt14 --archive FILE_OR_FOLDER",
    ]
    assert not (tmp_path / "a.tgz").exists()


def test_before_the_addresses_it_says_what_was_found(server, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    needs = {name: (Archive(f"{name}.gz", (f"{server.address}/missing",)),) for name in ("a", "b", "c", "d")}
    for name in ("a.gz", "b", "c.de"):
        (folder / name).touch()
    wanted = {"a": {"": True}, "b": {"": True}, "c": {"c.de": True, "c.en": True, "c.fr": False}, "d": {"": True}}
    unpacked = find_unpacked(wanted, [folder])
    with pytest.raises(UserError, match="no mirror has") as caught:
        obtain(needs, tmp_path / "out", [folder], unpacked=unpacked)
    found, _, *addresses = str(caught.value).splitlines()
    assert found == f"found in {folder}: a.gz, b, c.de; missing: c.gz or c.en, d.gz or d"
    assert [line for line in addresses if line.endswith(":")] == ["c.gz:", "d.gz:"]
    (folder / "other").mkdir()
    with pytest.raises(UserError, match=r"own/other: nothing that is needed .there is: nothing.; missing: d.gz or d"):
        obtain({"d": needs["d"]}, tmp_path / "out", [folder / "other"], unpacked={"d": unpacked["d"]})


def test_a_host_that_cannot_be_reached_is_not_asked_for_every_file(server, tmp_path):
    server.shutdown()
    server.server_close()
    needs = {name: (Archive(name, (f"{server.address}/{name}",)),) for name in ("a.tgz", "b.tgz")}
    with pytest.raises(UserError, match="cannot be reached.*\n.*b.tgz:\n.*cannot be reached") as caught:
        obtain(needs, tmp_path)
    assert str(caught.value).count(", 3 times") == 1


def test_another_file_than_before_is_kept_beside_and_not_used(server, tmp_path):
    get(tmp_path, archive(server, "good")).rename(tmp_path / "mine.tgz")
    server.content, server.tag = gzip.compress(b"another"), '"2"'
    with pytest.raises(UserError, match="is not what was fetched before .* kept as .*a.tgz.other"):
        get(tmp_path, archive(server, "good"))
    assert (tmp_path / "mine.tgz").read_bytes() == CONTENT and (tmp_path / "a.tgz.other").is_file()


def test_a_file_that_was_changed_since_is_refused(server, tmp_path):
    found = get(tmp_path, archive(server, "good"))
    found.write_bytes(CONTENT[:1000])
    with pytest.raises(UserError, match="has 1,000 bytes and had .* move it away to fetch it again"):
        get(tmp_path, archive(server, "good"))
    found.write_bytes(CONTENT[::-1])
    with pytest.raises(UserError, match="its SHA-256 differs.*move it away to fetch it again"):
        identity(found)


def test_files_of_the_users_own_are_taken_by_name_from_files_and_folders(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("a.tgz", "b.tgz", "c.tgz"):
        (folder / name).write_bytes(b"x")
    needs = {name: (Archive(f"{name}.tgz", ()),) for name in "ab"}
    both = {"a": folder / "a.tgz", "b": folder / "b.tgz"}
    assert obtain(needs, tmp_path / "out", [folder]) == both and not (tmp_path / "out").exists()
    assert obtain(needs, tmp_path / "out", [folder / "a.tgz", folder / "b.tgz"]) == both
    with pytest.raises(
        UserError, match=r"--archive .*c.tgz is none of those needed here; their names are: a.tgz, b.tgz"
    ):
        obtain(needs, tmp_path / "out", [folder / "c.tgz"])
    with pytest.raises(UserError, match="there is no archive .*no.tgz; give --archive a file, or a folder"):
        obtain(needs, tmp_path, [tmp_path / "no.tgz"])


def test_one_file_that_serves_every_need_may_have_any_name(tmp_path):
    own = tmp_path / "download (1).tgz"
    own.write_bytes(b"x")
    everything = Archive("all.tgz", ())
    needs = {"de": (Archive("de.tgz", ()), everything), "es": (everything,)}
    assert find_local(needs, tmp_path / "out", [own]) == {"de": own, "es": own}
    assert identity(own)["from"] == "given"


def test_the_address_of_google_drive(tmp_path, server, monkeypatch):
    monkeypatch.setattr(fetch, "_DRIVE", f"{server.address}/{{}}")
    assert get(tmp_path, Archive("a.tgz", ("drive:good",))).read_bytes() == CONTENT
