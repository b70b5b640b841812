"""The model for lmms-eval: its own tasks end to end, on local data, beside our benchmarks; options, order and refusals.

Skipped where lmms-eval is not installed (`make lmms` installs it).
"""

import json
import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")

from lmms_eval import evaluator, models
from lmms_eval.api.instance import Instance
from lmms_eval.models.registry_v2 import ModelRegistryV2
from lmms_eval.tasks import TaskManager
from lmms_eval.tasks._task_utils import mmmu_mcq_utils

from pairuni.adapters.lmms import PairuniModel, cut, own_device, sampling_spec, stops
from pairuni.config import EvalConfig
from pairuni.errors import InputError
from pairuni.eval.runner import evaluate
from pairuni.policies import load_policy
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.policies.janus.prompts import JanusPrompts
from pairuni.shapes.held_out import held_out_questions
from pairuni.types import Rollouts, SamplingSpec

ROOT = Path(__file__).parents[2]
TASKS = Path(models.__file__).parents[1] / "tasks"


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """lmms-eval changes file locks for the whole process, and makes a cache folder: not for the tests that follow."""
    monkeypatch.setattr(evaluator, "_enable_reentrant_filelocks", lambda: None)
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the metadata of an installed pairuni, on the path: what stands in the environment may be older."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    lines = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items())
    folder = tmp_path / "installed" / "pairuni-9.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: pairuni\nVersion: 9\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(folder.parent)
    return folder.parent


# ---- whole tasks ------------------------------------------------------------------------------------------------


def pope_rows(number: int) -> list[dict]:
    words = ["red circle", "blue square", "green triangle"]
    return [
        {
            "question_id": str(n),
            "question": f"Is there a {words[n % 3]}?",
            "answer": ["yes", "no"][n % 2],
            "category": ["random", "popular", "adversarial"][n % 3],
            "image_source": f"shapes_{n}",
            "image": Image.fromarray(held.image),
        }
        for n, held in enumerate(held_out_questions(number))
    ]


def mmstar_rows(number: int) -> list[dict]:
    axes = {"math": ["geometry", "statistical reasoning"], "coarse perception": ["image emotion"]}
    kinds = [(part, axis) for part, names in axes.items() for axis in names]
    return [
        {
            "index": n,
            "question": held.question.text,
            "answer": held.question.answer,
            "category": kinds[n % 3][0],
            "l2_category": kinds[n % 3][1],
            "image": Image.fromarray(held.image),
        }
        for n, held in enumerate(held_out_questions(number))
    ]


def mmmu_rows(number: int) -> list[dict]:
    """Every second question has two images, every third is open."""
    rows = []
    for n, held in enumerate(held_out_questions(number)):
        two, opened = n % 2 == 1, n % 3 == 2
        text = "<image 1> or <image 2>?" if two else "What is this? <image 1>"
        rows.append(
            {
                "id": f"validation_{['Art', 'Physics'][n % 2]}_{n}",
                "question": f"{held.question.stem} {text}",
                "options": "[]" if opened else str(["blue", "red", "green", "yellow"]),
                "answer": ["yes", "no"][n % 2] if opened else "ABCD"[n % 4],
                "question_type": "open" if opened else "multiple-choice",
                "image_1": Image.fromarray(held.image),
                "image_2": Image.fromarray(held.image[::-1]) if two else None,
            }
        )
    return rows


def local_task(folder: Path, task: str, split: str, rows: list[dict], more: str = "") -> Path:
    """One of lmms-eval's own tasks on our rows: <folder>/tasks/local_<task>.yaml. Returns our rows as parquet."""
    data = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({split: data}).save_to_disk(str(folder / task))
    (folder / "parquet" / task).mkdir(parents=True)
    data.to_parquet(str(folder / "parquet" / task / f"{split}.parquet"))
    (folder / "tasks").mkdir(exist_ok=True)
    yaml = f"include: {TASKS / task.split('_')[0] / task}.yaml\ntask: local_{task}\ndataset_path: {folder / task}\n"
    yaml += f"dataset_kwargs:\n  load_from_disk: true\n{more}"
    (folder / "tasks" / f"local_{task}.yaml").write_text(yaml, encoding="utf-8")
    return folder / "parquet" / task


