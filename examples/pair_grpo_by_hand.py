"""Pair-GRPO by hand: one step of the paper's algorithm (section 3) in flat torch, with every intermediate printed.

A toy stands in for the model: for each pair and side a row of logits over a small vocabulary, every decision drawn
independently from it. Two pairs, one aligned and one retrieved with similarity 0.64; four rollouts per half; answers of
3 words, images of 8 codes. Nothing here is imported from pairuni: a test checks that the library gives these numbers.

    python examples/pair_grpo_by_hand.py
"""

import numpy as np
import torch

torch.manual_seed(0)
torch.set_printoptions(precision=3, sci_mode=False, linewidth=120)

B, R, V = 2, 4, 5  # pairs, rollouts per half (the paper's K), vocabulary
T = {"understanding": 3, "generation": 8}  # decisions of a rollout, at the most
CLIP_EPS, STD_EPS, LR = 0.2, 1e-6, 0.1
SIMILARITY = [1.0, 0.64]
ALIGNED = [True, False]
END = 0  # an answer ends with this word; images never end early


def say(sentence):
    print(f"\n{sentence}")


def show(name, table):
    print(f"  {name} =")
    print("    " + str(torch.as_tensor(table)).replace("\n", "\n    "))


# ---- 1. The policy: pi(o_t | half) = softmax(shared + own logits) ----
# One parameter table is shared by both sides, so that their gradients meet, as in a unified model.
shared = torch.zeros(B, V, dtype=torch.float64, requires_grad=True)
own = {
    side: (0.5 * torch.randn(B, V, dtype=torch.float64)).requires_grad_() for side in ("understanding", "generation")
}
optimizer = torch.optim.AdamW([shared, *own.values()], lr=LR, weight_decay=0.0)


def logprobs(side, actions_BRT):
    """log pi of each decision [B, R, T], differentiable."""
    table_BV = torch.log_softmax(shared + own[side], dim=-1)
    return table_BV[:, None, None, :].expand(B, R, T[side], V).gather(3, actions_BRT[..., None])[..., 0]


# ---- 2. Rollouts: R answers and R images per pair, drawn from the current policy, log-probs recorded ----
actions, mask, old_logp, wanted_before = {}, {}, {}, {}
WANTED = {"understanding": 1, "generation": 2}  # the word and the code that will be rewarded
for side in ("understanding", "generation"):
    with torch.no_grad():
        probs_BV = torch.softmax(shared + own[side], dim=-1)
        actions[side] = torch.stack([torch.multinomial(p, R * T[side], True).view(R, T[side]) for p in probs_BV])
        old_logp[side] = logprobs(side, actions[side])
    wanted_before[side] = probs_BV[:, WANTED[side]]
    ended_BRT = (actions[side] == END).long().cumsum(-1) - (actions[side] == END).long() > 0
    mask[side] = ~ended_BRT if side == "understanding" else torch.ones_like(ended_BRT)

say("1. Four answers and four images were drawn for each pair. Words after the end word (0) are no decisions:")
show("answers [pair, rollout, word]", actions["understanding"])
show("decisions per answer", mask["understanding"].sum(-1))
show("images [pair, rollout, code]", actions["generation"])

# ---- 3. Rewards: is the right word (1) in the answer; how much of the image has the wanted code (2) ----
rewards = {
    "understanding": ((actions["understanding"] == WANTED["understanding"]) & mask["understanding"]).any(-1).double(),
    "generation": (actions["generation"] == WANTED["generation"]).double().mean(-1),
}
say("2. Each rollout gets a reward: an answer 1 if it says word 1, an image its share of code 2.")
for side, rewards_BR in rewards.items():
    show(f"r, {side} [pair, rollout]", rewards_BR)

# ---- 4. Advantages: relative to the group, and a group is one half of one pair ----
advantages = {}
for side, rewards_BR in rewards.items():
    advantages[side] = torch.zeros(B, R, dtype=torch.float64)
    for b in range(B):
        group = rewards_BR[b].numpy()
        mean, std = group.mean(), np.sqrt(((group - group.mean()) ** 2).mean())
        if std > 0:  # equal rewards say nothing: advantage 0
            advantages[side][b] = torch.from_numpy((group - mean) / (std + STD_EPS))
