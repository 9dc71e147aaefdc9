"""`python -m reelm` is the command `reelm`, and `torchrun -m reelm` is it in several processes."""

from .cli import script

if __name__ == "__main__":
    script()
