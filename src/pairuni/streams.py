"""Every random stream of the project: one generator for each (seed, stream, indices), and the table of all streams.

Two uses of randomness never share numbers: a stream's name is hashed together with the seed and the indices, so that
streams of one seed are independent, and so are those of neighbouring seeds. A bare `numpy.random.default_rng(seed)`
gives no such promise: it is one and the same wherever it stands, and NumPy pads with zeros, so that the generators of
s, [s, 0] and [s, 0, 0] are equal. Nothing else in the package makes or seeds a generator (tests/test_streams.py).

A stream of the table is never renamed: its name is what it draws from. A change of what a stream gives is a new
`VERSION`: runs and results that were made with another one are not continued.
"""

import hashlib
import json
import operator
import random
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, SupportsIndex

import numpy as np

VERSION = 2
"""The version of all streams but the frozen ones. A record that names none is of version 1."""


def other_streams(recorded: Mapping[str, Any]) -> str | None:
    """Why what says `recorded["streams"]` cannot be continued; None where it has this version."""
    found = recorded.get("streams", 1)
    if found == VERSION:
        return None
    return (
        f"was made with random streams version {found}, and this release draws version {VERSION}: the rest would "
        "not match the beginning. Start again in another output folder, or finish it with the release that began it"
    )


class Stream(StrEnum):
    """Each stream, with its use and its indices."""

    # Training
    SAMPLER_ORDER = "order of pairs in training"
    """The order in which an epoch visits pairs, or halves. Index: the epoch."""
    RANDOM_PARTNERS = "partners of random pairs"  # who is joined with whom in mode random_pairs
    UNPAIRED_ORDER = "order of choice in unpaired"  # which generation half chooses first in mode unpaired
    ADAPTERS = "adapters at the start of training"
    """Python's, NumPy's and torch's own generators while a model is loaded."""
    TRAINING = "training"  # the same generators in the steps of training, for what in a model draws by itself
    ROLLOUTS = "rollouts"  # tokens of a rollout. Keyed by (run, step, pair, side, rollout): policies/sampling.py.
    SCORING = "what is scored of a rollout"
    """Masks and steps of the estimators of diffusion policies. Keyed by the rollout's key, changed: `beside`."""
    FILL_ORDER = "order in which a prompt's slots are filled"
    """For diffusion policies. Keyed by the prompt's ids: policies/dimoo/decode.py."""

    # Pairing
    CLUSTERS = "k-means"  # where k-means begins, and its mini-batches
    CLUSTER_MEMBER = "random member of a cluster"  # which image stands for a cluster where that is drawn
    VISITING_ORDER = "visiting order of generation images"  # In Algorithm 1
    CUT = "aligned pairs that max_pairs keeps"  # where there are more of them than pairs are wanted
    RANDOM_COSINES = "cosines of random images"  # which images are compared for the report of a pairing
    INDEX_LISTS = "lists of the approximate index"  # seeds the k-means of faiss
    INDEX_TRAINING = "training rows of the approximate index"  # from which its lists are made
    INDEX_RECALL = "rows whose recall is measured"  # of an approximate graph

    # Completion
    LETTERS = "letters of right options"  # where the right option stands. Index: the block of samples.
    SHAPES_COMPLETER = "questions and captions of Shapes images"  # indices: sample id, attempt

    # Shapes world
    WORLD_QUESTION = "understanding sample of a world"  # scene, question and image. Index: the sample.
    WORLD_CAPTION = "generation sample of a world"  # caption, scene and image. Index: the sample.
    WORLD_COMMON = "scenes that both sources show"
    """Which generation samples show which scene of an understanding sample."""
    WORLD_BACKGROUND = "background of an image of a world"
    """Where backgrounds are mixed. Indices: source (1 understanding, 2 generation), sample."""
    TEST_QUESTION = "test question"  # frozen: published results are of these items. Index: the item.
    TEST_PROMPT = "test prompt"  # frozen. Index: the item.
    VALIDATION_QUESTION = "validation question"  # index: the item
    VALIDATION_PROMPT = "validation prompt"  # index: the item

    # Measures
    SCORE_ERROR = "standard error of a score"  # Bootstrap over groups of items
    GRADIENT_PAIRS = "pairs whose gradients are measured"  # by `analyse gradients`
    GRADIENT_SKETCH = "sketch of a gradient"  # places and signs of entries
    GRADIENT_INTERVAL = "interval of gradient agreement"  # Bootstrap over pairs
    GRADIENT_ADAPTERS = "adapters whose gradients are measured"  # Torch's generator in `analyse gradients`
    CORRELATION = "interval of a correlation of arms"  # Bootstrap over arms and seeds
    GALLERY = "pairs of a gallery"  # which pairs of a stretch are shown
    SMOKE_MODEL = "model of the smoke test"  # Torch's generator in `pairuni smoke`
    SMOKE_DRAWING = "drawing of the smoke test"  # index: the drawing
    MEMORY_NOISE = "noise images"  # of the measured prompts in `train/measure.py`

    # Pre-training of the shipped checkpoints: frozen, since the checkpoints were made so
    PRETRAIN_WEIGHTS = "weights of pre-training"
    """Torch's generator: initial weights, noise on codes. Its number is the seed itself."""
    PRETRAIN_CODEBOOK = "images of the first codebook"  # which scenes they show
    PRETRAIN_TOKENIZER = "batch of the image tokenizer"  # indices: phase, step
    PRETRAIN_READABLE = "scenes that a tokenizer must keep"  # held-out scenes
    PRETRAIN_POOL = "scenes of pre-training"  # the pool that questions and captions are about
    PRETRAIN_LANGUAGE = "batch of questions and captions"  # index: the step
    PRETRAIN_SIGHT = "batch of the sight stage"  # index: the step
    PRETRAIN_ANSWERS = "batch of questions alone"  # index: the step
    PRETRAIN_CORPUS = "texts for a tokenizer"  # from which its vocabulary is made


