"""A Hugging Face Hub on a loopback port: the endpoints that pushing and loading need, with commits kept in memory.

Large files (``*.safetensors``) take the LFS way, as on the real Hub: they are uploaded one by one, and the commit only
names them. :attr:`Hub.trouble` makes it misbehave: ``cut_upload`` and ``cut_commit`` close the connection in the middle
of what the client sends, ``cut_answer`` after the commit is done.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_right"


@dataclass
class Repo:
    """Commits (id and files, newest last) of each branch."""

    branches: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    private: bool = False

    def add(self, branch: str, files: dict[str, bytes]) -> str:
        commits = self.branches.setdefault(branch, [])
        text = json.dumps([branch, len(commits), sorted((k, hashlib.sha1(v).hexdigest()) for k, v in files.items())])
        commits.append((hashlib.sha1(text.encode()).hexdigest(), files))
        return commits[-1][0]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for commits in self.branches.values() for c in commits if c[0] == revision), None)


class Hub:
    """The server; use it as a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.trouble: str | None = None
        self.requests: list[str] = []
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that was killed is no news

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def environment(self, home: Any, token: str | None = TOKEN) -> dict[str, str]:
        found = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return found | ({"HF_TOKEN": token} if token else {})

    def commits(self, repo: str, branch: str = "main") -> list[dict[str, bytes]]:
        return [files for _, files in self.repos[repo].branches.get(branch, [])]

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *_args: Any) -> None:
        pass

    # ---- answers ----

    def answer(self, body: object, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, text: str, code: str = "") -> None:
        self.answer({"error": text}, status, **({"X_Error_Code": code} if code else {}), X_Error_Message=text)

    def read_body(self, cut: bool = False) -> bytes:
        size = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while length := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        if cut:
            self.rfile.read(size // 2)
            raise ConnectionAbortedError
        return self.rfile.read(size)

    def allowed(self) -> bool:
        """Check the token of a request that writes."""
        given = self.headers.get("Authorization", "")
        if given == f"Bearer {TOKEN}":
            return True
        self.read_body()
        self.refuse(401 if given else 403, "Invalid username or password." if given else "no token")
        return False

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionAbortedError:
            self.close_connection = True
            self.connection.close()

    # ---- writing ----

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            self.read_body()
            self.answer({"errors": [], "warnings": []})
            return
        if not self.allowed():
            return
        if path == "/api/repos/create":
            self.create(json.loads(self.read_body()))
        elif path.endswith("/info/lfs/objects/batch"):
            self.batch(json.loads(self.read_body()))
        elif "/preupload/" in path:
            self.preupload(path, json.loads(self.read_body()))
        elif "/branch/" in path:
            self.branch(path)
        elif "/commit/" in path:
            self.commit(path)
        else:
            self.read_body()
            self.refuse(404, f"no endpoint {path}")

    def do_PUT(self) -> None:
        if self.state.trouble == "cut_upload":
            self.read_body(cut=True)
        data = self.read_body()
        self.state.blobs[hashlib.sha256(data).hexdigest()] = data
        self.answer(b"")

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        name = name if "/" in name else f"me/{name}"
        if name in self.state.repos:
            self.answer({"error": "You already created this model repo", "url": f"{self.state.url}/{name}"}, 409)
            return
        repo = self.state.repos[name] = Repo(private=bool(wanted.get("private")))
        repo.add("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.answer({"url": f"{self.state.url}/{name}", "id": name, "name": name})

    def preupload(self, path: str, wanted: dict[str, Any]) -> None:
        name, _, revision = path.removeprefix("/api/models/").partition("/preupload/")
        found = self.state.repos[name].at(revision) if name in self.state.repos else None
        if found is None:
            self.refuse(404, "no such repository or revision", "RevisionNotFound")
            return
        rows = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in wanted["files"]
        ]
        self.answer({"files": rows})

    def batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for one in wanted["objects"]:
            row = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.state.blobs:
                row["actions"] = {"upload": {"href": f"{self.state.url}/lfs/{one['oid']}", "header": {}}}
            objects.append(row)
        self.answer({"transfer": "basic", "objects": objects})

    def branch(self, path: str) -> None:
        self.read_body()
        name, _, branch = path.removeprefix("/api/models/").partition("/branch/")
        repo = self.state.repos[name]
        if branch in repo.branches:
            self.refuse(409, "Reference already exists")
            return
        repo.branches[branch] = list(repo.branches["main"])
        self.answer({"success": True})

    def commit(self, path: str) -> None:
        name, _, branch = path.removeprefix("/api/models/").partition("/commit/")
        rows = [json.loads(line) for line in self.read_body(self.state.trouble == "cut_commit").splitlines()]
        repo = self.state.repos[name]
        head, files = repo.branches[branch][-1]
        parent = rows[0]["value"].get("parentCommit")
        if parent is not None and parent != head:
            self.refuse(412, "A commit has happened since. Please refresh and try again.")
            return
        files = dict(files)
        for row in rows[1:]:
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.state.blobs[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.add(branch, files)
        if self.state.trouble == "cut_answer":
            raise ConnectionAbortedError
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.state.url}/{name}/commit/{oid}"})

    # ---- reading ----

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.state.requests.append(f"{self.command} {path}")
        if "/resolve/" in path:
            name, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
            self.file(name, revision, file)
        elif path.startswith("/api/models/"):
            self.info(path.removeprefix("/api/models/"), parse_qs(parts.query))
        else:
            self.answer({"name": "me", "type": "user", "orgs": []})

    do_HEAD = do_GET

    def at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repo = self.state.repos.get(name)
        if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self.refuse(401, "Repository not found", "RepoNotFound")
            return None
        found = repo.at(revision)
        if found is None:
            self.refuse(404, "Invalid rev id", "RevisionNotFound")
        return found

    def file(self, name: str, revision: str, file: str) -> None:
        found = self.at(name, revision)
        if found is None:
            return
        commit, files = found
        if file not in files:
            self.answer({"error": "no such entry"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        tag = hashlib.sha256(files[file]).hexdigest()
        self.answer(files[file], ETag=f'"{tag}"', X_Repo_Commit=commit)

    def info(self, rest: str, _query: dict[str, list[str]]) -> None:
        for mark in ("/tree/", "/revision/"):
            if mark in rest:
                name, _, tail = rest.partition(mark)
                found = self.at(name, tail.split("/")[0])
                break
        else:
            name, mark = rest, ""
            found = self.at(rest, "main")
        if found is None:
            return
        commit, files = found
        if mark == "/tree/":
            rows = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
            ]
            self.answer(rows)
            return
        self.answer({"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]})
