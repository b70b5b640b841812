"""YAML as files and options are read: 1e-6 is a number, as in YAML 1.2, and a date is text."""

import re

import yaml

_FLOAT = re.compile(
    r"""[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?$
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$
    |[-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?$
    |[-+]?\.(?:inf|Inf|INF)$
    |\.(?:nan|NaN|NAN)$""",
    re.VERBOSE,
)
_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes 1e-6 for text, with the numbers of YAML 1.2."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in patterns if tag not in _REPLACED]
    for first, patterns in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
