"""Overlap with reference sets: unrelated questions stay, copies go however they are dressed."""

import numpy as np
import pytest

from pairuni.data.cleaning import read_references
from pairuni.data.text_overlap import TextOverlap, own_text

LETTER = "Answer with the option's letter from the given choices directly."
PHRASE = "Answer the question using a single word or phrase."
TAILS = (
    f"\n{LETTER}",
    f"\n{PHRASE}",
    "\nAnswer with the options letter from the given choices directly.",
    " Please answer with the letter of the correct option only.",
    "\nPlease answer yes or no.",
    "\nAnswer the following multiple-choice question. The last line of your response should be the letter.",
    "\nProvide a short and direct response.",
    "\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n" + PHRASE,
    "",
)
NAMES = [
    "otter",
    "kettle",
    "ladder",
    "violin",
    "cactus",
    "tractor",
    "lantern",
    "walnut",
    "pigeon",
    "saddle",
    "anchor",
    "barrel",
    "candle",
    "donkey",
    "easel",
]
PLACES = [
    "harbour",
    "orchard",
    "stairwell",
    "meadow",
    "workshop",
    "balcony",
    "quarry",
    "library",
    "greenhouse",
    "tunnel",
    "courtyard",
    "attic",
]
TRAITS = [
    "rusty",
    "striped",
    "wooden",
    "tiny",
    "broken",
    "painted",
    "golden",
    "spotted",
    "folded",
    "crooked",
    "shiny",
    "dusty",
]


def made_up(rng: np.random.Generator) -> str:
    """A word that no other question has."""
    return "".join(rng.choice(list("bdfgklmnprstvz")) + rng.choice(list("aeiou")) for _ in range(4))


def made_question(rng: np.random.Generator, kind: int) -> str:
    """A question of fourteen words or so, of one of four templates."""
    name, other, place, trait = made_up(rng), made_up(rng), made_up(rng), rng.choice(TRAITS)
    return (
        f"Why does the {trait} {name} lie beside the {other} in the old {place} today?",
        f"Is the {trait} {name} standing closer to the {place} than the second {other} is?",
        f"How many {trait} {name}s can be counted along the {place} near the tall {other}?",
        f"What would the owner of this {name} do with a {trait} {other} at the {place}?",
    )[kind % 4]


def options(rng: np.random.Generator, style: int) -> str:
    words = [str(w) for w in rng.choice(NAMES + PLACES, 4, replace=False)]
    marks = ("{}. ", "({}) ", "{}) ", "{}、", "（{}）")[style % 5]
    between = "\n" if style % 2 else " "
    return between + between.join(marks.format(letter) + word for letter, word in zip("ABCD", words, strict=True))


