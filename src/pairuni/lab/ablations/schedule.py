"""Schedules the runs of a suite: per arm and seed a chain of commands, each with its own config file.

    shapes -> complete -> pair -> train -> eval        and once: eval of the model before training

The commands are those that a user would type, so every run can be repeated or inspected by hand. Stages that several
arms share (the data of a seed, the pairs of arms that change only training) are made once.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter

from pairuni.config import DataConfig, EvaluateConfig, PairConfig, ShapesConfig, Suite, TrainConfig
from pairuni.config.renamed import first_name, with_new_names
from pairuni.errors import InputError
from pairuni.files import file_hash, read_json, read_text
from pairuni.lab.ablations.suites import SUITES, Arm, folder_of
from pairuni.runs import RunDir
from pairuni.shapes.world import SOURCES, recipe
from pairuni.streams import VERSION
from pairuni.train.inputs import model_record
from pairuni.train.resume import FREE, flat

Config = TypeVar("Config")
_EVALUATED = "evaluated"
_VERSIONS = range(1, VERSION + 1)
BEFORE = "before"
"""The name in results.jsonl of the model before training."""

_METHOD = {
    "weighting": "sqrt",
    "pair_selection.mode": "pairs",
    "sides": "both",
    "similarity_floor": 0.6,
    "select": "medoid",
}
"""Settings that the base must have: those of the arm without changes."""
_NAMES = ("benchmarks", "understanding", "generation", "held_out")
_PAIR_PLACES = ("quadruples", "output", "image_root", "weights", "feature_batch", "engine", "ray_address", "references")
"""Fields of pairing that do not enter the identity: places and ways to compute. Weights and references enter by
content."""
_PLACES = ("model.path", "data.pairs", "data.image_root", "seed", "model.precision")
"""Fields of training, beside FREE, that do not enter the identity: places, and ways to compute."""


@dataclass(frozen=True)
class Base:
    """The settings that all arms start from."""

    train: TrainConfig
    pair: PairConfig | None
    """How the pairs of `train` were made, if that is known."""
    output: Path

    @property
    def shapes(self) -> bool:
        """Whether the data is of the Shapes world and is made by the runs."""
        return self.train.data.shapes > 0


@dataclass(frozen=True)
class Stage:
    """One command. It is done when `product` exists, which the command writes last."""

    command: str
    config: Any
    product: Path

    @property
    def done(self) -> bool:
        return self.product.exists()


@dataclass(frozen=True)
class ArmRun:
    """An arm with a seed: its stages in order, and its identity."""

    arm: Arm
    seed: int
    stages: tuple[Stage, ...]
    identities: Mapping[int, str]
    """By version of the random streams, a hash of all that determines the result except the seed. Fields at their
    defaults do not enter, so that a new option does not change the identity of older results; nor does version 1 of
    the streams, which older results do not name."""

    @property
    def identity(self) -> str:
        """The identity of a run that is made now."""
        return self.identities[VERSION]

    @property
    def name(self) -> str:
        return f"{self.arm.name}/seed_{self.seed}"

    @property
    def done(self) -> bool:
        return all(stage.done for stage in self.stages)


def chosen(runs: Sequence[ArmRun], suites: Sequence[Suite], arms: Sequence[str]) -> list[ArmRun]:
    """The runs of the named arms, of their references, and of the model before training; all runs without names.

    Raises:
        InputError: a name is not an arm of the suites.
    """
    known = list(dict.fromkeys(run.arm.name for run in runs if run.arm.name != BEFORE))
    unknown = next((name for name in arms if name not in known), None)
    if unknown is not None:
        raise InputError(f"has no {unknown}; there are {', '.join(known)}", field="arms")
    beside = {SUITES[suite].reference_of(arm) for suite in suites for arm in SUITES[suite].arms if arm.name in arms}
    kept = {BEFORE, *(arms or known), *beside}
    return [run for run in runs if run.arm.name in kept]


def plan(suites: Sequence[Suite], base: Base, seeds: int) -> list[ArmRun]:
    """All runs: the model before training, then seed by seed, so that a study that stops early can be compared.

    Each arm of the suites that fits the kind of data is run once.

    Raises:
        InputError: the base is not the method that arms change, an arm changes the pairing but `base.pair` is missing,
            a suite has fewer than two arms for this kind of data, or a field has a wrong value.
    """
    _check(base)
    arms: dict[str, Arm] = {}
    for suite in suites:
        fitting = [arm for arm in SUITES[suite].arms if arm.data in ("any", "shapes" if base.shapes else "real")]
        if len(fitting) < 2:
            raise InputError(f"{suite} has fewer than two arms for this kind of data", field="suite")
        arms |= {arm.name: arm for arm in fitting}
    # A local model enters the identities by its content, and one of the Hub by its name, because the cache changes
    # when the model is first used.
    path = base.train.model.path
    scored = {k: v for k, v in _own(base.train.eval).items() if k not in ("batch", "data", "images")}
    shared = {"model": model_record(path).get("sha256") or path, "eval": scored}
    settings = {"settings": base.train.model.sampler_options} if base.train.model.sampler_options else {}
    stage = _eval_stage(base.train, path, base.output / "runs" / BEFORE)
    identities = dict.fromkeys(_VERSIONS, _hashed({**shared, **settings}))
    before = ArmRun(Arm(BEFORE, "before training"), 0, (stage,), identities)
    return [before, *(_run(arm, base, seed, shared) for seed in range(seeds) for arm in arms.values())]


def _check(base: Base) -> None:
    """Raises InputError: the base does not have the settings that the labels of the arms promise."""
    if base.pair is not None and base.shapes:
        raise InputError("is for a base with data of its own; this one's is made here", field="pair")
    given = {"base": flat(asdict(base.train)), "pair": {} if base.pair is None else asdict(base.pair)}
    for field, values in given.items():
        for name, expected in _METHOD.items():
            if values.get(name, expected) != expected:
                message = f"has {name} {values[name]}: the arms are compared with {expected}"
                raise InputError(message, field=field)
    if base.pair is None:
        return
    beside = Path(base.train.data.pairs).parent / "pairing.json"
    options = read_json(beside).get("options", {}) if beside.is_file() else {}
    for name, value in asdict(base.pair).items():
        if name not in _PAIR_PLACES and options.get(name, value) != value:
            message = f"has {name} {value}, but the pairs of the base were made with {options[name]} ({beside})"
            raise InputError(message, field="pair")


def checked_configs(runs: Sequence[ArmRun], folder: Path) -> tuple[dict[Path, Path], dict[Path, str]]:
    """The path in `folder` and the text of each stage's YAML file, by the stage's product. Writes nothing.

    The text has the fields that are not at their defaults, and the version of the random streams.

    Raises:
        InputError: a stage is done, but its config differs from the present one.
    """
    stages = {stage.product: stage for run in runs for stage in run.stages}
    paths, texts = {}, {}
    for product, stage in stages.items():
        place = Path(stage.config.output)
        place = place.parent if place.name == _EVALUATED else place
        seed = f"_{place.name}" if place.name.startswith("seed_") else ""
        paths[product] = folder / f"{place.parent.name if seed else place.name}{seed}_{stage.command}.yaml"
        content = yaml.safe_dump(_own(stage.config), sort_keys=False, allow_unicode=True)
        text = f"# pairuni {stage.command} --config {paths[product]}\n# random streams: version {VERSION}\n{content}"
        if stage.done and (not paths[product].is_file() or _stated(read_text(paths[product])) != _stated(text)):
            message = "was made with other settings, or with other spellings of paths"
            raise InputError(f"{message}; choose another output, or remove it", file=product)
        texts[product] = text
    return paths, texts


def _stated(text: str) -> tuple[list[str], dict[str, Any]]:
    """The comments and the options of a config's text, under the new names where it was written with old ones."""
    comments = [line for line in text.splitlines() if line.startswith("#")]
    return comments, with_new_names(yaml.safe_load(text))


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with new values of dotted fields. Raises InputError: a value is wrong."""
    own: dict[str, Any] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        own[head] = changed(own.get(head, getattr(config, head)), {rest: value}) if rest else value
    return replace(config, **own)  # type: ignore[type-var]


def _run(arm: Arm, base: Base, seed: int, shared: Mapping[str, Any]) -> ArmRun:
    folder = base.output / "runs" / arm.name / f"seed_{seed}"
    stages, data = _data_stages(arm, base, seed)
    logged = {"log.eval_every": 0, "log.best": "", "log.gradient_cosine_every": 0}
    train = changed(base.train, {**data, **logged, "output": str(folder), "seed": seed})
    train = changed(train, arm.train)
    if train.sides == "both" and train.distributed == "ddp":
        train = changed(train, {"log.gradient_cosine_every": base.train.log.gradient_cosine_every or 2})
    checkpoint = RunDir(folder).checkpoint(train.steps)
    stages += [Stage("train", train, checkpoint), _eval_stage(train, str(checkpoint / "model"), folder / _EVALUATED)]
    bound = {k: v for k, v in flat(asdict(train)).items() if not k.startswith((*FREE, *_PLACES))}
    # a renamed option enters a hash by its first name, so that a new name makes no older result another
    defaults = flat(asdict(TrainConfig("", data=DataConfig("-"))))
    what = {
        **shared,
        "train": {first_name(k): _joined(k, v) for k, v in bound.items() if v != defaults.get(k)},
        "steps": train.steps,
        "data": base.train.data.shapes or _own_data(arm, base),
        "pair": dict(arm.pair),
        "shapes": dict(arm.shapes),
    }
    identities = {version: _hashed(what | ({"streams": version} if version > 1 else {})) for version in _VERSIONS}
    return ArmRun(arm, seed, tuple(stages), identities)


def _own_data(arm: Arm, base: Base) -> Any:
    """The user's data by its content; None if it is missing, because configs may be written on another machine."""
    file = base.train.data.pairs
    pairing: dict[str, Any] = {}
    if arm.pair and base.pair is not None:
        file = base.pair.quadruples
        pairing = {k: v for k, v in _own(base.pair).items() if k not in _PAIR_PLACES}
        if base.pair.references:
            pairing["references"] = [_content(path) for path in base.pair.references]
        if base.pair.weights:
            pairing["weights"] = _content(base.pair.weights)
    return [file_hash(file) if Path(file).is_file() else None, pairing]


