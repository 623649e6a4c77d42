"""From a trained model to a served answer: rewrite, lay out for OpenVINO Model Server, serve, ask.

    python examples/deploy.py [FOLDER]

Serves FOLDER/served/digits by the REST protocol of Model Server (KServe v2) from this process, so that the client's
half can be tried without a container. In production the server is

    docker run --rm -v $PWD/served:/models -p 8000:8000 openvino/model_server:latest \\
        --model_name digits --model_path /models/digits --rest_port 8000
"""

from __future__ import annotations

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import Request, urlopen

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ndpass.run import digits


def rewrite(folder: Path) -> Path:
    """The network that comes with ndpass at half its MACs, as the next version in folder/served/digits."""
    command = [sys.executable, "-m", "ndpass", "run", str(digits.model_path()), "--passes", "sd", "--macs", "0.5"]
    (images, labels), _ = digits.images()
    np.savez(folder / "data.npz", images=images, labels=labels)
    served = folder / "served" / "digits"
    outputs = ["-o", str(folder / "fast.onnx"), "--model-server", str(served)]
    subprocess.run([*command, "--calibration", str(folder / "data.npz"), *outputs], check=True)
    return served


class Server(HTTPServer):
    """Answers POST /v2/models/NAME/infer with the newest version in a folder."""

    def __init__(self, served: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        newest = max((path for path in served.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
        self.model = ov.Core().compile_model(newest / "model.xml", "CPU")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        inputs = {one["name"]: np.array(one["data"], np.float32).reshape(one["shape"]) for one in asked}
        found = self.server.model(inputs)
        outputs = [
            {"name": port.any_name, "shape": list(found[port].shape), "datatype": "FP32", "data": found[port].tolist()}
            for port in self.server.model.outputs
        ]
        body = json.dumps({"outputs": outputs}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def ask(url: str, image: NDArray[np.float32]) -> int:
    """The class of one image (1, 8, 8), as any client of Model Server asks for it."""
    given = {"name": "image", "shape": [1, *image.shape], "datatype": "FP32", "data": image.ravel().tolist()}
    body = json.dumps({"inputs": [given]}).encode()
    with urlopen(Request(f"{url}/v2/models/digits/infer", body)) as answer:
        (scores,) = json.load(answer)["outputs"]
    return int(np.argmax(scores["data"]))


def main(folder: Path) -> None:
    server = Server(rewrite(folder))
    Thread(target=server.serve_forever, daemon=True).start()
    _, (images, labels) = digits.images()
    answers = [ask(f"http://127.0.0.1:{server.server_port}", image) for image in images[:20]]
    server.shutdown()
    server.server_close()
    right = sum(answer == label for answer, label in zip(answers, labels, strict=False))
    print(f"{right} of {len(answers)} answers are right")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
