"""`pairuni sample`: images for a prompt as one PNG, or answers to a question about an image."""

from glob import escape
from pathlib import Path

import numpy as np
from PIL import Image

from pairuni.config import SampleConfig
from pairuni.data.images import load_image
from pairuni.files import atomic_path, check_folder
from pairuni.outputs import Outputs
from pairuni.policies import load_policy
from pairuni.policies.requests import refuse_long
from pairuni.policies.sampling import seeds_for
from pairuni.types import Prompt, SamplingSpec, Side


def run_sample(config: SampleConfig) -> None:
    """Samples `config.number` times, and prints the answers or writes the images."""
    side = Side.GENERATION if config.prompt is not None else Side.UNDERSTANDING
    # Before the slow loading of the model, so that a wrong path fails at once.
    check_folder(Path(config.output).parent)
    images = () if config.image is None else (load_image(config.image),)
    spec = SamplingSpec(
        temperature=config.temperature,
        guidance=config.guidance,
        max_new_tokens=config.max_new_tokens,
        top_k=config.top_k,
        top_p=config.top_p,
    )
    output = Outputs(Path(config.output).parent, "sample", [escape(Path(config.output).name)], config.overwrite)
    policy = load_policy(
        config.model, device=config.device, precision=config.precision, sampler_options=config.sampler_options
    )
    prompt = Prompt(side, config.prompt or config.question or "", images)
    refuse_long(policy, prompt, config.max_new_tokens, "question" if config.prompt is None else "prompt")
    seeds = seeds_for(config.seed, 0, ["sample"], side, config.number)
    rollouts = policy.sample(side, [prompt], config.number, spec, seeds)
    if rollouts.images_BRHWC is not None:
        with output, atomic_path(config.output) as temporary:
            Image.fromarray(np.concatenate(list(rollouts.images_BRHWC[0]), axis=1)).save(temporary, format="PNG")
        print(f"{config.number} images of {config.prompt!r} in {Path(config.output)}")
    if rollouts.texts is not None:
        print("\n".join(rollouts.texts[0]))
