"""Decode images from strangers in separate processes, with limits on their memory, time and number.

A file of some hundred kilobytes can ask for gigabytes, in its pixels or in its metadata, and Python cannot stop a
library that is busy with it. So each image is decoded by one of a few processes (`python decoders.py`). The kernel
refuses a process more memory than its share; a process that takes longer than `SECONDS` is killed and replaced.
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
# The longest time that an image may take to decode. 16 megapixels take about one second.
SECONDS = 10.0
# The longest time that an image waits for a free decoder.
WAIT_SECONDS = 10.0
# Greatest number of decoders.
MOST = 4
# Memory of Python, NumPy and Pillow in a decoder's process; about 45 MiB were measured.
BASE_BYTES = 64 << 20
# Memory that a decoder should have for one image. Where memory is short, there are fewer decoders.
WANTED_BYTES = 384 << 20
# Memory that a decoder has for one image, however short memory is.
LEAST_BYTES = 96 << 20
# A decoder answers with this status when the kernel has refused it memory. The server then ends the process, because
# it may be in any state. A client sees 413 instead.
SPENT = 507
# Memory per pixel that an image is expected to need. A progressive JPEG takes 4 bytes as Pillow's RGB and 6 as
# coefficients.
PIXEL_BYTES = 10
# Memory per pixel, and per byte of the file, of the most expensive WebP, which has alpha and noise; measured.
WEBP_PIXEL_BYTES = 40
WEBP_FILE_BYTES = 3
# Greatest size of the decoded pixels: 4,600 x 4,600 in colour.
ANSWER_BYTES = 64 << 20
BUSY = "too many images at once; try again"
# Memory that is assumed to be free where the system does not say it.
WITHOUT_LIMIT = 2 << 30


class Refused(Exception):
    """An image that is refused, with the HTTP status of the answer; the message says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Share(NamedTuple):
    """Number of decoders, and the memory of each."""

    decoders: int
    image_bytes: int
    """Memory that a decoder has for one image: for the file, its pixels and their copies."""

    @property
    def pixels(self) -> int:
        """Greatest number of pixels; a larger image is refused before it is decoded."""
        return self.image_bytes // PIXEL_BYTES