def run(folder: Path, model: Any, tasks: Sequence[str], **options: Any) -> dict:
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    results = evaluator.simple_evaluate(
        model=model, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, process_docs_parallel=1, **options
    )
    assert results is not None
    return results


def said(results: dict, task: str) -> list[str]:
    """The answers by document."""
    return [sample["resps"][0][0] for sample in sorted(results["samples"][task], key=lambda sample: sample["doc_id"])]


def kept(folder: Path, name: str) -> list[str]:
    return [json.loads(line)["answer"] for line in (folder / f"answers_{name}.jsonl").read_text("utf-8").splitlines()]


ANSWERS = ["yes", "No", "no", "Yes", "Yes.", "A", "(B)", "The answer is C", "D. blue"]


def test_pope_mmstar_and_mmmu_give_what_our_benchmarks_give(
    tmp_path: Path, tiny_janus_folder: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random weights say nothing that could be right: their tokens are read as one of these answers.
    monkeypatch.setattr(JanusPrompts, "text", lambda self, ids: ANSWERS[sum(ids) % len(ANSWERS)])
    # Where lmms-eval reads no letter it draws one: here it draws none.
    monkeypatch.setattr(mmmu_mcq_utils, "random", SimpleNamespace(choice=lambda letters: ""))
    own_tokens = "generation_kwargs:\n  max_new_tokens: 20\n  do_sample: false\n"
    data = {
        "pope": str(local_task(tmp_path, "pope", "test", pope_rows(24))),
        "mmstar": str(local_task(tmp_path, "mmstar", "val", mmstar_rows(24), own_tokens)),
        "mmmu": str(local_task(tmp_path, "mmmu_val", "validation", mmmu_rows(24))),
    }
    models.MODEL_REGISTRY_V2.load_entrypoint_manifests(overwrite=True)
    arguments = f"pretrained={tiny_janus_folder},device=cpu,precision=fp32,batch_size=5"
    tasks = ["local_pope", "local_mmstar", "local_mmmu_val"]
    results = run(tmp_path, "pairuni", tasks, model_args=arguments, batch_size="1")
    config = EvalConfig(benchmarks="pope,mmstar,mmmu", data=data, protocol="lmms_eval", batch=7)
    ours = evaluate(load_policy(str(tiny_janus_folder), device="cpu"), config, tmp_path / "ours")

    for name, task in zip(data, tasks, strict=True):
        answers = kept(tmp_path / "ours", name)
        assert said(results, task) == answers and len(set(answers)) > 5
    pope, mmstar, mmmu = (results["results"][task] for task in tasks)
    for theirs, part in (
        ("accuracy", "accuracy"),
        ("precision", "precision"),
        ("recall", "recall"),
        ("f1_score", "f1"),
    ):
        value = 100 * pope[f"pope_{theirs},none"]
        assert value == pytest.approx(ours["pope"]["parts"][f"all {part}"], abs=0.01) and 0 < value < 100
    for value, name in ((mmstar["average,none"], "mmstar"), (mmmu["mmmu_acc,none"], "mmmu")):
        assert 100 * value == pytest.approx(ours[name]["score"], abs=0.01) and 0 < value < 1


def test_a_sampling_task_on_a_policy_in_memory(tmp_path: Path, tiny_janus: JanusPolicy) -> None:
    sampling = "generation_kwargs:\n  max_new_tokens: 8\n  do_sample: true\n  temperature: 1.5\n"
    local_task(tmp_path, "pope", "test", pope_rows(4), sampling)
    answers = []
    for batch, seed in ((1, 0), (3, 0), (3, 1)):
        model = PairuniModel(tiny_janus, batch_size=batch, seed=seed)
        results = run(tmp_path, model, ["local_pope"], repeats=3)
        answers.append(
            [s["resps"][0] if len(s["resps"]) == 1 else s["resps"] for s in results["samples"]["local_pope"]]
        )
    assert answers[0] == answers[1] != answers[2]
    assert all(len(set(repeats)) == 3 for repeats in answers[0])


def test_lmms_eval_finds_the_model(installed: Path) -> None:
    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    assert registry.get_model_class("pairuni") is PairuniModel
    assert registry.resolve("pairuni").model_type == "simple"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_line(processes: int, tmp_path: Path, tiny_janus_folder: Path, installed: Path) -> None:
    rows = pope_rows(5)
    local_task(tmp_path, "pope", "test", rows)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    arguments = f"pretrained={tiny_janus_folder},device=cpu,batch_size=2"
    command = [sys.executable, *launch, "-m", "lmms_eval", "--model", "pairuni", "--model_args", arguments]
    command += ["--tasks", "local_pope", "--include_path", str(tmp_path / "tasks"), "--gen_kwargs", "max_new_tokens=8"]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout[-3000:], done.stderr[-3000:])  # an evaluation that failed ends with 0 too
    (logged,) = (tmp_path / "out").rglob("*_samples_local_pope.jsonl")
    samples = [json.loads(line) for line in logged.read_text(encoding="utf-8").splitlines()]
    by_document = {sample["doc_id"]: sample["filtered_resps"] for sample in samples}
    alone = PairuniModel(str(tiny_janus_folder), device="cpu")
    expected = ask(
        alone, [row["question"] + SHORT for row in rows], [[row["image"]] for row in rows], {"max_new_tokens": 8}
    )
    assert [by_document[n] for n in range(5)] == expected


