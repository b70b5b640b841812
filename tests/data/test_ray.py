"""The feature stage on Ray: the same bytes as in one process, the same errors, nothing computed twice after kill -9.

Those that start Ray are slow and need the extra `cluster`, which `make test-slow` installs.
"""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray_world

from data_files import write_image, write_lines
from pairuni.cli.main import main
from pairuni.config import PairConfig
from pairuni.data import ray_engine
from pairuni.data.features import extract, load_extractor
from pairuni.data.images import load_image
from pairuni.data.pairing import run_pair
from pairuni.data.ray_engine import RayEngine, _join, choose_engine
from pairuni.errors import InputError
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import random_scene

IMAGES = 320
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quadruples of both sides with Shapes images, in a folder whose name is no easy path."""
    folder, rng = tmp_path_factory.mktemp("world") / "100% #1?", np.random.default_rng(3)
    rows = []
    for n in range(IMAGES):
        write_image(folder / f"{n}.png", render(random_scene(rng, "train"), rng))
        side = "generation" if n % 2 else "understanding"
        texts = {"prompt": "p", "question": "q", "answer": "A"}
        rows.append({"id": f"q{n}", "side": side, "image_path": f"{n}.png", **texts})
    write_lines(folder / "quadruples.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def local(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("local")
    assert run_pair(ray_world.config(str(world / "quadruples.jsonl"), str(output), "local"))["counts"]["retrieved"] > 20
    return output


def same(output: Path, local: Path) -> None:
    for name in ("pairs.jsonl", "features/colour_hog-1/features.f32", "features/colour_hog-1/keys.sha256"):
        assert (output / name).read_bytes() == (local / name).read_bytes(), name
    assert not (output / "features" / "colour_hog-1" / "ray").exists()


def command(world: Path, output: Path) -> list[str]:
    options = {"quadruples": world / "quadruples.jsonl", "output": output, "extractor": "colour_hog", "clusters": 20}
    return ["pair", *(f"--{name}={value}" for name, value in options.items()), "--feature_batch=4", "--engine=ray"]


@pytest.mark.slow
def test_the_same_bytes_as_in_one_process(world: Path, local: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pairuni", *command(world, tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    same(tmp_path, local)
    assert f"{IMAGES}/{IMAGES}" in done.stderr and "usage" not in done.stderr.lower()


@pytest.mark.slow
def test_killed_and_started_again_computes_nothing_twice(world: Path, local: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    done = output / "features" / "colour_hog-1" / "ray" / "done"

    def start(run: str) -> subprocess.Popen[bytes]:
        places = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"PYTHONPATH": os.pathsep.join(places), "RAY_WORLD_LOG": str(log), "RAY_WORLD_RUN": run}
        parts = [sys.executable, HERE / "ray_world.py", world / "quadruples.jsonl", output]
        return subprocess.Popen([*map(str, parts)], env=os.environ | environment, stderr=subprocess.DEVNULL)

    def committed() -> list[str]:
        files = [file for file in done.glob("*.parquet") if ".pending." not in file.name]
        return [key for file in files for key in pq.read_table(file)["key"].to_pylist()]

    process = start("first")
    while process.poll() is None and len(committed()) < IMAGES // 4:
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.wait()
    finished = committed()
    assert IMAGES // 4 <= len(finished) == len(set(finished)) < IMAGES
    assert not (output / "pairs.jsonl").exists()

    assert start("second").wait() == 0
    same(output, local)
    images = [load_image(world / f"{n}.png") for n in range(IMAGES)]
    contents = {ray_world.name(image) for image in images}
    hashes = set(stored_keys(local / "features" / "colour_hog-1"))
    assert len(hashes) == len(contents) and set(finished) <= hashes
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    first, second = (Counter(key for run, key in lines if run == name) for name in ("first", "second"))
    assert max(first.values()) == max(second.values()) == 1, "an image was computed twice in one run"
    assert set(first) | set(second) == contents
    # What was in a finished shard is not computed again. What was computed for shards that were not finished may be.
    assert len(second) <= len(contents) - len(finished)
    print(f"{len(first)} computed before the kill, {len(finished)} of them in finished shards; {len(second)} after it")


def stored_keys(store: Path) -> list[str]:
    content = (store / "keys.sha256").read_bytes()
    return [content[n : n + 32].hex() for n in range(0, len(content), 32)]


@pytest.mark.slow
def test_broken_images_are_left_out_as_in_one_process(world: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(world, copy)
    for n in (200, 31):
        (copy / f"{n}.png").write_bytes(b"text %d" % n)
    said = []
    for engine in ("ray", "local"):
        assert main([*command(copy, tmp_path / engine), f"--engine={engine}"]) == 0
        said.append((tmp_path / engine / "removed.jsonl").read_text(encoding="utf-8"))
    assert said[0] == said[1] and said[0].count("image cannot be read") == 2
    same(tmp_path / "ray", tmp_path / "local")
    assert len(stored_keys(tmp_path / "ray" / "features" / "colour_hog-1")) == IMAGES - 2


@pytest.fixture(scope="module")
def tiny_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    folder = tmp_path_factory.mktemp("resnet")
    ResNetModel(config).eval().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_vision_model_in_a_session_of_the_caller(
    world: Path, tiny_resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def interrupted(*work):
        raise KeyboardInterrupt

    def watched(work, *rest):
        seen.append(sorted((work / "done").iterdir()))
        return fold(work, *rest)

    fold, seen = ray_engine._fold, []
    place, weights = "pairuni.data.vision:resnet50", str(tiny_resnet)
    paths, here = [world / f"{n}.png" for n in range(40)], load_extractor("resnet50", weights)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        found = extract(paths, here, 2, tmp_path / "ray", engine=RayEngine(place, weights))
        assert np.allclose(found, extract(paths, here, 16), atol=1e-5) and np.ptp(found) > 0.1
        assert ray.is_initialized(), "the caller's session is left open"
        # Stopped when Ray is done and nothing is in the store yet: nothing is computed again.
        monkeypatch.setattr(ray_engine, "_fold", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(paths, here, 2, tmp_path / "stopped", engine=RayEngine(place, weights))
        work = tmp_path / "stopped" / here.identity / "ray"
        finished = sorted((work / "done").iterdir())
        monkeypatch.setattr(ray_engine, "_fold", watched)
        again = extract(paths, here, 2, tmp_path / "stopped", engine=RayEngine(place, weights))
        assert seen == [finished] and len(finished) == 2 and np.array_equal(again, found)
        with pytest.raises(InputError, match=r"weights: on a worker: a worker has resnet50-\w+, not other"):
            other = SimpleNamespace(identity="other", features=here.features)
            extract(paths, other, 2, tmp_path / "other", engine=RayEngine(place, weights))
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_cluster_by_its_address(world: Path, local: Path, tmp_path: Path) -> None:
    """Two nodes of a cluster, here on one machine: what one worker writes the other reads, through the folder."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=3)
        words = [sys.executable, "-m", "pairuni", *command(world, tmp_path), f"--ray_address={cluster.address}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stderr
    same(tmp_path, local)


def test_an_address_that_nothing_answers_at() -> None:
    """Known before Ray is asked, which would try for ever."""
    with pytest.raises(InputError, match=r"ray_address: no Ray cluster answers at 127\.0\.0\.1:1"):
        _join(SimpleNamespace(), "127.0.0.1:1", {})
    with pytest.raises(InputError, match="ray_address: no Ray cluster answers at head"):
        _join(SimpleNamespace(), "head", {})


def test_without_ray_it_says_what_to_install(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert main(command(world, tmp_path)) == 2
    assert capsys.readouterr().err == 'pairuni pair: engine: ray is not installed: pip install "pairuni[cluster]"\n'
    assert not list(tmp_path.iterdir())


def test_an_address_needs_the_engine() -> None:
    with pytest.raises(InputError, match="ray_address: needs engine: ray"):
        PairConfig("q", "o", ray_address="auto")


def test_a_cluster_that_is_too_small_is_refused(tmp_path: Path) -> None:
    small = SimpleNamespace(cluster_resources=lambda: {"CPU": 3.0})
    with pytest.raises(InputError, match="ray_address: has 3 CPU slots, needs at least 4"):
        RayEngine("pairuni.data.colour_hog:ColourHog", "")._run(small, tmp_path, "colour_hog-1", 1, 1)


def test_nothing_to_compute_needs_no_ray_and_clears_up(world: Path, local: Path, tmp_path: Path) -> None:
    """A run may be killed between the last row and the removal of Ray's folders."""
    output = tmp_path / "out"
    shutil.copytree(local, output)
    left = output / "features" / "colour_hog-1" / "ray" / "plan"
    left.mkdir(parents=True)
    paths = [world / f"{n}.png" for n in range(IMAGES)]
    engine = RayEngine("no.such.module:Extractor", "")
    found = extract(paths, load_extractor("colour_hog"), 8, output / "features", engine=engine)
    assert found.shape == (IMAGES, 406)
    same(output, local)


def test_weights_of_a_relative_folder_are_found_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "_ray", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    found = [choose_engine(PairConfig("q", "o", engine="ray", weights=w)) for w in ("mine", "owner/name", "")]
    weights = [engine.weights for engine in found if isinstance(engine, RayEngine)]
    assert weights == [str(tmp_path / "mine"), "owner/name", "microsoft/resnet-50"]


def test_the_engine_of_one_process_needs_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from pairuni.data.features import compute_here

    monkeypatch.setitem(sys.modules, "ray", None)
    assert choose_engine(PairConfig("q", "o")) is compute_here
