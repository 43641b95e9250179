"""Copy the sound of one video file into another, without re-encoding it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import av

from distill.errors import UserError


class Sound:
    """The audio streams of a video file, whose packets are muxed next to the pictures of another file.

    Args:
        source: the video file.
        offset: seconds to subtract from its timestamps.
    """

    def __init__(self, source: Path, *, offset: float = 0.0) -> None:
        self._source, self._offset = source, offset
        self._container = av.open(str(source))
        self._streams: dict[int, Any] = {}
        self._packets: Iterator[av.Packet] = iter(())
        self._next: av.Packet | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def add_to(self, container: Any, path: Path) -> None:
        """Add the streams to a container for output.

        Args:
            container: the open container.
            path: name of its file, for messages.

        Raises:
            UserError: the format cannot hold one of the streams.
        """
        for stream in self._container.streams.audio:
            codec = stream.codec_context.codec.canonical_name
            if codec not in container.supported_codecs:
                raise UserError(
                    f"{path}: {path.suffix} cannot hold the sound of {self._source} ({codec}); choose a name "
                    "ending in .mkv, or pass --no-sound"
                )
            self._streams[stream.index] = container.add_stream_from_template(stream)
        if self._streams:
            self._packets = self._container.demux(*self._container.streams.audio)
            self._advance()

    def mux_until(self, container: Any, seconds: float) -> None:
        """Mux the packets up to a time of the output; infinity for all that remain."""
        while self._next is not None and float(self._next.dts * self._next.time_base) - self._offset <= seconds:
            packet = self._next
            shift = round(self._offset / packet.time_base)
            packet.dts -= shift
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.stream = self._streams[packet.stream.index]
            container.mux(packet)
            self._advance()

    def _advance(self) -> None:
        try:
            self._next = next((each for each in self._packets if each.dts is not None and each.size), None)
        except av.error.FFmpegError as error:
            raise UserError(
                f"{self._source}: its sound cannot be read ({error.strerror}); pass --no-sound to leave it out"
            ) from error
