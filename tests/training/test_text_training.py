import pytest

from reelm.core.errors import ReelmError
from reelm.lm.text import TextEncoder
from reelm.training.text_training import train_text_model


def test_each_line_with_words_is_a_caption_and_the_others_are_counted(tmp_path, capsys):
    path, out = tmp_path / "captions.txt", tmp_path / "text.model"
    path.write_bytes("\ufeffa red ball\r\n\r\n🙂\r\nदिन\u2028में दान\r\n".encode())
    report = train_text_model(out, captions=path)
    assert report.captions == 2
    assert "1 of 3 captions have no words and are left out" in capsys.readouterr().err
    text = TextEncoder(out.read_bytes())
    assert text.unknown_words("a red ball दिन में दान") == [] and text.unknown_words("दन") == ["दन"]
    assert report.vocab_size == text.vocab_size == 8


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path, out = tmp_path / "captions.txt", tmp_path / "text.model"
    for encoding in ("latin-1", "utf-16"):
        path.write_bytes("a café\n".encode(encoding))
        with pytest.raises(ReelmError, match=r"captions: must be UTF-8, got another encoding in 'captions\.txt'"):
            train_text_model(out, captions=path)
    assert not out.exists()
