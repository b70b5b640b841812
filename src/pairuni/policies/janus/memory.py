"""Peak memory of a Janus training step, estimated from the model's numbers (dims.py) and a workload's.

Counted are the tensors that grow with the model, the rows or the tokens: each function names its own. Not counted are
the allocator's fragmentation, workspaces of kernels, the CUDA context, Python (policies/memory.py has allowances for
these), and whatever other models a run holds: rewards and benchmarks with weights of their own. Rows are taken as long
as they may become (answers of max_new_tokens) and no row as skipped for its zero advantage, so real steps take less.
Widths: H hidden, A all heads, I intermediate, V vocabulary, L tokens of a row; sizes are bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from pairuni.errors import InputError
from pairuni.policies.janus.cache import SHORT
from pairuni.policies.janus.dims import Dims, dims, load_config
from pairuni.policies.janus.load import refuse_sampler_options
from pairuni.policies.janus.model import PIXEL_BATCH
from pairuni.policies.janus.packing import pack_shape
from pairuni.policies.janus.policy import MANY, JanusPolicy
from pairuni.policies.memory import Parts, Stages, Workload, made_up, most, stages_of, width_of
from pairuni.policies.scoring import LOGITS
from pairuni.types import Prompt, Side

# Feature maps of the largest size that the pixel decoder has at a time: a block's input, its result, two in hand.
DECODER_MAPS = 4


@dataclass(frozen=True)
class _Head:
    """What a head has to do: its outputs and parameters, and actions, guided where there are unconditional ones."""

    outputs: int
    parameters: int
    actions: int
    guided: bool = False


def estimate(d: Dims, work: Workload) -> Stages:
    """See `memory.Planner`: per stage, what is alive at its peak. Gradients are dropped after the update."""
    rollout = {Side.GENERATION: _image_rollout, Side.UNDERSTANDING: _text_rollout}
    update = {Side.GENERATION: _image_update, Side.UNDERSTANDING: _text_update}
    return stages_of(d, work, *({side: partial(of[side], d, work) for side in Side} for of in (rollout, update)))


def kv_bytes(d: Dims, bf16: bool) -> int:
    """Keys and values of one token."""
    return 2 * d.layers * d.keys * width_of(bf16)


def kept_bytes(d: Dims, bf16: bool) -> int:
    """What one layer keeps of one token for its backward pass.

    Two norms (input, normalised, both fp32, and what the linear layers read), queries, keys, values and output of
    attention, three products and the activation of the MLP, and the row sums of norms and attention. Autocast copies
    what each of the five linear layers reads.
    """
    read = 5 * 2 if bf16 else 2 * 4
    values = 4 * d.attention + 4 * d.intermediate
    return (4 * 4 + read) * d.hidden + width_of(bf16) * values + 8 + 4 * d.heads


def working_bytes(d: Dims, bf16: bool) -> int:
    """What one layer has in hand of one token beyond what is kept, forward or backward: the MLP's three, two states."""
    return width_of(bf16) * (3 * d.intermediate + d.hidden) + 8 * d.hidden


def _copies(d: Dims, work: Workload, head: _Head) -> Parts:
    """Autocast's copies of the weights that a call has used, which live until it returns."""
    return {"bf16 weights": 2 * (work.adapters or d.linear + head.parameters)} if work.bf16 else {}


def _image_rollout(d: Dims, work: Workload) -> Iterator[Parts]:
    """Prompts read once; one cache for all rows, the unconditional ones included; then the pixels of 32 images."""
    guided = work.spec.guidance > 1
    rows = work.prompts * work.rollouts
    shape = work.prompts + guided, work.text_tokens, rows * (1 + guided), d.image_codes
    yield from _decoding(d, work, shape, _Head(d.codes, d.code_head, rows, guided))
    batch = min(rows, PIXEL_BATCH)
    yield {"pixels": batch * (DECODER_MAPS * 4 * d.decoder + 2 * 12 * d.pixels**2) + rows * 3 * d.pixels**2}


def _text_rollout(d: Dims, work: Workload) -> Iterator[Parts]:
    """Images seen once; prompts with their images read once; one cache for all answers at their longest."""
    rows, length = work.prompts * work.rollouts, d.image_tokens + work.text_tokens
    seen = {"seen images": work.prompts * 4 * d.image_tokens * d.vision_hidden}
    copies = {"bf16 vision weights": 2 * d.vision_linear} if work.bf16 and not work.adapters else {}
    yield seen | copies | {"vision encoder": min(work.prompts, PIXEL_BATCH) * _seen(d, work)}
    shape = work.prompts, length, rows, work.spec.max_new_tokens
    kept = copies | ({} if work.cuda else seen)  # which are on the CPU
    yield from (kept | parts for parts in _decoding(d, work, shape, _Head(d.vocabulary, d.text_head, rows)))


