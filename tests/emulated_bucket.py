"""Google Cloud Storage on this machine, as far as runs need it: flat, in memory.

`running()` serves the JSON API to everything that asks for `gs://`: TensorStore, gcsfs
and Google's own client, in this process and in those it starts. Names are flat, as in
the buckets that it stands for: there are no folders, and nothing is renamed. It counts
requests, and fails on demand.
"""

import base64
import contextlib
import hashlib
import http.server
import importlib
import json
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

google_crc32c: Any = importlib.import_module("google_crc32c")
Refusal = Callable[[str, str], bool]  # of a method and a name
_OBJECT = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)")
_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_BUCKET = re.compile(r"/storage/v1/b/([^/]+)")
_UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o")
_COMPOSE = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/compose")
MOST_COMPOSED = 32
_COPY = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)")


class Store:
    """The objects of all buckets, and what was asked of them.

    Attributes:
      objects: bytes by `bucket/name`.
      requests: method and `bucket/name` of every request, in order.
      refuse: whether a method on a name fails, as if the bucket were full.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.refuse: Refusal = lambda method, name: False
        self.lock = threading.Lock()
        self._generations: dict[str, int] = {}
        self._last = 1000

    def put(self, name: str, data: bytes) -> None:
        with self.lock:
            self._last += 1
            self.objects[name], self._generations[name] = data, self._last

    def remove(self, name: str) -> None:
        with self.lock:
            del self.objects[name]

    def generation(self, name: str) -> int:
        """That of an object; 0 where there is none."""
        return self._generations[name] if name in self.objects else 0

    def below(self, prefix: str) -> dict[str, bytes]:
        """The objects whose names begin with a prefix, by the rest of their names."""
        with self.lock:
            names = sorted(n for n in self.objects if n.startswith(prefix))
            return {name[len(prefix) :]: self.objects[name] for name in names}

    def facts(self, name: str) -> dict[str, Any]:
        """What the API says of an object."""
        bucket, _, key = name.partition("/")
        data, generation = self.objects[name], str(self.generation(name))
        crc = google_crc32c.Checksum(data).digest()
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        return {
            "kind": "storage#object",
            "id": f"{name}/{generation}",
            "name": key,
            "bucket": bucket,
            "generation": generation,
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "size": str(len(data)),
            "crc32c": base64.b64encode(crc).decode(),
            "md5Hash": base64.b64encode(md5).decode(),
            "etag": generation,
            "timeCreated": now,
            "updated": now,
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    store: ClassVar[Store]
    uploads: ClassVar[dict[str, bytearray]] = {}

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        url, query = self._split()
        if match := _OBJECT.fullmatch(url):
            self._get(_name(match), query, media=query.get("alt") == "media")
        elif match := _LIST.fullmatch(url):
            self._list(urllib.parse.unquote(match[1]), query)
        elif match := _BUCKET.fullmatch(url):
            self._json({"kind": "storage#bucket", "name": match[1], "id": match[1]})
        else:
            self._json({"error": {"code": 404, "message": url}}, status=404)

    def do_POST(self) -> None:
        url, query = self._split()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if match := _COPY.fullmatch(url):
            source, target = (
                f"{urllib.parse.unquote(match[i])}/{urllib.parse.unquote(match[i + 1])}"
                for i in (1, 3)
            )
            self._store(target, self.store.objects[source], copied=True)
        elif match := _COMPOSE.fullmatch(url):
            self._compose(_name(match), json.loads(body)["sourceObjects"])
        elif match := _UPLOAD.fullmatch(url):
            self._upload(urllib.parse.unquote(match[1]), query, body=body)
        else:
            self._json({"error": {"code": 404, "message": url}}, status=404)

    do_PUT = do_POST

    def do_DELETE(self) -> None:
        url, _ = self._split()
        match = _OBJECT.fullmatch(url)
        name = _name(match) if match else ""
        if self._asked("DELETE", name) or name not in self.store.objects:
            self._missing(name)
            return
        self.store.remove(name)
        self._respond(b"", status=204)

    def _split(self) -> tuple[str, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        return url.path, dict(urllib.parse.parse_qsl(url.query))

    def _asked(self, method: str, name: str) -> bool:
        """Count a request; whether it is refused."""
        self.store.requests.append((method, name))
        return self.store.refuse(method, name)

    def _get(self, name: str, query: dict[str, str], *, media: bool) -> None:
        if self._asked("GET", name) or name not in self.store.objects:
            self._missing(name)
            return
        data, generation = self.store.objects[name], self.store.generation(name)
        if query.get("ifGenerationNotMatch") == str(generation):
            self._respond(b"", status=304)
            return
        if not media:
            self._json(self.store.facts(name))
            return
        status, headers = 200, {"x-goog-generation": str(generation)}
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            whole = len(data)
            if match[1]:
                first, last = int(match[1]), int(match[2] or whole - 1)
            else:  # the last so many
                first, last = max(0, whole - int(match[2])), whole - 1
            last = min(last, whole - 1)
            data, status = data[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{whole}"
        self._respond(data, status=status, headers=headers)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        self._asked("LIST", f"{bucket}/{query.get('prefix', '')}")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        first, last = query.get("startOffset", ""), query.get("endOffset", "")
        items, folders = [], set()
        for rest in self.store.below(f"{bucket}/{prefix}"):
            name = prefix + rest
            if name < first or (last and name >= last):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(self.store.facts(f"{bucket}/{name}"))
        values = {"kind": "storage#objects", "items": items}
        self._json(values | ({"prefixes": sorted(folders)} if folders else {}))

    def _upload(self, bucket: str, query: dict[str, str], *, body: bytes) -> None:
        if query.get("upload_id"):
            self._go_on(query["upload_id"], body=body)
        elif query["uploadType"] == "resumable":
            key = query.get("name") or json.loads(body)["name"]
            place = f"{bucket}/{key}"
            if self._asked("PUT", place):
                self._full(place)
                return
            self.uploads[place] = bytearray()
            asked = urllib.parse.urlencode({"upload_id": place})
            where = (
                f"http://{self.headers['Host']}{self.path.partition('?')[0]}?{asked}"
            )
            self._respond(b"", headers={"Location": where})
        elif query["uploadType"] == "multipart":
            boundary = re.search(r"boundary=\"?([^\";]+)", self.headers["Content-Type"])
            assert boundary
            pieces = body.split(b"--" + boundary[1].encode())
            head, data = (
                re.split(rb"\r?\n\r?\n", p, maxsplit=1)[1] for p in pieces[1:3]
            )
            data = data.removesuffix(b"\n").removesuffix(b"\r")
            self._store(f"{bucket}/{json.loads(head)['name']}", data)
        else:
            self._store(f"{bucket}/{query['name']}", body, query=query)

    def _compose(self, target: str, sources: list[dict[str, str]]) -> None:
        """An object of up to 32 others, which must be there."""
        bucket = target.partition("/")[0]
        names = [f"{bucket}/{source['name']}" for source in sources]
        if not 1 <= len(names) <= MOST_COMPOSED:
            self._json({"error": {"code": 400, "message": "sources"}}, status=400)
        elif absent := [name for name in names if name not in self.store.objects]:
            self._missing(absent[0])
        else:
            data = b"".join(self.store.objects[name] for name in names)
            self._store(target, data)

    def _go_on(self, place: str, *, body: bytes) -> None:
        """A chunk of a resumable upload."""
        span = self.headers.get("Content-Range", "")
        self.uploads[place] += body
        if span.endswith("/*"):
            held = len(self.uploads[place])
            self._respond(b"", status=308, headers={"Range": f"bytes=0-{held - 1}"})
        else:
            self._store(place, bytes(self.uploads.pop(place)))

    def _store(
        self,
        name: str,
        data: bytes,
        *,
        query: dict[str, str] | None = None,
        copied: bool = False,
    ) -> None:
        if self._asked("PUT", name):
            self._full(name)
            return
        wanted = (query or {}).get("ifGenerationMatch")
        if wanted is not None and int(wanted) != self.store.generation(name):
            self._json({"error": {"code": 412, "message": "condition"}}, status=412)
            return
        self.store.put(name, data)
        facts = self.store.facts(name)
        self._json({"done": True, "resource": facts} if copied else facts)

    def _missing(self, name: str) -> None:
        message = f"No such object: {name}"
        self._json({"error": {"code": 404, "message": message}}, status=404)

    def _full(self, name: str) -> None:
        message = f"{name}: quota exceeded"
        self._json({"error": {"code": 403, "message": message}}, status=403)

    def _json(self, values: Any, *, status: int = 200) -> None:
        headers = {"Content-Type": "application/json"}
        self._respond(json.dumps(values).encode(), status=status, headers=headers)

    def _respond(
        self, body: bytes, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(http.server.ThreadingHTTPServer):
    """Clients that are killed, or give up, are no news."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Nothing is logged."""


def _name(match: re.Match[str]) -> str:
    bucket, key = (urllib.parse.unquote(part) for part in match.groups()[:2])
    return f"{bucket}/{key}"


@contextlib.contextmanager
def running() -> Iterator[Store]:
    """Serves `gs://` to this process and its children, by their environment."""
    store = Store()
    handler = type("Handler", (_Handler,), {"store": store, "uploads": {}})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    variables = {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield store
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.shutdown()
        server.server_close()
        thread.join()
