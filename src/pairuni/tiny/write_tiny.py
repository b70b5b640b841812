"""`pairuni tiny`: writes a small random Janus."""

from pairuni.config import TinyConfig
from pairuni.files import added_to, read_jsonl
from pairuni.tiny.build_janus import JanusSize, build_janus
from pairuni.tiny.corpus import corpus

MODEL_FILES = ("*.safetensors", "*config.json", "tokenizer.json", "*.jinja", "vqvae/*", "model.safetensors.index.json")
"""Patterns of the files of a saved model."""


def write_tiny(config: TinyConfig) -> None:
    """Writes a small random Janus in fp32.

    Raises:
        InputError: the texts cannot be read.
    """
    size = JanusSize(
        image=config.image,
        patch=16,
        hidden=config.hidden,
        layers=2,
        intermediate=2 * config.hidden,
        vision_hidden=config.hidden,
        vision_layers=2,
        vq_multipliers=(1, 1, 1, 1, 1),
    )
    texts = corpus(config.seed, 300)
    if config.texts is not None:
        texts = [v for _, row in read_jsonl(config.texts) for v in row.values() if isinstance(v, str)]
    model, processor = build_janus(size, texts, config.seed)
    with added_to(config.output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