# ---- requests ---------------------------------------------------------------------------------------------------

SHORT = "\nAnswer the question using a single word or phrase."
QUESTIONS = ["What colour is the shape?", "a red circle", "Is it blue?", "two blue squares A. red", "What?"]


def picture(value: int) -> Image.Image:
    rng = np.random.default_rng(value)
    return Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))


def instances(
    texts: Sequence[str], options: dict, order: Sequence[int] | None = None, visuals: Callable = lambda doc: doc
) -> list[Instance]:
    order = range(len(texts)) if order is None else order
    meta = {"task": "t", "repeats": 1}
    return [
        Instance(
            request_type="generate_until",
            arguments=(texts[n], dict(options), visuals, n, "t", "test"),
            idx=0,
            metadata={**meta, "doc_id": n},
        )
        for n in order
    ]


def ask(
    model: PairuniModel, texts: Sequence[str], looks: Sequence[Any], options: dict, order: Sequence[int] | None = None
) -> list[str]:
    model.task_dict = {"t": {"test": looks}}
    return model.generate_until(instances(texts, options, order))


LOOKS = [[picture(n)] for n in range(len(QUESTIONS))]
SAMPLED = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 8}


@pytest.mark.parametrize("options", [SAMPLED, {"max_new_tokens": 8}], ids=["sampled", "greedy"])
def test_answers_stay_in_order_and_depend_on_nothing_else(tiny_janus: JanusPolicy, options: dict) -> None:
    expected = [ask(PairuniModel(tiny_janus), QUESTIONS, LOOKS, options, [n])[0] for n in range(len(QUESTIONS))]
    assert len(set(expected)) == len(QUESTIONS)
    for batch in (2, 16):
        order = [3, 0, 4, 2, 1]
        assert ask(PairuniModel(tiny_janus, batch_size=batch), QUESTIONS, LOOKS, options) == expected
        shuffled = ask(PairuniModel(tiny_janus, batch_size=batch), QUESTIONS, LOOKS, options, order)
        assert shuffled == [expected[n] for n in order]


def test_seeds_are_of_the_document_and_repeats_differ(tiny_janus: JanusPolicy) -> None:
    same = ["What?"] * 3
    looks = [[picture(0)]] * 3
    first = ask(PairuniModel(tiny_janus), same, looks, SAMPLED)
    assert len(set(first)) == 3
    repeated = ask(PairuniModel(tiny_janus, batch_size=4), same, looks, SAMPLED, [0, 0, 0, 1])
    assert repeated[0] == first[0] and repeated[3] == first[1] and len(set(repeated)) == 4
    assert ask(PairuniModel(tiny_janus, seed=1), same, looks, SAMPLED)[0] != first[0]


