"""A stand-in for Google Cloud Storage in this process: an emulator's server, and who asks it."""

import contextlib
import json
import os
import socket
import socketserver

import fsspec
import pytest
from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import buckets, objects

NAME, READ_ONLY, CLOSED = "stand-in", "read-only", "closed"
LOCKED = f"/b/{READ_ONLY}/"  # a part of the addresses that may not be written


@contextlib.contextmanager
def serve():
    """Gives the environment in which gcsfs, tensorstore and array_record ask the emulator."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    address = f"http://localhost:{port}"
    variables = {
        "STORAGE_EMULATOR_HOST": address,
        "FSSPEC_GCS_TOKEN": "anon",
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,
    }
    emulator = server.create_server("localhost", port, in_memory=True, default_bucket=NAME)
    buckets.create_bucket(READ_ONLY, emulator._storage)
    with emulator, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setitem(os.environ, name, value)
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        patch.setattr(server.Router, "handle", _guard(server.Router.handle))
        patch.setattr(objects, "download", _numbered(objects.download))
        # gcsfs breaks off requests that it needs no more.
        patch.setattr(socketserver.BaseServer, "handle_error", lambda *_: None)
        yield variables


def _guard(handle):
    """Forbids what an account without rights is forbidden, which the emulator does not know."""

    def guarded(router, method):
        request = router._request_handler
        forbidden = f"/b/{CLOSED}/" in request.path
        if not forbidden and (method == "GET" or LOCKED not in request.path):
            return handle(router, method)
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        said = json.dumps({"error": {"code": 403, "message": "me@here does not have access."}})
        request.send_response(403)
        request.send_header("Content-Length", str(len(said)))
        request.end_headers()
        request.wfile.write(said.encode())

    return guarded


def _numbered(download):
    """Says which writing of an object is read, without which tensorstore cannot write it again."""

    def numbered(request, response, storage):
        download(request, response, storage)
        if response.status < 400:
            found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
            response["x-goog-generation"] = found["generation"]

    return numbered
