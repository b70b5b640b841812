"""features: what colour_hog tells apart, ResNet against plain NumPy preprocessing, and a cache that computes once."""

import io

import numpy as np
import pytest
from PIL import Image

from pairuni.data import features as module
from pairuni.data.dataset import load_image
from pairuni.data.features import ColourHog, extract, hash_images, load_extractor
from pairuni.errors import InputError
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import Thing, scene_of


class Means:
    """Counts what it is asked for."""

    def __init__(self, identity: str = "means") -> None:
        self.identity, self.calls = identity, []

    def features(self, images):
        self.calls.append(len(images))
        return np.stack([image.reshape(-1, 3).mean(axis=0) + 1 for image in images]).astype(np.float32)


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for n in range(7):
        made.append(tmp_path / f"{n}.png")
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(made[-1])
    made.append(tmp_path / "copy.png")
    made[-1].write_bytes(made[2].read_bytes())
    return made


def test_rows_are_in_order_and_of_length_one(paths):
    found = extract(paths, Means(), 3)
    assert found.dtype == np.float32 and np.allclose(np.linalg.norm(found, axis=1), 1)
    for path, row in zip(paths, found, strict=True):
        mean = load_image(path).reshape(-1, 3).mean(axis=0) + 1
        assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_equal_images_are_computed_once_and_a_rerun_computes_nothing(paths, tmp_path):
    cache, first = tmp_path / "features", Means()
    found = extract(paths, first, 3, cache)
    assert first.calls == [3, 3, 1]
    again = Means()
    assert np.array_equal(extract(paths[::-1], again, 3, cache), found[::-1]) and again.calls == []
    other = Means("other")
    extract(paths, other, 8, cache)
    assert other.calls == [7], "another extractor shares nothing"


def test_a_changed_image_is_computed_again(paths, tmp_path):
    extract(paths, Means(), 3, tmp_path / "features")
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(paths[0])
    again = Means()
    extract(paths, again, 3, tmp_path / "features")
    assert again.calls == [1]


def test_an_interrupted_run_keeps_what_it_has(paths, tmp_path, monkeypatch):
    class Interrupted(Means):
        def features(self, images):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().features(images)

    monkeypatch.setattr(module, "_PART", 2)
    with pytest.raises(KeyboardInterrupt):
        extract(paths, Interrupted(), 3, tmp_path / "features")
    again = Means()
    found = extract(paths, again, 3, tmp_path / "features")
    assert again.calls == [1] and np.array_equal(found, extract(paths, Means(), 3))


def test_a_broken_cache_file_is_named(paths, tmp_path):
    extract(paths, Means(), 3, tmp_path / "features")
    (part,) = (tmp_path / "features" / "means").iterdir()
    part.write_bytes(part.read_bytes()[:20])
    with pytest.raises(InputError, match="delete it") as caught:
        extract(paths, Means(), 3, tmp_path / "features")
    assert caught.value.file == part


def test_broken_and_missing_images_are_named(paths):
    paths[3].write_bytes(b"")
    with pytest.raises(InputError) as caught:
        extract(paths, Means(), 3)
    assert caught.value.file == paths[3]
    paths[4].unlink()
    with pytest.raises(InputError) as caught:
        hash_images(paths)
    assert caught.value.file == paths[4]
    with pytest.raises(ValueError, match="needs images"):
        extract([], Means(), 3)


