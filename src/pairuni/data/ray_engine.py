"""The feature stage on Ray Data (`engine: ray`): images spread over the processes of one machine or of a cluster.

The work itself is features.feature_rows, as in the engine of one process. Around it are plain stages over parquet
files with one row per image, keyed by the image's content: plan/ (key, path) is what is left to compute; shards/ (key,
feature row, or why there is none) is what workers wrote; done/ is Ray's own checkpoint, the keys of finished shards, so
that a run which is started again after a kill computes only the others. At the end the shards go into the feature store
in the order of the input and the three folders are removed. Workers must see images and output under the same paths.

Ray is an optional extra and is imported when it is used.
"""

import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from pairuni.config import PairConfig
from pairuni.data.feature_store import FeatureStore
from pairuni.data.features import DECODERS, EXTRACTORS, Engine, Extractor, compute_here, feature_rows, make_extractor
from pairuni.data.images import load_image
from pairuni.errors import InputError
from pairuni.progress import Progress, track

_SLOTS = 3
"""CPU slots that extractors leave free. Ray reads, filters by checkpoint and writes in tasks of its own; where these
find no slot a resumed run makes no progress."""
_SHARD_BATCHES = 16
"""Batches of the extractor per shard: the work of one task, and about the loss of a kill per worker."""
_PLAN_ROWS = 1 << 17
_OPEN_SHARDS, _STORED_ROWS = 16, 1 << 10  # held and stored at once, at the end
_CONNECT = 10.0  # seconds
_POLL = 2.0  # seconds between looks at how far it is
_PLAN = pa.schema({"key": pa.string(), "path": pa.string()})
_SHARD = pa.schema({"key": pa.string(), "features": pa.list_(pa.float32()), "error": pa.string(), "field": pa.string()})


def choose_engine(config: PairConfig) -> Engine:
    """The engine that a config asks for. Raises InputError: Ray is not installed."""
    if config.engine == "local":
        return compute_here
    _ray()
    place, default = EXTRACTORS[config.extractor]
    folder = Path(config.weights).resolve()  # workers may have another working directory
    weights = str(folder) if config.weights and folder.exists() else config.weights or default
    return RayEngine(place, weights, config.ray_address)


@dataclass(frozen=True)
class RayEngine:
    """An `Engine`; the store must have a folder.

    Errors of images that cannot be read are worded by this process, as those of the engine of one process.
    """

    place: str
    """`module:class or function` of the extractor; workers make their own."""
    weights: str
    address: str = ""
    """Address of a cluster; empty: a Ray that is started for this run on this machine."""

    def __call__(
        self, path_of: Mapping[str, Path], extractor: Extractor, batch: int, store: FeatureStore
    ) -> dict[str, InputError]:
        """Raises InputError: no cluster answers, or its workers have other weights or other files than this process."""
        assert store.folder is not None
        work = store.folder.resolve() / "ray"
        failed: dict[str, InputError] = {}
        if path_of:
            store.reserve()  # keeps a second run out of the folder from here on
            shutil.rmtree(work / "plan", ignore_errors=True)
            (work / "plan").mkdir(parents=True)
            keys = list(path_of)
            for start in range(0, len(keys), _PLAN_ROWS):
                some = keys[start : start + _PLAN_ROWS]
                table = pa.table({"key": some, "path": [str(path_of[key].resolve()) for key in some]}, schema=_PLAN)
                pq.write_table(table, work / "plan" / f"{start:012d}.parquet")
            with ray_session(self.address) as ray:
                self._run(ray, work, extractor.identity, batch, len(path_of))
            failed = _fold(work, keys, store)
        shutil.rmtree(work, ignore_errors=True)
        unreadable = {key: _told_here(path, failed[key]) for key, path in path_of.items() if key in failed}
        missing = sum(key not in store for key in path_of.keys() - failed.keys())
        if missing and self.address:
            message = f"{missing} images have no row: do all machines of the cluster see {work.parent}?"
            raise InputError(message, field="ray_address")
        assert not missing, f"Ray lost the rows of {missing} images"
        return unreadable

    def _run(self, ray: Any, work: Path, identity: str, batch: int, images: int) -> None:
        """plan/ -> shards/ and done/, all but what is done already."""
        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0)) if self.weights else 0
        if cpus <= _SLOTS:
            raise InputError(f"has {cpus} CPU slots, needs at least {_SLOTS + 1}", field="ray_address")
        # A file system of its own, since Ray takes a path for a URI and so stumbles over some characters.
        here = SubTreeFileSystem(str(work), LocalFileSystem())
        data = ray.data.read_parquet("plan", filesystem=here)
        data.context.checkpoint_config = import_module("ray.data.checkpoint").CheckpointConfig(
            "key", "done", delete_checkpoint_on_success=False, override_filesystem=here
        )
        data.context.enable_progress_bars = data.context.print_on_execution_start = False
        data = data.repartition(target_num_rows_per_block=batch * _SHARD_BATCHES).map_batches(
            _Worker,
            fn_constructor_args=(self.place, self.weights, identity, batch, DECODERS if gpus else 1),
            batch_size=None,  # a block is a batch, and becomes a shard
            batch_format="pyarrow",
            num_cpus=1,
            num_gpus=1 if gpus else 0,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(gpus or cpus, cpus - _SLOTS)),
        )
        with _progress(work / "done", identity, images):
            data.write_parquet("shards", filesystem=here)


