"""A clip at its own size and rate, followed by frames of another size and rate that continue it.

extended = ExtendedFrames(given_THW3, 25.0, new_THW3, 8.0, fit="pad")
extended.shape                                      # (T, H, W): the size of the given frames
write_parts("longer.mp4", extended.parts(), extended.shape, 25.0)   # writer.py

The new frames are scaled with Pillow's Lanczos filter (three lobes) and repeated or left out as `shown_frames` says.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .fitting import Box, Fit, place, shown_frames


@dataclass(frozen=True, eq=False)
class ExtendedFrames:
    """The frames of a clip, followed by the new ones that were made from a view of it by `fit_clip`.

    Attributes:
        given_THW3: The frames of the clip, uint8.
        fps: Their rate, and that of the result.
        new_THW3: The frames that follow, uint8; at least one.
        new_fps: Their rate.
        fit: How the clip was fitted to the size of the new frames. With "pad" their black bars are cut off. With "crop"
            the sides of the given frames that the view left out are cut off. With "stretch" all is shown.
    """

    given_THW3: np.ndarray
    fps: float
    new_THW3: np.ndarray
    new_fps: float
    fit: Fit

    @property
    def boxes(self) -> tuple[Box, Box]:
        """The part of the given frames that is kept, and the part of the new frames that continues it."""
        _, height, width, _ = self.given_THW3.shape
        _, view_height, view_width, _ = self.new_THW3.shape
        return place(height, width, view_height, view_width, self.fit)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number, the rows and the columns of all frames."""
        kept, _ = self.boxes
        return len(self.given_THW3) + len(self._shown()), kept.height, kept.width

    def parts(self) -> Iterator[np.ndarray]:
        """Yield the frames (n, H, W, 3) uint8: the given ones, then each new one."""
        from PIL import Image

        kept, view = self.boxes
        yield kept.of(self.given_THW3)
        # Cut before it is scaled: with Pillow's argument `box`, the filter would reach into the bars.
        new_THW3 = np.ascontiguousarray(view.of(self.new_THW3))
        before, scaled = -1, np.empty(0)
        for index in self._shown():
            if index != before:
                image = Image.fromarray(new_THW3[index])
                size = (kept.width, kept.height)
                before, scaled = index, np.asarray(image.resize(size, Image.Resampling.LANCZOS))
            yield scaled[None]

    def _shown(self) -> np.ndarray:
        count = len(self.new_THW3)
        return shown_frames(count, np.arange(count + 1) / self.new_fps, self.fps)[0]
