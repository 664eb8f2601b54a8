"""Servers on loopback that photos are scored from: plain HTTP, and the little of S3 that reading takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    """Serve a folder; yields its address."""
    yield from _serving(partial(_Quiet, directory=str(folder)))


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Serve the folders in a folder as buckets, to anyone; yields the endpoint."""
    yield from _serving(type("Bucket", (_S3,), {"folder": folder}))


def _serving(handler: object) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _S3(BaseHTTPRequestHandler):
    folder: Path

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._object(body=False)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if "list-type" in query:
            bucket = unquote(url.path).strip("/")
            self._list(bucket, query.get("prefix", [""])[0], query.get("delimiter", [""])[0])
        else:
            self._object(body=True)

    def _list(self, bucket: str, prefix: str, delimiter: str) -> None:
        root = self.folder / bucket
        keys = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        contents, prefixes = [], set()
        for key in (key for key in keys if key.startswith(prefix)):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                size = (root / key).stat().st_size
                contents.append(
                    f'<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>"{size}"</ETag>'
                    "<LastModified>2024-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
                )
        folders = "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in prefixes)
        body = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(contents)}</KeyCount>"
            f"<IsTruncated>false</IsTruncated>{''.join(contents)}{folders}</ListBucketResult>"
        ).encode()
        self._answer(200, body, {"Content-Type": "application/xml"}, body)

    def _object(self, *, body: bool) -> None:
        path = self.folder / unquote(urlsplit(self.path).path).strip("/")
        if not path.is_file():
            self._answer(404, b"", {}, b"")
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{len(data)}"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            self._answer(206, part, headers, part if body else b"")
        else:
            self._answer(200, data, headers, data if body else b"")

    def _answer(self, status: int, content: bytes, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
