"""Serve one image classifier over HTTP, or as a function. `burnish deploy` wrote this folder.

    python app.py                                                  # listens on 127.0.0.1:8080 ($HOST, $PORT)
    curl --data-binary @photo.jpg 'localhost:8080/predict?top=3'   # -> {"predictions": [{"class": ..., ...}, ...]}

`GET /` is a page to try the model with a photo. `GET /healthz` answers 200 once the model has answered a first query.
`GET /metrics` has counts and times for Prometheus. `POST /predict` answers 400 to a body that is no image, 413 to one
that is too large, 415 to a form, and 503 where more images arrive at once than there is memory for. Accepted formats
are JPEG, PNG, WebP, BMP and GIF. The environment of Cloud Run, Knative and Azure Container Apps sets PORT; the
Dockerfile sets HOST to 0.0.0.0; AWS Lambda calls `handler`. BATCH is the greatest number of images that requests which
arrive at the same time may have in one query of the model; 1 gives each a query of its own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable

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
    PREPARATION: dict[str, Any] = json.loads((HERE / "preparation.json").read_text())
    PAGE = (HERE / "page.html").read_text(encoding="utf-8").replace("$NAME", html.escape(ABOUT["variant"]))
except (OSError, ValueError) as error:
    sys.exit(f"{HERE} is damaged: {error}; burnish deploy writes it anew")
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    # NumPy reads these when it is imported. The model was measured with this number of threads.
    os.environ.setdefault(_name, str(ABOUT["threads"]))

import numpy  # noqa: E402
from batches import MOST, Batches  # noqa: E402
from bodies import BODIES_BYTES, Bodies  # noqa: E402
from decoders import BUSY, WAIT_SECONDS, Decoders, Refused, share  # noqa: E402
from metrics import CONTENT_TYPE, Metrics  # noqa: E402
from model import Model, probabilities  # noqa: E402

# Copies of burnish's own code, so that images are prepared as when it measured.
from pixels import normalise  # noqa: E402
from preparation import with_channels  # noqa: E402

# Greatest number of requests for predictions at a time. Any more are answered 503, and /healthz answers as always.
REQUESTS = 192
# Memory that the server itself may need. Measured: 0.4 MiB per request, and 62 KiB per connection that waits with a
# head of the greatest size (mean of 1,000); connections.WAITING, which is imported later, lets 512 connections wait.
RESERVED_BYTES = BODIES_BYTES + REQUESTS * (512 << 10) + 512 * (64 << 10)
# Number of classes in an answer, unless the request says another.
TOP = 5
# The page may load nothing, and may send to this server alone.
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
LOG = logging.getLogger("uvicorn.error")


def _number(name: str, default: int, noun: str, most: int) -> int:
    """Return a whole number that the environment gives; end the process with exit code 2 if it is none from 1 on."""
    text = os.environ.get(name, str(default))
    if not (text.isdecimal() and 1 <= int(text) <= most):
        print(f"{name}={text!r} is no {noun}; accepted is a whole number from 1 to {most}", file=sys.stderr)
        sys.exit(2)
    return int(text)


BATCH = _number("BATCH", ABOUT["batch"], "number of images per query of this model", MOST if ABOUT["any_batch"] else 1)
MODEL = Model(HERE, ABOUT)
if MODEL.note:
    print(MODEL.note, file=sys.stderr)
METRICS = Metrics()
BATCHES = Batches(MODEL, BATCH, expected=lambda: METRICS.in_flight, observe=METRICS.batches.observe)
DECODERS = Decoders(PREPARATION["image_size"], PREPARATION["resize"], share(RESERVED_BYTES))


def prepare(image: bytes | bytearray) -> numpy.ndarray:
    """Decode an image file and return the model's input: float32, (1, channels, height, width).

    Raises
    ------
    Refused
        If the file is refused; it says why.
    """
    pixels = with_channels(DECODERS.decode(image), PREPARATION["channels"])
    return normalise(pixels, PREPARATION["mean"], PREPARATION["std"])


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
        shares = probabilities(BATCHES.logits(prepare(image))[0].astype("float64"))
    except Refused as error:
        return error.status, {"error": str(error)}
    except ArithmeticError as error:
        return 500, {"error": str(error)}
    best = numpy.argsort(-shares, kind="stable")[:count]
    return 200, {
        "predictions": [
            {"class": PREPARATION["classes"][i], "index": int(i), "probability": float(shares[i])} for i in best
        ]
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


def _pages() -> list[Any]:
    """Return the routes whose answers need no model."""
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        return Response(METRICS.text(), headers={"content-type": CONTENT_TYPE})

    return [Route("/", page), Route("/healthz", healthz), Route("/metrics", metrics)]


async def _counted(answer: Awaitable[Any]) -> Any:
    """Wait for the answer to a request for a prediction, count it, and return it."""
    started = time.monotonic()
    status = 500
    try:
        response = await answer
        status = response.status_code
        return response
    finally:
        METRICS.answered(status, time.monotonic() - started)


def application() -> Any:
    """Return the ASGI application. Each query runs in a thread, so that /healthz answers meanwhile."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    bodies = Bodies()
    # As many more than there are decoders as a query takes, so that no decoder is idle while the model computes.
    turns = asyncio.Semaphore(DECODERS.allowed.decoders + BATCH)

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

    async def accepted(request: Request) -> Response:
        """Answer a request for a prediction, and count it as being answered meanwhile."""
        body = bytearray()
        METRICS.in_flight += 1
        try:
            return await answered(request, body)
        except ClientDisconnect:
            LOG.info("%s - went away after %d bytes of its image file", request.client, len(body))
            # Nobody reads this answer.
            return Response(status_code=499)
        finally:
            METRICS.in_flight -= 1
            bodies.release(body)

    async def answer(request: Request) -> Response:
        """Answer a request for a prediction, or refuse it at once where there are too many."""
        # The body is not read, because that would keep the connection open.
        if METRICS.in_flight >= REQUESTS:
            return JSONResponse({"error": BUSY}, 503, {"connection": "close", "retry-after": "1"})
        return await accepted(request)

    async def counted(request: Request) -> Response:
        return await _counted(answer(request))

    return Starlette(routes=[*_pages(), Route("/predict", counted, methods=["POST"])])


def _refuse_what_is_in_use(host: str, port: int) -> None:
    """End the process with exit code 2 and one line where nothing can listen on this address."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        # Python adds to the system's words on which address it tried.
        reason = str(error.strerror).partition(" (")[0]
        print(f"cannot listen on {host}, port {port}: {reason}; HOST and PORT choose another address", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Listen until SIGTERM or Ctrl-C."""
    import uvicorn
    from connections import Patient, more_files

    host = os.environ.get("HOST", "127.0.0.1")
    port = _number("PORT", 8080, "port", 65_535)
    _refuse_what_is_in_use(host, port)
    more_files()
    allowed = DECODERS.allowed
    print(
        f"{ABOUT['variant']}: threads per query {MODEL.threads}, decoders {allowed.decoders}, images of up to "
        f"{allowed.pixels / 1e6:.1f} megapixels, up to {BATCH} per query",
        flush=True,
    )
    uvicorn.run(
        application(),
        host=host,
        port=port,
        http=Patient,
        ws="none",
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
