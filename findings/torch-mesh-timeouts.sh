#!/usr/bin/env bash
# The process groups of a device mesh of torch 2.13.0 do not wait as long as the group that they are part of. Four gloo
# processes are initialised with a timeout of 12 hours; a mesh of 2 x 2 of them gets two groups each. Seen here, as the
# timeouts of the groups of both dimensions:
#
#   mesh (2, 2)      0:30:00, 0:30:00
#   mesh (1, 4)      0:30:00, 12:00:00     (a dimension that spans all processes is the group that there was)
#   new_group        0:30:00
#
# So a training whose weights are divided among some of the processes, and copied by the others, ends after half an hour
# in which one process alone does something (measures, writes, encodes), whatever init_process_group was given; with
# weights that are divided among all it does not. A collective of the group of all processes before the first one of a
# group of the mesh waits as long as was asked for.
#
# Exits with 0 while this is so, and with 1 as soon as it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install torch==2.13.0 numpy
cat > "$folder/timeouts.py" <<'PYTHON'
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh


def timeout(group):
    return str(group._get_backend(torch.device("cpu")).options._timeout)


def work(rank, meeting):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    hours = timedelta(hours=12)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=4, timeout=hours)
    found = []
    for shape in ((2, 2), (1, 4)):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))
        found.append([timeout(mesh.get_group(name)) for name in ("replicate", "shard")])
    pair = dist.new_group([0, 1])
    found.append([timeout(pair)] if rank < 2 else [])
    dist.destroy_process_group()
    if rank == 0:
        print("torch", torch.__version__, found)
        wanted = [["0:30:00", "0:30:00"], ["0:30:00", "12:00:00"], ["0:30:00"]]
        sys.exit(0 if found == wanted else 1)


if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1],), nprocs=4)
PYTHON
"$folder/venv/bin/python" "$folder/timeouts.py" "$folder/meeting"
