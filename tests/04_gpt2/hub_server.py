"""A server on this machine that answers as Hugging Face's hub does, for models and for data sets."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    """A model or a data set: its commits, and which one each branch stands for."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: Files, branch: str = "main") -> str:
        """Make these the files of the branch -> the name of the commit."""
        name = sha1(repr((sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        return name


class Hub(ThreadingHTTPServer):
    """
    repositories    by name, those of data sets as datasets/NAME
    asked           every request so far, as "GET /path"
    fault           (request, as "GET /path" or "GET /path bytes=0-99") -> "broken" for an error of the server, "cut" for an
                    answer that stops half-way, "" for neither
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.fault: Callable[[str], str] = lambda request: ""

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, name: str, files: Files) -> Repository:
        """A repository with these files on its branch main."""
        self.repositories[name] = Repository()
        self.repositories[name].commit(files)
        return self.repositories[name]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub without repositories, which answers within the block."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Answers(BaseHTTPRequestHandler):
    """Files under /NAME/resolve/REVISION/FILE, and under /api/datasets/NAME what the library asks about a data set."""

    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.server.asked.append(f"{self.command} /{path}")
        posted = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if path.startswith("api/"):
            name, what, rest = _divided(path.removeprefix("api/"), "revision", "tree", "paths-info")
        else:
            name, what, rest = _divided(path, "resolve")
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.refuse(404, "RepoNotFound")
        if repository.gated and what != "revision":
            return self.refuse(403, "GatedRepo")
        revision, file = _revision_and_path(repository, rest)
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        files = repository.commits[commit]
        if what == "resolve":
            return self.refuse(404, "EntryNotFound", commit) if file not in files else self.send_file(files[file], commit)
        if what == "tree":
            listed = _listed(files, file, "recursive=true" in self.path.lower())
            return self.send_json(listed) if listed else self.refuse(404, "EntryNotFound", commit)
        if what == "paths-info":
            asked = [unquote(pair.removeprefix("paths=")) for pair in posted.split("&") if pair.startswith("paths=")]
            return self.send_json([entry for entry in _listed(files, "", True) if entry["path"] in asked])
        siblings = [{"rfilename": each} for each in files]
        return self.send_json({"id": name.removeprefix("datasets/"), "sha": commit, "siblings": siblings, "tags": []})

    do_HEAD = do_POST = do_GET  # noqa: N815, all these names are http.server's

    def send_file(self, file: bytes, commit: str) -> None:
        first, last, status = 0, len(file) - 1, 200
        headers = {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first, last, status = int(begin), min(int(end or last), last), 206
            if first > last:
                return self.answer(416, {"Content-Range": f"bytes */{len(file)}"}, b"")
            headers["Content-Range"] = f"bytes {first}-{last}/{len(file)}"
        return self.answer(status, headers, file[first : last + 1])

    def send_json(self, content: object) -> None:
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def refuse(self, status: int, code: str, commit: str = "") -> None:
        self.answer(status, {"X-Error-Code": code} | ({"X-Repo-Commit": commit} if commit else {}), b"")

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        fault = self.server.fault(f"{self.command} {unquote(self.path)} {self.headers.get('Range', '')}".rstrip())
        self.send_response(500 if fault == "broken" else status)
        body = b"" if fault == "broken" else body
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@cache
def _digest(file: bytes) -> str:
    return sha256(file).hexdigest()


def _divided(path: str, *verbs: str) -> tuple[str, str, str]:
    """datasets/a/b/tree/main/x -> ("datasets/a/b", "tree", "main/x"); without any of the verbs, what is meant is main's."""
    for verb in verbs:
        name, found, rest = path.partition(f"/{verb}/")
        if found:
            return name, verb, rest
    return path, "revision", "main"


def _revision_and_path(repository: Repository, rest: str) -> tuple[str, str]:
    """Which part of main/a/b is the revision; those of the hub's own, such as refs/convert/parquet, have slashes."""
    for revision in (*repository.branches, *repository.commits):
        if rest == revision or rest.startswith(revision + "/"):
            return revision, rest[len(revision) + 1 :]
    revision, _, path = rest.partition("/")
    return revision, path


def _listed(files: Files, folder: str, recursive: bool) -> list[dict[str, object]]:
    """The files and folders below `folder`, as the hub lists them."""
    prefix, found = folder and folder.rstrip("/") + "/", {}
    for name, content in files.items():
        if not name.startswith(prefix):
            continue
        parts = name[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            path = prefix + "/".join(parts[:depth])
            found[path] = {"type": "directory", "oid": sha1(path.encode()).hexdigest(), "size": 0, "path": path}
        if recursive or len(parts) == 1:
            found[name] = {"type": "file", "oid": sha1(content).hexdigest(), "size": len(content), "path": name}
    return [found[path] for path in sorted(found)]
