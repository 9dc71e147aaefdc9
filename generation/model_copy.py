"""Copies of a model's checkpoint folder, to be moved, kept or published.

copy_pretrained(load_pretrained("world"), Path("mine"))         # config.json, weights, text model and a card
"""

import shutil
from pathlib import Path

from ..core.atomic_folders import atomic_folder
from ..core.checkpoint import BUNDLED, FILES, find_checkpoint
from ..core.errors import require
from ..core.files import as_path, atomic_write
from ..core.progress import note
from .hub_card import plain_card
from .pretrained import HubOptions, Pretrained, load_pretrained

CARD = "README.md"


def copy_pretrained(parts: Pretrained, folder: str | Path) -> Path:
    """Write the files that a model was loaded from, and a card, to a new folder: all of them, or nothing.

    A loaded model does not change, whatever its dtype and precision, so its files are still those of the model; the
    copy is loaded once to see that they are. Its card is kept where its folder has one; the bundled models get one that
    stands alone, and those of the hub a new one, since cards are not fetched.

    Args:
        parts: The model.
        folder: The folder, which must be new or empty.

    Returns:
        The folder.

    Raises:
        ReelmError: The folder holds files or cannot be written; or the model was made in memory, or its files have
            changed since it was loaded.
        CheckpointError: The files of the model are no longer there.
    """
    folder = as_path(folder, "folder")
    require(parts.origin is not None, "model", "must be loaded from a checkpoint to be copied", parts.name)
    assert parts.origin is not None
    name, hub = parts.origin
    fetched: HubOptions = {**hub, "local_files_only": True}
    source = find_checkpoint(name, **fetched)
    with atomic_folder(folder) as temporary:
        for path in {path for pattern in FILES for path in source.glob(pattern)}:
            shutil.copyfile(path, temporary / path.name)
        own = source / CARD if source.parent != BUNDLED else None
        if own is not None and own.is_file():
            shutil.copyfile(own, temporary / CARD)
        else:
            atomic_write(temporary / CARD, plain_card(parts))
            if not Path(name).is_dir() and source.parent != BUNDLED:
                note(f"the card of {name}, and the license in it, were not fetched: {folder / CARD} has neither")
        copy = load_pretrained(temporary, device="cpu")
        same = (copy.tokenizer_id, copy.lm_id) == (parts.tokenizer_id, parts.lm_id)
        require(same, "model", "must have the files that it was loaded from", str(source))
    return folder
