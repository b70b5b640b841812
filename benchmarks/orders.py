"""How far the log-probs of Lumina-DiMOO's orders are from the draws: `python benchmarks/orders.py --model FOLDER`.

For every slot that a step fills: how often the likeliest id was drawn there, and the probability that the model gives
it. For an order that does not depend on what was drawn the two agree in expectation. Prints a table, writes
orders.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pairuni.policies import load_policy
from pairuni.policies.dimoo.model import states_at
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.policies.sampling import counter_seed, log_distribution
from pairuni.shapes.captions import caption
from pairuni.shapes.questions import ask_any
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import random_scene
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="folder or hub id of a Lumina-DiMOO")
    parser.add_argument("--prompts", type=int, default=100, help="of each side")
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"model": options.model, "prompts": options.prompts, "rollouts": options.rollouts}
    print(f"{'side':<14} {'order':<12} {'drawn':>8} {'says':>8} {'error':>8} {'log-prob':>9}")
    for side in Side:
        for order in ("random", "confidence"):
            policy = load_policy(options.model, sampler_options={"order": order})
            assert isinstance(policy, DimooPolicy)
            numbers = agreement(policy, rolled(policy, side, options.prompts, options.rollouts))
            found[f"{side}, {order}"] = {name: round(value, 4) for name, value in numbers.items()}
            print(f"{side:<14} {order:<12}", *(f"{value:8.4f}" for value in numbers.values()))
    (options.output / "orders.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def rolled(policy: DimooPolicy, side: Side, prompts: int, rollouts: int) -> Rollouts:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng, "train") for _ in range(prompts)]
    if side is Side.UNDERSTANDING:
        asked = [Prompt(side, ask_any(scene, rng).text, (render(scene, rng),)) for scene in scenes]
    else:
        asked = [Prompt(side, caption(scene, rng)) for scene in scenes]
    seeds = [[counter_seed(0, 1, b, side, r) for r in range(rollouts)] for b in range(prompts)]
    return policy.sample(side, asked, rollouts, SamplingSpec(max_new_tokens=16), np.array(seeds, np.uint64))


@torch.no_grad()
def agreement(policy: DimooPolicy, rollouts: Rollouts) -> dict[str, float]:
    """Over all slots: how often the likeliest id was drawn, its mean probability, the standard error of the difference;
    and the mean recorded log-prob of what is scored. What lies behind an answer's end is looked at as well: which slots
    these are depends on later draws, so that a choice among them would tell of itself."""
    task, trace = policy._task(rollouts.side, rollouts.spec), rollouts.context
    actions_nN, steps_nN = rollouts.actions_BRT.flatten(0, 1), trace.steps_nN
    prompts = [ids for ids in trace.encoded.ids for _ in range(rollouts.shape[1])]
    language, slots_N = policy.module.language, task.layout.slots_N
    hits, says = [], []
    for step in range(int(steps_nN.max()) + 1):
        answers_nA = task.layout.ids_A.repeat(len(prompts), 1)
        known_nN = torch.where(steps_nN < step, actions_nN + task.ids.start, answers_nA[:, slots_N])
        answers_nA[:, slots_N] = known_nN
        here_nN = steps_nN == step
        for start in range(0, len(prompts), 100):
            part = slice(start, start + 100)
            own = here_nN[part]
            states = states_at(language, prompts[part], answers_nA[part], slots_N.expand(len(own), -1))[own]
            logits = torch.nn.functional.linear(states, language.head.weight[task.ids])
            likeliest = log_distribution(logits, rollouts.spec, task.banned).max(-1)
            hits.append((likeliest.indices == actions_nN[part][own]).double())
            says.append(likeliest.values.double().exp())
    hit, said = torch.cat(hits), torch.cat(says)
    error = float((hit - said).std()) / len(hit) ** 0.5
    return {
        "drawn": float(hit.mean()),
        "says": float(said.mean()),
        "error": error,
        "logp": float(rollouts.sampled_logp_BRT[rollouts.mask_BRT].mean()),
    }


if __name__ == "__main__":
    main()
