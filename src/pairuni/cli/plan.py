"""`pairuni train --plan`: prints the memory plan as a table."""

from pairuni.cli.options import parse_config
from pairuni.config import PlanConfig
from pairuni.memory_plan import FRAGMENTATION, GIB, OVERHEAD, make_plan
from pairuni.policies.memory import RESIDENT, peak
from pairuni.trainer import check_names


def run_plan(arguments: list[str]) -> None:
    """Prints the plan for the arguments of `pairuni train`, without "--plan"."""
    config = parse_config(PlanConfig, arguments, "train", check_names)
    plan = make_plan(config)
    work, most = plan.work, plan.largest
    name, size = ("billion", 1e9) if plan.parameters >= 1e8 else ("million", 1e6)
    counts = f"{plan.parameters / size:.2f} {name} parameters, {plan.trained / size:.2f} trained"
    where = f"{'a GPU' if work.cuda else 'CPU'}, {'bf16' if work.bf16 else 'fp32'}"
    guided = f", guidance {work.spec.guidance:g}, logprob_mode {work.spec.logprob_mode}"
    limit = f", micro_tokens {work.micro_tokens:,}" if work.micro_tokens else ""
    saved = ", gradient checkpointing" if work.checkpointing else ""
    lines = [
        f"{config.model.path}: {counts}; {where}",
        f"a call: {work.prompts} of {plan.share} prompts x {work.rollouts} rollouts{guided}",
        f"a prompt: {work.text_tokens} tokens of text; an answer: up to {work.spec.max_new_tokens} tokens",
        f"an update: micro_batch {work.micro_batch}{limit}{saved}",
        "",
        f"{'peak, GiB':<16} {'estimated':>9} {'measured':>9}   of which",
    ]
    for stage, parts in plan.stages.items():
        measured = f"{plan.measured[stage] / GIB:.2f}" if stage in plan.measured else "-"
        shown = sorted(((size, name) for name, size in parts.items() if name != RESIDENT), reverse=True)
        names = ", ".join(f"{name} {size / GIB:.2f}" for size, name in shown if size >= 0.005 * GIB)
        lines.append(f"{stage:<16} {peak(parts) / GIB:>9.2f} {measured:>9}   {names}".rstrip())
    lines += [f"not measured: {plan.unmeasured}"] if plan.unmeasured else []
    allowances = f"{FRAGMENTATION:.0%} and {OVERHEAD / GIB:g} GiB of allowance"
    verdict = "it fits" if plan.needed <= plan.memory else "it does not fit"
    lines += ["", f"with {allowances}: {plan.needed / GIB:.1f} GiB of {plan.memory / GIB:.1f} GiB, {verdict}"]
    if not (most.prompts and most.micro_batch):
        least = f"{plan.least / GIB:.1f} GiB"
        lines.append(f"the least: {least} with prompts_per_call 1, micro_batch 1 and model.gradient_checkpointing")
    rows = f" ({most.prompts * work.rollouts} rows)" if most.prompts else ""
    whole = ", all of a process' prompts" if most.prompts == plan.share else ""
    tokens = "any number" if most.micro_tokens is None else f"{most.micro_tokens:,}" if most.micro_tokens else "none"
    lines += [
        "the most that fits",
        f"  rollout.prompts_per_call  {most.prompts or 'none'}{rows}{whole}",
        f"  micro_batch               {most.micro_batch or 'none'}",
        f"  or micro_tokens           {tokens}",
        "not counted: rewards and benchmarks that have a model of their own",
    ]
    print("\n".join(lines))
