"""features: what colour_hog tells apart, ResNet against plain NumPy preprocessing, and a cache that computes once."""

import io
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pairuni.data.colour_hog import ColourHog
from pairuni.data.feature_store import FeatureStore
from pairuni.data.features import EXTRACTORS, extract, hash_images, load_extractor
from pairuni.data.images import load_image
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


def test_an_interrupted_run_keeps_what_it_has(paths, tmp_path):
    class Interrupted(Means):
        def features(self, images):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().features(images)

    with pytest.raises(KeyboardInterrupt):
        extract(paths, Interrupted(), 3, tmp_path / "features")
    again = Means()
    found = extract(paths, again, 3, tmp_path / "features")
    assert again.calls == [1] and np.array_equal(found, extract(paths, Means(), 3))


KEYS = [f"{n:064x}" for n in range(6)]
ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)


def stored(folder, keys=KEYS):
    with FeatureStore(folder) as store:
        return store.rows([key for key in keys if key in store])


def test_a_store_gives_rows_back_in_any_order(tmp_path):
    for folder in (tmp_path, None):
        with FeatureStore(folder) as store:
            store.add(KEYS[:4], ROWS[:4])
            store.add(KEYS[4:], ROWS[4:])
            assert np.array_equal(store.rows(KEYS), ROWS) and np.array_equal(store.rows(KEYS[::-2]), ROWS[::-2])
            assert np.array_equal(store.rows([KEYS[2]] * 2), ROWS[[2, 2]])
    assert isinstance(stored(tmp_path), np.memmap), "in the file's order nothing is copied"
    assert not stored(tmp_path).flags.writeable


@pytest.mark.parametrize(
    ("file", "bytes_left", "rows"),
    [
        ("features.f32", 4 * 16 + 3, 4),
        ("features.f32", 5 * 16, 5),
        ("keys.sha256", 3 * 32 + 31, 3),
        ("keys.sha256", 0, 0),
    ],
)
def test_what_a_killed_process_left_is_cut_off(tmp_path, file, bytes_left, rows):
    with FeatureStore(tmp_path) as store:
        store.add(KEYS, ROWS)
    with (tmp_path / file).open("ab") as torn:
        torn.truncate(bytes_left)
    with FeatureStore(tmp_path) as store:
        assert len(store) == rows and [key in store for key in KEYS] == [n < rows for n in range(6)]
        store.add(KEYS[rows:], ROWS[rows:])
    assert np.array_equal(stored(tmp_path), ROWS)


