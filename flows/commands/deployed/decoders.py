"""Decodes images from strangers in processes of their own, whose memory, time and number are limited.

A file of some hundred kilobytes can ask for gigabytes, in its pixels or in its metadata, and a decoder that is busy
with it cannot be stopped from within. So each image is decoded by one of a few processes (`python decoders.py`): the
kernel refuses it more memory than its share, it is ended after `SECONDS`, and another takes its place.
"""

from __future__ import annotations

import io
import json
import os
import queue
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy
import quota

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# that an image may take to decode; 16 megapixels take about one
SECONDS = 10.0
# that an image waits for a free decoder
WAIT_SECONDS = 10.0
# decoders at a time, at most
MOST = 4
# Python, NumPy and Pillow in a decoder's process; about 45 MiB, measured
BASE_BYTES = 64 << 20
# for the pixels of one image: there are fewer decoders where memory is short
WANTED_BYTES = 384 << 20
# between the processes: the kernel refused memory, and what is left of the process is not relied on
SPENT = 507
# for the pixels of one image, however short memory is
LEAST_BYTES = 96 << 20
# of the plainest image, a progressive JPEG: 4 in Pillow's RGB, 6 in its coefficients
PIXEL_BYTES = 10
# with which the dearest WebP, with alpha and noise, is decoded: measured
WEBP_PIXEL_BYTES, WEBP_FILE_BYTES = 40, 3
# of pixels, at most: 4,600 x 4,600 in colour
ANSWER_BYTES = 64 << 20
# memory that is reckoned with where the system does not tell it
WITHOUT_LIMIT = 2 << 30


class Refused(Exception):
    """An image that is not answered: (HTTP status, why)."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Share(NamedTuple):
    """How many decoders there are and what each may take."""

    decoders: int
    image_bytes: int
    """Memory for one image: the file, its pixels and their copies."""

    @property
    def pixels(self) -> int:
        """Pixels above which an image is refused before it is decoded."""
        return self.image_bytes // PIXEL_BYTES


def share(reserved: int) -> Share:
    """Divide four fifths of the memory that is free now, less what the server itself will take, among the decoders."""
    try:
        free = quota.memory_available()
    except OSError:
        free = WITHOUT_LIMIT
    room = int(0.8 * free) - reserved
    count = min(MOST, quota.usable_processors(), max(1, room // (BASE_BYTES + WANTED_BYTES)))
    return Share(count, min(max(room // count - BASE_BYTES, LEAST_BYTES), 1 << 30))


class Decoders:
    """A few processes that decode, each one image at a time."""

    def __init__(self, size: int, resize: int | None, allowed: Share) -> None:
        self.allowed = allowed
        self._told = json.dumps(
            {"size": size, "resize": resize, "bytes": allowed.image_bytes, "pixels": allowed.pixels}
        )
        self._free: queue.LifoQueue[_Decoder] = queue.LifoQueue()
        for _ in range(allowed.decoders):
            self._free.put(_Decoder(self._told))

    def decode(self, image: bytes | bytearray) -> numpy.ndarray:
        """An image file's bytes -> upright uint8 pixels, (height, width) or (height, width, 3).

        Raises
        ------
        Refused
            If the file is no image of one of `FORMATS` (400), asks for more pixels, memory or time than it is given
            (413), or all decoders are busy or were killed (503).
        """
        try:
            decoder = self._free.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            raise Refused(503, "too many images at once; try again") from None
        try:
            try:
                status, answer = decoder.ask(image)
            except Died:
                # ended by the kernel or an administrator, perhaps before it had the image
                decoder = _Decoder(self._told)
                status, answer = decoder.ask(image)
        except Died:
            raise Refused(503, "what decodes images ended twice without an answer; try again") from None
        finally:
            self._free.put(decoder if decoder.alive else _Decoder(self._told))
        if status != 200:
            raise Refused(status, answer.decode(errors="replace"))
        return numpy.load(io.BytesIO(answer), allow_pickle=False)

    def close(self) -> None:
        """End the processes."""
        while not self._free.empty():
            self._free.get().end()


class Died(Exception):
    """A decoder's process has ended without an answer."""


class _Decoder:
    """One process, as the server sees it."""

    def __init__(self, told: str) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), told]
        # NumPy's threads would take address space, and have no work
        alone = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=alone)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, image: bytes | bytearray) -> tuple[int, bytes]:
        """(HTTP status, pixels as npy or words). A process that has spent its memory or time is not `alive` afterwards.

        Raises
        ------
        Died
            If the process ended without an answer.
        """
        assert self._process.stdin
        assert self._process.stdout
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(SECONDS, end)
        timer.start()
        try:
            send(self._process.stdin, 0, image)
            status, answer = receive(self._process.stdout, ANSWER_BYTES)
            if status != SPENT:
                return status, answer
            self.end()
            return 413, answer
        except (BrokenPipeError, EOFError):
            self.end()
            if not late.is_set():
                raise Died from None
            return 413, f"the image takes more than {SECONDS:g} s to decode".encode()
        finally:
            timer.cancel()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            # what was not yet written has no reader any more
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes


def send(pipe: IO[bytes], status: int, content: bytes | bytearray) -> None:
    """Write a message: status and length, then the content."""
    pipe.write(struct.pack("<HQ", status, len(content)))
    pipe.write(content)
    pipe.flush()


def receive(pipe: IO[bytes], most: int) -> tuple[int, bytes]:
    """Read a message of up to `most` bytes; EOFError where the other side has ended, or says something else."""
    head = pipe.read(10)
    if len(head) < 10:
        raise EOFError
    status, length = struct.unpack("<HQ", head)
    if length > most:
        raise EOFError
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    return status, content


# ---------------------------------------------------------------------------------------------- in a decoder's process


def _limit_memory(more: int) -> None:
    """Let the kernel refuse this process more than `more` bytes beside what it has mapped now."""
    if sys.platform != "linux":
        # other systems do not enforce it; the limit on pixels holds there alone
        return
    import resource

    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, mapped + more))


def _decoded(image: bytes, told: dict[str, Any]) -> tuple[int, bytes]:
    """(HTTP status, pixels as npy or words)."""
    from decode import Bad
    from PIL import Image, UnidentifiedImageError

    large = f"an image of up to {told['pixels'] / 1e6:.1f} megapixels is accepted"
    try:
        return 200, _pixels(image, told)
    except (Refused, Image.DecompressionBombError) as error:
        return 413, (f"{large}, {error}" if isinstance(error, Refused) else large).encode()
    except UnidentifiedImageError:
        known = f"undecodable image: of no known format; accepted: {', '.join(FORMATS)}"
        return 400, (known if image else "empty image: 0 bytes").encode()
    except Exception as error:
        # on damaged bytes Pillow raises nearly anything
        pixels = _webp_pixels(image)
        short = pixels and WEBP_PIXEL_BYTES * pixels + WEBP_FILE_BYTES * len(image) > told["bytes"]
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError) or short:
            return SPENT, f"the image needs more memory than it is given; {large}".encode()
        said = (
            filter(None, error.args) if isinstance(error, Bad) else ("undecodable image", " ".join(str(error).split()))
        )
        return 400, ": ".join(said).encode()


def _webp_pixels(image: bytes) -> int:
    """Pixels of a WebP by its head (RFC 9649); 0: it is none. Its library says of refused memory what it says of
    damage."""
    kind = image[12:16] if image[:4] == b"RIFF" and image[8:12] == b"WEBP" and len(image) >= 30 else b""
    if kind == b"VP8X":
        sides = [1 + int.from_bytes(image[at : at + 3], "little") for at in (24, 27)]
    elif kind == b"VP8L":
        bits = int.from_bytes(image[21:25], "little")
        sides = [1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)]
    elif kind == b"VP8 ":
        sides = [size & 0x3FFF for size in struct.unpack("<HH", image[26:30])]
    else:
        return 0
    return sides[0] * sides[1]


def _pixels(image: bytes, told: dict[str, Any]) -> bytes:
    """An image as npy; its format and size are looked at first, which the head of the file tells."""
    from decode import decode
    from PIL import Image

    with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
        if picture.width * picture.height > told["pixels"]:
            raise Refused(413, f"this one has {picture.width} x {picture.height} pixels")
    file = io.BytesIO()
    numpy.save(file, decode(image, told["size"], told["resize"]), allow_pickle=False)
    return file.getvalue()


def _serve(told: dict[str, Any]) -> None:
    import signal
    import warnings

    # Ctrl-C is the server's; this process ends when its pipe does
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import decode  # noqa: F401  # imported before memory is limited
    from PIL import Image, PngImagePlugin

    Image.preinit()
    # the plug-ins, likewise
    Image.init()
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = min(told["pixels"], Image.MAX_IMAGE_PIXELS or told["pixels"])
    # all text of a PNG, decompressed: one mebibyte
    PngImagePlugin.MAX_TEXT_MEMORY = PngImagePlugin.MAX_TEXT_CHUNK
    _limit_memory(told["bytes"])
    while True:
        try:
            _, image = receive(sys.stdin.buffer, told["bytes"])
            send(sys.stdout.buffer, *_decoded(image, told))
        except (EOFError, BrokenPipeError):
            # the server has ended
            return


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
