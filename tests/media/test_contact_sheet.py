import numpy as np
import torch
from PIL import Image

from reelm.media.contact_sheet import write_contact_sheet


def test_rows_are_clips_and_columns_their_frames(tmp_path):
    clips = torch.arange(2 * 9, dtype=torch.uint8).view(2, 9, 1, 1, 1).expand(-1, -1, 6, 5, 3)
    write_contact_sheet(tmp_path / "a.png", clips, columns=3, scale=2)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (24, 30, 3)
    assert picture[0, ::10, 0].tolist() == [0, 4, 8]
    assert picture[12, ::10, 0].tolist() == [9, 13, 17]
