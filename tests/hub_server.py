"""A small Hugging Face hub: the requests that its client makes, answered with real files of a
folder.

FOLDER/models/ORG/NAME/FILE…   FOLDER/datasets/ORG/NAME/FILE…      every repository has one commit, and the branch main
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


def commit_of(folder: Path) -> str:
    """A commit that changes with the content."""
    return hashlib.sha1(
        b"".join(str(p).encode() + p.read_bytes() for p in files(folder))
    ).hexdigest()


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


class Hub(BaseHTTPRequestHandler):
    root: Path
    seen: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        asked = json.loads(self.rfile.read(length) or b"{}")
        _, folder, rest = self._repository(unquote(urlsplit(self.path).path).split("/")[2:])
        if folder is None or not rest or rest[0] != "paths-info":
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        found = [entry for entry in _tree(folder) if entry["path"] in asked["paths"]]
        return self._send(200, json.dumps(found).encode())

    def log_message(self, *_: object) -> None:
        pass

    def _repository(self, parts: list[str]) -> tuple[str, Path | None, list[str]]:
        kind, name, rest = parts[0], parts[1:3], parts[3:]
        folder = self.root / kind / "/".join(name)
        return kind, folder if folder.is_dir() else None, rest

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.seen.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            return self._api(parts[1:])
        kind = "datasets" if parts[0] == "datasets" else "models"
        org, name, _, revision, *file = parts[1:] if kind == "datasets" else parts
        folder = self.root / kind / org / name
        if not folder.is_dir():
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        commit = commit_of(folder)
        if revision not in (commit, "main"):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        target = folder / "/".join(file)
        if not target.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = target.read_bytes()
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        return self._send(200, content, headers, body)

    def _api(self, parts: list[str]) -> None:
        _, folder, rest = self._repository(parts)
        if folder is None:
            return self._send(
                404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}
            )
        commit = commit_of(folder)
        if len(rest) > 1 and rest[0] in ("revision", "tree") and rest[1] not in (commit, "main"):
            return self._send(
                404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"}
            )
        if rest and rest[0] == "tree":
            return self._send(200, json.dumps(_tree(folder)).encode())
        siblings = [{"rfilename": entry["path"], "size": entry["size"]} for entry in _tree(folder)]
        name = "/".join(folder.parts[-2:])
        told = {
            "_id": "1",
            "id": name,
            "modelId": name,
            "sha": commit,
            "siblings": siblings,
            "private": False,
            "tags": [],
            "downloads": 0,
        }
        return self._send(200, json.dumps(told).encode())

    def _send(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(content)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _tree(folder: Path) -> list[dict]:
    return [
        {
            "type": "file",
            "path": str(p.relative_to(folder)),
            "size": p.stat().st_size,
            "oid": hashlib.sha1(p.read_bytes()).hexdigest(),
        }
        for p in files(folder)
    ]


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(address, `METHOD PATH` of what was asked for) of a hub over these files."""
    handler = type("OneHub", (Hub,), {"root": root, "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.seen
    finally:
        server.shutdown()
        thread.join()