say("3. A = (r - mean) / std within each row: better than its siblings is positive. Rows are never mixed.")
for side, advantages_BR in advantages.items():
    show(f"A, {side}", advantages_BR)

# ---- 5. Pair weights: how well the two halves belong together ----
weights = torch.tensor(
    [1.0 if aligned else s**0.5 for s, aligned in zip(SIMILARITY, ALIGNED, strict=True)], dtype=torch.float64
)
credit = {side: weights[:, None] * advantages_BR for side, advantages_BR in advantages.items()}
say("4. The aligned pair has weight 1, the retrieved one sqrt(0.64) = 0.8; both halves of a pair are scaled by it.")
show("w [pair]", weights)
for side, credit_BR in credit.items():
    show(f"w A, {side}", credit_BR)


# ---- 6. The loss of one side: clipped surrogate per decision, mean over a rollout's decisions, mean over rollouts ----
def side_loss(side):
    """-J of one side, and the table of ratios rho [B, R, T]."""
    logp_BRT = logprobs(side, actions[side])
    ratio_BRT = torch.exp(logp_BRT - old_logp[side])
    total = torch.zeros((), dtype=torch.float64)
    for b in range(B):
        for r in range(R):
            decisions = mask[side][b, r].nonzero()[:, 0]
            of_rollout = torch.zeros((), dtype=torch.float64)
            for t in decisions:
                rho, a = ratio_BRT[b, r, t], credit[side][b, r]
                of_rollout = of_rollout + torch.minimum(rho * a, rho.clamp(1 - CLIP_EPS, 1 + CLIP_EPS) * a)
            total = total - of_rollout / len(decisions)
    return total / (B * R), ratio_BRT.detach()


# ---- 7. Two updates on the same rollouts: rho is 1 in the first, and moves away from it ----
history = []
for update in (1, 2):
    why = "the policy is still the one that sampled, so every ratio is 1."
    if update == 2:
        why = "the policy has moved, the rollouts have not: ratios differ from 1 and some decisions are clipped."
    say(f"{update + 4}. Update {update}: {why}")
    optimizer.zero_grad()
    record = {}
    for side in ("understanding", "generation"):
        logits_BV = (shared + own[side]).detach()
        loss, ratio_BRT = side_loss(side)
        before = torch.zeros_like(shared) if shared.grad is None else shared.grad.clone()
        loss.backward()  # the two sides' gradients add up: each has its own denominator
        ratios = ratio_BRT[mask[side]]
        signs_BRT = credit[side].sign()[..., None].expand_as(ratio_BRT)
        cut_BRT = ((ratio_BRT > 1 + CLIP_EPS) & (signs_BRT > 0)) | ((ratio_BRT < 1 - CLIP_EPS) & (signs_BRT < 0))
        record[side] = {
            "loss": loss.item(),
            "ratio_mean": ratios.mean().item(),
            "ratio_max": ratios.max().item(),
            "clip_fraction": cut_BRT[mask[side]].double().mean().item(),
            "shared_grad": shared.grad - before,
            "logits": logits_BV,
        }
        numbers = ", ".join(f"{k} {v:.4f}" for k, v in record[side].items() if isinstance(v, float))
        print(f"  {side}: {numbers}")
    show("gradient of the shared logits, understanding", record["understanding"]["shared_grad"])
    show("gradient of the shared logits, generation", record["generation"]["shared_grad"])
    u, g = (record[side]["shared_grad"].flatten() for side in ("understanding", "generation"))
    print(f"  cosine of the two: {torch.cosine_similarity(u, g, dim=0).item():.3f} (below 0 the tasks disagree)")
    history.append(record)
    optimizer.step()

say("7. How likely the rewarded word and code are [pair], before and after:")
for side in ("understanding", "generation"):
    after_BV = torch.softmax((shared + own[side]).detach(), dim=-1)
    show(f"{side}, before", wanted_before[side])
    show(f"{side}, after", after_BV[:, WANTED[side]])
