"""The image tokenizers of the small models, and the four phases that pre-train the one of Janus.

1. A plain autoencoder. 2. A codebook by k-means of its latents; most of a random one would stay unused for hundreds of
steps. 3. The quantised model with straight-through gradients. 4. The decoder alone on fixed codes. make_dimoo.py has
given codes and uses only the last phase.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

if TYPE_CHECKING:  # an optional extra that Janus does not need
    from diffusers.models.autoencoders.vq_model import VQModel

COMMITMENT = 0.25
"""Weight of pulling latents to their codes, relative to pulling codes to latents."""
NOISE = 0.4
"""Noise of the first phase relative to the size of latents; about the distance to the nearest code later."""


class ImageTokenizer:
    """A family's image tokenizer, as pre-training uses it. Latents are [N, h, w, D]."""

    black: ClassVar[float]
    """The family's number for pixel value 0; that for 255 is 1."""
    unit_length: ClassVar[bool] = False
    """Whether latents and codes are compared at unit length, as the family's decoder reads them."""

    def __init__(self, vqvae: "JanusVQVAE | VQModel") -> None:
        self.module, self.codebook = vqvae, vqvae.quantize.embedding

    def latents(self, pixels_N3HW: Tensor) -> Tensor:
        """Latents of pixels in [black, 1]."""
        return self._scaled(self.module.quant_conv(self.module.encoder(pixels_N3HW)).permute(0, 2, 3, 1))

    def entries(self) -> Tensor:
        """The codes [K, D], in the form that latents are compared with and that the decoder reads."""
        return self._scaled(self.codebook.weight)

    def reconstruct(self, z_NhwD: Tensor) -> Tensor:
        """Pixels from latents or entries."""
        return self.module.decoder(self.module.post_quant_conv(z_NhwD.permute(0, 3, 1, 2)))

    def nearest(self, z_NhwD: Tensor) -> Tensor:
        """Indices [N, h * w] of the nearest entries."""
        entries_KD = self.entries()
        return (z_NhwD.flatten(1, 2) @ entries_KD.T - entries_KD.square().sum(-1) / 2).argmax(-1)

    @torch.no_grad()
    def encode(self, images_NHWC: np.ndarray, batch: int = 256) -> Tensor:
        """Codes [N, tokens] of uint8 images, on the CPU."""
        starts = range(0, len(images_NHWC), batch)
        pixels = (self.to_pixels(images_NHWC[i : i + batch]) for i in starts)
        return torch.cat([self.nearest(self.latents(part)).cpu() for part in pixels])

    @torch.no_grad()
    def decode(self, codes_NT: Tensor, batch: int = 256) -> np.ndarray:
        """uint8 images [N, H, W, 3] of codes [N, tokens]."""
        side, device, made = round(codes_NT.shape[1] ** 0.5), self.codebook.weight.device, []
        for part in codes_NT.split(batch):
            pixels = self.reconstruct(self.entries()[part.to(device)].unflatten(1, (side, side)))
            made.append(((pixels - self.black) / (1 - self.black) * 255).clamp(0, 255).to(torch.uint8).cpu())
        return torch.cat(made).permute(0, 2, 3, 1).numpy()

    def to_pixels(self, images_NHWC: np.ndarray) -> Tensor:
        """uint8 images -> [N, 3, H, W] in [black, 1], on the tokenizer's device."""
        scaled = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float() / 255
        return (self.black + (1 - self.black) * scaled).to(self.codebook.weight.device)

    def _scaled(self, values: Tensor) -> Tensor:
        return F.normalize(values, dim=-1) if self.unit_length else values


class JanusTokenizer(ImageTokenizer):
    """Codes at unit length; transformers' own `encode` leaves the normalisation out."""

    black: ClassVar[float] = -1.0
    unit_length: ClassVar[bool] = True


class DimooTokenizer(ImageTokenizer):
    """The tokenizer of aMUSEd: plain distances, pixels in [0, 1]."""

    black: ClassVar[float] = 0.0


def reconstruction_loss(made: Tensor, pixels: Tensor) -> Tensor:
    """L1 + L2. Drawn pixels weigh five times as much as the background, which is most of an image and easy."""
    drawn = (pixels - pixels[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.1
    return ((1 + 4 * drawn) * ((made - pixels).abs() + (made - pixels) ** 2)).mean()


def reset_convolutions(module: nn.Module) -> None:
    """Draws weights at torch's default scale; with the family's 0.02 a small tokenizer learns nothing for long."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.reset_parameters()


def autoencoder_loss(tokenizer: ImageTokenizer, pixels: Tensor) -> Tensor:
    """Phase 1: no quantisation, but noise on the latents, which the decoder learns to tolerate."""
    z = tokenizer.latents(pixels)
    noise = NOISE * _size(z).sqrt() * torch.randn_like(z)
    return reconstruction_loss(tokenizer.reconstruct(z + noise), pixels)


def quantised_loss(tokenizer: ImageTokenizer, pixels: Tensor) -> Tensor:
    """Phase 3: straight-through gradients, with codes and latents pulled towards each other."""
    z = tokenizer.latents(pixels)
    quantised = tokenizer.entries()[tokenizer.nearest(z)].view_as(z)
    together = F.mse_loss(quantised, z.detach()) + COMMITMENT * F.mse_loss(z, quantised.detach())
    together = together / (z.shape[-1] * _size(z))  # 1 at unit length
    return reconstruction_loss(tokenizer.reconstruct(z + (quantised - z).detach()), pixels) + together


def _size(z: Tensor) -> Tensor:
    """Mean square of the latents."""
    return z.detach().square().mean()


def decoder_loss(tokenizer: ImageTokenizer, pixels: Tensor) -> Tensor:
    """Phase 4: the decoder alone, on fixed codes."""
    with torch.no_grad():
        z = tokenizer.latents(pixels)
        quantised = tokenizer.entries()[tokenizer.nearest(z)].view_as(z)
    return reconstruction_loss(tokenizer.reconstruct(quantised), pixels)


@torch.no_grad()
def fit_codebook(tokenizer: ImageTokenizer, images_NHWC: np.ndarray, seed: int) -> None:
    """Phase 2: codes by k-means. Plain background is most of every image, so it gets one code and is left out."""
    starts = range(0, len(images_NHWC), 256)
    z = torch.cat([tokenizer.latents(tokenizer.to_pixels(images_NHWC[i : i + 256])).cpu() for i in starts])
    patch = images_NHWC.shape[1] // z.shape[1]
    n, h, w, _ = z.shape
    patches = images_NHWC.reshape(n, h, patch, w, patch, 3).astype(np.float32)
    drawn = patches.std(axis=(2, 4)).max(-1) > 4
    codes = tokenizer.codebook.weight
    plain = z[torch.from_numpy(~drawn)].mean(0, keepdim=True)
    # scikit-learn annotates n_init as str.
    means: Any = KMeans(len(codes) - 1, n_init=cast(Any, 1), max_iter=50, random_state=seed)
    fitted = means.fit(z[torch.from_numpy(drawn)].numpy())
    codes.copy_(torch.cat([plain, torch.from_numpy(fitted.cluster_centers_)]).float())
    codes.copy_(tokenizer.entries())


PHASES: dict[str, Callable[[ImageTokenizer, Tensor], Tensor]] = {
    "auto": autoencoder_loss,
    "quantised": quantised_loss,
    "decoder": decoder_loss,
}
