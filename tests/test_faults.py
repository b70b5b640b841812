"""Deliberate faults: each breaks a copy of the package in one place, and a named fast test must then fail.

The faults are those seen in existing trainers. A fault that no test notices is a missing test (docs/testing.md).
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACT, STEP, LOOP = "tests/policies/test_contract.py", "tests/train/test_step.py", "tests/train/test_loop.py"
RECORDED = f"{CONTRACT}::test_recorded_log_probs_equal_scored_ones"
RESUME = f"{LOOP}::test_resume_is_bit_exact"
GRADIENT = "tests/train/test_dist.py::test_two_processes_have_the_gradient_of_one"
ANSWER = "tests/policies/test_dimoo_gradient.py"
ESTIMATED = "tests/policies/test_estimators.py::test_log_probs_are_those_of_a_forward_that_sees_what_it_should"
WEIGHT = f"{STEP}::test_a_retrieved_pair_weighs_less_on_both_sides"


Server = subprocess.Popen[str]


@dataclass(frozen=True)
class Fault:
    """One textual replacement and the test that must fail because of it."""

    file: str
    """Below src/pairuni."""
    old: str
    """Occurs exactly once in the file."""
    new: str
    test: str
    """Without its parameters: one failing case is enough."""


FAULTS = {
    "image log-probs shifted by one": Fault(
        "policies/janus/policy.py",
        "hidden = self._code_states(ids, scored, codes)[scored]",
        "hidden = self._code_states(ids, scored, codes).roll(-1, 1)[scored]",
        RECORDED,
    ),
    "text log-probs shifted by one": Fault(
        "policies/janus/policy.py",
        "return hidden.flatten(0, 1)[packed.places_N.to(self.device)]",
        "return hidden.flatten(0, 1).roll(-1, 0)[packed.places_N.to(self.device)]",
        RECORDED,
    ),
    "packed answers see each other": Fault(
        "policies/janus/packing.py",
        "same = (seen[:, start:, None] == seen[:, None, :]) | (seen[:, None, :] == _PROMPT)",
        "same = (seen[:, None, :] >= _PROMPT).expand(-1, seen.shape[1] - start, -1)",
        RECORDED,
    ),
    "guidance missing in scoring": Fault(
        "policies/janus/policy.py",
        "guided = rollouts.scored_guided",
        "guided = False",
        RECORDED,
    ),
    "temperature missing in scoring": Fault(
        "policies/scoring.py",
        "uncond_nV, spec.guidance), spec, banned)",
        "uncond_nV, spec.guidance), SamplingSpec(), banned)",
        RECORDED,
    ),
    "temperature missing in the gradient": Fault(
        "policies/scoring.py",
        "slope_N1 = grad_N[:, None] / (spec.temperature or 1.0)",
        "slope_N1 = grad_N[:, None]",
        "tests/policies/test_scoring.py::test_log_probs_and_gradients_against_numpy",
    ),
    "a weight's gradient of one slice alone": Fault(
        "policies/scoring.py",
        "first=part is slices[-1])",
        "first=True)",
        "tests/policies/test_packing.py::test_heads_in_slices_change_nothing",
    ),
    "kept logits written over twice": Fault(
        "policies/scoring.py",
        "powers, ctx.powers = ctx.powers, None",
        "powers = ctx.powers if part is slices[-1] else None",
        "tests/policies/test_scoring.py::test_a_second_backward_gives_the_same",
    ),
    "a packed answer sees less of its prompt": Fault(
        "policies/janus/packing.py",
        ".tril(start)",
        ".tril()",
        RECORDED,
    ),
    "padding is seen": Fault(
        "policies/dimoo/model.py",
        "seen = None if attended_nL is None else attended_nL[:, None, None, :]",
        "seen = None",
        "tests/policies/test_dimoo.py::test_padding_is_not_seen",
    ),
    "a step of the trace sees its own draws": Fault(
        "policies/dimoo/estimators.py",
        "groups_MN < groups if",
        "groups_MN <= groups if",
        RECORDED,
    ),
    "an order that the draws decide taken for random": Fault(
        "policies/dimoo/decode.py",
        'confident = task.order == "confidence"',
        "confident = True",
        "tests/policies/test_dimoo.py::test_what_confidence_draws_is_likelier_than_it_says",
    ),
    "a cached step reads keys in the places of others": Fault(
        "policies/dimoo/model.py",
        "new = (self.both[0].scatter(2, places, new[0]), self.both[1].scatter(2, places, new[1]))",
        "new = (self.both[0].scatter(2, places.flip(2), new[0]), self.both[1].scatter(2, places, new[1]))",
        "tests/policies/test_dimoo_cache.py::test_what_is_computed_anew_sees_what_stayed",
    ),
    "a cached step counts places from the first token": Fault(
        "policies/dimoo/model.py",
        "cos, sin = cos[places_nP][:, None], sin[places_nP][:, None]",
        "cos, sin = cos[: places_nP.shape[1]], sin[: places_nP.shape[1]]",
        "tests/policies/test_dimoo_cache.py::test_what_is_computed_anew_sees_what_stayed",
    ),
    "what was filled is not computed anew": Fault(
        "policies/dimoo/cache.py",
        "return torch.cat([filled_nF, open_nS.gather(1, least)], 1)",
        "return open_nS.gather(1, least)",
        "tests/policies/test_dimoo_cache.py::test_other_steps_compute_few_tokens",
    ),
    "features kept of another vision encoder": Fault(
        "policies/janus/policy.py",
        "if encoded.seen is None or encoded.seen.tower is not self.module.model.vision_model:",
        "if encoded.seen is None:",
        "tests/policies/test_packing.py::test_a_prompt_is_read_once_and_each_image_once",
    ),
    "top_k 50 left on in every draw": Fault(
        "policies/sampling.py",
        "sampled = truncate(guided, spec)",
        "sampled = truncate(guided, SamplingSpec(top_k=50))",
        RECORDED,
    ),
    "top_k 50 left on for image codes": Fault(
        "policies/janus/decode.py",
        "draw(cond, uncond, self.uniforms_nT[at], self.spec, kind.banned)",
        "draw(cond, uncond, self.uniforms_nT[at], self.spec if kind.banned is not None else "
        '__import__("dataclasses").replace(self.spec, top_k=50), kind.banned)',
        "tests/policies/test_janus.py::test_every_draw_is_made_with_the_spec_as_given",
    ),
    "top_k 50 left on for text": Fault(
        "policies/janus/decode.py",
        "draw(cond, uncond, self.uniforms_nT[at], self.spec, kind.banned)",
        "draw(cond, uncond, self.uniforms_nT[at], self.spec if kind.banned is None else "
        '__import__("dataclasses").replace(self.spec, top_k=50), kind.banned)',
        RECORDED,
    ),
    "bf16 master weights": Fault(
        "policies/janus/load.py",
        "dtype=torch.float32",
        "dtype=torch.bfloat16",
        f"{CONTRACT}::test_bf16_forward_keeps_fp32_weights_and_log_probs",
    ),
    "bf16 master weights accepted": Fault(
        "train/optim.py",
        "if parameter.dtype != torch.float32:",
        "if parameter.dtype == torch.float16:",
        "tests/train/test_optim.py::test_bf16_master_weights_are_refused",
    ),
    "bf16 rounding in the optimiser": Fault(
        "train/optim.py",
        "self._adamw.step()",
        "self._adamw.step()\n        for p in self.parameters:\n            p.data = p.data.bfloat16().float()",
        "tests/train/test_optim.py::test_updates_are_those_of_adamw_with_clipping",
    ),
    "image decoding one position too far": Fault(
        "policies/janus/decode.py",
        "self.cache = SharedCache(prefix, slots, uniforms_nT.shape[1] - 1)",
        "self.cache = SharedCache(prefix, slots, uniforms_nT.shape[1] - 1)\n"
        "        self.cache.position_11 += kind.banned is None",
        RECORDED,
    ),
    "text decoding one position too far": Fault(
        "policies/janus/decode.py",
        "self.cache = SharedCache(prefix, slots, uniforms_nT.shape[1] - 1)",
        "self.cache = SharedCache(prefix, slots, uniforms_nT.shape[1] - 1)\n"
        "        self.cache.position_11 += kind.banned is not None",
        RECORDED,
    ),
    "rows attend to another row's prompt": Fault(
        "policies/janus/cache.py",
        "self._places_n = torch.tensor([places[row] for row in range(len(slots))], device=device)",
        "self._places_n = torch.tensor([places[len(slots) - 1 - row] for row in range(len(slots))], device=device)",
        "tests/policies/test_janus.py::test_prompts_shared_in_place_sample_what_copied_ones_sample",
    ),
    "a token forgets itself": Fault(
        "policies/janus/cache.py",
        "stop = self._filled + 1",
        "stop = self._filled",
        RECORDED,
    ),
    "pair weight on answers only": Fault(
        "train/step.py",
        "weighted_advantages(of.rewards_BR, of.weights_B, obj",
        "weighted_advantages(of.rewards_BR, of.weights_B if side == 'understanding' else of.weights_B**0, obj",
        WEIGHT,
    ),
    "pair weight on images only": Fault(
        "train/step.py",
        "weighted_advantages(of.rewards_BR, of.weights_B, obj",
        "weighted_advantages(of.rewards_BR, of.weights_B if side == 'generation' else of.weights_B**0, obj",
        WEIGHT,
    ),
    "mean and spread of the whole batch": Fault(
        "algo/advantages.py",
        "count_B1 = known_BR.sum(dim=1, keepdim=True).clamp(min=1)\n"
        "    mean_B1 = exact_BR.sum(dim=1, keepdim=True) / count_B1\n"
        "    centred_BR = (exact_BR - mean_B1).where(known_BR, 0)\n"
        "    std_B1 = (centred_BR.square().sum(dim=1, keepdim=True) / count_B1).sqrt()\n",
        "count_B1 = known_BR.sum().clamp(min=1)\n"
        "    mean_B1 = exact_BR.sum() / count_B1\n"
        "    centred_BR = (exact_BR - mean_B1).where(known_BR, 0)\n"
        "    std_B1 = (centred_BR.square().sum() / count_B1).sqrt()\n",
        "tests/algo/test_advantages.py::test_rows_never_mix",
    ),
    "spread of the whole batch": Fault(
        "algo/advantages.py",
        "std_B1 = (centred_BR.square().sum(dim=1, keepdim=True) / count_B1).sqrt()",
        "std_B1 = (centred_BR.square().sum() / count_B1.sum()).sqrt()",
        "tests/algo/test_advantages.py::test_known_values",
    ),
    "one group for all pairs of a step": Fault(
        "train/step.py",
        "weighted_advantages(of.rewards_BR, of.weights_B, objective.std_eps)",
        "weighted_advantages(of.rewards_BR.reshape(1, -1), of.weights_B[:1] ** 0, objective.std_eps)"
        ".reshape(of.rewards_BR.shape) * of.weights_B[:, None]",
        f"{STEP}::test_equal_prompts_are_separate_groups_with_rollouts_of_their_own",
    ),
    "sampler position not restored on resume": Fault(
        "train/loop.py",
        "run.sampler.restore(point.progress.sampler)",
        "run.sampler.restore(point.progress.sampler)\n        whole = run.sampler.batch_at\n"
        "        run.sampler.batch_at = lambda step: whole(step - point.step)",
        RESUME,
    ),
    "optimiser restarts on resume": Fault(
        "train/loop.py", "load_state(point.checkpoint, run.optimizer)", "point.checkpoint.exists()", RESUME
    ),
    "changed pairs accepted on resume": Fault(
        "train/loop.py",
        "run.sampler.restore(point.progress.sampler)",
        "point.progress.sampler.keys()",
        f"{LOOP}::test_changed_pairs_are_noticed_on_resume",
    ),
    "sample standard deviation": Fault(
        "algo/advantages.py",
        "std_B1 = (centred_BR.square().sum(dim=1, keepdim=True) / count_B1).sqrt()",
        "std_B1 = (centred_BR.square().sum(dim=1, keepdim=True) / (count_B1 - 1)).sqrt()",
        "tests/algo/test_advantages.py::test_known_values",
    ),
    "missing rewards count as zero": Fault(
        "algo/advantages.py",
        "count_B1 = known_BR.sum(dim=1, keepdim=True).clamp(min=1)",
        "count_B1 = torch.full_like(known_BR[:, :1], known_BR.shape[1], dtype=torch.int64)",
        "tests/algo/test_advantages.py::test_missing_rewards_leave_the_statistics",
    ),
    "rounding taken for a preference": Fault(
        "algo/advantages.py",
        "_ROUNDING = 8",
        "_ROUNDING = 0",
        "tests/algo/test_advantages.py::test_rewards_equal_up_to_rounding_give_exactly_zero",
    ),
    "the larger of both surrogates": Fault(
        "algo/surrogate.py",
        "terms_BT = torch.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)",
        "terms_BT = torch.maximum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)",
        "tests/algo/test_surrogate.py::test_the_four_corners_of_the_clip",
    ),
    "a ratio that overflows": Fault(
        "algo/surrogate.py",
        "gap_BT.clamp(max=math.log1p(clip_eps) + 1)",
        "gap_BT",
        "tests/algo/test_surrogate.py::test_value_and_gradient_where_ratios_overflow",
    ),
    "large rewards squared as they are": Fault(
        "algo/advantages.py",
        "unit_B1 = _unit(exact_BR)",
        "unit_B1 = torch.ones_like(exact_BR[:, :1])",
        "tests/algo/test_advantages.py::test_rewards_of_any_size",
    ),
    "clipped above alone": Fault(
        "algo/surrogate.py",
        "clipped_BT = ratio_BT.clamp(1 - clip_eps, 1 + clip_eps)",
        "clipped_BT = ratio_BT.clamp(max=1 + clip_eps)",
        "tests/algo/test_surrogate.py::test_the_four_corners_of_the_clip",
    ),
    "the advantage's sign": Fault(
        "algo/surrogate.py",
        "loss = -terms_BT.where(mask_BT, 0.0).sum()",
        "loss = terms_BT.where(mask_BT, 0.0).sum()",
        "tests/algo/test_surrogate.py::test_equals_the_formula",
    ),
    "masked by a product": Fault(
        "algo/surrogate.py",
        "return (logp_BT - other_BT.to(logp_BT)).where(keep_BT, 0.0)",
        "return (logp_BT - other_BT.to(logp_BT)) * keep_BT",
        "tests/algo/test_surrogate.py::test_masked_positions_reach_neither_value_nor_gradient",
    ),
    "guided draws taken for the policy's own in the KL": Fault(
        "train/step.py",
        "return (chunk.recorded_kN - sampled_kN).where(chunk.mask_kN, 0.0).exp()",
        "return (chunk.recorded_kN - sampled_kN).where(chunk.mask_kN, 0.0).mul(0).exp()",
        "tests/train/test_kl_term.py::test_value_and_gradient_by_hand",
    ),
    "the gradient of k1 as it stands": Fault(
        "algo/surrogate.py",
        "square_BT - square_BT.detach() - gap_BT.detach()",
        "-gap_BT",
        "tests/algo/test_kl.py::test_expected_values_and_gradients_are_those_of_the_divergence",
    ),
    "a resumed run's reference with towers of its own": Fault(
        "train/loop.py",
        "share_frozen_modules(initial, policy)",
        "share_frozen_modules(policy, policy)",
        "tests/train/test_kl_term.py::test_a_resumed_run_s_reference_reads_no_image_again",
    ),
    "one length for both sides": Fault(
        "train/step.py",
        "objective.side_weights[sampled.side], objective.norm_length[sampled.side]",
        "objective.side_weights[sampled.side], objective.norm_length[Side.GENERATION]",
        f"{STEP}::test_gradient_is_that_of_the_objective",
    ),
    "KL without its constant": Fault(
        "algo/surrogate.py",
        "terms_BT = gap_BT.expm1() - gap_BT ",
        "terms_BT = gap_BT.exp() - gap_BT ",
        "tests/algo/test_surrogate.py::test_k3_against_the_exact_divergence",
    ),
    "pair weights squared": Fault(
        "algo/pair_grpo.py",
        "return advantages_BR * weights_B.to(advantages_BR)[:, None]",
        "return advantages_BR * weights_B.to(advantages_BR)[:, None] ** 2",
        "tests/algo/test_pair_grpo.py::test_pair_weights_scale_both_sides_and_their_gradients",
    ),
    "a chunk's own length as denominator": Fault(
        "algo/pair_grpo.py",
        "rollouts = max(totals.rollouts, 1) / totals.sides",
        "rollouts = max(len(lengths_k), 1) / totals.sides",
        "tests/algo/test_pair_grpo.py::test_chunking_changes_nothing",
    ),
    "a mixed batch has a denominator per side": Fault(
        "train/step.py",
        "if shared else found",
        "if False else found",
        "tests/train/test_denominators.py::test_vanilla_has_one_denominator_over_the_mixed_batch",
    ),
    "aligned pairs weigh their similarity": Fault(
        "algo/weights.py",
        "return weights_B.masked_fill(aligned_B, 1.0)",
        "return weights_B",
        "tests/algo/test_weights.py::test_schemes",
    ),
    "retrieved pairs weigh their similarity": Fault(
        "algo/weights.py",
        'weights_B = similarity_B.sqrt() if scheme == "sqrt" else similarity_B',
        "weights_B = similarity_B",
        "tests/algo/test_weights.py::test_schemes",
    ),
    "two gradients of one side share a group": Fault(
        "lab/gradient_agreement.py",
        "own = weighted_advantages(rewards_BR, sampled.weights_B, self.objective.std_eps)",
        "own = weighted_advantages(sampled.rewards_BR, sampled.weights_B, self.objective.std_eps)[:, columns]",
        "tests/lab/test_gradient_agreement.py::test_it_is_the_trainers_loss_of_half_the_rollouts_each",
    ),
    "rewards of two gradients are normalised together": Fault(
        "lab/gradient_agreement.py",
        "rewards_BR = total(self.rewards[sampled.side], raw_BR)",
        "rewards_BR = sampled.rewards_BR[:, columns]",
        "tests/lab/test_gradient_agreement.py::test_rewards_are_normalised_within_each_half",
    ),
    "random partners drawn as the order of pairs": Fault(
        "data/mixing.py",
        """        rng = generator(seed, Stream.RANDOM_PARTNERS)
        partner = np.arange(len(pairs))
