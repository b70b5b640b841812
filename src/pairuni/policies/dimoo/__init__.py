"""Lumina-DiMOO: masked diffusion over one vocabulary of text and image codes; the model class is here."""
