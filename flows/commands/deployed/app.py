"""Serves one image classifier over HTTP, or as a function: `burnish deploy` wrote this folder.

    python app.py                                                  # listens on 127.0.0.1:8080 ($HOST, $PORT)
    curl --data-binary @photo.jpg 'localhost:8080/predict?top=3'   # -> {"predictions": [{"class": ..., ...}, ...]}

`GET /healthz` answers 200 as soon as the model has answered a first query. What is no image is 400 and one line, what
is too large 413, another format than JPEG, PNG, WebP, BMP or GIF 415, more at once than there is memory for 503. The
environment of Cloud Run, Knative and Azure Container Apps sets PORT; the Dockerfile sets HOST to 0.0.0.0; AWS Lambda
calls `handler`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HERE = Path(__file__).parent
try:
    ABOUT: dict[str, Any] = json.loads((HERE / "model.json").read_text())
    for _name, _sum in ABOUT["sums"].items():
        with (HERE / _name).open("rb") as _file:
            if hashlib.file_digest(_file, "sha256").hexdigest() != _sum:
                raise ValueError(f"{_name} is not the file that was deployed (its SHA-256 is another)")
except (OSError, ValueError) as error:
    sys.exit(f"{HERE} is damaged: {error}; burnish deploy writes it anew")
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    # as measured, and read when NumPy is imported
    os.environ.setdefault(_name, str(ABOUT["threads"]))

import numpy  # noqa: E402
from decoders import WAIT_SECONDS, Decoders, Refused, share  # noqa: E402
from model import Model, probabilities  # noqa: E402
from pixels import normalise  # noqa: E402  # burnish's own, copied: images are prepared as those that it was measured with

# of an image file; Cloud Run's own limit of a request
BODY_BYTES = 32 << 20
# of all image files that are waited for or waiting
BODIES_BYTES = 48 << 20
# for an image file to arrive
BODY_SECONDS = 30.0
# for predictions at a time; above them the answer is 503, and /healthz answers as ever
REQUESTS = 192
# That the server itself may come to take. Measured: 0.4 MiB per request, 62 KiB per connection that waits
# with as much of a head as is read (of 1,000); connections.WAITING, which is imported late, lets 512 wait.
RESERVED_BYTES = BODIES_BYTES + REQUESTS * (512 << 10) + 512 * (64 << 10)
BUSY = "too many images at once; try again"
TOP = 5
LOG = logging.getLogger("uvicorn.error")

MODEL = Model(HERE, ABOUT)
DECODERS = Decoders(ABOUT["image_shape"][1], ABOUT["resize"], share(RESERVED_BYTES))


def prepare(image: bytes | bytearray) -> numpy.ndarray:
    """An image file's bytes -> what the model takes, (1, channels, height, width); `Refused`: why not."""
    channels = ABOUT["image_shape"][0]
    pixels = DECODERS.decode(image)
    if channels == 1 and pixels.ndim == 3:
        from PIL import Image

        pixels = numpy.asarray(Image.fromarray(pixels).convert("L"))
    shaped = pixels if pixels.ndim == 3 else numpy.repeat(pixels[..., None], channels, axis=2)
    return normalise(shaped[None], ABOUT["mean"], ABOUT["std"])


def predict(image: bytes | bytearray, top: str | None) -> tuple[int, dict[str, Any]]:
    """(HTTP status, answer): the `top` most probable classes of an image file, best first; without it, five."""
    try:
        count = TOP if top is None else int(top)
        if count < 1:
            raise ValueError
    except ValueError:
        return 400, {"error": f"top: a whole number from 1 was expected, got {(top or '')[:40]!r}"}
    try:
        found = probabilities(MODEL.logits(prepare(image))[0].astype("float64"))
    except Refused as error:
        return error.status, {"error": str(error)}
    except ArithmeticError as error:
        return 500, {"error": str(error)}
    best = numpy.argsort(-found, kind="stable")[:count]
    return 200, {
        "predictions": [{"class": ABOUT["classes"][i], "index": int(i), "probability": float(found[i])} for i in best]
    }


