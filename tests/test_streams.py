"""streams: each use of randomness has numbers of its own, and what is frozen stays as it was."""

import hashlib
import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pairuni import streams
from pairuni.shapes.held_out import held_out_prompts, held_out_questions
from pairuni.streams import Stream, generator, number
from pairuni.tiny.corpus import corpus

SOURCE = Path(streams.__file__).parent
MAKERS = re.compile(
    r"\b(default_rng|manual_seed|manual_seed_all|seed_everything|set_seed|RandomState|SeedSequence|Philox|PCG64|MT19937"
    r"|Random|torch\.Generator|PRNGKey|random\.seed)\("
)
"""What makes or seeds a generator."""
KEYED = {Stream.ROLLOUTS, Stream.SCORING, Stream.FILL_ORDER}
FROZEN = {s: 1 for s in Stream if s.name.startswith(("TEST_", "PRETRAIN_"))}
FROZEN |= dict.fromkeys((Stream.PRETRAIN_CODEBOOK, Stream.PRETRAIN_READABLE), 0)
FROZEN |= dict.fromkeys((Stream.PRETRAIN_POOL, Stream.PRETRAIN_CORPUS), 0) | {Stream.PRETRAIN_TOKENIZER: 2}
"""And how many indices they have."""
WITH_GENERATOR = [s for s in Stream if s not in KEYED | {Stream.PRETRAIN_WEIGHTS}]


def test_no_two_streams_give_equal_permutations() -> None:
    seen: dict[tuple[int, ...], tuple[object, ...]] = {}
    for seed, stream in itertools.product((0, 1, 2, 7, 20261124, 2**40), WITH_GENERATOR):
        indices: list[tuple[int | str, ...]] = [(), (0,), (1,), (0, 0), (1, 0), (0, 1), (1, 1), (2,)]
        if stream in FROZEN:
            indices = [some for some in indices if len(some) == FROZEN[stream]]
        else:
            indices += [("0",), ("a",), (2**32 + 1,), ("a", "b"), ("ab",), (-1,)]
        for some in indices:
            drawn = tuple(generator(seed, stream, *some).permutation(40).tolist())
            assert drawn not in seen, f"{(seed, stream, some)} draws as {seen[drawn]}"
            seen[drawn] = (seed, stream, some)


def test_no_unnamed_generator_draws_as_a_stream() -> None:
    bare = [
        np.random.default_rng(entropy).permutation(40).tolist() for s in range(9) for entropy in (s, [s, 1], [s, 2])
    ]
    for seed, stream in itertools.product(range(9), set(WITH_GENERATOR) - set(FROZEN)):
        assert generator(seed, stream).permutation(40).tolist() not in bare
        assert generator(seed, stream, 1).permutation(40).tolist() not in bare


def test_the_same_arguments_give_the_same_numbers() -> None:
    first = generator(3, Stream.SAMPLER_ORDER, 0).permutation(8).tolist()
    assert first == generator(3, Stream.SAMPLER_ORDER, np.int64(0)).permutation(8).tolist()
    # Committed: a change of it is another `VERSION`, and changes the order of every run that is continued.
    assert (streams.VERSION, first) == (2, [3, 6, 0, 7, 2, 4, 1, 5])
    assert generator(-1, Stream.CUT).random() != generator(1, Stream.CUT).random()


def test_neighbouring_seeds_are_independent() -> None:
    drawn = np.stack([generator(seed, Stream.GALLERY, 0).random(2_000) for seed in range(40)])
    correlations = np.asarray(np.corrcoef(drawn))[np.triu_indices(40, 1)]
    assert abs(correlations.mean()) < 4 / np.sqrt(2_000 * len(correlations))
    assert 0.8 < correlations.std() * np.sqrt(2_000) < 1.2


@pytest.mark.parametrize("bits", [31, 32, 63, 64])
def test_numbers_have_their_bits(bits: int) -> None:
    drawn = [number(seed, Stream.INDEX_LISTS, bits=bits) for seed in range(200)]
    assert len(set(drawn)) == 200 and 2 ** (bits - 1) < max(drawn) < 2**bits
    assert number(5, Stream.INDEX_LISTS) != number(5, Stream.TRAINING) != number(5, Stream.TRAINING, 0)


def test_what_has_no_generator_says_so() -> None:
    for stream in (*KEYED, Stream.PRETRAIN_WEIGHTS):
        with pytest.raises(ValueError, match=str(stream)):
            generator(0, stream)
    with pytest.raises(ValueError, match="keyed by content"):
        streams.content_key(Stream.CUT, b"")
    with pytest.raises(ValueError, match="integers"):
        generator(0, Stream.TEST_PROMPT, "1")
    with pytest.raises(ValueError, match="has 1 indices"):
        generator(0, Stream.TEST_PROMPT, 1, 2)
    with pytest.raises(ValueError, match="bits"):
        number(0, Stream.CUT, bits=65)
    with pytest.raises(TypeError):
        generator(0, Stream.CUT, 0.5)  # pyright: ignore[reportArgumentType]