def _seen(d: Dims, work: Workload) -> int:
    """An image in the frozen vision encoder, without grad: pixels, one layer's tensors, the states before and after."""
    width = width_of(work.bf16)
    states = 12 * d.vision_hidden + width * (2 * d.vision_intermediate + 2 * d.vision_hidden)
    return 2 * 12 * d.pixels**2 + d.image_tokens * (states + (width + 4) * d.hidden)


def _decoding(d: Dims, work: Workload, shape: tuple[int, int, int, int], head: _Head) -> Iterator[Parts]:
    """Prefill, and the last action with all keys and values there: those of a prompt once, not once per row.

    Args:
        shape: prompts, tokens of a prompt, rows, actions of a row.
        head: of one action of each row.
    """
    prefixes, length, rows, actions = shape
    copies = _copies(d, work, head)
    width, token = width_of(work.bf16), kv_bytes(d, work.bf16)
    copied = 0 if work.cuda or length > SHORT else length
    prefix, own = prefixes * length * token, rows * (copied + actions - 1) * token
    working = working_bytes(d, work.bf16) + 8 * d.hidden
    # Under autocast the forward's keys are fp32, and rounded when it is over.
    rotated = prefixes * length * d.layers * d.keys * 4 if work.bf16 else 0
    yield copies | {"keys and values": prefix + rotated, "activations": prefixes * length * working}
    cache = copies | {"keys and values": prefix + own}
    if not work.cuda:  # Plain torch, with a blocked copy of the weights, and attention over long prompts in fp32.
        if not work.bf16 and actions >= MANY:
            cache |= {"blocked weights": 4 * (d.linear + head.parameters)}
        if not copied:
            scores = rows * (length + actions) * d.heads * 4 * 5
            shared = (prefixes * length + rows * (actions - 1)) * d.keys * 4 if work.bf16 else 0
            yield cache | {"attention": scores + shared}
    # Taking rows out copies a layer's keys after the other.
    yield cache | {"copy of a layer's keys": rows * (copied + actions - 1) * d.keys * width}
    # Logits, fp32 log-probs of one or two distributions, and the fp64 sum that is drawn from with what it sums.
    yield cache | {"logits": head.actions * head.outputs * ((width + 4) * (1 + head.guided) + 16)}