def test_a_thousand_rows_of_instructions_lose_only_what_is_planted():
    """As in LLaVA's files: conversations under a placeholder, options and one of a few instructions."""
    rng = np.random.default_rng(5)
    references = [made_question(rng, n) + (options(rng, n) if n % 2 else "") + TAILS[n % 6] for n in range(300)]
    known = TextOverlap(references, 8)
    rows, planted = [], set()
    for n in range(1000):
        text = made_question(rng, n)
        if n % 20 == 0:
            original = own_text(references[n // 20 * 6])
            planted.add(n)
            text = (
                original,
                original.upper(),
                original.replace(" ", ", ").replace("?", " ... !"),
                f"Look at the picture first. {original} Say how sure you are of that.",
                f"My friend asks: {original.lower()}",
            )[n // 20 % 5]
        rows.append("<image>\n" + text + (options(rng, n) if n % 3 else "") + TAILS[n % len(TAILS)])
    found = {n for n, row in enumerate(rows) if known.shared(row) is not None}
    assert found - planted == set(), [rows[n] for n in sorted(found - planted)][:3]
    assert planted - found == set(), [rows[n] for n in sorted(planted - found)][:3]


@pytest.mark.parametrize("tail", TAILS)
def test_an_instruction_is_no_overlap(tail):
    known = TextOverlap(["What colour is the bus?" + tail], 8)
    assert known.shared("How many birds sit on the fence?" + tail) is None
    assert known.shared(f"What colour is the bus?\n{PHRASE}") == "what colour is the bus"


def test_a_task_that_a_data_set_repeats_is_no_overlap():
    box = "Please provide the bounding box coordinate of the region this sentence describes: "
    caption = "Provide a one-sentence caption for the provided image."
    known = TextOverlap([f"{box}a man in a red coat who holds a tall blue ladder", caption], 8)
    assert known.shared(f"{box}the left most slice of pizza on a white plate") is None
    assert known.shared(f"<image>\n{caption}") is None
    assert known.shared("A man in a red coat who holds a tall blue ladder.") is not None
    assert known.shared(f"{box}A man in a red coat who holds a tall blue ladder") is not None


def test_short_references_count_as_a_whole_text_or_sentence():
    known = TextOverlap(["A photo of a bench", "The quick brown fox jumps over the lazy dog near the river"], 8)
    assert known.shared("a photo of a BENCH!") == "a photo of a bench"
    assert known.shared("a photo of a bench in a park") is None
    assert known.shared("Look here. A photo of a bench. It is old.") == "a photo of a bench"
    assert known.shared("Yesterday the quick, brown fox jumps over the lazy cat") == (
        "the quick brown fox jumps over the lazy"
    )
    assert known.shared("quick brown fox jumps over the lazy cat and then some") is None
    assert known.shared("") is None and TextOverlap([""], 3).shared("") is None
    with pytest.raises(ValueError, match="positive"):
        TextOverlap([], 0)


def test_what_many_references_share_does_not_count():
    template = "In the picture that you are looking at now, is there a {}?"
    references = [template.format(name) for name in NAMES]
    known = TextOverlap(references, 8)
    assert known.shared(template.format("bicycle")) is None
    assert known.shared(template.format("otter")) is not None
    few = TextOverlap(references[:3], 8)
    assert few.shared(template.format("bicycle")) is not None


def test_equal_options_make_a_template_question_equal():
    question = "Which of these objects can be seen in the image? A. {} B. {} C. {}\n" + LETTER
    references = [question.format(*NAMES[n : n + 3]) for n in range(12)]
    known = TextOverlap(references, 8)
    assert known.shared(question.format(*NAMES[4:7])) is not None
    assert known.shared(question.format("bread", "milk", "salt")) is None


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (f"<image>\nWhat is it? A. cat B. dog\n{LETTER}", "What is it?"),
        (f"What is it?\n(A) cat\n(B) dog\n{LETTER}", "What is it?"),
        ("这是什么？\nA、猫\nB、狗\n请回答。", "这是什么?\n请回答。"),
        ("What is it?\nOptions:\n1. cat\n2. dog", "What is it?"),
        ("Question: What is it?\nAnswer the question using a single word or phrase.", "Question: What is it?"),
        ("A. cat B. dog", "A. cat B. dog"),
        ("Vitamin A. is sold here.", "Vitamin A. is sold here."),
        (LETTER, LETTER),
    ],
)
def test_own_text(text, own):
    assert own_text(text).split() == own.split()


def test_photographs_questions_stay(coco):
    """Two halves of one file of questions with options share instructions and templates, and images not at all."""
    _, texts = read_references([str(coco / "understanding.jsonl")])
    known = TextOverlap(texts[0::2], 8)
    lost = [text for text in texts[1::2] if known.shared(text) is not None]
    assert len(lost) <= 0.1 * len(texts[1::2]), lost[:3]


def test_benchmark_prompts(coco):
    """GenEval's own prompts are found, captions of photographs are not."""
    geneval = coco.parent / "benchmarks" / "geneval" / "evaluation_metadata.jsonl"
    images, prompts = read_references([str(geneval)])
    assert len(prompts) == 553 and not images
    known = TextOverlap(prompts, 8)
    assert all(known.shared(text) for text in prompts)
    _, captions = read_references([str(coco / "generation.jsonl")])
    assert not any(known.shared(text) for text in captions)
