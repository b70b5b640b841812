"""Picking the rules of a protocol by name. The same benchmark scores differently under each, so no name is guessed."""

from collections.abc import Mapping
from typing import TypeVar

Rule = TypeVar("Rule")


def rule_of(protocol: str, rules: Mapping[str, Rule], benchmark: str) -> Rule:
    """`rules[protocol]`. Raises ValueError that names the protocols of `benchmark` for any other name."""
    if protocol not in rules:
        raise ValueError(f"{benchmark} has no protocol {protocol!r}; known: {', '.join(rules)}")
    return rules[protocol]
