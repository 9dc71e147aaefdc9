"""Video files as other programs write them, made by PyAV for the tests of reading."""

from fractions import Fraction

import av
import numpy as np

from reelm.media.filters import FilterGraph


def write_video(path, frames, *, codec="libx264", pix_fmt="yuv420p", fps=8, options=None, scale="", tags=None,
                seconds=None, aspect=None, container_options=None, stream_metadata=None, also=()):  # fmt: skip
    """Encode frames (H, W, 3) or (H, W, 4); `scale` are options of libswscale, `tags` attributes of the codec context.

    Args:
        seconds: The time of each frame, in place of those of `fps`.
        aspect: The width of a pixel over its height.
        also: Streams written before this one: (frame, is_default, disposition) of one flat picture each.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options or {})
        height, width = frames[0].shape[:2]
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        stream.metadata.update(stream_metadata or {})
        tick = Fraction(1, 1000) if seconds is not None else 1 / Fraction(fps)
        if seconds is not None:
            stream.codec_context.time_base = tick
        kind = "rgba" if frames[0].shape[2] == 4 else "rgb24"
        flags = "flags=area+accurate_rnd+full_chroma_int+full_chroma_inp"
        graph = FilterGraph(
            f"video_size={width}x{height}:pix_fmt={kind}:time_base={tick}",
            [("scale", ":".join(filter(None, [flags, scale]))), ("format", pix_fmt)],
        )
        for number, image in enumerate(frames):
            graph.push(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=kind))
            frame = graph.pull()
            frame.pts = number if seconds is None else round(1000 * seconds[number])
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


RATE = 16000  # of sound, which all codecs have
NOISE = np.random.default_rng(0).integers(-8, 9, (96, 96, 1))


def numbered(count, height=32, width=48):
    """Return `count` pictures with one texture whose brightness tells their numbers; `number_of` reads it."""
    texture = NOISE[:height, :width].repeat(3, 2)
    return [(20 + 5 * index + texture).clip(0, 255).astype(np.uint8) for index in range(count)]


def number_of(frame):
    height, width = frame.shape[:2]
    return round((float(np.asarray(frame, np.float64).mean()) - 20 - NOISE[:height, :width].mean()) / 5)


def numbers_of(clip):
    return [number_of(frame) for frame in clip.frames_THW3]


def with_sound(path, pictures, codecs=("aac",), seconds=2.0, before=0.0):
    """Copy a video file and add tones, one for each codec, which begin `before` seconds before the pictures."""
    with av.open(str(pictures)) as old, av.open(str(path), "w") as new:
        template = old.streams.video[0]
        video = new.add_stream_from_template(template)
        sounds = [new.add_stream(codec, rate=RATE, layout="mono") for codec in codecs]
        for number, sound in enumerate(sounds):
            resampler = av.AudioResampler(sound.codec_context.format, "mono", RATE)
            tone = np.sin(np.arange(int(seconds * RATE)) * 0.3 * (number + 1))
            frame = av.AudioFrame.from_ndarray((8000 * tone).astype(np.int16)[None], "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            for part in resampler.resample(frame):
                new.mux(sound.encode(part))
            new.mux(sound.encode(None))
        for packet in old.demux(template):
            if packet.dts is not None:
                shift = round(before / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, video
                new.mux(packet)
    return path


def mutate(data, rng, header):
    """Overwrite, exchange, cut off or flip some bytes; flips are in the first `header`, where they do most harm."""
    data, kind = bytearray(data), rng.randrange(4)
    if kind == 0:
        for _ in range(rng.randrange(1, 30)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        start = rng.randrange(len(data))
        data[start : start + rng.randrange(1, 200)] = rng.randbytes(rng.randrange(200))
    elif kind == 2:
        del data[rng.randrange(len(data)) :]
    else:
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(min(len(data), header))] ^= 1 << rng.randrange(8)
    return bytes(data)
