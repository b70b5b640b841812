"""dataset: the order of pairs is a function of the step alone; images decode the way a viewer shows them."""

import numpy as np
import pytest
from PIL import Image

from pairuni.data.dataset import ImageCache, PairSampler
from pairuni.data.images import load_image
from pairuni.errors import InputError
from pairuni.types import Pair, Quadruple, Side


def pairs(n: int, aligned: int = 2) -> list[Pair]:
    made = []
    for i in range(n):
        gen = Quadruple(f"g{i}", Side.GENERATION, f"g{i}.png", f"caption {i}", "q", "A")
        und = gen if i < aligned else Quadruple(f"u{i}", Side.UNDERSTANDING, f"u{i}.png", "c", f"question {i}", "B")
        made.append(Pair(f"p{i}", "aligned" if i < aligned else "retrieved", 1.0 if i < aligned else 0.7, gen, und))
    return made


def ids(batch, side) -> list[str]:
    return [half.pair_id for half in batch[side]]


@pytest.mark.parametrize(("n", "batch"), [(12, 4), (10, 4), (7, 7), (5, 8), (1, 1)])
def test_every_epoch_visits_each_pair_once(n, batch):
    sampler = PairSampler(pairs(n), batch, seed=3)
    stream = [i for step in range(n * 2) for i in ids(sampler.batch_at(step), Side.GENERATION)]
    assert len(stream) == 2 * n * batch
    epochs = [stream[k : k + n] for k in range(0, len(stream), n)]
    assert all(sorted(e) == sorted(f"p{i}" for i in range(n)) for e in epochs)
    if n > 4:
        assert len({tuple(e) for e in epochs}) > 1, "epochs are shuffled anew"


def test_both_sides_are_halves_of_the_same_pairs():
    sampler = PairSampler(pairs(9), 4, seed=0)
    for step in range(5):
        batch = sampler.batch_at(step)
        assert ids(batch, Side.GENERATION) == ids(batch, Side.UNDERSTANDING)
        for g, u in zip(batch[Side.GENERATION], batch[Side.UNDERSTANDING], strict=True):
            assert g.quadruple.prompt.startswith("caption") and (g.aligned, g.similarity) == (u.aligned, u.similarity)
            assert g.aligned == (g.quadruple is u.quadruple)
            assert g.aligned or u.quadruple.question.startswith("question")


def test_any_step_can_be_asked_for_first():
    one = PairSampler(pairs(10), 4, seed=1)
    in_order = [one.batch_at(step) for step in range(12)]
    two = PairSampler(pairs(10), 4, seed=1)
    assert [two.batch_at(step) for step in reversed(range(12))] == in_order[::-1]
    assert [PairSampler(pairs(10), 4, seed=2).batch_at(s) for s in range(12)] != in_order


def test_repeats_in_a_batch_are_numbered():
    halves = PairSampler(pairs(3), 8, seed=0).batch_at(0)[Side.UNDERSTANDING]
    assert len({(h.pair_id, h.repeat) for h in halves}) == 8 and max(h.repeat for h in halves) == 2
    assert all(h.repeat == 0 for h in PairSampler(pairs(8), 8, seed=0).batch_at(0)[Side.GENERATION])


def test_vanilla_draws_unrelated_halves():
    sampler = PairSampler(pairs(6, aligned=0), 4, seed=0, mode="vanilla")
    drawn, uneven = [], False
    for step in range(3):  # 24 draws: two epochs of 12 halves
        batch = sampler.batch_at(step)
        assert sum(len(halves) for halves in batch.values()) == 8 and set(batch) == set(Side)
        uneven |= ids(batch, Side.GENERATION) != ids(batch, Side.UNDERSTANDING)
        drawn += [(side, i) for side in Side for i in ids(batch, side)]
    assert uneven
    assert sorted(drawn) == sorted(2 * [(side, f"p{i}") for side in Side for i in range(6)])
    tiny = PairSampler(pairs(40), 1, seed=0, mode="vanilla")
    assert any(not halves for step in range(20) for halves in tiny.batch_at(step).values()), "a side may have none"


def test_a_checkpoint_of_other_pairs_is_refused():
    state = PairSampler(pairs(5), 2, seed=0).state(17)
    assert PairSampler(pairs(5), 2, seed=0).restore(state) == 17
    changed = pairs(5)[:4] + pairs(6)[5:]
    others = [
        (changed, 2, 0, "pairs"),
        (pairs(5), 3, 0, "pairs"),
        (pairs(5), 2, 1, "pairs"),
        (pairs(5), 2, 0, "vanilla"),
    ]
    for made, batch, seed, mode in others:
        with pytest.raises(InputError, match="other pairs"):
            PairSampler(made, batch, seed, mode).restore(state)


@pytest.mark.parametrize("other", [{"streams": 3}, {}])
def test_a_checkpoint_of_other_random_streams_is_refused_by_name(other):
    sampler = PairSampler(pairs(5), 2, seed=0)
    state = sampler.state(17)
    del state["streams"]  # as in checkpoints of version 1
    version = other.get("streams", 1)
    with pytest.raises(InputError, match=f"random streams version {version}, .* version 2.* Start again .*release"):
        sampler.restore(state | other)


def test_refuses_nothing_to_draw():
    for made, batch in (([], 1), (pairs(1), 0)):
        with pytest.raises(ValueError, match="needs pairs"):
            PairSampler(made, batch, 0)


def test_images_are_upright_rgb(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:2, :, 0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = load_image(tmp_path / "turned.png")
    assert image.shape == (6, 4, 3) and image.dtype == np.uint8
    assert (image[..., 0] == np.array([0, 0, 200, 200])).all()


def test_modes(tmp_path):
    grey = np.full((3, 3), 77, np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    clear = np.zeros((3, 3, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(clear).quantize(4).save(tmp_path / "palette.png")
    assert (load_image(tmp_path / "grey.png") == 77).all() and (load_image(tmp_path / "deep.png") == 77).all()
    for name in ("clear", "palette"):
        image = load_image(tmp_path / f"{name}.png")
        assert image[0, 0].tolist() == [10, 20, 30] and (image[1:] == 255).all()


def test_broken_images_are_named(tmp_path, monkeypatch):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:900])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"hello")
    for name in ("cut.jpg", "empty.jpg", "text.jpg", "absent.jpg", "."):
        with pytest.raises(InputError) as caught:
            load_image(tmp_path / name)
        assert caught.value.file == tmp_path / name
    for limit in (3000, 1000):  # PIL warns above the limit and refuses above twice of it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match="cannot be read"):
            load_image(whole)


def test_the_cache_keeps_the_last_images(tmp_path):
    for n in range(3):
        Image.fromarray(np.full((2, 2, 3), n, np.uint8)).save(tmp_path / f"{n}.png")
    cache = ImageCache(2)
    first = cache.load(tmp_path / "0.png")
    cache.load(tmp_path / "1.png")
    assert cache.load(tmp_path / "0.png") is first, "asked for again, it is the newest"
    second = cache.load(tmp_path / "1.png")
    cache.load(tmp_path / "2.png")
    assert cache.load(tmp_path / "1.png") is second and cache.load(tmp_path / "0.png") is not first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 1
