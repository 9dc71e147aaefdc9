"""Graphs of libavfilter with one input and one output."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import VideoFrame

# What swscale needs to round to the nearest level: without these flags it rounds down, by about one level of 255.
EXACT = "accurate_rnd+full_chroma_int+full_chroma_inp"


class FilterGraph:
    """A chain of filters.

    Args:
        source: The options of libavfilter's `buffer`: the format of the frames to come.
        filters: The names of the filters and their options.
        threads: The number of threads; 0 leaves it to libavfilter.
    """

    def __init__(self, source: str, filters: Iterable[tuple[str, str]], threads: int = 0) -> None:
        from av.filter import Graph

        graph = Graph()
        graph.threads = threads
        chain = [graph.add(name, options) for name, options in [("buffer", source), *filters]]
        chain.append(graph.add("buffersink"))
        graph.link_nodes(*chain).configure()
        # The contexts do not keep their graph alive.
        self._graph: Graph = graph
        self._source, self._sink = chain[0], chain[-1]

    def push(self, frame: "VideoFrame | None") -> None:
        """Add a frame, or None at the end."""
        self._source.push(frame)

    def pull(self) -> "VideoFrame | None":
        """Return the next frame; None where the filters need another one first, or after the last."""
        import av

        try:
            frame: VideoFrame = self._sink.pull()
        except (av.BlockingIOError, av.EOFError):
            return None
        return frame
