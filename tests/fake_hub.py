"""A hub of one model on 127.0.0.1: as much of its protocol as `huggingface_hub` uses to download a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_CHUNK = 1 << 14


@dataclass
class FakeHub:
    """What it serves, and what it was asked. `hold` stops the bodies of large files after their first bytes.

    status: what it answers to everything, with the error code the real hub would send.
    """

    repo: str
    folder: Path
    branches: tuple[str, ...] = ("main",)
    token: str | None = None
    status: tuple[int, str] | None = None
    sizes: dict[str, int] = field(default_factory=dict)  # claims that differ from the truth
    requests: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def __post_init__(self) -> None:
        self.hold.set()

    def files(self) -> dict[str, Path]:
        """Everything in the folder, by its path."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}

    def size(self, name: str) -> int:
        """What it says about a file."""
        return self.sizes.get(name, (self.folder / name).stat().st_size)


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve until the block is left; every thread has ended then."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = False
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            authorised = hub.token is None or self.headers.get("Authorization") == f"Bearer {hub.token}"
            if hub.status is not None:
                self._refuse(*hub.status)
            elif not authorised:
                self._refuse(401, "GatedRepo")
            elif path.startswith(f"/api/models/{hub.repo}/"):
                self._api(path.removeprefix(f"/api/models/{hub.repo}/"))
            elif path.startswith(f"/{hub.repo}/resolve/"):
                self._file(path.removeprefix(f"/{hub.repo}/resolve/"), body)
            else:
                self._refuse(404, "RepoNotFound")

        def _api(self, path: str) -> None:
            kind, _, revision = path.partition("/")
            if revision not in (*hub.branches, COMMIT):
                self._refuse(404, "RevisionNotFound")
            elif kind == "revision":
                siblings = [{"rfilename": name, "size": hub.size(name)} for name in hub.files()]
                self._json({"id": hub.repo, "sha": COMMIT, "siblings": siblings})
            else:
                self._json([_entry(name, hub.size(name)) for name in hub.files()])

        def _file(self, path: str, body: bool) -> None:
            revision, _, name = path.partition("/")
            file = hub.files().get(name)
            if revision not in (*hub.branches, COMMIT) or file is None:
                self._refuse(404, "EntryNotFound")
                return
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{_etag(name)}"')
            self.end_headers()
            if not body:
                return
            hub.bodies.append(name)
            try:
                for start in range(0, len(data), _CHUNK):
                    self.wfile.write(data[start : start + _CHUNK])
                    self.wfile.flush()
                    if len(data) > _CHUNK and not hub.hold.is_set():
                        hub.holding.set()
                        hub.hold.wait(60)
            except OSError:  # the other side has gone
                self.close_connection = True

        def _json(self, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


def _entry(name: str, size_bytes: int) -> dict[str, object]:
    return {"type": "file", "oid": _etag(name), "size": size_bytes, "path": name}


def _etag(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()
