"""Serve one image classifier over HTTP, or as a function. `burnish deploy` wrote this folder.

    python app.py                                                  # listens on 127.0.0.1:8080 ($HOST, $PORT)
    curl --data-binary @photo.jpg 'localhost:8080/predict?top=3'   # -> {"predictions": [{"class": ..., ...}, ...]}

`GET /healthz` answers 200 once the model has answered a first query. `POST /predict` answers 400 to a body that is no
image, 413 to one that is too large, 415 to a form, and 503 where more images arrive at once than there is memory for.
Accepted formats are JPEG, PNG, WebP, BMP and GIF. The environment of Cloud Run, Knative and Azure Container Apps sets
PORT; the Dockerfile sets HOST to 0.0.0.0; AWS Lambda calls `handler`.
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

if __name__ == "__main__" and sys.argv[1:]:
    # Nothing is opened for this: --help answers at once, also in a damaged folder.
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    print(f"app.py takes no arguments, got {sys.argv[1]!r}; HOST and PORT say where it listens", file=sys.stderr)
    sys.exit(2)
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
    # NumPy reads these when it is imported. The model was measured with this number of threads.
    os.environ.setdefault(_name, str(ABOUT["threads"]))

import numpy  # noqa: E402
from decoders import WAIT_SECONDS, Decoders, Refused, share  # noqa: E402
from model import Model, probabilities  # noqa: E402
from pixels import normalise  # noqa: E402  # A copy of burnish's own code, so images are prepared as when it measured.

# Greatest size of an image file; Cloud Run has the same limit for a request.
BODY_BYTES = 32 << 20
# Greatest size of all image files together that are arriving or waiting for a decoder.
BODIES_BYTES = 48 << 20
# The longest time that an image file may take to arrive.
BODY_SECONDS = 30.0
# Greatest number of requests for predictions at a time. Any more are answered 503, and /healthz answers as always.
REQUESTS = 192
# Memory that the server itself may need. Measured: 0.4 MiB per request, and 62 KiB per connection that waits with a
# head of the greatest size (mean of 1,000); connections.WAITING, which is imported later, lets 512 connections wait.
RESERVED_BYTES = BODIES_BYTES + REQUESTS * (512 << 10) + 512 * (64 << 10)
BUSY = "too many images at once; try again"
# Number of classes in an answer, unless the request says another.
TOP = 5
LOG = logging.getLogger("uvicorn.error")

MODEL = Model(HERE, ABOUT)
DECODERS = Decoders(ABOUT["image_shape"][1], ABOUT["resize"], share(RESERVED_BYTES))


def prepare(image: bytes | bytearray) -> numpy.ndarray:
    """Decode an image file and return the model's input: float32, (1, channels, height, width).

    Raises
    ------
    Refused
        If the file is refused; it says why.
    """
    channels = ABOUT["image_shape"][0]
    pixels = DECODERS.decode(image)
    if channels == 1 and pixels.ndim == 3:
        from PIL import Image

        pixels = numpy.asarray(Image.fromarray(pixels).convert("L"))
    shaped = pixels if pixels.ndim == 3 else numpy.repeat(pixels[..., None], channels, axis=2)
    return normalise(shaped[None], ABOUT["mean"], ABOUT["std"])


def predict(image: bytes | bytearray, top: str | None) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the answer for an image file: its `top` most probable classes, the best first.

    `top` is the text of the request's parameter; None stands for `TOP`.
    """
    try:
        count = TOP if top is None else int(top)
        if count < 1:
            raise ValueError
    except ValueError:
        return 400, {"error": f"top: a whole number from 1 was expected, got {(top or '')[:40]!r}"}
    try:
        shares = probabilities(MODEL.logits(prepare(image))[0].astype("float64"))
    except Refused as error:
        return error.status, {"error": str(error)}
    except ArithmeticError as error:
        return 500, {"error": str(error)}
    best = numpy.argsort(-shares, kind="stable")[:count]
    return 200, {
        "predictions": [{"class": ABOUT["classes"][i], "index": int(i), "probability": float(shares[i])} for i in best]
    }