def test_a_store_that_cannot_be_used_is_named(tmp_path):
    with FeatureStore(tmp_path / "a") as store:
        store.add(KEYS, ROWS)
        with pytest.raises(InputError, match="another process"):
            FeatureStore(tmp_path / "a")
        with pytest.raises(InputError, match="rows of 4, not 3"):
            store.add(["f" * 64], np.ones((1, 3)))
    (tmp_path / "a" / "store.json").write_text('{"width": "four"}')
    with pytest.raises(InputError, match=r"store\.json: holds no width"):
        FeatureStore(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used"):
        FeatureStore(tmp_path / "file")


def test_killed_while_writing(tmp_path):
    """Real kills: whatever was written whole comes back as it was."""
    script = (
        "import numpy as np, sys; from pathlib import Path; from pairuni.data.feature_store import FeatureStore\n"
        "with FeatureStore(Path(sys.argv[1])) as store:\n"
        "    for n in range(len(store), 10**6):\n"
        "        store.add([f'{n:064x}'], np.full((1, 4096), n))\n"
    )
    reached = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
        while process.poll() is None and (not (tmp_path / "keys.sha256").is_file() or _size(tmp_path) <= reached):
            time.sleep(0.01)
        process.kill()
        process.wait()
        reached = _size(tmp_path)
    with FeatureStore(tmp_path) as store:
        assert len(store) > 0
        rows = store.rows([f"{n:064x}" for n in range(len(store))])
        assert (rows == np.arange(len(store))[:, None]).all()


def _size(folder):
    return (folder / "keys.sha256").stat().st_size


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

    with pytest.raises(InputError, match="weights: cannot be loaded"):
        load_extractor("resnet50", str(tmp_path / "absent"))
    LlamaConfig().save_pretrained(tmp_path / "llama")
    with pytest.raises(InputError, match="llama model"):
        load_extractor("resnet50", str(tmp_path / "llama"))
    deeper = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic")
    ResNetModel.from_pretrained(tiny_resnet).save_pretrained(tmp_path / "lacking")
    deeper.save_pretrained(tmp_path / "lacking")
    with pytest.raises(InputError, match="weights are missing or of another shape"):
        load_extractor("resnet50", str(tmp_path / "lacking"))


def test_dinov3_and_clip(tmp_path):
    """Real classes with random weights: the right output, prepared as each model wants it."""
    import torch
    from transformers import CLIPConfig, CLIPModel, DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    dinov3 = DINOv3ViTModel(DINOv3ViTConfig(**small, patch_size=8, image_size=32)).eval()
    towers = {
        "vision_config": {**small, "patch_size": 8, "image_size": 32, "projection_dim": 6},
        "text_config": {**small, "vocab_size": 50},
    }
    clip = CLIPModel(CLIPConfig(**towers, projection_dim=6)).eval()  # whole, as on the hub
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)  # its own size: nothing is resized
    for name, model, mean, std in (
        ("dinov3", dinov3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("clip", clip, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    ):
        model.save_pretrained(tmp_path / name)
        pixels = torch.tensor(((image / 255 - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)
        with torch.inference_mode():
            if name == "clip":
                expected = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
            else:
                expected = dinov3(pixel_values=pixels).last_hidden_state[:, 0]
        found = load_extractor(name, str(tmp_path / name))
        assert np.allclose(found.features([image]), expected.numpy(), atol=1e-5) and found.identity.startswith(name)
        assert found.features([image[:20], image[:, :9]]).shape == (2, len(expected[0]))
        with pytest.raises(InputError, match="model, not a"):
            load_extractor("clip" if name == "dinov3" else "dinov3", str(tmp_path / name))


def test_pe_says_what_it_needs():
    with pytest.raises(InputError, match="extractor: pe needs timm"):
        load_extractor("pe")


def test_every_extractor_is_an_option():
    from typing import get_args

    from pairuni.config import Extractor

    assert set(EXTRACTORS) == set(get_args(Extractor))


def test_a_store_that_two_processes_opened_holds_each_key_once(tmp_path):
    first, second = FeatureStore(tmp_path / "s"), FeatureStore(tmp_path / "s")
    with first:
        first.add(KEYS[:3], ROWS[:3])
    with second:
        second.add(KEYS, ROWS)
        assert np.array_equal(second.rows(KEYS), ROWS)
    assert np.array_equal(stored(tmp_path / "s"), ROWS) and (tmp_path / "s" / "keys.sha256").stat().st_size == 6 * 32


def test_a_store_that_holds_keys_twice_is_healed(tmp_path):
    with FeatureStore(tmp_path) as store:
        store.add(KEYS, ROWS)
    for name in ("features.f32", "keys.sha256"):  # as two processes at once left it
        content = (tmp_path / name).read_bytes()
        half = len(content) // 2
        (tmp_path / name).write_bytes(content[:half] + content)
    for _ in range(2):
        with FeatureStore(tmp_path) as store:
            assert len(store) == 6 and np.array_equal(store.rows(KEYS), ROWS)
        assert (tmp_path / "keys.sha256").stat().st_size == 6 * 32
        assert (tmp_path / "features.f32").stat().st_size == ROWS.nbytes
    with FeatureStore(tmp_path) as store:
        store.add(["ff" * 32], ROWS[:1])
        assert np.array_equal(store.rows([KEYS[5], "ff" * 32]), ROWS[[5, 0]])


def test_weights_for_an_extractor_without_any_are_refused() -> None:
    for name in ("colour_hog", "shapes_content"):
        with pytest.raises(InputError, match=f"{name} takes none") as caught:
            load_extractor(name, "microsoft/resnet-50")
        assert caught.value.field == "weights"
