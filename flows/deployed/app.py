"""Serves one image classifier over HTTP, or as a function: `burnish deploy` wrote this folder.

    python app.py                                                  # listens on $PORT (8080)
    curl --data-binary @photo.jpg 'localhost:8080/predict?top=3'   # -> {"predictions": [{"class": ..., ...}, ...]}

`GET /healthz` answers 200 as soon as the model has answered a first query. What is no image is 400 and one line. The
environment of Cloud Run, Knative and Azure Container Apps sets PORT; AWS Lambda calls `handler`.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy
from decode import Bad, decode  # burnish's own, copied: images are prepared as those that it was measured with
from pixels import normalise

HERE = Path(__file__).parent
ABOUT: dict[str, Any] = json.loads((HERE / "model.json").read_text())
LIMIT = 32 << 20  # bytes of an image file; Cloud Run's own limit of a request
TOP = 5


class Model:
    """The model file in the runtime that it was measured in, on one thread a usable core."""

    def __init__(self) -> None:
        path, threads = HERE / ABOUT["file"], len(os.sched_getaffinity(0))
        self._query = getattr(self, "_" + ABOUT["runtime"].partition("_")[0])(path, threads)
        self.logits(numpy.zeros((1, *ABOUT["image_shape"]), "float32"))  # the first query takes longer: not a user's

    def logits(self, inputs: numpy.ndarray) -> numpy.ndarray:
        """Normalised float32 (batch, channels, height, width) -> (batch, classes)."""
        return self._query(inputs)

    def _onnxruntime(self, path: Path, threads: int) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, {session.get_inputs()[0].name: inputs})[0]

    def _openvino(self, path: Path, threads: int) -> Any:
        import openvino

        precision = "bf16" if ABOUT["runtime"].endswith("bf16") else "f32"
        asked = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        compiled = openvino.Core().compile_model(path, "CPU", asked | {"INFERENCE_NUM_THREADS": str(threads)})
        # A request a query: one request does not serve two threads.
        return lambda inputs: compiled.create_infer_request().infer([inputs])[0]

    def _torchscript(self, path: Path, threads: int) -> Any:
        import torch

        torch.set_num_threads(threads)
        module = torch.jit.load(str(path), map_location="cpu").eval()

        def query(inputs: numpy.ndarray) -> numpy.ndarray:
            with torch.inference_mode():
                return module(torch.from_numpy(inputs)).float().numpy()

        return query


MODEL = Model()


def prepare(image: bytes) -> numpy.ndarray:
    """An image file's bytes -> what the model takes, (1, channels, height, width); ValueError: why not."""
    channels, size, _ = ABOUT["image_shape"]
    try:
        pixels = decode(image, size, ABOUT["resize"])
    except Bad as bad:
        raise ValueError(": ".join(filter(None, bad.args))) from None
    if channels == 1 and pixels.ndim == 3:
        from PIL import Image

        pixels = numpy.asarray(Image.fromarray(pixels).convert("L"))
    shaped = pixels if pixels.ndim == 3 else numpy.repeat(pixels[..., None], channels, axis=2)
    return normalise(shaped[None], ABOUT["mean"], ABOUT["std"])


def predict(image: bytes, top: str | None) -> tuple[int, dict[str, Any]]:
    """(HTTP status, answer): the `top` most probable classes of an image file, best first; without it, five."""
    try:
        count = int(top or TOP)
        if count < 1:
            raise ValueError
    except ValueError:
        return 400, {"error": f"top: a whole number from 1 was expected, got {top!r}"}
    try:
        logits = MODEL.logits(prepare(image))[0].astype("float64")
    except ValueError as error:
        return 400, {"error": str(error)}
    weights = numpy.exp(logits - logits.max())
    best = numpy.argsort(-logits, kind="stable")[:count]
    found = [{"class": ABOUT["classes"][i], "index": int(i), "probability": weights[i] / weights.sum()} for i in best]
    return 200, {"predictions": found}


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """AWS Lambda behind a function URL or an API Gateway: the body is the image file's bytes, in base64."""
    if (event.get("rawPath") or event.get("path") or "").endswith("/healthz"):
        status, answer = 200, {"status": "ok"}
    else:
        try:
            image = base64.b64decode(event.get("body") or "", validate=True)
            status, answer = predict(image, (event.get("queryStringParameters") or {}).get("top"))
        except ValueError as error:
            status, answer = 400, {"error": f"the body is not base64: {error}"}
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(answer)}


def application() -> Any:
    """The ASGI application; a query runs in a thread, so that /healthz answers meanwhile."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def healthz(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def answer(request: Request) -> JSONResponse:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LIMIT:
                return JSONResponse({"error": f"an image file of up to {LIMIT >> 20} MiB is accepted"}, 413)
        status, found = await run_in_threadpool(predict, bytes(body), request.query_params.get("top"))
        return JSONResponse(found, status)

    return Starlette(routes=[Route("/healthz", healthz), Route("/predict", answer, methods=["POST"])])


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(application(), host="0.0.0.0", port=int(os.environ.get("PORT", "8080")))
