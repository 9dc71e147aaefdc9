"""How many files of the library a real `generate` enters: what someone has to open who follows it with a debugger."""

import sys

import reelm

MOST = 50  # 50 before the packages were divided; the aim is 35


def test_a_clip_goes_through_few_files(debug_generator, root):
    debug_generator.generate("a red ball", num_frames=1, seed=1)  # what is done only once in a process
    entered = set()

    def look(frame, event, argument):
        if event == "call":
            entered.add(frame.f_code.co_filename)

    sys.setprofile(look)
    try:
        video = debug_generator.generate("a red ball", seconds=1, seed=1)
    finally:
        sys.setprofile(None)
    assert isinstance(video, reelm.Video)
    folder = f"{root}/"
    own = sorted(name.removeprefix(folder) for name in entered if name.startswith(folder))
    own = [name for name in own if not name.startswith((".venv/", "tests/"))]
    assert 20 < len(own) <= MOST, own
