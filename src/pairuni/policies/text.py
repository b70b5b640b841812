"""What users write, before a tokenizer sees it. No model here."""

from collections.abc import Iterable


def without(text: str, names: Iterable[str]) -> str:
    """`text` without the special tokens that it spells out, also those that appear once others are gone.

    A tokenizer would take them for real ones.
    """
    longest_first = sorted(set(names), key=lambda name: (-len(name), name))
    before = None
    while before != text:
        before = text
        for name in longest_first:
            text = text.replace(name, "")
    return text
