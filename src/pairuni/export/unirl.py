"""`write_unirl`: pairs.jsonl and its images -> the JSON Lines and image files that UniRL's trainers read.

    pairuni export unirl PAIRS.jsonl --output DIR

understanding.jsonl asks about the images in images/, generation.jsonl has prompts. They are two files because most
models take no batch in which some rows have an image and some have none. The keys follow the sources of
https://github.com/Tencent-Hunyuan/UniRL, as of autumn 2026:

- unirl/data/datasets.py: `TextPromptDataset` reads one object per line with `prompt`, `prompt_id`, `media_refs`
  (modality, role and uri alone; a relative uri is looked for beside the file) and `metadata`, and keeps nothing else.
  It opens the file in the encoding of its locale, so everything here is ASCII.
- unirl/data/data_source.py, unirl/types/media.py: a question's image has the role `condition`; PIL opens it and turns
  it into RGB. unirl/types/sample.py: an id may have no `/`; `metadata` reaches rewards and the training step.
- datasets/geo3k_mc/prepare_geo3k_mc.py, unirl/reward/local/mc_exact_match.py: `metadata.answer` is the right letter,
  and an `<image>` in a question is taken out.
"""

import io
import json
from collections.abc import Iterable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from pairuni.config import UnirlConfig
from pairuni.errors import InputError
from pairuni.export.folder import IMAGE_FIELD, PairImages, WeightedPair, write_folder
from pairuni.types import Side

FILES = {side: f"{side}.jsonl" for side in Side}
IMAGES = "images"


def write_unirl(config: UnirlConfig) -> dict[str, Any]:
    """Writes the folder whole or not at all, and returns what its pairuni_export.json holds, and `notes`.

    Raises:
        InputError: a line of the pairs is wrong, an image is missing or broken, a question is nothing but the mark of
            an image (naming file, line and field), or `output` holds something else than an earlier export.
    """

    def write(folder: Path, pairs: Iterable[WeightedPair], images: PairImages) -> None:
        (folder / IMAGES).mkdir()
        with ExitStack() as stack:
            files = {side: stack.enter_context((folder / FILES[side]).open("w", encoding="ascii")) for side in Side}
            for pair in pairs:
                for side, file in files.items():
                    row = _row(pair, side, config.pairs)
                    if side is Side.UNDERSTANDING:
                        content = images.read(pair.pair.understand.image_path, pair.line, IMAGE_FIELD)
                        uri = _store(content, folder)
                        row["media_refs"] = [{"modality": "image", "role": "condition", "uri": uri}]
                    file.write(json.dumps(row) + "\n")

    return write_folder(config, "unirl", rf"(understanding|generation)\.jsonl|{IMAGES}/[0-9a-f]{{64}}\.\w+", write)


def _row(pair: WeightedPair, side: Side, file: str) -> dict[str, Any]:
    """A row of one side without its image."""
    half, text = pair.pair.half(side), pair.pair.generate.prompt
    if side is Side.UNDERSTANDING:
        text = half.question
        if "<image>" in text and not (text := text.replace("<image>", "").strip()):
            raise InputError("asks nothing", file=file, line=pair.line, field="understand_ann.question")
    # Ids are parts of paths there, split at "/".
    name = pair.pair.id.replace("%", "%25").replace("/", "%2F")
    return {"prompt_id": f"{name}:{side}", "prompt": text, "metadata": pair.facts(side)}


def _store(content: bytes, folder: Path) -> str:
    """Writes the image, once for all pairs that have it, under a name that no user gave. Returns its uri."""
    with Image.open(io.BytesIO(content)) as image:
        kind = str(image.format).lower().replace("mpo", "jpeg")  # a JPEG with further pictures behind the first
    uri = f"{IMAGES}/{sha256(content).hexdigest()}.{kind}"
    if not (folder / uri).exists():
        (folder / uri).write_bytes(content)
    return uri