_FROZEN: dict[Stream, tuple[tuple[int, ...], int]] = {
    Stream.TEST_QUESTION: ((1, 1), 1),
    Stream.TEST_PROMPT: ((1, 2), 1),
    Stream.PRETRAIN_CODEBOOK: ((1,), 0),
    Stream.PRETRAIN_TOKENIZER: ((2,), 2),
    Stream.PRETRAIN_READABLE: ((3,), 0),
    Stream.PRETRAIN_POOL: ((4,), 0),
    Stream.PRETRAIN_LANGUAGE: ((5,), 1),
    Stream.PRETRAIN_SIGHT: ((6,), 1),
    Stream.PRETRAIN_ANSWERS: ((7,), 1),
    Stream.PRETRAIN_CORPUS: ((99,), 0),
}
"""Streams that stay as in version 1: the numbers between seed and indices in their entropy, and how many indices they
have. With other numbers of indices two of them could be equal, since NumPy pads with zeros."""

_KEY_BYTES: dict[Stream, int] = {Stream.ROLLOUTS: 8, Stream.FILL_ORDER: 16}
"""Sizes of the keys of streams that are keyed by content. They are of version 1 too: hashes cannot collide with
others', and their generator (Philox) is another than that of the rest (PCG64)."""

_BESIDE: dict[Stream, int] = {Stream.SCORING: 0x6D61736B}
"""Streams beside rollouts: their keys are the rollouts' keys, XORed with this."""

_PLAIN = Stream.PRETRAIN_WEIGHTS


def generator(seed: int, stream: Stream, *indices: SupportsIndex | str) -> np.random.Generator:
    """The generator of a stream, the same for the same arguments: 3, "3" and no index at all are three generators.

    Args:
        seed: any integer.

    Raises:
        ValueError: the stream is keyed by content, has no generator but only a number, or is frozen with other indices.
    """
    return np.random.default_rng(_entropy(seed, stream, indices))


def number(seed: int, stream: Stream, *indices: SupportsIndex | str, bits: int = 63) -> int:
    """An integer of `bits` bits of the same, for libraries that take a seed and make a generator of their own.

    Raises:
        ValueError: as `generator`, or bits is not in 1..64.
    """
    if not 1 <= bits <= 64:
        raise ValueError(f"bits must be in 1..64, not {bits}")
    if stream is _PLAIN:
        return seed
    return int(_entropy(seed, stream, indices).generate_state(1, np.uint64)[0]) >> (64 - bits)


def content_key(stream: Stream, content: bytes) -> int:
    """The key of a stream that depends on content alone. Raises ValueError for one that does not."""
    if stream not in _KEY_BYTES:
        raise ValueError(f"stream {stream!r} is not keyed by content")
    return int.from_bytes(hashlib.blake2b(content, digest_size=_KEY_BYTES[stream]).digest(), "little")


def beside(keys: np.ndarray, stream: Stream) -> np.ndarray:
    """uint64 keys of a stream that goes beside the rollouts of `keys` (uint64), any shape."""
    return keys ^ np.uint64(_BESIDE[stream])


def keyed(key: int) -> np.random.Generator:
    """The generator of a `content_key`: Philox, which begins at once."""
    return np.random.Generator(np.random.Philox(key=key))


def seed_torch(value: int) -> None:
    """Seeds torch's own generators with a `number`."""
    import torch  # here: most of what draws does without it

    torch.manual_seed(value)


def seed_all(seed: int, stream: Stream) -> None:
    """Seeds Python's, NumPy's and torch's own generators, for libraries that draw from them."""
    random.seed(number(seed, stream, "python"))
    np.random.seed(number(seed, stream, "numpy", bits=32))
    seed_torch(number(seed, stream, "torch"))


def _entropy(seed: int, stream: Stream, indices: tuple[SupportsIndex | str, ...]) -> np.random.SeedSequence:
    if stream is _PLAIN or stream in {*_KEY_BYTES, *_BESIDE}:
        raise ValueError(f"stream {stream!r} has no generator of seed and indices")
    plain = [i if isinstance(i, str) else operator.index(i) for i in indices]
    if stream in _FROZEN:
        between, count = _FROZEN[stream]
        numbers = [i for i in plain if not isinstance(i, str)]
        if not len(numbers) == len(plain) == count:
            raise ValueError(f"stream {stream!r} has {count} indices, integers, not {plain}")
        return np.random.SeedSequence([seed, *between, *numbers])
    # One hash of everything: of fixed length, since NumPy pads entropy with zeros and joins the words of long numbers.
    said = json.dumps([operator.index(seed), str(stream), *plain])
    return np.random.SeedSequence(int.from_bytes(hashlib.blake2b(said.encode(), digest_size=16).digest(), "little"))