def refuse_form(content_type: str) -> None:
    """Say of a form, as `curl -F` and browsers send files, what is accepted; `Refused`: it is one."""
    if content_type.strip().lower().startswith("multipart/"):
        raise Refused(
            415,
            "the body is a form; accepted are the bytes of the image file alone, as sent by: "
            "curl --data-binary @photo.jpg",
        )


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """AWS Lambda behind a function URL or an API Gateway: the body is the image file's bytes, in base64."""
    if (event.get("rawPath") or event.get("path") or "").endswith("/healthz"):
        status, answer = 200, {"status": "ok"}
    else:
        try:
            named = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
            refuse_form(named.get("content-type") or "")
            image = base64.b64decode(event.get("body") or "", validate=True)
            status, answer = predict(image, (event.get("queryStringParameters") or {}).get("top"))
        except Refused as refused:
            status, answer = refused.status, {"error": str(refused)}
        except ValueError as error:
            status, answer = 400, {"error": f"the body is not base64: {error}"}
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(answer)}


class Bodies:
    """The image files in memory, over all requests."""

    def __init__(self) -> None:
        self.held = 0

    async def read(self, parts: AsyncIterator[bytes], said: str, body: bytearray) -> None:
        """Read a request's body into `body`; `Refused` where it is too large, too slow, or one too many.

        `said`: its Content-Length, "" where there is none.
        """
        large = Refused(413, f"an image file of up to {BODY_BYTES >> 20} MiB is accepted")
        # the HTTP parser lets digits alone through
        if said and int(said) > BODY_BYTES:
            raise large
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in parts:
                    body += part
                    self.held += len(part)
                    if len(body) > BODY_BYTES:
                        raise large
                    if self.held > BODIES_BYTES:
                        raise Refused(503, BUSY)
        except TimeoutError:
            raise Refused(408, f"the image file did not arrive within {BODY_SECONDS:g} s") from None

    def release(self, body: bytearray) -> None:
        """Forget a request's body."""
        self.held -= len(body)
        body.clear()


def application() -> Any:
    """The ASGI application; a query runs in a thread, so that /healthz answers meanwhile."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    bodies = Bodies()
    requests = 0
    # one more: a model that is at work leaves no decoder idle
    turns = asyncio.Semaphore(DECODERS.allowed.decoders + 1)

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def answered(request: Request, body: bytearray) -> Response:
        parts = request.stream()
        try:
            refuse_form(request.headers.get("content-type", ""))
            await bodies.read(parts, request.headers.get("content-length", ""), body)
        except Refused as refused:
            bodies.release(body)
            again = {"retry-after": "1"} if refused.status == 503 else {}
            return JSONResponse({"error": str(refused)}, refused.status, {"connection": "close"} | again)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turns.acquire()
        except TimeoutError:
            return JSONResponse({"error": BUSY}, 503, {"retry-after": "1"})
        try:
            if await request.is_disconnected():
                raise ClientDisconnect
            status, found = await run_in_threadpool(predict, body, request.query_params.get("top"))
        finally:
            turns.release()
        return JSONResponse(found, status, {"retry-after": "1"} if status == 503 else {})

    async def answer(request: Request) -> Response:
        nonlocal requests
        # its body is not read: that would keep the connection
        if requests >= REQUESTS:
            return JSONResponse({"error": BUSY}, 503, {"connection": "close", "retry-after": "1"})
        body = bytearray()
        requests += 1
        try:
            return await answered(request, body)
        except ClientDisconnect:
            LOG.info("%s - went away after %d bytes of its image file", request.client, len(body))
            # nobody reads it
            return Response(status_code=499)
        finally:
            requests -= 1
            bodies.release(body)

    return Starlette(routes=[Route("/healthz", healthz), Route("/predict", answer, methods=["POST"])])


def _port() -> int:
    told = os.environ.get("PORT", "8080")
    if not (told.isdecimal() and 1 <= int(told) <= 65_535):
        print(f"PORT={told!r} is no port; accepted is a whole number from 1 to 65535", file=sys.stderr)
        sys.exit(2)
    return int(told)


def main() -> None:
    """Listen until SIGTERM or Ctrl-C."""
    import uvicorn
    from connections import Patient, more_files

    port = _port()
    more_files()
    allowed = DECODERS.allowed
    print(
        f"{ABOUT['variant']}: threads per query {MODEL.threads}, decoders {allowed.decoders}, images of up to "
        f"{allowed.pixels / 1e6:.1f} megapixels",
        flush=True,
    )
    uvicorn.run(
        application(),
        host=os.environ.get("HOST", "127.0.0.1"),
        port=port,
        http=Patient,
        ws="none",
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