def near_duplicates(image: np.ndarray) -> dict[str, np.ndarray]:
    picture, encoded = Image.fromarray(image), io.BytesIO()
    picture.save(encoded, "JPEG", quality=40)
    width, height = picture.size
    box = (width // 20, height // 20, width - width // 20, height - height // 20)
    return {
        "half size": np.asarray(picture.resize((width // 2, height // 2))),
        "encoded again": np.asarray(Image.open(encoded)),
        "cropped": np.asarray(picture.crop(box)),
    }


def test_photographs_at_the_floor(coco):
    images = [load_image(path) for path in sorted((coco / "images").iterdir())[:60]]
    found = ColourHog().features(images)
    cosine = found @ found.T
    random = cosine[np.triu_indices(len(images), 1)]
    assert np.median(random) < 0.4 and (random >= 0.6).mean() < 0.05
    for index in range(0, 60, 6):
        for kind, image in near_duplicates(images[index]).items():
            assert ColourHog().features([image])[0] @ found[index] > 0.8, (index, kind)


def scene(*things: tuple[int, int, str, str]) -> np.ndarray:
    return render(scene_of([Thing(*t) for t in things]), np.random.default_rng(len(things)))


def test_colour_hog_orders_scenes_as_an_eye_does():
    base, same, recoloured, reshaped, moved, other = ColourHog().features(
        [
            scene((0, 0, "circle", "red"), (2, 1, "square", "blue")),
            render(scene_of([Thing(0, 0, "circle", "red"), Thing(2, 1, "square", "blue")])),
            scene((0, 0, "circle", "green"), (2, 1, "square", "blue")),
            scene((0, 0, "cross", "red"), (2, 1, "square", "blue")),
            scene((0, 2, "circle", "red"), (1, 1, "square", "blue")),
            scene((1, 0, "triangle", "yellow"), (1, 2, "cross", "yellow"), (2, 2, "cross", "black")),
        ]
    )
    assert base @ same > base @ reshaped > base @ recoloured > 0.6 > max(base @ moved, base @ other)


@pytest.mark.parametrize("value", [0, 1, 85, 127, 128, 255])
def test_plain_images_have_features_too(value):
    row = ColourHog().features([np.full((5, 9, 3), value, np.uint8)])
    assert row.shape == (1, 406) and row.dtype == np.float32 and np.linalg.norm(row) == pytest.approx(1, abs=1e-6)


def test_a_row_depends_on_its_own_image_alone():
    images = [np.random.default_rng(n).integers(0, 255, (20 + n, 30, 3), dtype=np.uint8) for n in range(4)]
    together = ColourHog().features(images)
    assert all(
        np.array_equal(ColourHog().features([image])[0], row) for image, row in zip(images, together, strict=True)
    )


@pytest.fixture(scope="module")
def tiny_resnet(tmp_path_factory):
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=3)
    folder = tmp_path_factory.mktemp("resnet")
    ResNetForImageClassification(config).eval().save_pretrained(folder)  # with a head, as on the hub
    return folder


def test_resnet_against_its_own_parts(tiny_resnet):
    import torch
    from transformers import ResNetModel

    image = np.random.default_rng(0).integers(0, 255, (256, 300, 3), dtype=np.uint8)  # shorter side needs no resizing
    crop = image[16:240, 38:262] / 255
    pixels = (crop - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    model = ResNetModel.from_pretrained(tiny_resnet).eval()
    with torch.inference_mode():
        last = model(torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)).last_hidden_state
    found = load_extractor("resnet50", str(tiny_resnet)).features([image])
    assert found.shape == (1, 12) and np.allclose(found, last.mean((2, 3)).numpy(), atol=1e-5)


def test_resnet_takes_images_of_any_size_and_batch(tiny_resnet):
    resnet = load_extractor("resnet50", str(tiny_resnet))
    images = [np.random.default_rng(n).integers(0, 255, size, dtype=np.uint8) for n, size in enumerate(SIZES)]
    together = resnet.features(images)
    one_by_one = np.concatenate([resnet.features([image]) for image in images])
    assert np.allclose(together, one_by_one, atol=1e-5)


SIZES = ((48, 48, 3), (1, 1, 3), (30, 700, 3), (500, 225, 3))


def test_resnet_identity_follows_the_weights(tiny_resnet, tmp_path):
    import torch
    from transformers import ResNetModel

    identity = load_extractor("resnet50", str(tiny_resnet)).identity
    assert identity == load_extractor("resnet50", str(tiny_resnet)).identity
    model = ResNetModel.from_pretrained(tiny_resnet)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    model.save_pretrained(tmp_path)
    assert load_extractor("resnet50", str(tmp_path)).identity != identity


def test_weights_that_are_no_resnet(tiny_resnet, tmp_path):
    from transformers import LlamaConfig, ResNetConfig, ResNetModel

    with pytest.raises(InputError, match="weights: cannot load"):
        load_extractor("resnet50", str(tmp_path / "absent"))
    LlamaConfig().save_pretrained(tmp_path / "llama")
    with pytest.raises(InputError, match="llama model"):
        load_extractor("resnet50", str(tmp_path / "llama"))
    deeper = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic")
    ResNetModel.from_pretrained(tiny_resnet).save_pretrained(tmp_path / "lacking")
    deeper.save_pretrained(tmp_path / "lacking")
    with pytest.raises(InputError, match="lacks weights"):
        load_extractor("resnet50", str(tmp_path / "lacking"))
