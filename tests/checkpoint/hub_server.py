"""A local HTTP server with the few endpoints of the Hugging Face hub that a download uses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by id; `fetched` lists the files that were downloaded, `ranges` the bytes of
    those that were asked for in part. `whole` ignores ranges, as a poor mirror does."""

    repos: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    broken: bool = False
    fetched: list[str] = field(default_factory=list)
    ranges: dict[str, int] = field(default_factory=dict)
    whole: bool = False
    url: str = ""


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve on a free loopback port while the block runs."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = hub
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        if self.server.hub.broken:
            self.send(503, b"{}")
        elif path.startswith("api/models/"):
            self.api(path.removeprefix("api/models/").split("/"))
        else:
            self.file(path.split("/"))

    def api(self, parts: list[str]) -> None:
        """/api/models/ORG/NAME/revision/REV and /api/models/ORG/NAME/tree/REV"""
        hub, repo, rest = self.server.hub, "/".join(parts[:2]), parts[2:]
        if repo not in hub.repos:
            self.refuse(404, "RepoNotFound")
        elif rest[1:] and rest[1] not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif repo in hub.gated:
            self.refuse(403, "GatedRepo")
        elif rest[:1] == ["tree"]:
            self.send(200, json.dumps(_tree(hub.repos[repo])).encode())
        else:
            files = [{"rfilename": entry["path"]} for entry in _tree(hub.repos[repo])]
            info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": files}
            self.send(200, json.dumps(info).encode())

    def file(self, parts: list[str]) -> None:
        """/ORG/NAME/resolve/REV/FILE"""
        hub, repo, name = self.server.hub, "/".join(parts[:2]), "/".join(parts[4:])
        path = hub.repos[repo] / name
        if not path.is_file():
            self.refuse(404, "EntryNotFound")
            return
        content = path.read_bytes()
        wanted = self.headers.get("Range")
        if wanted and self.command == "GET" and not hub.whole:
            end = int(wanted.removeprefix("bytes=0-"))
            hub.ranges[name] = hub.ranges.get(name, 0) + len(content[: end + 1])
            self.send(206, content[: end + 1])
            return
        if self.command == "GET":
            hub.fetched.append(name)
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b'{"error": "no"}', {"X-Error-Code": code})

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _tree(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "type": "file",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
