"""What a server allows, so that one visitor cannot take it from the others."""

from dataclasses import dataclass

from ..core.errors import require
from ..media.clip import ClipLimits


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a server.

    Attributes:
        jobs: The most clips that are drawn or wait for it; one more is refused until one of them is done.
        seconds: The longest clip, also one without an end, and the longest play.
        drawing_seconds: For how long a clip may be drawn, which is the time of the passes in which it is.
        json_bytes: The largest body without a file.
        body_bytes: The largest body with a file.
        upload_pixels: The largest picture of an uploaded clip, height times width.
        upload_bytes: The largest size of all pictures of an uploaded clip, as 8-bit RGB.
        uploads: The most bodies with files at a time.
        sockets: The most viewers and players at a time.
        plays: The most plays at a time; each has an engine of its own.
        clips: The clips of the same settings that are drawn at a time.
        wait_seconds: For how long a visitor may take to send a body or a first message, or a viewer to take a picture
            or to show one of a clip without an end.
    """

    jobs: int = 64
    seconds: float = 120.0
    drawing_seconds: float = 3600.0
    json_bytes: int = 2**16
    body_bytes: int = 64 * 2**20
    upload_pixels: int = 4096 * 4096
    upload_bytes: int = 2**29
    uploads: int = 4
    sockets: int = 64
    plays: int = 2
    clips: int = 8
    wait_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(value > 0, name, "must be above 0", value)

    @property
    def upload(self) -> ClipLimits:
        """The limits of an uploaded clip."""
        return ClipLimits(
            max_pixels=self.upload_pixels, max_bytes=self.upload_bytes, max_seconds=10 * self.seconds
        )  # fmt: skip