def share(reserved: int) -> Share:
    """Divide memory among decoders: four fifths of what is free now, less the `reserved` bytes of the server itself."""
    try:
        free = quota.memory_available()
    except OSError:
        free = WITHOUT_LIMIT
    room = int(0.8 * free) - reserved
    count = min(MOST, quota.usable_processors(), max(1, room // (BASE_BYTES + WANTED_BYTES)))
    return Share(count, min(max(room // count - BASE_BYTES, LEAST_BYTES), 1 << 30))


class Decoders:
    """A few processes, each of which decodes one image at a time."""

    def __init__(self, size: int, resize: int | None, allowed: Share) -> None:
        self.allowed = allowed
        self._settings = json.dumps(
            {"size": size, "resize": resize, "bytes": allowed.image_bytes, "pixels": allowed.pixels}
        )
        self._free: queue.LifoQueue[_Decoder] = queue.LifoQueue()
        for _ in range(allowed.decoders):
            self._free.put(_Decoder(self._settings))

    def decode(self, image: bytes | bytearray) -> numpy.ndarray:
        """Decode an image file and return its pixels, upright: uint8, (height, width) or (height, width, 3).

        Raises
        ------
        Refused
            If the file is no image of one of `FORMATS` (400), needs more pixels, memory or time than is allowed (413),
            or all decoders are busy or were killed (503).
        """
        try:
            decoder = self._free.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            raise Refused(503, BUSY) from None
        try:
            try:
                status, answer = decoder.ask(image)
            except Died:
                # The kernel or a person killed the process, perhaps before it had the image, so a new one tries again.
                decoder = _Decoder(self._settings)
                status, answer = decoder.ask(image)
        except Died:
            raise Refused(503, "what decodes images ended twice without an answer; try again") from None
        finally:
            self._free.put(decoder if decoder.alive else _Decoder(self._settings))
        if status != 200:
            raise Refused(status, answer.decode(errors="replace"))
        return numpy.load(io.BytesIO(answer), allow_pickle=False)

    def close(self) -> None:
        """End the processes that are not at work."""
        while not self._free.empty():
            self._free.get().end()


class Died(Exception):
    """A decoder's process ended without an answer."""


class _Decoder:
    """One decoder's process, as the server sees it."""

    def __init__(self, settings: str) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), settings]
        # NumPy's threads would have no work, and would take address space, which is limited.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, image: bytes | bytearray) -> tuple[int, bytes]:
        """Have an image decoded. A process that has used up its memory or time is not `alive` afterwards.

        Returns
        -------
        tuple
            HTTP status; and the pixels in NumPy's file format, or a message in UTF-8 where the status is not 200.

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
            # Closing writes what is still in the buffer, but the process does not read any more.
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes


def send(pipe: IO[bytes], status: int, content: bytes | bytearray) -> None:
    """Write a message: status and length, then the content."""
    pipe.write(struct.pack("<HQ", status, len(content)))
    pipe.write(content)
    pipe.flush()


def receive(pipe: IO[bytes], most: int) -> tuple[int, bytes]:
    """Read a message of up to `most` bytes; raise EOFError where the other side has ended, or sent no such message."""
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
    """Make the kernel refuse this process more than `more` bytes of memory beyond what it has now."""
    if sys.platform != "linux":
        # Other systems do not enforce such a limit; there only the limit on pixels protects the server.
        return
    import resource

    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, mapped + more))


def _decoded(image: bytes, settings: dict[str, Any]) -> tuple[int, bytes]:
    """Decode an image, and return what `_Decoder.ask` returns."""
    from decode import Bad
    from PIL import Image, UnidentifiedImageError

    large = f"an image of up to {settings['pixels'] / 1e6:.1f} megapixels is accepted"
    try:
        return 200, _pixels(image, settings)
    except (Refused, Image.DecompressionBombError) as error:
        return 413, (f"{large}, {error}" if isinstance(error, Refused) else large).encode()
    except UnidentifiedImageError:
        known = f"undecodable image: of no known format; accepted: {', '.join(FORMATS)}"
        return 400, (known if image else "empty image: 0 bytes").encode()
    except Exception as error:
        # For damaged bytes Pillow raises exceptions of nearly any class.
        pixels = _webp_pixels(image)
        too_large = pixels and WEBP_PIXEL_BYTES * pixels + WEBP_FILE_BYTES * len(image) > settings["bytes"]
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError) or too_large:
            return SPENT, f"the image needs more memory than it is given; {large}".encode()
        parts = ["undecodable image", " ".join(str(error).split())]
        if isinstance(error, Bad):
            parts = [part for part in error.args if part]
        return 400, ": ".join(parts).encode()


def _webp_pixels(image: bytes) -> int:
    """Return the number of pixels of a WebP, from its head (RFC 9649); 0 for another format.

    WebP's library reports refused memory as it reports damage, so only the size tells the two apart.
    """
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


def _pixels(image: bytes, settings: dict[str, Any]) -> bytes:
    """Decode an image to NumPy's file format. Its format and size are checked first, which the file's head tells."""
    from decode import decode
    from PIL import Image

    with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
        if picture.width * picture.height > settings["pixels"]:
            raise Refused(413, f"this one has {picture.width} x {picture.height} pixels")
    file = io.BytesIO()
    numpy.save(file, decode(image, settings["size"], settings["resize"]), allow_pickle=False)
    return file.getvalue()


def _serve(settings: dict[str, Any]) -> None:
    """Decode images from standard input until it ends."""
    import signal
    import warnings

    # Ctrl-C is for the server. This process ends when the server closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Modules and Pillow's plug-ins are loaded before memory is limited.
    import decode  # noqa: F401
    from PIL import Image, PngImagePlugin

    Image.preinit()
    Image.init()
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = min(settings["pixels"], Image.MAX_IMAGE_PIXELS or settings["pixels"])
    # All texts of a PNG together may have as many bytes as one: one mebibyte, decompressed.
    PngImagePlugin.MAX_TEXT_MEMORY = PngImagePlugin.MAX_TEXT_CHUNK
    _limit_memory(settings["bytes"])
    while True:
        try:
            _, image = receive(sys.stdin.buffer, settings["bytes"])
            send(sys.stdout.buffer, *_decoded(image, settings))
        except (EOFError, BrokenPipeError):
            # The server has ended.
            return


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
