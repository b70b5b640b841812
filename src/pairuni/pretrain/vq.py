"""Pre-trains the image tokenizer of a small Janus on Shapes images.

Four phases: a plain autoencoder on unit-length latents; a codebook from k-means of those latents (a random one stays
unused for hundreds of steps); the quantised model with straight-through gradients; then the decoder alone on codes that
no longer move. As in the family's decoder, latents and codes are compared after L2 normalisation.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

COMMITMENT = 0.25
"""Weight of pulling latents to their codes, relative to pulling codes to latents."""


def latents(vq: JanusVQVAE, pixels_N3HW: Tensor) -> Tensor:
    """Unit-length latents [N, h, w, D] of pixels in [-1, 1]."""
    return F.normalize(vq.quant_conv(vq.encoder(pixels_N3HW)).permute(0, 2, 3, 1), dim=-1)


def nearest_codes(vq: JanusVQVAE, z_NhwD: Tensor) -> Tensor:
    """Indices [N, h * w] of the nearest codes by cosine."""
    codebook = F.normalize(vq.quantize.embedding.weight, dim=-1)
    return (z_NhwD.flatten(1, 2) @ codebook.T).argmax(-1)


@torch.no_grad()
def encode_images(vq: JanusVQVAE, images_NHWC: np.ndarray, batch: int = 256) -> Tensor:
    """Codes [N, tokens] of uint8 images. (transformers' own `encode` leaves the normalisation out.)"""
    starts = range(0, len(images_NHWC), batch)
    return torch.cat([nearest_codes(vq, latents(vq, to_pixels(images_NHWC[i : i + batch]))) for i in starts])


@torch.no_grad()
def decode_codes(vq: JanusVQVAE, codes_NT: Tensor, batch: int = 256) -> np.ndarray:
    """uint8 images [N, H, W, 3] of codes [N, tokens]."""
    parts = [_decode(vq, part).permute(0, 2, 3, 1) for part in codes_NT.split(batch)]
    return ((torch.cat(parts) + 1) * 127.5).clamp(0, 255).to(torch.uint8).numpy()


def _decode(vq: JanusVQVAE, codes_NT: Tensor) -> Tensor:
    # int64 on any device; the annotation asks for torch's legacy CPU class.
    return vq.decode(cast(torch.LongTensor, codes_NT))


def to_pixels(images_NHWC: np.ndarray) -> Tensor:
    """uint8 images -> [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruct(vq: JanusVQVAE, z_NhwD: Tensor) -> Tensor:
    return vq.decoder(vq.post_quant_conv(z_NhwD.permute(0, 3, 1, 2)))


def reconstruction_loss(made: Tensor, pixels: Tensor) -> Tensor:
    """L1 + L2, five times as heavy on what is drawn: an image is mostly background, which is easy."""
    drawn = (pixels - pixels[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.1
    return ((1 + 4 * drawn) * ((made - pixels).abs() + (made - pixels) ** 2)).mean()


def reset_convolutions(vq: JanusVQVAE) -> None:
    """torch's own scale of initial weights: with the family's 0.02 a small tokenizer idles for hundreds of steps."""
    for module in vq.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()


def autoencoder_loss(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    """Phase 1: no quantisation, with noise of about the distance to a code, which the decoder learns to bear."""
    z = latents(vq, pixels)
    return reconstruction_loss(reconstruct(vq, z + 0.05 * torch.randn_like(z)), pixels)


def quantised_loss(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    """Phase 3: straight-through, codes and latents pulled together."""
    z = latents(vq, pixels)
    codes = nearest_codes(vq, z).view(z.shape[:-1])
    quantised = F.normalize(vq.quantize.embedding(codes), dim=-1)
    together = F.mse_loss(quantised, z.detach()) + COMMITMENT * F.mse_loss(z, quantised.detach())
    return reconstruction_loss(reconstruct(vq, z + (quantised - z).detach()), pixels) + together


def decoder_loss(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    """Phase 4: the decoder alone, on codes that no longer move."""
    with torch.no_grad():
        codes = nearest_codes(vq, latents(vq, pixels))
    return reconstruction_loss(_decode(vq, codes), pixels)


@torch.no_grad()
def fit_codebook(vq: JanusVQVAE, images_NHWC: np.ndarray, seed: int) -> None:
    """Phase 2: codes from k-means. Plain background is most of every image, so it is given one code and left out."""
    z = torch.cat([latents(vq, to_pixels(images_NHWC[i : i + 256])) for i in range(0, len(images_NHWC), 256)])
    patch = images_NHWC.shape[1] // z.shape[1]
    n, h, w, _ = z.shape
    patches = images_NHWC.reshape(n, h, patch, w, patch, 3).astype(np.float32)
    drawn = patches.std(axis=(2, 4)).max(-1) > 4
    codes = vq.quantize.embedding.weight
    plain = z[torch.from_numpy(~drawn)].mean(0, keepdim=True)
    # n_init is annotated as str, for its default "auto".
    means: Any = KMeans(len(codes) - 1, n_init=cast(Any, 1), max_iter=50, random_state=seed)
    fitted = means.fit(z[torch.from_numpy(drawn)].numpy())
    codes.copy_(F.normalize(torch.cat([plain, torch.from_numpy(fitted.cluster_centers_)]).float(), dim=-1))


PHASES: dict[str, Callable[[JanusVQVAE, Tensor], Tensor]] = {
    "auto": autoencoder_loss,
    "quantised": quantised_loss,
    "decoder": decoder_loss,
}
