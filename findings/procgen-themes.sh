#!/usr/bin/env bash
# procgen2 0.10.7 with restrict_themes=True draws all levels of coinrun with the walls of one theme, and the state that
# get_state gives still has the number of the level's own theme, 28 bytes before its end. So a caption that takes the
# theme from the state is wrong for such pictures. Seen here, in 12 levels: "6 numbers, 3 colours" of walls without the
# option, "6 numbers, 1 colours" with it.
#
# Exits with 0 while this is so, and with 1 as soon as it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install procgen2==0.10.7 "gym==0.26.*" "numpy<2"
cat > "$folder/themes.py" <<'PYTHON'
import struct
import sys

from procgen import ProcgenGym3Env

found = {}
for restricted in (False, True):
    pairs = set()
    for level in range(12):
        env = ProcgenGym3Env(num=1, env_name="coinrun", start_level=level, num_levels=1, rand_seed=0, num_threads=0,
                             use_backgrounds=False, restrict_themes=restricted)
        picture, state = env.observe()[1]["rgb"][0], env.get_state()[0]
        (number,) = struct.unpack_from("<I", state, len(state) - 28)
        # A level begins at a wall, which is the left of the picture: its usual colour there.
        colours = picture[:, :16].reshape(-1, 3)
        bright = colours[colours.sum(1) > 150]
        pairs.add((number, tuple((bright.mean(0) / 24).round().astype(int))))
        env.close()
    found[restricted] = len({number for number, _ in pairs}), len({colour for _, colour in pairs})
    print("restrict_themes", restricted, "%d numbers, %d colours" % found[restricted])
(numbers, colours), (same, one) = found[False], found[True]
sys.exit(0 if numbers == same > 1 and colours > 1 and one == 1 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/themes.py" 2> /dev/null
