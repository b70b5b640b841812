"""Options of the Shapes data: what each changes, and that it changes nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pairuni.cli.main import main
from pairuni.config import ShapesConfig
from pairuni.data.shapes_content import ShapesContent
from pairuni.errors import InputError
from pairuni.files import read_jsonl
from pairuni.shapes.captions import TASKS, fits, prompt_split, read
from pairuni.shapes.detector import read_scene
from pairuni.shapes.questions import TYPES
from pairuni.shapes.renderer import BACKGROUND, TINTS, render
from pairuni.shapes.scenes import Scene, Thing, random_scene, scene_split
from pairuni.shapes.world import write_world

NUMBER = 30


def write(folder: Path, **options: Any) -> dict[str, list[dict[str, Any]]]:
    """Rows of both sources, each with its `pixels`."""
    write_world(ShapesConfig(str(folder), NUMBER, NUMBER, **options))
    sources = {}
    for name in ("understanding", "generation"):
        sources[name] = [row for _, row in read_jsonl(folder / f"{name}.jsonl")]
        for row in sources[name]:
            row["pixels"] = np.asarray(Image.open(folder / row["image_path"]))
    return sources


def scenes(rows: list[dict[str, Any]]) -> list[Scene | None]:
    return [read_scene(row["pixels"]) for row in rows]


def texts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "pixels"} for row in rows]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_common_scenes_are_shown_once_more(tmp_path: Path, share: float) -> None:
    plain, common = write(tmp_path / "plain"), write(tmp_path / "common", common=share)
    assert texts(common["understanding"]) == texts(plain["understanding"])
    same = [a == b for a, b in zip(texts(common["generation"]), texts(plain["generation"]), strict=True)]
    asked, drawn = scenes(common["understanding"]), scenes(common["generation"])
    again = [scene for scene, kept in zip(drawn, same, strict=True) if not kept]
    assert len(again) == round(share * NUMBER)
    # One for one: taking each scene out once leaves none over.
    left = list(asked)
    for scene in again:
        left.remove(scene)
    pictures = {row["pixels"].tobytes() for rows in common.values() for row in rows}
    assert len(pictures) == 2 * NUMBER  # drawn anew
    for row, scene in zip(common["generation"], drawn, strict=True):
        requirement = read(row["prompt"])
        assert scene is not None and requirement is not None
        assert fits(requirement, scene) and prompt_split(row["prompt"], requirement) == "train"


def test_more_common_scenes_than_there_are_come_again(tmp_path: Path) -> None:
    write_world(ShapesConfig(str(tmp_path), 4, 10, common=1.0))
    rows = [row for _, row in read_jsonl(tmp_path / "generation.jsonl")]
    found = {read_scene(np.asarray(Image.open(tmp_path / row["image_path"]))) for row in rows}
    assert len(rows) == 10 and len(found) <= 4


@pytest.mark.parametrize("backgrounds", ["mixed", "apart"])
def test_backgrounds_change_nothing_but_the_background(tmp_path: Path, backgrounds: str) -> None:
    plain, tinted = write(tmp_path / "plain"), write(tmp_path / "tinted", backgrounds=backgrounds)
    corners = {}
    for source in plain:
        assert texts(tinted[source]) == texts(plain[source])
        assert scenes(tinted[source]) == scenes(plain[source])
        corners[source] = {tuple(row["pixels"][0, 0].tolist()) for row in tinted[source]}
    if backgrounds == "mixed":
        assert corners["understanding"] == corners["generation"] == set(TINTS)
    else:
        assert corners == {"understanding": {TINTS[0]}, "generation": {TINTS[1]}}


def test_the_detector_reads_every_scene_on_every_tint() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        scene = random_scene(rng, "train")
        for tint in TINTS:
            assert read_scene(render(scene, rng, background=tint)) == scene
    assert TINTS[0] == BACKGROUND


def test_types_and_tasks(tmp_path: Path) -> None:
    rows = write(tmp_path, question_types=["count", "colour"], tasks=["scene", "position", "single"])
    assert [row["tag"] for row in rows["understanding"]] == ["count", "colour"] * (NUMBER // 2)
    assert [row["tag"] for row in rows["generation"]] == ["scene", "position", "single"] * (NUMBER // 3)
    found = scenes(rows["understanding"]) + scenes(rows["generation"])
    assert all(scene is not None and scene_split(scene) == "train" for scene in found)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"question_types": ["counting"]}, f"question_types: 'counting' is not one of {', '.join(TYPES)}"),
        ({"tasks": ["two", "count"]}, f"tasks: 'count' is not one of scene, {', '.join(TASKS)}"),
    ],
)
def test_unknown_names(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_world(ShapesConfig(str(tmp_path / "new"), **option))
    assert not (tmp_path / "new").exists()


def test_the_command_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = ["shapes", "--understanding", "6", "--generation", "6", "--output", str(tmp_path)]
    assert main([*some, "--common", "0.5", "--backgrounds", "apart", "--question_types", '["count"]']) == 0
    assert {row["tag"] for _, row in read_jsonl(tmp_path / "understanding.jsonl")} == {"count"}
    assert main([*some, "--common", "1.5"]) == 2
    assert "common: must be at most 1, not 1.5" in capsys.readouterr().err


def test_content_is_what_is_there_and_not_where_or_how() -> None:
    red, blue = ("red", "circle"), ("blue", "circle")
    cells = [(0, 0), (1, 2)]

    def image(*kinds: tuple[str, str], at: int = 0, tint: int = 0) -> np.ndarray:
        things = [Thing(*cells[(n + at) % 2], shape, colour) for n, (colour, shape) in enumerate(kinds)]
        return render(Scene(tuple(sorted(things))), np.random.default_rng(at), background=TINTS[tint])

    one, elsewhere, other, two, square, empty = ShapesContent().features(
        [
            image(red),
            image(red, at=1, tint=2),
            image(blue),
            image(red, red),
            image(("blue", "square")),
            np.full((48, 48, 3), 244, np.uint8),
        ]
    )
    np.testing.assert_allclose(one @ elsewhere, 1, atol=1e-6)
    np.testing.assert_allclose(one @ two, 1, atol=1e-6)  # twice as many of the same kind point the same way
    np.testing.assert_allclose(one @ other, 1 / 3, atol=1e-6)  # of colour, shape and both, the shape alone
    assert one @ square == 0 and empty @ one == 0
    np.testing.assert_allclose(np.linalg.norm(empty), 1, atol=1e-6)
