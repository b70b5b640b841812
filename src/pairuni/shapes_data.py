"""The Shapes data that a training config asks for (`data.shapes`): images of two sources, completed and paired.

Every stage is the one that a user's own data goes through. shapes.json beside pairs.jsonl says what the data was made
from, so that it is never taken for other data.
"""

from pathlib import Path

from pairuni.config import DataConfig, ShapesConfig
from pairuni.errors import InputError
from pairuni.files import check_folder, read_json, write_json
from pairuni.shapes.world import QUADRUPLES, SOURCES, recipe, write_world
from pairuni.stages import run_complete, run_pair

RECORD = "shapes.json"


def make_data(data: DataConfig, seed: int) -> None:
    """Writes `data.pairs` where `data.shapes` asks for it and the file is absent; `seed` is the run's.

    Pairs without a shapes.json beside them are the user's own and are taken as they are.

    Raises:
        InputError: data of another number of images or another seed is there, or files that would be written over.
    """
    if not data.shapes:
        return
    pairs = Path(data.pairs)
    folder, record = pairs.parent, pairs.parent / RECORD
    made = {"shapes": data.shapes, "seed": seed}
    if pairs.is_file():
        there = read_json(record) if record.is_file() else made
        for name, value in made.items():
            if there.get(name) != value:
                what = f"is {there.get(name)!r} for the data here, but {value} for this run; choose another data.pairs"
                raise InputError(f"{what}, or data.shapes 0 to take the data as it is", file=record, field=name)
        return
    if pairs.name != "pairs.jsonl":
        raise InputError("must end in pairs.jsonl, the file that data.shapes makes", field="data.pairs")
    if data.image_root is not None:
        raise InputError("must be left out where data.shapes makes the images", field="data.image_root")
    check_folder(folder)
    for file in (folder / name for name in (*SOURCES, QUADRUPLES)):
        if file.exists() and not record.is_file():
            raise InputError("is there already, and data.shapes would write over it", file=file)
    number = data.shapes
    print(f"no pairs yet: writing {number} understanding and {number} generation images to {folder}")
    write_json(record, made)  # first, so that a stopped call is seen to be ours and is begun again
    write_world(world := ShapesConfig(str(folder), number, number, seed=seed))
    print("completing each sample's missing half, then pairing")
    complete, pair = recipe(world)
    run_complete(complete)
    run_pair(pair)