def _content(path: str) -> str:
    """The hash of a file; of anything else (a hub id, a folder) its name."""
    return file_hash(path) if Path(path).is_file() else path


def _data_stages(arm: Arm, base: Base, seed: int) -> tuple[list[Stage], dict[str, Any]]:
    """The stages that make an arm's pairs, and the fields of training that name their files."""
    if base.shapes:
        number = base.train.data.shapes
        data = base.output / "data" / folder_of(arm.shapes) / f"seed_{seed}"
        pairs = base.output / "pairs" / folder_of({**arm.shapes, **arm.pair}) / f"seed_{seed}"
        shapes = ShapesConfig(str(data), number, number, seed=seed, **arm.shapes)
        complete, pair = recipe(shapes)
        pair = replace(changed(pair, arm.pair), output=str(pairs), image_root=str(data))
        stages = [
            Stage("shapes", shapes, data / SOURCES[-1]),
            Stage("complete", complete, data / "completion.json"),
            Stage("pair", pair, pairs / "pairing.json"),
        ]
        return stages, {"data.pairs": str(pairs / "pairs.jsonl"), "data.image_root": str(data), "data.shapes": 0}
    if not arm.pair:
        return [], {}
    if base.pair is None:
        raise InputError(f"is needed, because the arm {arm.name} pairs the data again", field="pair")
    root = base.pair.image_root or str(Path(base.pair.quadruples).parent)
    pairs = base.output / "pairs" / folder_of({**arm.shapes, **arm.pair})
    pair = changed(base.pair, {**arm.pair, "output": str(pairs), "image_root": root})
    where = {"data.pairs": str(pairs / "pairs.jsonl"), "data.image_root": root}
    return [Stage("pair", pair, pairs / "pairing.json")], where


def _eval_stage(train: TrainConfig, model: str, folder: Path) -> Stage:
    shared = {f.name: getattr(train.eval, f.name) for f in fields(train.eval)}
    how = {name: getattr(train.model, name) for name in ("device", "precision", "sampler_options")}
    return Stage("eval", EvaluateConfig(**shared, model=model, output=str(folder), **how), folder / "eval.json")


def _own(config: Any) -> dict[str, Any]:
    """The fields that are not at their defaults; groups become mappings."""
    return _plain(TypeAdapter(type(config)).dump_python(config, exclude_defaults=True))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _plain(v) if isinstance(v, dict) else _joined(k, v) for k, v in values.items()}


def _joined(name: str, value: Any) -> Any:
    """Lists of benchmarks and rewards as one text, as the identities of kept results have them."""
    return ",".join(value) if isinstance(value, list) and name.rpartition(".")[2] in _NAMES else value


def _hashed(what: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=asdict).encode()).hexdigest()[:16]
