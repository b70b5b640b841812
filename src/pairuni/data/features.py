"""Image features for clustering and retrieval (paper 2.2): extractors, and `extract` with its cache on disk.

resnet50 is the paper's choice (ResNet-50 without head, 2048-d). colour_hog needs no weights: tones, hues and gradient
directions over the image, made so that a similarity of 0.6 means alike in layout and colour. Rows are L2-normalised.
The cache is keyed by image content and extractor identity, so that a rerun or a killed run computes nothing twice.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from pairuni.config import Extractor as ExtractorName
from pairuni.data.dataset import load_image
from pairuni.data.match import normalise
from pairuni.errors import InputError
from pairuni.files import atomic_path, file_hash

# What transformers and safetensors raise for files that are absent, cut off or of another model.
_BROKEN = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)
_PART = 512  # images per cache file: what a kill can cost


class Extractor(Protocol):
    """Turns images into feature rows."""

    @property
    def identity(self) -> str:
        """Name and version or weight hash: what a feature depends on beside the image. Fit for a folder name."""
        ...

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 images [H, W, 3] -> float32 [n, D]; a row depends on its own image alone."""
        ...


def load_extractor(name: ExtractorName, weights: str) -> Extractor:
    """The extractor of that name; `weights` (hub id or local folder) is for resnet50.

    Raises:
        InputError: the weights cannot be loaded or are not a ResNet's.
    """
    return ColourHog() if name == "colour_hog" else ResNet50(weights)


