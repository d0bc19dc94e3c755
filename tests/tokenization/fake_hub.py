"""A Hugging Face Hub in one process: enough of its HTTP interface to push a folder and to load it again.

Run as a script with one argument, a folder that holds a saved tokenizer: it starts the hub on a free loopback port,
pushes the tokenizer through the real client, loads it back by its id and by its revision, and prints JSON.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMITS: list[dict[str, bytes]] = []


def commit_id(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


def files_at(revision: str) -> tuple[str, dict[str, bytes]]:
    for number, files in enumerate(COMMITS):
        if revision == commit_id(number):
            return revision, files
    return commit_id(len(COMMITS) - 1), COMMITS[-1]


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args) -> None:
        pass

    def answer(self, body: object, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def url(self) -> str:
        return f"http://{self.headers['Host']}/me/tools"

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_POST(self) -> None:
        data = self.body()
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            if not COMMITS:
                COMMITS.append({})
            self.answer({"url": self.url(), "id": "me/tools", "name": "me/tools"})
        elif "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(data)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in path:
            files = dict(COMMITS[-1])
            for line in data.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            COMMITS.append(files)
            oid = commit_id(len(COMMITS) - 1)
            self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.url()}/commit/{oid}"})
        elif "/paths-info/" in path:
            self.answer([])
        else:
            self.answer({})

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        if "/resolve/" in path:
            revision, _, name = path.split("/resolve/")[1].partition("/")
            revision, files = files_at(revision)
            if name not in files:
                self.answer({"error": "no such entry"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=revision)
                return
            tag = hashlib.sha1(files[name]).hexdigest()
            self.answer(files[name], ETag=f'"{tag}"', X_Repo_Commit=revision)
        elif "/tree/" in path:
            _, files = files_at(path.split("/tree/")[1].split("/")[0])
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            self.answer(rows)
        elif path.startswith("/api/models/me/tools"):
            revision, files = files_at(path.rpartition("/")[2])
            self.answer({"id": "me/tools", "sha": revision, "siblings": [{"rfilename": name} for name in files]})
        else:
            self.answer({"name": "me", "type": "user", "orgs": []})

    do_HEAD = do_GET


def main(folder: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(
        HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
        HF_TOKEN="test",
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_OFFLINE="0",
        HF_HOME=tempfile.mkdtemp(dir=Path(folder).parent),
    )
    # The variables above are read when huggingface_hub is imported.
    from toolscaler.tokenization import ToolscalerTokenizer

    tokenizer = ToolscalerTokenizer.from_pretrained(folder)
    first = tokenizer.push_to_hub("me/tools")
    tokenizer.remove_tools(tokenizer.tool_names[:1])
    tokenizer.push_to_hub("me/tools")
    newest = ToolscalerTokenizer.from_pretrained("me/tools")
    older = ToolscalerTokenizer.from_pretrained("me/tools", revision=first.oid)
    report = {
        "files": sorted(COMMITS[-1]),
        "newest": dict(newest.tool_index),
        "older": dict(older.tool_index),
        "ids": newest("Convert <a_1><b_2>")["input_ids"],
        "has_codebook": newest.codebook is not None and older.codebook is not None,
    }
    print(json.dumps(report))
    server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