def test_requests_of_several_specs_are_asked_under_their_own(
    tiny_janus: JanusPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Rollouts] = []
    sample = tiny_janus.sample
    monkeypatch.setattr(tiny_janus, "sample", lambda *given: drawn.append(sample(*given)) or drawn[-1])
    model = PairuniModel(tiny_janus, batch_size=2)
    model.task_dict = {"t": {"test": LOOKS}}
    truncated = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_new_tokens": 6}
    mixed = [
        instances(QUESTIONS, options, [n])[0] for n, options in enumerate([truncated, {}, truncated, {}, truncated])
    ]
    answers = model.generate_until(mixed)
    specs = [rollouts.spec for rollouts in drawn]
    assert specs == [SamplingSpec(temperature=0.7, top_p=0.9, top_k=5, max_new_tokens=6)] * 2 + [
        SamplingSpec(temperature=0.0, max_new_tokens=1024)
    ]
    places = [[0, 2], [4], [1, 3]]
    for rollouts, asked in zip(drawn, places, strict=True):
        assert [p.text for p in rollouts.prompts] == [QUESTIONS[n] for n in asked]
        assert rollouts.texts is not None and [t for (t,) in rollouts.texts] == [answers[n] for n in asked]


def test_until_cuts_the_answer(tiny_janus: JanusPolicy) -> None:
    (whole,) = ask(PairuniModel(tiny_janus), QUESTIONS[:1], LOOKS, {"max_new_tokens": 24})
    stop = whole[len(whole) // 2 :][:3]
    for until in (stop, [stop], ["never said", stop]):
        assert ask(PairuniModel(tiny_janus), QUESTIONS[:1], LOOKS, {"max_new_tokens": 24, "until": until}) == [
            whole[: whole.index(stop)]
        ]


@pytest.mark.parametrize(
    ("text", "until", "left"),
    [
        ("yes\n\nbecause", ["\n\n"], "yes"),
        ("yes. no; yes", [";", "."], "yes"),
        ("yes", None, "yes"),
        ("yes", [], "yes"),
        ("yes", ["", "never"], "yes"),
        ("yes", "", "yes"),
        ("yes, sir", ", sir", "yes"),
        ("###", ["###"], ""),
    ],
)
def test_stops(text: str, until: Any, left: str) -> None:
    assert cut(text, stops({"until": until})) == left
    assert cut(text, stops({})) == text


GREEDY = SamplingSpec(temperature=0.0, max_new_tokens=7)


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({}, GREEDY),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9, "top_k": 3}, GREEDY),
        ({"do_sample": False, "top_p": 0, "temperature": 0, "num_beams": 1}, GREEDY),
        ({"do_sample": True, "temperature": 0}, GREEDY),
        ({"do_sample": True, "temperature": 0.2, "top_p": 0}, GREEDY),
        ({"temperature": None, "top_p": None, "top_k": None, "max_new_tokens": None}, GREEDY),
        ({"temperature": 0.2}, SamplingSpec(temperature=0.2, max_new_tokens=7)),
        ({"do_sample": True}, SamplingSpec(temperature=1.0, max_new_tokens=7)),
        ({"do_sample": True, "top_k": -1, "max_new_tokens": 99}, SamplingSpec(temperature=1.0, max_new_tokens=99)),
        ({"do_sample": True, "top_k": 4, "top_p": 0.5}, SamplingSpec(max_new_tokens=7, top_k=4, top_p=0.5)),
        ({"do_sample": True, "repetition_penalty": 1.0}, SamplingSpec(max_new_tokens=7)),
    ],
)
def test_options_of_a_task_as_a_spec(options: dict, spec: SamplingSpec) -> None:
    assert sampling_spec(options, 7) == spec


# ---- what is seen, and what is refused --------------------------------------------------------------------------


def test_all_images_are_seen_and_placeholders_stay(tiny_janus: JanusPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Rollouts] = []
    sample = tiny_janus.sample
    monkeypatch.setattr(tiny_janus, "sample", lambda *given: drawn.append(sample(*given)) or drawn[-1])
    text = "Is <image 1> like <image 2>?"
    grey = Image.fromarray(np.full((5, 9), 77, np.uint8))
    model = PairuniModel(tiny_janus, batch_size=2)
    looks = [[picture(0), picture(1)], grey]
    ask(model, [text, text], looks, {"max_new_tokens": 2})
    two, one = drawn[0].prompts
    assert two.text == text and len(two.images) == 2 and len(one.images) == 1
    np.testing.assert_array_equal(two.images[1], np.asarray(picture(1)))
    np.testing.assert_array_equal(one.images[0], np.full((5, 9, 3), 77, np.uint8))