def hash_images(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file. Raises InputError naming a file that cannot be read."""
    hashes = []
    for path in tqdm(paths, desc="hashes", unit="image"):
        try:
            hashes.append(file_hash(path))
        except FileNotFoundError:
            raise InputError("no such image", file=path) from None
        except OSError as err:
            raise InputError(f"cannot be read ({err.strerror})", file=path) from None
    return hashes


def extract(
    paths: Sequence[Path],
    extractor: Extractor,
    batch: int,
    cache: Path | None = None,
    hashes: Sequence[str] | None = None,
) -> np.ndarray:
    """L2-normalised float32 features [N, D] of the images, in order.

    Args:
        batch: images per call of the extractor. Does not change the result.
        cache: folder of features by image content; made where it is missing, shared by extractors.
        hashes: `hash_images(paths)`, where it is known already.

    Raises:
        InputError: an image is missing or broken, or a cache file is.
        ValueError: no paths, or batch < 1.
    """
    if not paths or batch < 1:
        raise ValueError(f"needs images and a positive batch, not {len(paths)} images and batch {batch}")
    hashes = hash_images(paths) if hashes is None else hashes
    store = _Store(None if cache is None else cache / extractor.identity)
    path_of = {key: path for key, path in zip(hashes, paths, strict=True) if key not in store.rows}
    keys = list(path_of)
    try:
        with tqdm(total=len(keys), desc=extractor.identity, unit="image") as bar:
            for start in range(0, len(keys), batch):
                some = keys[start : start + batch]
                images = [load_image(path_of[key]) for key in some]
                store.add(some, normalise(extractor.features(images)))
                bar.update(len(some))
    finally:
        store.flush()  # also what an interrupted run has
    return np.stack([store.rows[key] for key in hashes])


class _Store:
    """Feature rows by image hash, in memory and as numbered safetensors files in one folder."""

    def __init__(self, folder: Path | None) -> None:
        self.rows: dict[str, np.ndarray] = {}
        self._folder, self._pending, self._next = folder, list[str](), 0
        for path in sorted(folder.glob("part_*.safetensors")) if folder is not None else []:
            try:
                part = load_file(path)
            except (SafetensorError, OSError) as err:
                raise InputError(f"is broken, delete it ({err})", file=path) from None
            names = [bytes(key).hex() for key in part["hashes"]]
            self.rows.update(zip(names, part["features"], strict=True))
            self._next = int(path.stem.removeprefix("part_")) + 1

    def add(self, keys: Sequence[str], features_ND: np.ndarray) -> None:
        self.rows.update(zip(keys, features_ND, strict=True))
        self._pending += keys
        if len(self._pending) >= _PART:
            self.flush()

    def flush(self) -> None:
        if self._folder is None or not self._pending:
            return
        names = np.array([list(bytes.fromhex(key)) for key in self._pending], dtype=np.uint8)
        features = np.stack([self.rows[key] for key in self._pending])
        with atomic_path(self._folder / f"part_{self._next:05d}.safetensors") as temporary:
            save_file({"hashes": names, "features": features}, temporary)
        self._pending, self._next = [], self._next + 1


class ColourHog:
    """Tones, chroma-weighted hues and gradient directions on soft grids, 406-d, in NumPy and PIL alone.

    Each of the three is centred and brought to equal length before weighting, because raw histograms are all positive
    and hence all similar. On photographs about 2 % of random pairs reach 0.6, near-duplicates stay above 0.85.
    """

    identity = "colour_hog-1"
    _SIDE = 64
    _TONE, _HUE, _GRADIENT = 0.25, 0.4, 0.35  # shares of the squared length
    _QUIET = 0.05  # lengths below this (grey or empty images) fade out instead of being blown up

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [n, 406]."""
        return normalise(np.stack([self._row(image) for image in images]))

    def _row(self, image: np.ndarray) -> np.ndarray:
        small = Image.fromarray(image).resize((self._SIDE, self._SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
        rgb = np.asarray(small, dtype=np.float64) / 255
        grey = rgb.mean(axis=2)
        parts = [(self._TONE, _tones(grey)), (self._HUE, _hues(rgb)), (self._GRADIENT, _gradients(grey))]
        return np.concatenate(
            [np.sqrt(share) * part.ravel() / (np.linalg.norm(part) + self._QUIET) for share, part in parts]
        )


def _tones(grey: np.ndarray) -> np.ndarray:
    tones = np.sqrt(_pooled(_soft_bins(grey, 4, ring=False), 4))
    return tones - tones.mean(axis=2, keepdims=True)


def _hues(rgb: np.ndarray) -> np.ndarray:
    """Hues count by their chroma, so that grey surroundings do not make coloured things alike."""
    red, green, blue = np.moveaxis(rgb, 2, 0)
    angle = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
    chroma = rgb.max(axis=2) - rgb.min(axis=2)
    hues = np.sqrt(_pooled(_soft_bins(angle / (2 * np.pi) % 1, 6, ring=True) * chroma[..., None], 3))
    return hues - hues.mean(axis=2, keepdims=True)


def _gradients(grey: np.ndarray) -> np.ndarray:
    down, right = np.gradient(grey)
    strength, angle = np.hypot(down, right), np.arctan2(down, right) / np.pi % 1
    cells = _pooled(_soft_bins(angle, 8, ring=True) * strength[..., None], 6)
    cells = np.sqrt(cells / (np.linalg.norm(cells, axis=2, keepdims=True) + 0.02))
    return cells - cells.mean()


def _soft_bins(values: np.ndarray, bins: int, ring: bool) -> np.ndarray:
    """[H, W] in [0, 1] -> [H, W, bins]: each value is shared by the two nearest bins; on a ring, 1 is 0 again."""
    place = values * (bins if ring else bins - 1)
    offset = np.abs(place[..., None] - np.arange(bins))
    return np.maximum(0, 1 - (np.minimum(offset, bins - offset) if ring else offset))


def _pooled(maps: np.ndarray, cells: int) -> np.ndarray:
    """[S, S, C] -> [cells, cells, C]: means under overlapping triangles, so that small shifts change little."""
    size = len(maps)
    centres, width = (np.arange(cells) + 0.5) * size / cells, size / cells
    window = np.maximum(0, 1 - np.abs(np.arange(size)[:, None] + 0.5 - centres) / width)
    window /= window.sum(axis=0)
    return np.einsum("ya,xb,yxc->abc", window, window, maps, optimize=True)


class ResNet50:
    """transformers' ResNet without head: globally pooled features, 2048-d for ResNet-50 (paper 2.2)."""

    _RESIZE, _CROP = 256, 224
    _MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet's

    def __init__(self, weights: str) -> None:
        """Raises InputError: `weights` cannot be loaded, or is not a ResNet with all its weights."""
        import torch  # here, since pairing with colour_hog needs no torch
        from transformers import AutoConfig, ResNetModel

        try:
            kind = AutoConfig.from_pretrained(weights).model_type
            loaded: Any = None
            if kind == "resnet":
                loaded = ResNetModel.from_pretrained(weights, dtype=torch.float32, output_loading_info=True)
        except _BROKEN as err:
            raise InputError(f"cannot load {weights}: {' '.join(str(err).split())[:300]}", field="weights") from None
        if loaded is None:
            raise InputError(f"{weights} is a {kind} model, not a resnet", field="weights")
        self._model, report = loaded
        if report["missing_keys"] or report["mismatched_keys"]:
            raise InputError(f"{weights} lacks weights of a ResNet", field="weights")
        self._model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        self._hash = digest.hexdigest()[:12]

    @property
    def identity(self) -> str:
        return f"resnet50-{self._hash}"

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [n, width of the last stage]."""
        import torch

        pixels = torch.from_numpy(np.stack([self._pixels(image) for image in images]))
        with torch.inference_mode():
            pooled = self._model(pixel_values=pixels.to(self._model.device)).pooler_output
        return pooled.flatten(1).float().cpu().numpy()

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        """float32 [3, 224, 224]: shorter side to 256, centre crop, ImageNet mean and std."""
        picture = Image.fromarray(image)
        scale = self._RESIZE / min(picture.size)
        size = (max(self._RESIZE, round(picture.width * scale)), max(self._RESIZE, round(picture.height * scale)))
        left, top = ((length - self._CROP) // 2 for length in size)
        picture = picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + self._CROP, top + self._CROP))
        scaled = (np.asarray(picture, dtype=np.float64) / 255 - self._MEAN) / self._STD
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)
