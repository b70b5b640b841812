"""The endpoint of a language model: for `pairuni complete`, and for benchmarks that a model judges."""

import re
from typing import Literal

from pairuni.config.fields import Amount, Count, Flag, Positive, PositiveNumber, options, require


@options("llm")
class LlmConfig:
    """An endpoint that speaks the OpenAI chat protocol. The API key is read from the environment and never written."""

    base_url: str = "https://api.openai.com/v1"
    """Address of the endpoint, with its version path."""
    model: str = ""
    """The endpoint's name of the model; it must accept images."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key; local servers need none."""
    temperature: Amount | None = 0.7
    """Sampling temperature. null sends none; an endpoint that refuses the temperature is asked again without it."""
    max_tokens: Positive = 1024
    """Longest reply in tokens."""
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The endpoint's name for the longest reply. An endpoint that asks for the other name gets it."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the endpoint is asked for JSON. Every reply is validated here too."""
    image_side: Positive = 1024
    """Longer side of the images that are sent, in pixels; larger images are scaled down."""
    concurrency: Positive = 32
    """Samples in flight at once."""
    timeout: PositiveNumber = 60.0
    """Seconds per try."""
    retries: Count = 6
    """Tries after the first, on rate limits (waits as Retry-After says), server errors, time-outs, lost connections."""
    price_prompt: Amount = 0.0
    """Price of a million prompt tokens, for the running cost."""
    price_completion: Amount = 0.0
    """Price of a million completion tokens."""
    image_tokens: Count = 1000
    """Prompt tokens of one image, for the estimate of a dry run."""
    ledger: str | None = None
    """Folder of the recorded replies; processes and hosts may share it (default: ledger/ in `output`)."""
    prompts: str | None = None
    """Folder with your own prompt templates; the shipped ones stand in for those that it lacks."""
    replay: Flag = False
    """Use recorded replies only; send no request."""

    def __post_init__(self) -> None:
        # The config is printed and written; a key must not be, so neither message repeats the value.
        named = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env)
        require(named, "api_key_env", "must be the name of an environment variable, not the key itself")
        address = self.base_url.split("://", 1)[-1].split("/", 1)[0]
        require("@" not in address, "base_url", "must not hold a user name or password")