def refuse_form(content_type: str) -> None:
    """Raise `Refused` for a form, as `curl -F` and browsers send files; the message says what is accepted."""
    if content_type.strip().lower().startswith("multipart/"):
        raise Refused(
            415,
            "the body is a form; accepted are the bytes of the image file alone, as sent by: "
            "curl --data-binary @photo.jpg",
        )


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer an event of AWS Lambda behind a function URL or an API Gateway: its body is the image file in base64."""
    if (event.get("rawPath") or event.get("path") or "").endswith("/healthz"):
        status, answer = 200, {"status": "ok"}
    else:
        try:
            headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
            refuse_form(headers.get("content-type") or "")
            image = base64.b64decode(event.get("body") or "", validate=True)
            status, answer = predict(image, (event.get("queryStringParameters") or {}).get("top"))
        except Refused as refused:
            status, answer = refused.status, {"error": str(refused)}
        except ValueError as error:
            status, answer = 400, {"error": f"the body is not base64: {error}"}
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(answer)}


class Bodies:
    """The image files of all requests that are in memory.

    Attributes
    ----------
    held
        Their size, in bytes.
    """

    def __init__(self) -> None:
        self.held = 0

    async def read(self, parts: AsyncIterator[bytes], length: str, body: bytearray) -> None:
        """Read a request's body into `body`.

        Parameters
        ----------
        parts
            The parts of the body, as they arrive.
        length
            The request's Content-Length; empty where it has none.
        body
            The bytes that have been read, also where the rest is refused.

        Raises
        ------
        Refused
            If the body is too large or too slow, or all bodies together are too large.
        """
        large = Refused(413, f"an image file of up to {BODY_BYTES >> 20} MiB is accepted")
        # The HTTP parser refuses a Content-Length that is no number.
        if length and int(length) > BODY_BYTES:
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
    """Return the ASGI application. Each query runs in a thread, so that /healthz answers meanwhile."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    bodies = Bodies()
    requests = 0
    # One more than there are decoders, so that no decoder is idle while the model computes.
    turns = asyncio.Semaphore(DECODERS.allowed.decoders + 1)

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def answered(request: Request, body: bytearray) -> Response:
        """Read a request's body, wait for a turn, and predict."""
        parts = request.stream()
        try:
            refuse_form(request.headers.get("content-type", ""))
            await bodies.read(parts, request.headers.get("content-length", ""), body)
        except Refused as refused:
            bodies.release(body)
            retry = {"retry-after": "1"} if refused.status == 503 else {}
            return JSONResponse({"error": str(refused)}, refused.status, {"connection": "close"} | retry)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turns.acquire()
        except TimeoutError:
            return JSONResponse({"error": BUSY}, 503, {"retry-after": "1"})
        try:
            if await request.is_disconnected():
                raise ClientDisconnect
            status, content = await run_in_threadpool(predict, body, request.query_params.get("top"))
        finally:
            turns.release()
        return JSONResponse(content, status, {"retry-after": "1"} if status == 503 else {})

    async def answer(request: Request) -> Response:
        """Answer a request for a prediction, or refuse it at once where there are too many."""
        nonlocal requests
        # The body is not read, because that would keep the connection open.
        if requests >= REQUESTS:
            return JSONResponse({"error": BUSY}, 503, {"connection": "close", "retry-after": "1"})
        body = bytearray()
        requests += 1
        try:
            return await answered(request, body)
        except ClientDisconnect:
            LOG.info("%s - went away after %d bytes of its image file", request.client, len(body))
            # Nobody reads this answer.
            return Response(status_code=499)
        finally:
            requests -= 1
            bodies.release(body)

    return Starlette(routes=[Route("/healthz", healthz), Route("/predict", answer, methods=["POST"])])


def _port() -> int:
    """Return the port that the environment names; end the process if it is none."""
    port = os.environ.get("PORT", "8080")
    if not (port.isdecimal() and 1 <= int(port) <= 65_535):
        print(f"PORT={port!r} is no port; accepted is a whole number from 1 to 65535", file=sys.stderr)
        sys.exit(2)
    return int(port)


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