""",
        """        order = generator(seed, Stream.SAMPLER_ORDER, 0).permutation(len(pairs))
        partner = np.empty(len(pairs), dtype=np.int64)
        partner[order] = np.roll(order, -1)
""",
        "tests/data/test_mixing.py::test_old_partners_meet_in_a_batch_as_often_as_chance_has_it",
    ),
    "random partners that form one ring": Fault(
        "data/mixing.py",
        "            partner = rng.permutation(len(pairs))",
        """            order = rng.permutation(len(pairs))
            partner = order[(np.argsort(order) + 1) % len(pairs)]""",
        "tests/data/test_mixing.py::test_random_pairs_are_any_derangement_alike",
    ),
    "unpaired halves chosen in the order of pairs": Fault(
        "data/mixing.py",
        "generator(seed, Stream.UNPAIRED_ORDER)",
        "generator(seed, Stream.SAMPLER_ORDER, 0)",
        "tests/data/test_mixing.py::test_batches_of_unpaired_halves_are_equally_unlike_over_an_epoch",
    ),
    "a run of other random streams continued": Fault(
        "streams.py",
        "if found == VERSION:",
        "if found <= VERSION:",
        "tests/data/test_dataset.py::test_a_checkpoint_of_other_random_streams_is_refused_by_name",
    ),
    "an interval over seeds alone": Fault(
        "lab/ablations/intervals.py",
        "S * (items_N**2).sum(), (rest_SN**2).sum()",
        "0.0, (rest_SN**2).sum()",
        "tests/lab/ablations/test_statistics.py::test_the_interval_covers_the_truth_as_often_as_it_says",
    ),
    "an interval over items alone": Fault(
        "lab/ablations/intervals.py",
        "squares = N * (seeds_S**2).sum(),",
        "squares = 0.0,",
        "tests/lab/ablations/test_statistics.py::test_the_interval_covers_the_truth_as_often_as_it_says",
    ),
    "variances of few seeds taken as known": Fault(
        "lab/ablations/intervals.py",
        "stats.chi2.ppf(place_K, df)",
        "np.full_like(place_K, df)",
        "tests/lab/ablations/test_statistics.py::test_the_interval_covers_the_truth_as_often_as_it_says",
    ),
    "arms are not compared seed by seed": Fault(
        "lab/ablations/compare.py",
        "pair = [[results[arm, seed].benchmarks[benchmark] for seed in both]",
        "pair = [[results[arm, seed].benchmarks[benchmark] for seed in both[:: 1 if arm == name else -1]]",
        "tests/lab/ablations/test_ablations.py::test_differences_are_paired_by_seed_and_item",
    ),
    "an arm has another seed's data": Fault(
        "lab/ablations/schedule.py",
        "_data_stages(arm, base, seed)\n    logged",
        "_data_stages(arm, base, seed + bool(arm.train))\n    logged",
        "tests/lab/ablations/test_ablations.py::test_arms_differ_in_what_they_say_and_have_equal_budgets",
    ),
    "gradients averaged over processes": Fault(
        "dist.py",
        "td.all_reduce(flat)",
        "td.all_reduce(flat)\n    flat /= world()",
        GRADIENT,
    ),
    "sharded gradients averaged over processes": Fault(
        "train/wrap.py",
        "part.set_gradient_divide_factor(1.0)",
        "part.set_gradient_divide_factor(2.0)",
        GRADIENT,
    ),
    "denominators of one process": Fault(
        "train/step.py",
        "found[side] = LossDenominators(int(global_sum(own.rollouts)), int(global_sum(own.actions)))",
        "found[side] = own",
        GRADIENT,
    ),
    "a coupled forward sees earlier groups alone": Fault(
        "policies/dimoo/estimators.py",
        'return groups_MN < groups if estimator == "trace" else groups_MN != groups',
        "return groups_MN < groups",
        ESTIMATED,
    ),
    "what lies behind an answer is trained": Fault(
        "policies/dimoo/estimators.py",
        "mask_nN, steps = answer_nN | (steps_nN < last_n1), ",
        "mask_nN, steps = answer_nN | (steps_nN <= last_n1), ",
        f"{ANSWER}::test_the_gradient_of_fixed_answers_is_that_of_their_own_slots",
    ),
    "what an answer was drawn from is not trained": Fault(
        "policies/dimoo/estimators.py",
        "mask_nN, steps = answer_nN | (steps_nN < last_n1), ",
        "mask_nN, steps = answer_nN, ",
        f"{ANSWER}::test_what_is_left_out_leaves_the_expectation_as_it_is",
    ),
    "what lies behind an answer is counted": Fault(
        "policies/dimoo/policy.py",
        "counted_BR=lengths_n.view(seeds_BR.shape)",
        "counted_BR=scored.mask_nN.sum(1).view(seeds_BR.shape)",
        f"{ANSWER}::test_the_gradient_of_fixed_answers_is_that_of_their_own_slots",
    ),
    "a scored step stands for itself alone": Fault(
        "policies/dimoo/estimators.py",
        "ones_nN * (steps / scored))",
        "ones_nN)",
        f"{ANSWER}::test_the_mean_over_scored_steps_is_the_gradient_of_all_steps",
    ),
    "codes that are not scored are not counted": Fault(
        "train/step.py",
        "loss_scales(call.length_BR.flatten().cpu()",
        "loss_scales(call.mask_BRT.sum(-1).flatten().cpu()",
        f"{ANSWER}::test_the_mean_over_scored_steps_is_the_gradient_of_all_steps",
    ),
    "what is not masked is trained": Fault(
        "policies/dimoo/estimators.py",
        "return Scoring(masked_nN.long() - 1, mask_nN, ",
        "return Scoring(masked_nN.long() - 1, answer_nN, ",
        ESTIMATED,
    ),
    "masks of a prompt drawn anew": Fault(
        "policies/dimoo/estimators.py",
        "uniforms_P = _uniforms(np.array([seed], np.uint64), len(ids_P))[0]",
        "uniforms_P = torch.rand(len(ids_P))",
        "tests/policies/test_estimators.py::test_old_new_and_reference_see_the_same_masks",
    ),
    "the supervised loss sees its targets": Fault(
        "policies/dimoo/supervised.py",
        "torch.where(masks_nN, layout.ids_A[layout.slots_N], targets_nN)",
        "targets_nN",
        "tests/policies/test_supervised.py::test_it_is_the_mean_of_what_is_masked",
    ),
    "each process of a group has the same seeds": Fault(
        "train/rollout.py",
        "config.rollouts + r) for r in columns]",
        "config.rollouts + r) for r in range(len(columns))]",
        GRADIENT,
    ),
    "rewards of a process' own part of a group": Fault(
        "train/rollout.py",
        "raw_BR = _whole_groups(halves, raw_BR, rollouts)",
        "raw_BR = {name: np.tile(scores, 2)[:, :rollouts] for name, scores in raw_BR.items()}",
        GRADIENT,
    ),
    "a group counted by each of its processes": Fault(
        "train/metrics.py",
        "if sampled.columns.start > 0:",
        "if sampled.columns.start < 0:",
        GRADIENT,
    ),
    "adapters left out of what is saved": Fault(
        "policies/lora.py",
        "value = value + scaling * (second @ first)",
        "value = value + 0 * scaling * (second @ first)",
        "tests/train/test_trainable.py::test_adapters_begin_as_nothing_and_merge_to_what_they_do",
    ),
    "adapters of the first step on resume": Fault(
        "train/loop.py",
        "load_trained(point.checkpoint, policy)",
        "point.checkpoint.exists()",
        "tests/train/test_trainable.py::test_a_run_with_adapters",
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of the repository that the named tests need; the shipped models are not among them."""
    target = tmp_path_factory.mktemp("copy")
    for name in ("src", "tests", "configs", "examples"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("*.egg-info", "checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    command = [sys.executable, str(ROOT / "tests" / "fault_server.py")]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process


def _pytest(server: Server, copy: Path, *tests: str) -> tuple[int, str]:
    """Exit code and output of the tests of the copy, run on the copy's package and not on an installed one."""
    assert server.stdin is not None and server.stdout is not None
    output = copy / "output.txt"
    server.stdin.write(json.dumps({"copy": str(copy), "tests": tests, "output": str(output)}) + "\n")
    server.stdin.flush()
    code, said = int(server.stdout.readline()), output.read_text(encoding="utf-8")
    assert said.startswith(f"package: {copy / 'src' / 'pairuni' / '__init__.py'}\n"), said
    return code, said


def _write(file: Path, text: str) -> None:
    """Also removes what Python has compiled of the file."""
    file.write_text(text, encoding="utf-8")
    for compiled in file.parent.glob(f"__pycache__/{file.stem}.*"):
        compiled.unlink()


def _caught(server: Server, copy: Path, fault: Fault) -> tuple[bool, str]:
    """Whether the named test fails on an assertion in a copy with the fault, and what pytest printed."""
    file = copy / "src" / "pairuni" / fault.file
    text = file.read_text(encoding="utf-8")
    assert text.count(fault.old) == 1
    _write(file, text.replace(fault.old, fault.new))
    try:
        code, output = _pytest(server, copy, fault.test)
    finally:
        _write(file, text)
    # A crash of the broken code would prove nothing: the test itself, or an assertion in the package, must object.
    objection = rf"^FAILED {re.escape(fault.test)}(\[.*\])? - (AssertionError|assert |Failed: DID NOT RAISE)"
    return code == 1 and bool(re.search(objection, output, re.MULTILINE)), output


NAMED = sorted({fault.test for fault in FAULTS.values()})


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted({test.split("/")[1] for test in NAMED}))
def test_without_a_fault_the_named_tests_pass(folder: str, server: Server, copy: Path) -> None:
    code, output = _pytest(server, copy, *(test for test in NAMED if test.startswith(f"tests/{folder}/")))
    assert code == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_caught(name: str, server: Server, copy: Path) -> None:
    caught, output = _caught(server, copy, FAULTS[name])
    assert caught, output


@pytest.mark.slow
@pytest.mark.parametrize(("new", "said"), [("# none\n_ROUNDING = 8", "[100%]"), ("_ROUNDING = none", "NameError")])
def test_what_is_not_caught(new: str, said: str, server: Server, copy: Path) -> None:
    """Neither a change that no test notices, nor code that breaks."""
    test = "tests/algo/test_advantages.py::test_known_values"
    caught, output = _caught(server, copy, Fault("algo/advantages.py", "_ROUNDING = 8", new, test))
    assert not caught and said in output, output


@pytest.mark.parametrize("name", FAULTS)
def test_the_table_is_up_to_date(name: str) -> None:
    """Noticed at once, not only by the slow run: a fault that no longer applies, or a test that has another name."""
    fault = FAULTS[name]
    text = (ROOT / "src" / "pairuni" / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1 and fault.new != fault.old
    ast.parse(text.replace(fault.old, fault.new))
    file, test = fault.test.split("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