@pytest.mark.parametrize("nothing", [None, []])
def test_a_question_without_an_image_names_its_document(tiny_janus: JanusPolicy, nothing: Any) -> None:
    with pytest.raises(InputError, match="task t, split test, document 1: has no image"):
        ask(PairuniModel(tiny_janus, batch_size=3), QUESTIONS[:3], [LOOKS[0], nothing, LOOKS[2]], {"max_new_tokens": 2})


def test_films_are_refused(tiny_janus: JanusPolicy) -> None:
    with pytest.raises(InputError, match="document 0: shows a str; only images"):
        ask(PairuniModel(tiny_janus), QUESTIONS[:1], [["film.mp4"]], {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 5}, r"document 0: generation_kwargs: num_beams = 5 is not supported; --gen_kwargs num_beams=1"),
        ({"repetition_penalty": 1.2}, "repetition_penalty = 1.2 is not supported"),
        ({"temperature": -1}, "temperature >= 0"),
        ({"do_sample": True, "top_p": 1.5}, "top_p <= 1"),
        ({"max_new_tokens": 0}, "max_new_tokens >= 1"),
        ({"max_new_tokens": "many"}, "many"),
        ({"until": 3}, "document 0: generation_kwargs"),
    ],
)
def test_options_that_are_not_there_are_refused(tiny_janus: JanusPolicy, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(PairuniModel(tiny_janus), QUESTIONS[:1], LOOKS, options)


def test_options_that_mean_nothing_here_are_named_once(tiny_janus: JanusPolicy) -> None:
    with pytest.warns(UserWarning, match="not used: image_aspect_ratio, visual_cot$") as caught:
        ask(
            PairuniModel(tiny_janus),
            QUESTIONS,
            LOOKS,
            {"image_aspect_ratio": "pad", "visual_cot": 1, "max_new_tokens": 1},
        )
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(PairuniModel(tiny_janus), QUESTIONS, LOOKS, {**SAMPLED, "num_beams": 1, "until": ["\n\n"]})


def test_other_kinds_of_tasks_are_refused(tiny_janus: JanusPolicy) -> None:
    model = PairuniModel(tiny_janus)
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="choose tasks of output_type generate_until"):
            method(instances(QUESTIONS, {}))


def test_arguments(tiny_janus_folder: Path, tiny_janus: JanusPolicy) -> None:
    text = f"pretrained={tiny_janus_folder},precision=bf16,batch_size=3,seed=7,max_new_tokens=9"
    model = PairuniModel.create_from_arg_string(text, {"batch_size": "1", "device": "cpu", "max_batch_size": None})
    assert (model.batch_size, model.seed, model.max_new_tokens) == (3, 7, 9)
    assert isinstance(model.policy, JanusPolicy) and model.policy.precision == "bf16" and model.device.type == "cpu"
    from_command = PairuniModel.create_from_arg_string(f"pretrained={tiny_janus_folder}", {"batch_size": "4"})
    assert from_command.batch_size == 4
    for wrong in ("auto", "0", -1, "1.5"):
        with pytest.raises(InputError, match="batch_size"):
            PairuniModel(tiny_janus, batch_size=wrong)
    with pytest.raises(InputError, match="precision"):
        PairuniModel(str(tiny_janus_folder), precision="fp16")
    with pytest.raises(TypeError, match="attention"):
        PairuniModel.create_from_arg_string(f"pretrained={tiny_janus_folder},attention=sdpa")


@pytest.mark.parametrize(
    ("world", "asked", "given"),
    [
        ("1", "cuda", "cuda"),
        ("2", "cuda", "cuda:1"),
        ("2", "cuda:0", "cuda:0"),
        ("2", "cpu", "cpu"),
        (None, "auto", "auto"),
    ],
)
def test_each_process_has_a_gpu_of_its_own(
    world: str | None, asked: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)
    assert own_device(asked) == given


def test_a_model_is_for_one_evaluation(tiny_janus: JanusPolicy) -> None:
    model = PairuniModel(tiny_janus)
    model.clean()
    with pytest.raises(RuntimeError, match="make another"):
        ask(model, QUESTIONS[:1], LOOKS, {})
