"""Bodies that a server compresses although it was asked not to, read in pieces: a small one may hold gigabytes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from tts.errors import TransientError

PIECE = 1 << 16
"""Bytes of a piece of what was compressed, about."""

Inflate = Callable[[bytes], Iterator[bytes]]
"""What the next bytes of a body hold."""


def unchanged(data: bytes) -> Iterator[bytes]:
    """For a body that is not compressed."""
    return iter((data,))


def inflater(encodings: str) -> Inflate:
    """Undoes the `content-encoding` of a body, if it has one. Raises `TransientError` for an unknown one."""
    names = [name.strip().lower() for name in encodings.split(",")]
    stages = [_inflater(name) for name in reversed(names) if name not in ("", "identity")]
    if not stages:
        return unchanged

    def inflate(data: bytes) -> Iterator[bytes]:
        pieces: Iterator[bytes] = iter([data])
        for stage in stages:
            pieces = _each(stage, pieces)
        try:
            yield from pieces
        except zlib.error as error:
            raise TransientError(f"the answer is damaged: it is not {encodings} ({error})") from error

    return inflate


def _each(stage: Inflate, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield from stage(piece)


def _inflater(name: str) -> Inflate:
    if name in ("gzip", "x-gzip"):
        return _zlib(16 + zlib.MAX_WBITS)
    if name == "deflate":
        return _zlib(zlib.MAX_WBITS, -zlib.MAX_WBITS)  # some servers leave out the head of the format
    if name == "br":
        return _brotli()
    raise TransientError(f"the server compressed its answer as '{name}', unasked, which cannot be read")


def _zlib(*formats: int) -> Inflate:
    engine, begun, left = zlib.decompressobj(formats[0]), False, list(formats[1:])

    def inflate(data: bytes) -> Iterator[bytes]:
        nonlocal engine, begun
        while data:
            try:
                piece = engine.decompress(data, PIECE)
            except zlib.error:
                if begun or not left:
                    raise
                engine = zlib.decompressobj(left.pop(0))
                continue
            begun = True
            yield piece
            data = engine.unconsumed_tail
            while len(piece) == PIECE and not data and not engine.eof:  # what the engine still holds
                piece = engine.decompress(b"", PIECE)
                yield piece
            if engine.eof and engine.unused_data:  # another part follows
                data, engine = engine.unused_data, zlib.decompressobj(formats[0])
            elif engine.eof:
                engine = zlib.decompressobj(formats[0])
                return

    return inflate


def _brotli() -> Inflate:
    try:
        import brotli
    except ImportError:
        message = "the server compressed its answer as 'br', unasked"
        raise TransientError(f"{message}: pip install 'ttscale[brotli]' to read it") from None
    engine = brotli.Decompressor()

    def inflate(data: bytes) -> Iterator[bytes]:
        try:
            piece = engine.process(data, output_buffer_limit=PIECE)
            yield piece
            while not engine.is_finished() and (piece or not engine.can_accept_more_data()):
                piece = engine.process(b"", output_buffer_limit=PIECE)
                yield piece
        except brotli.error as error:
            raise zlib.error(str(error)) from error

    return inflate
