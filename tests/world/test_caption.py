import numpy as np

from reelm.world.caption import BACKGROUND_WORDS, CAMERA_WORDS, COLOUR_WORDS, MOTION_WORDS, SHAPE_WORDS, write_caption
from reelm.world.scene import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, SHAPES, sample_scene


def captions(count, **options):
    for index in range(count):
        scene = sample_scene(9, index, split="all", objects=1)
        yield scene, write_caption(scene, np.random.default_rng(index), **options)


def test_a_complete_caption_names_every_judged_factor():
    for scene, text in captions(300, complete=True):
        thing = scene.objects[0]
        assert any(word in text for word in COLOUR_WORDS.get(thing.colour, (thing.colour,)))
        assert any(word in text for word in SHAPE_WORDS[thing.shape])
        assert any(word in text for word in MOTION_WORDS[thing.motion])
        assert any(word in text for word in BACKGROUND_WORDS[scene.background])
        assert any(word in text for word in CAMERA_WORDS[scene.camera])


def test_a_caption_names_nothing_that_is_not_so():
    for scene, text in captions(600):
        thing = scene.objects[0]
        for colour in COLOURS:
            if colour != thing.colour:
                assert not any(
                    f" {word} " in f" {text} " for word in COLOUR_WORDS.get(colour, (colour,)) if word != "green"
                )
        for background in BACKGROUNDS:
            if background != scene.background:
                assert not any(word in text for word in BACKGROUND_WORDS[background])
        for camera in CAMERAS:
            if camera != scene.camera:
                assert not any(word in text for word in CAMERA_WORDS[camera])


def test_captions_vary_and_leave_factors_out():
    texts = [text for _, text in captions(400)]
    assert len(set(texts)) > 350
    unnamed = [s for s, t in captions(400) if not any(w in t for w in CAMERA_WORDS[s.camera])]
    assert 30 < len(unnamed) < 150
    scene = sample_scene(9, 0)
    assert len({write_caption(scene, np.random.default_rng(i)) for i in range(50)}) > 20


def test_every_factor_has_several_phrasings():
    assert set(MOTION_WORDS) == set(MOTIONS)
    assert set(SHAPE_WORDS) == set(SHAPES)
    assert set(BACKGROUND_WORDS) == set(BACKGROUNDS)
    for words in (MOTION_WORDS, BACKGROUND_WORDS, CAMERA_WORDS):
        assert all(len(set(phrasings)) >= 2 for phrasings in words.values())


def test_an_article_fits_its_word():
    for _, text in captions(500):
        assert "a orange" not in text
        assert "a object" not in text