def _told_here(path: Path, failure: InputError) -> InputError:
    """This process' error for an image that a worker could not read. Raises InputError where only a worker fails."""
    if failure.field is None:
        try:
            load_image(path)
        except InputError as err:
            return err
    raise InputError(f"on a worker: {failure.message}", field=failure.field)


class _Worker:
    """One process of the cluster with an extractor of its own: rows (key, path) -> rows of a shard."""

    def __init__(self, place: str, weights: str, identity: str, batch: int, decoders: int) -> None:
        self._batch, self._decoders = batch, decoders
        self._extractor: Extractor | InputError
        try:
            self._extractor = make_extractor(place, weights)
            if self._extractor.identity != identity:  # weights of the same name may differ between machines
                raise InputError(f"a worker has {self._extractor.identity}, not {identity}", field="weights")
        except InputError as err:
            self._extractor = err

    def __call__(self, rows: pa.Table) -> pa.Table:
        path_of = {row["key"]: Path(row["path"]) for row in rows.to_pylist()}
        failed: dict[str, InputError] = {}
        shard: list[dict[str, Any]] = []
        if isinstance(self._extractor, InputError):
            failed = dict.fromkeys(path_of, self._extractor)
        else:
            for keys, rows_ND in feature_rows(path_of, self._extractor, self._batch, self._decoders, failed):
                shard += [{"key": key, "features": row} for key, row in zip(keys, rows_ND, strict=True)]
        for key, err in failed.items():
            shard.append({"key": key, "error": err.message if err.field else str(err), "field": err.field})
        return pa.Table.from_pylist(shard, schema=_SHARD)


def _ray() -> Any:
    """The module, with Ray Data. Raises InputError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import_module("ray.data")
        return import_module("ray")
    except ImportError:
        raise InputError('ray is not installed: pip install "pairuni[cluster]"', field="engine") from None


@contextmanager
def ray_session(address: str, spare: int = _SLOTS) -> Iterator[Any]:
    """Ray, connected, and quiet unless something fails. A connection that was there before is used and left open.

    Args:
        address: of a cluster; empty: a Ray that is started on this machine, with `spare` slots beside its cores.

    Raises:
        InputError: Ray is not installed, or no cluster answers.
    """
    ray = _ray()
    logger = logging.getLogger("ray.data")
    level, mine = logger.level, not ray.is_initialized()
    logger.setLevel(logging.ERROR)
    try:
        if mine:
            options = {"log_to_driver": False, "logging_level": logging.ERROR}
            if address:
                _join(ray, address, options)
            else:
                cores = os.cpu_count() or 1
                ray.init(address="local", num_cpus=cores + spare, include_dashboard=False, **options)
        yield ray
    finally:
        logger.setLevel(level)
        if mine:
            ray.shutdown()


def _join(ray: Any, address: str, options: Mapping[str, Any]) -> None:
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=_CONNECT):  # Ray itself would try for ever
                pass
        ray.init(address=address, **options)
    except (OSError, ValueError, OverflowError, RuntimeError) as err:
        reason = " ".join(str(err).split())[:200]
        raise InputError(f"no Ray cluster answers at {address} ({reason})", field="ray_address") from None


@contextmanager
def _progress(done: Path, name: str, images: int) -> Iterator[None]:
    """A bar over the rows that Ray's checkpoint has."""
    finished, counted = threading.Event(), set()

    def follow(bar: Progress) -> None:
        last = False
        while not last:
            last = finished.wait(_POLL)
            for file in _committed(done):
                if file not in counted:
                    counted.add(file)
                    bar.update(min(pq.read_metadata(file).num_rows, images - bar.n))

    with track(total=images, desc=f"{name} on ray", unit="image") as bar:
        watcher = threading.Thread(target=follow, args=(bar,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()


def _committed(done: Path) -> list[Path]:
    """The files of Ray's checkpoint. Those of shards that are still being written have `.pending` in their names."""
    return sorted(file for file in done.glob("*.parquet") if not file.name.endswith(".pending.parquet"))


def _fold(work: Path, keys: Sequence[str], store: FeatureStore) -> dict[str, InputError]:
    """Puts the rows of all finished shards into the store, in the order of `keys`; returns what failed, by key.

    Keys of an earlier plan that are not in `keys` come after them: an interrupted run may have had other images too.
    """
    shards = [file for done in _committed(work / "done") for file in sorted((work / "shards").glob(f"{done.stem}-*"))]
    failed: dict[str, InputError] = {}
    place_of: dict[str, tuple[Path, int]] = {}
    for shard in shards:
        for n, row in enumerate(pq.read_table(shard, columns=["key", "error", "field"]).to_pylist()):
            if row["error"] is None:
                place_of[row["key"]] = shard, n
            else:
                failed[row["key"]] = InputError(row["error"], field=row["field"])

    @lru_cache(maxsize=_OPEN_SHARDS)  # Ray writes them roughly in the order of the plan
    def features(shard: Path) -> list[Any]:
        return pq.read_table(shard, columns=["features"])["features"].to_numpy().tolist()

    wanted = [key for key in [*keys, *sorted(place_of.keys() - set(keys))] if key in place_of and key not in store]
    for start in range(0, len(wanted), _STORED_ROWS):
        some = wanted[start : start + _STORED_ROWS]
        store.add(some, np.stack([features(shard)[n] for shard, n in map(place_of.__getitem__, some)]))
    return failed