def _image_update(d: Dims, work: Workload) -> Iterator[Parts]:
    """Rows of [caption | codes], twice under logprob_mode = "cfg"; captions of unequal length, hence a mask."""
    guided = work.spec.logprob_mode == "cfg" and work.spec.guidance > 1
    twice = 1 + guided
    tokens = twice * (work.text_tokens + d.image_codes)
    rows = min(work.micro_batch, work.prompts * work.rollouts)
    rows = max(1, min(rows, work.micro_tokens // tokens)) if work.micro_tokens else rows
    length = work.text_tokens + d.image_codes - 1
    head = _Head(d.codes, d.code_head, rows * d.image_codes, guided)
    # The codes' way in: the two layers of the generation aligner.
    inner = twice * rows * d.image_codes * d.hidden * (2 * width_of(work.bf16) + 4)
    inner += twice * rows * d.image_codes * d.hidden * 3 * width_of(work.bf16)  # and the head's first layer
    return _update(d, work, (twice * rows, length, length), head, inner)


def _text_update(d: Dims, work: Workload) -> Iterator[Parts]:
    """Packs of [question | answer | answer ...] with their mask, and what the vision encoder made of their images."""
    for groups in answer_chunks(work, d.image_tokens + work.text_tokens):
        prompt, answer = d.image_tokens + work.text_tokens, work.spec.max_new_tokens
        packs = [pack_shape(prompt, answer, number, d.hidden) for number in groups]
        longest = max(length for _, length in packs)
        shape = sum(number for number, _ in packs), longest, longest - prompt
        images = len(groups) * d.image_tokens * (4 * d.vision_hidden + d.hidden * (3 * width_of(work.bf16) + 4))
        images += 0 if work.cuda else work.prompts * 4 * d.image_tokens * d.vision_hidden
        yield from _update(d, work, shape, _Head(d.vocabulary, d.text_head, sum(groups) * answer), images)


def answer_chunks(work: Workload, prompt: int) -> set[tuple[int, ...]]:
    """Answers of each prompt in the chunks that a call is split into.

    Under micro_tokens a chunk may begin anywhere, since real answers differ in length, and be a little smaller:
    packing saves most for some numbers of answers, so that fewer can take more.
    """
    per, rows = work.rollouts, work.prompts * work.rollouts

    def groups(start: int, size: int) -> tuple[int, ...]:
        first = min(size, per - start % per)
        rest = (size - first) // per * (per,) + ((size - first) % per,)
        return (first, *(number for number in rest if number))

    if not work.micro_tokens:
        starts = range(0, rows, work.micro_batch)
        return {groups(start, min(work.micro_batch, rows - start)) for start in starts}

    def within(start: int, size: int) -> bool:
        tokens = len(groups(start, size)) * prompt + size * work.spec.max_new_tokens
        return size == 1 or tokens <= work.micro_tokens

    found = set()
    for start in range(per):
        largest = most(partial(within, start), min(work.micro_batch, rows - start))
        found |= {groups(start, size) for size in range(max(1, largest - per), largest + 1)}
    return found


def _update(d: Dims, work: Workload, shape: tuple[int, int, int], head: _Head, inner: int) -> Iterator[Parts]:
    """Backward through the head, with all activations alive; through the last layer; into the embeddings.

    Args:
        shape: rows, tokens of a row, and those of them that have a mask.
        inner: what the embeddings keep.
    """
    (rows, length, masked), bf16 = shape, work.bf16
    tokens, gradient = rows * length, 6 if bf16 else 4  # autocast's gradients are bf16 before they are added up
    joined = (masked < length) * width_of(bf16) * d.attention  # of attention with a mask and without
    depth, layer = (1 if work.checkpointing else d.layers), tokens * (kept_bytes(d, bf16) + joined)
    inputs = tokens * 4 * d.hidden * d.layers if work.checkpointing else 0
    shared = _copies(d, work, head) | {"mask": rows * masked * length * (3 + depth * width_of(bf16))}
    # The last norm keeps its input and result; the states that are read are copied.
    ends = tokens * 16 * d.hidden + inner
    logits = min(head.actions, max(1, LOGITS // head.outputs)) * head.outputs
    trains = not work.adapters  # frozen weights have no gradient
    yield shared | {
        "activations": ends + inputs + (0 if work.checkpointing else layer * depth),
        "logits": logits * _per_logit(head.guided, bf16),
        "a weight's gradient": trains * head.parameters * gradient,
    }
    yield shared | {
        "activations": ends + inputs + layer * depth + tokens * working_bytes(d, bf16),
        "a weight's gradient": trains * d.hidden * d.intermediate * gradient,
    }
    yield {"a weight's gradient": trains * d.vocabulary * d.hidden * 4}


def _per_logit(guided: bool, bf16: bool) -> int:
    """Bytes per logit of a slice that is scored. fp32: one tensor, or both kinds, their difference, product and sum.

    Under autocast products are bf16 before they are fp32, and an earlier slice's memory is not written over.
    """
    if bf16:
        return 26 if guided else 12
    return 16 if guided else 4


class JanusPlanner:
    """See `memory.Planner`."""

    def __init__(self, path_or_hub_id: str, sampler_options: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Reads the config alone.

        Raises:
            InputError: there is none, it describes no Janus model, or there are sampler_options.
        """
        refuse_sampler_options(sampler_options)
        try:
            self.dims = dims(load_config(path_or_hub_id))
        except InputError as err:
            raise InputError(err.message, file=path_or_hub_id) from None
        self.parameters, self.trained = self.dims.parameters, self.dims.trained
        self.sizes, self.adaptable = self.dims.sizes, self.dims.adaptable

    def estimate(self, work: Workload) -> Stages:
        return estimate(self.dims, work)

    def prompts(self, policy: JanusPolicy, side: Side, work: Workload) -> list[Prompt]:
        seen = self.dims.image_tokens if side is Side.UNDERSTANDING else 0

        def tokens(prompt: Prompt) -> int:
            return len(policy.prompts.encode(side, [prompt]).ids[0]) - seen

        return made_up(side, work, policy.image_size, tokens)
