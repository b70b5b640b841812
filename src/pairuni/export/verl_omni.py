"""`write_verl_omni`: pairs.jsonl and its images -> the parquet files that verl-omni's trainers read.

    pairuni export verl-omni PAIRS.jsonl --output DIR

understanding.parquet asks about an image, for trainers of text; generation.parquet has prompts, for trainers of
images. The columns follow these sources, as of autumn 2026:

- https://github.com/verl-project/verl, verl/utils/dataset/rl_dataset.py: `RLHFDataset` loads parquet with `datasets`,
  takes `prompt` as chat messages, puts the entries of `images` in the places of `<image>` in their text (one each, or
  it stops) and hands every other column on. Rollouts of one row are a group, by a `uid` that the trainer gives it.
- https://github.com/verl-project/verl-omni, verl_omni/utils/dataset/rl_dataset.py: that class, and an optional
  `negative_prompt`. examples/gspo_trainer/data_process/geo3k.py and mmk12.py (questions about images) and
  examples/flowgrpo_trainer/data_process/bagel_pickscore.py (prompts): `data_source`, `ability`, `reward_model` {style,
  ground_truth}, `extra_info` {split, index, ...}, of which rewards and the training step see all.

Left out: `prompt_token_ids`, which that repository's recipes for BAGEL add with the model's own tokenizer.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow

from pairuni.config import VerlOmniConfig
from pairuni.errors import InputError
from pairuni.export.folder import IMAGE_FIELD, PairImages, ParquetFile, WeightedPair, write_folder
from pairuni.types import Side

FILES = {side: f"{side}.parquet" for side in Side}
IMAGE = "<image>"
"""Where the trainer's dataset puts an image into a message."""
_MEDIA = re.compile("<image>|<video>|<audio>")
_FACTS = ("pair_id", "side", "kind", "sample_id", "tag", "prompt", "question", "answer", "image_path")
_NUMBERS = ("similarity", "weight")


def schema(side: Side, negative: bool = False) -> pyarrow.Schema:
    """The columns of one side's file. Columns of both sides have one type, so that both can be read as one data set.

    Plain arrow types: versions of `datasets` before 4 cannot read its own metadata about lists and images.
    """
    text = pyarrow.string()
    messages = pyarrow.list_(pyarrow.struct({"role": text, "content": text}))
    columns = {"data_source": text, "prompt": messages}
    if side is Side.UNDERSTANDING:
        columns["images"] = pyarrow.list_(pyarrow.struct({"bytes": pyarrow.binary()}))
    elif negative:
        columns["negative_prompt"] = messages
    info = {"split": text, "index": pyarrow.int64()}
    info |= dict.fromkeys(_FACTS, text) | dict.fromkeys(_NUMBERS, pyarrow.float64())
    columns |= {"ability": text, "reward_model": pyarrow.struct({"style": text, "ground_truth": text})}
    return pyarrow.schema(columns | {"extra_info": pyarrow.struct(info)})


def write_verl_omni(config: VerlOmniConfig) -> dict[str, Any]:
    """Writes the folder whole or not at all, and returns what its pairuni_export.json holds, and `notes`.

    Raises:
        InputError: a line of the pairs is wrong, an image is missing or broken, a question has a mark of the trainer's
            in it (naming file, line and field), or `output` holds something else than an earlier export.
    """

    def write(folder: Path, pairs: Iterable[WeightedPair], images: PairImages) -> None:
        negative = config.negative_prompt is not None
        files = {side: ParquetFile(folder / FILES[side], schema(side, negative)) for side in Side}
        try:
            for index, pair in enumerate(pairs):
                for side, file in files.items():
                    row = _row(pair, side, index, config)
                    size = 0
                    if side is Side.UNDERSTANDING:
                        image_path = pair.pair.understand.image_path
                        content = images.read(image_path, pair.line, IMAGE_FIELD)
                        row["images"], size = [{"bytes": content}], len(content)
                    file.add(row, size)
        finally:
            for file in files.values():
                file.close()

    return write_folder(config, "verl-omni", r"(understanding|generation)\.parquet", write)


def _row(pair: WeightedPair, side: Side, index: int, config: VerlOmniConfig) -> dict[str, Any]:
    """A row of one side without its image."""
    half, asks = pair.pair.half(side), side is Side.UNDERSTANDING
    text = _question(half.question, config.pairs, pair.line) if asks else half.prompt
    row: dict[str, Any] = {
        "data_source": f"{config.data_source}/{side}",
        "prompt": [{"role": "user", "content": text}],
        "ability": str(side),
        "reward_model": {"style": "rule", "ground_truth": half.answer}
        if asks
        else {"style": "model", "ground_truth": half.prompt},
        "extra_info": {"split": "train", "index": index, **pair.facts(side)},
    }
    if config.negative_prompt is not None and not asks:
        row["negative_prompt"] = [{"role": "user", "content": config.negative_prompt}]
    return row


def _question(question: str, file: str, line: int) -> str:
    """The question with one place for the image: where it has it, otherwise before it."""
    marks = _MEDIA.findall(question)
    if marks in ([], [IMAGE]):
        return question if marks else f"{IMAGE}\n{question}"
    message = f"has {', '.join(marks)} in it, where the trainer would put media; there is one image to a question"
    raise InputError(message, file=file, line=line, field="understand_ann.question")
