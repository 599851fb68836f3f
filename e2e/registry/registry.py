"""An image registry for whoever has the password (HTTP basic), with one image: that of a docker archive and a layer more, in which
is the file /pulled.

registry.py IMAGE ARCHIVE USER PASSWORD

Listens where IMAGE (ADDRESS:PORT/NAME:TAG) says. Prints a line for each request, with the status of its answer.
"""

import base64
import hashlib
import io
import json
import sys
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def described(kind, data):
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data)}


def layer(text):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("pulled")
        info.size, info.mode = len(text), 0o644
        tar.addfile(info, io.BytesIO(text))
    return file.getvalue()


def image(archive):
    """Its manifest, and all blobs."""
    with tarfile.open(archive) as tar:
        read = lambda name: tar.extractfile(name).read()
        names = json.loads(read("manifest.json"))[0]
        config, layers = json.loads(read(names["Config"])), [read(name) for name in names["Layers"]]
    layers.append(layer(b"from the registry\n"))
    config["rootfs"]["diff_ids"].append(digest(layers[-1]))
    config["history"].append({"created_by": "registry.py"})
    config = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described("config.v1+json", config),
        "layers": [described("layer.v1.tar", one) for one in layers],
    }
    return json.dumps(manifest).encode(), [config, *layers]


def pages(name, tag, archive):
    """What is served: type and content, by path."""
    manifest, blobs = image(archive)
    served = {f"/v2/{name}/blobs/{digest(blob)}": ("application/octet-stream", blob) for blob in blobs}
    served |= {f"/v2/{name}/manifests/{reference}": (MANIFEST, manifest) for reference in (tag, digest(manifest))}
    return served | {"/v2/": ("application/json", b"{}")}


class Registry(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Authorization") != self.server.authorization:
            self.answer(401, ("application/json", b'{"errors": [{"code": "UNAUTHORIZED"}]}'))
        elif page := self.server.pages.get(self.path):
            self.answer(200, page)
        else:
            self.answer(404, ("application/json", b'{"errors": [{"code": "NOT_FOUND"}]}'))

    do_HEAD = do_GET

    def answer(self, status, page):
        kind, content = page
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="registry"')
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Docker-Content-Digest", digest(content))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def serve(reference, archive, user, password):
    address, _, name = reference.partition("/")
    host, _, port = address.partition(":")
    name, _, tag = name.partition(":")
    server = ThreadingHTTPServer((host, int(port)), Registry)
    server.pages = pages(name, tag, archive)
    server.authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    serve(*sys.argv[1:])