def test_frozen_streams_are_those_of_version_1() -> None:
    made = {
        (Stream.TEST_QUESTION, 9): [5, 1, 1, 9],
        (Stream.TEST_PROMPT, 9): [5, 1, 2, 9],
        (Stream.PRETRAIN_CODEBOOK,): [5, 1],
        (Stream.PRETRAIN_TOKENIZER, 8, 9): [5, 2, 8, 9],
        (Stream.PRETRAIN_READABLE,): [5, 3],
        (Stream.PRETRAIN_POOL,): [5, 4],
        (Stream.PRETRAIN_LANGUAGE, 9): [5, 5, 9],
        (Stream.PRETRAIN_SIGHT, 9): [5, 6, 9],
        (Stream.PRETRAIN_ANSWERS, 9): [5, 7, 9],
        (Stream.PRETRAIN_CORPUS,): [5, 99],
    }
    for (stream, *indices), entropy in made.items():
        assert generator(5, stream, *indices).random() == np.random.default_rng(entropy).random(), stream
    assert {stream for stream, *_ in made} | {Stream.PRETRAIN_WEIGHTS} == set(FROZEN)
    assert number(5, Stream.PRETRAIN_WEIGHTS) == 5


def test_keyed_streams_are_those_of_version_1() -> None:
    key = streams.content_key(Stream.ROLLOUTS, b"a")
    assert key == int.from_bytes(hashlib.blake2b(b"a", digest_size=8).digest(), "little")
    keys = np.array([[key, 0]], dtype=np.uint64)
    assert streams.beside(keys, Stream.SCORING).tolist() == [[key ^ 0x6D61736B, 0x6D61736B]]
    one, other = (streams.keyed(int(k)) for k in (keys[0, 0], streams.beside(keys, Stream.SCORING)[0, 0]))
    assert abs(np.corrcoef(one.random(4_000), other.random(4_000))[0, 1]) < 4 / np.sqrt(4_000)
    long = streams.content_key(Stream.FILL_ORDER, b"a")
    assert long == int.from_bytes(hashlib.blake2b(b"a", digest_size=16).digest(), "little")


def test_other_libraries_generators_are_seeded() -> None:
    def drawn(seed: int) -> list[float]:
        streams.seed_all(seed, Stream.TRAINING)
        return [random.random(), np.random.random(), float(torch.rand(()))]

    assert drawn(0) == drawn(0)
    assert not set(drawn(0)) & set(drawn(1))


def test_names_are_read_as_what_they_are() -> None:
    assert len({str(s) for s in Stream}) == len(Stream.__members__), "one name has one stream"


def test_nothing_else_makes_a_generator() -> None:
    found = [
        f"{file.relative_to(SOURCE)}:{n}: {line.strip()}"
        for file in sorted(SOURCE.rglob("*.py"))
        if file != Path(streams.__file__)
        for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if MAKERS.search(line)
    ]
    assert not found, "take pairuni.streams instead:\n" + "\n".join(found)
    for made in (
        "np.random.default_rng(0)",
        "torch.manual_seed(s)",
        "random.seed(1)",
        "Philox(key=1)",
        "random.Random(2)",
    ):
        assert MAKERS.search(made)


def test_every_stream_is_drawn_from() -> None:
    text = "\n".join(f.read_text(encoding="utf-8") for f in SOURCE.rglob("*.py") if f != Path(streams.__file__))
    uses = {name: re.findall(rf"\bStream\.{name}\b", text) for name in Stream.__members__}
    assert not [name for name, found in uses.items() if not found]


def test_test_items_are_those_of_published_results() -> None:
    """Hashes of what version 1 drew: the first 2,000 test questions with their images, the first 1,000 test prompts."""
    questions, prompts = hashlib.sha256(), hashlib.sha256()
    for item in held_out_questions(2_000):
        asked = item.question
        questions.update(repr((item.id, asked.type, asked.stem, asked.options, asked.answer)).encode())
        questions.update(item.image.tobytes())
    for prompt in held_out_prompts(1_000):
        prompts.update(repr((prompt.id, prompt.task, prompt.text)).encode())
    assert questions.hexdigest() == "6a7384e5864d97f6b8655f58bf2411fa14c88e3d4a97d44f0ed15530fa71ddc6"
    assert prompts.hexdigest() == "b6813818ad9fc0ea5729a58cb9f71feb294dfb11fc4fd5ccaca027634a268c53"


def test_texts_of_pretraining_are_those_of_the_shipped_tokenizers() -> None:
    assert hashlib.sha256("\n".join(corpus(3, 200)).encode()).hexdigest() == (
        "6371b6ee36882ef4eb2ffc953ead473c8a40860c917107b9714708e252d84170"
    )
