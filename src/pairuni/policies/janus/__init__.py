"""Janus: one language model that writes text and VQ image codes; transformers has the model class."""
