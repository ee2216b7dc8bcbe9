"""A stand-in for the Hugging Face Hub on loopback: repositories are dictionaries of bytes."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0" * 39 + "1"


class Hub:
    """Files by repository; `private` is what was said when each was made."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.licences: dict[str, str] = {}
        self.private: dict[str, bool] = {}
        self.fetched: list[str] = []


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args):
        pass

    def _send(self, code, body=b"", headers=None, head=False):
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def _json(self, value, code=200):
        self._send(code, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self):
        self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self):
        self._file(head=True)

    def do_GET(self):
        path = unquote(self.path.split("?")[0])
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path)
        if info is None:
            self._file(head=False)
            return
        name = info.group(1)
        files = self.hub.repositories.get(name)
        if files is None:
            self._missing()
            return
        licence = self.hub.licences.get(name)
        self._json(
            {
                "id": name,
                "modelId": name,
                "sha": COMMIT,
                "private": False,
                "tags": [],
                "siblings": [{"rfilename": n, "size": len(b)} for n, b in files.items()],
                "cardData": {"license": licence} if licence else None,
            }
        )

    def _file(self, head):
        path = unquote(self.path.split("?")[0])
        wanted = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        files = self.hub.repositories.get(wanted.group(1), {}) if wanted else {}
        if wanted is None or wanted.group(2) not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, head)
            return
        body = files[wanted.group(2)]
        tag = hashlib.sha256(body).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if not head:
            self.hub.fetched.append(wanted.group(2))
        self._send(200, body, headers, head)

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            self.hub.repositories.setdefault(name, {})
            self.hub.private[name] = bool(asked.get("private")) or (
                asked.get("visibility") == "private"
            )
            self._json({"url": f"http://{self.headers['Host']}/{name}", "name": name})
            return
        known = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/.*", path)
        if known is None:  # the check of a card, for one
            self._json({"errors": [], "warnings": []})
            return
        name, action = known.groups()
        if action == "preupload":
            asked = json.loads(content)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular"} for f in asked]
            self._json({"files": [m | {"shouldIgnore": False} for m in modes]})
            return
        for line in content.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
        address = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
        self._json({"success": True, "commitUrl": address, "commitOid": COMMIT})


@contextmanager
def serving():
    """A hub and its address, while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
