"""A hub on this machine: what huggingface.co answers to downloads and to pushes, and no more."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading

TOKEN = "hf_may_write"
COMMIT = "0" * 40
LARGE = ".safetensors"  # files that go into LFS


class Hub(http.server.ThreadingHTTPServer):
    """Serves {repository: {file name: content}}, one state of each."""

    def __init__(self, repositories):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.requests, self.damage = repositories, [], False
        self.large, self.visibility = {}, {}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serve(repositories, cache, monkeypatch):
    """A hub that answers while this lasts, and downloads go into the folder `cache`."""
    served = Hub(repositories)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,))
    thread.start()
    for module in ("constants", "file_download"):
        name = f"huggingface_hub.{module}.ENDPOINT"
        monkeypatch.setattr(name, served.address, raising=False)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        served.address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status=200, body=b"", content=True, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if content:
            self.wfile.write(body)

    def answer_json(self, value, status=200):
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def read(self):
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def missing(self, what):
        self.answer(404, X_Error_Code=f"{what}NotFound", X_Repo_Commit=COMMIT)

    def may_write(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_HEAD(self):
        self.resolve(content=False)

    def do_GET(self):
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/[^/]+", self.route)
        if not found:
            self.resolve()
        elif found[1] not in self.server.repositories:
            self.missing("Repo")
        elif found[2] == "revision":
            self.answer_json({"id": found[1], "sha": COMMIT, "siblings": []})
        else:
            self.answer_json([listed(*x) for x in self.server.repositories[found[1]].items()])

    @property
    def route(self):
        return self.path.partition("?")[0]

    def resolve(self, content=True):
        repository, _, rest = self.route.lstrip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        self.server.requests.append((self.command, name))
        files = self.server.repositories.get(repository, {})
        if name not in files:
            return self.missing("Entry" if files else "Repo")
        body = files[name]
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        if self.server.damage and content:
            body = b"X" + body[1:]
        self.answer(200, body, content, ETag=etag, X_Repo_Commit=COMMIT)

    def do_POST(self):
        body = self.read()
        path = self.route.removeprefix("/api/")
        if path == "validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        if not self.may_write():
            return self.answer_json({"error": "Invalid username or password."}, 401)
        if path == "repos/create":
            return self.create(json.loads(body))
        *_, owner, name, action, _ = path.removesuffix("/objects/batch").split("/")
        if action == "preupload":
            return self.answer_json({"files": [*map(mode, json.loads(body)["files"])]})
        if action == "commit":
            return self.commit(f"{owner}/{name}", map(json.loads, body.splitlines()))
        objects = json.loads(body)["objects"]  # of LFS
        for wanted in objects:
            where = f"{self.server.address}/{wanted['oid']}"
            wanted["actions"] = {"upload": {"href": where, "header": {}}}
        self.answer_json({"transfer": "basic", "objects": objects})

    def create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.server.repositories
        self.server.repositories.setdefault(name, {".gitattributes": b""})
        given = asked.get("visibility") or ("private" if asked.get("private") else "public")
        self.server.visibility.setdefault(name, given)  # older clients ask for "private" or not
        self.answer_json({"url": f"{self.server.address}/{name}"}, 409 if there else 200)

    def do_PUT(self):
        self.server.large[self.path.lstrip("/")] = self.read()
        self.answer()

    def commit(self, repository, operations):
        files = self.server.repositories[repository]
        for operation in operations:
            kind, value = operation["key"], operation["value"]
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if kind == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            if kind == "deletedFile":
                del files[value["path"]]
        url = f"{self.server.address}/{repository}/commit/{COMMIT}"
        self.answer_json({"commitUrl": url, "commitOid": COMMIT})

    def log_message(self, *_):
        pass


def mode(file):
    large = file["path"].endswith(LARGE)
    return file | {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}


def listed(name, content):
    digest = hashlib.sha256(content).hexdigest()
    file = {"type": "file", "path": name, "size": len(content), "oid": digest[:40]}
    large = {"oid": digest, "size": len(content), "pointerSize": 0}
    return file | ({"lfs": large} if name.endswith(LARGE) else {})
