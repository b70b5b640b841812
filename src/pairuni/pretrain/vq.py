"""The image tokenizers of the small models, and the phases that pre-train Janus' on Shapes images.

Four phases (dimoo.py has its own, on codes that are given, and takes the last from here): a plain autoencoder; a
codebook from k-means of its latents (a random one stays unused for hundreds of steps); the quantised model with
straight-through gradients; then the decoder alone on codes that no longer move.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

if TYPE_CHECKING:  # an extra, which Janus does without
    from diffusers.models.autoencoders.vq_model import VQModel

COMMITMENT = 0.25
"""Weight of pulling latents to their codes, relative to pulling codes to latents."""
NOISE = 0.4
"""Of the first phase, relative to the size of latents: about the distance to a code."""


class ImageTokenizer(ABC):
    """A family's image tokenizer as its pre-training sees it. Latents are [N, h, w, D]."""

    black: ClassVar[float]
    """What the family makes of pixel value 0; 255 is 1."""

    def __init__(self, module: nn.Module, codebook: nn.Embedding) -> None:
        self.module, self.codebook = module, codebook

    @abstractmethod
    def latents(self, pixels_N3HW: Tensor) -> Tensor:
        """Of pixels in [black, 1]."""

    @abstractmethod
    def entries(self) -> Tensor:
        """[K, D]: the codes as latents are compared with them, and as the decoder reads them."""

    @abstractmethod
    def reconstruct(self, z_NhwD: Tensor) -> Tensor:
        """Pixels of latents or entries."""

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
        made = torch.cat([self._decoded(part).permute(0, 2, 3, 1).cpu() for part in codes_NT.split(batch)])
        return ((made - self.black) / (1 - self.black) * 255).clamp(0, 255).to(torch.uint8).numpy()

    def to_pixels(self, images_NHWC: np.ndarray) -> Tensor:
        """uint8 images -> [N, 3, H, W] in [black, 1], on the tokenizer's device."""
        scaled = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float() / 255
        return (self.black + (1 - self.black) * scaled).to(self.codebook.weight.device)

    def _decoded(self, codes_NT: Tensor) -> Tensor:
        side = round(codes_NT.shape[1] ** 0.5)
        return self.reconstruct(self.entries()[codes_NT.to(self.codebook.weight.device)].unflatten(1, (side, side)))


class JanusTokenizer(ImageTokenizer):
    """Latents and codes are compared at unit length, as the family's decoder reads them.

    (transformers' own `encode` leaves the normalisation out.)
    """

    black: ClassVar[float] = -1.0

    def __init__(self, vqvae: JanusVQVAE) -> None:
        super().__init__(vqvae, vqvae.quantize.embedding)
        self.vqvae = vqvae

    def latents(self, pixels_N3HW: Tensor) -> Tensor:
        return F.normalize(self.vqvae.quant_conv(self.vqvae.encoder(pixels_N3HW)).permute(0, 2, 3, 1), dim=-1)

    def entries(self) -> Tensor:
        return F.normalize(self.codebook.weight, dim=-1)

    def reconstruct(self, z_NhwD: Tensor) -> Tensor:
        return self.vqvae.decoder(self.vqvae.post_quant_conv(z_NhwD.permute(0, 3, 1, 2)))


class DimooTokenizer(ImageTokenizer):
    """aMUSEd's: plain distances, numbers in [0, 1]."""

    black: ClassVar[float] = 0.0

    def __init__(self, vqvae: "VQModel") -> None:
        super().__init__(vqvae, vqvae.quantize.embedding)
        self.vqvae = vqvae

    def latents(self, pixels_N3HW: Tensor) -> Tensor:
        return self.vqvae.quant_conv(self.vqvae.encoder(pixels_N3HW)).permute(0, 2, 3, 1)

    def entries(self) -> Tensor:
        return self.codebook.weight

    def reconstruct(self, z_NhwD: Tensor) -> Tensor:
        return self.vqvae.decoder(self.vqvae.post_quant_conv(z_NhwD.permute(0, 3, 1, 2)))


def reconstruction_loss(made: Tensor, pixels: Tensor) -> Tensor:
    """L1 + L2, five times as heavy on what is drawn: an image is mostly background, which is easy."""
    drawn = (pixels - pixels[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.1
    return ((1 + 4 * drawn) * ((made - pixels).abs() + (made - pixels) ** 2)).mean()


def reset_convolutions(module: nn.Module) -> None:
    """torch's own scale of initial weights: with the family's 0.02 a small tokenizer idles for hundreds of steps."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.reset_parameters()


def autoencoder_loss(tokenizer: ImageTokenizer, pixels: Tensor) -> Tensor:
    """Phase 1: no quantisation, with noise that the decoder learns to bear."""
    z = tokenizer.latents(pixels)
    noise = NOISE * _size(z).sqrt() * torch.randn_like(z)
    return reconstruction_loss(tokenizer.reconstruct(z + noise), pixels)


def quantised_loss(tokenizer: ImageTokenizer, pixels: Tensor) -> Tensor:
    """Phase 3: straight-through, codes and latents pulled together."""
    z = tokenizer.latents(pixels)
    quantised = tokenizer.entries()[tokenizer.nearest(z)].view_as(z)
    together = F.mse_loss(quantised, z.detach()) + COMMITMENT * F.mse_loss(z, quantised.detach())
    together = together / (z.shape[-1] * _size(z))  # 1 at unit length
    return reconstruction_loss(tokenizer.reconstruct(z + (quantised - z).detach()), pixels) + together


def _size(z: Tensor) -> Tensor:
    """Mean square of the latents' numbers."""
    return z.detach().square().mean()


def decoder_loss(tokenizer: ImageTokenizer, pixels: Tensor) -> Tensor:
    """Phase 4: the decoder alone, on codes that no longer move."""
    with torch.no_grad():
        z = tokenizer.latents(pixels)
        quantised = tokenizer.entries()[tokenizer.nearest(z)].view_as(z)
    return reconstruction_loss(tokenizer.reconstruct(quantised), pixels)


@torch.no_grad()
def fit_codebook(tokenizer: ImageTokenizer, images_NHWC: np.ndarray, seed: int) -> None:
    """Phase 2: codes from k-means. Plain background is most of every image, so it is given one code and left out."""
    starts = range(0, len(images_NHWC), 256)
    z = torch.cat([tokenizer.latents(tokenizer.to_pixels(images_NHWC[i : i + 256])).cpu() for i in starts])
    patch = images_NHWC.shape[1] // z.shape[1]
    n, h, w, _ = z.shape
    patches = images_NHWC.reshape(n, h, patch, w, patch, 3).astype(np.float32)
    drawn = patches.std(axis=(2, 4)).max(-1) > 4
    codes = tokenizer.codebook.weight
    plain = z[torch.from_numpy(~drawn)].mean(0, keepdim=True)
    # n_init is annotated as str, for its default "auto".
    means: Any = KMeans(len(codes) - 1, n_init=cast(Any, 1), max_iter=50, random_state=seed)
    fitted = means.fit(z[torch.from_numpy(drawn)].numpy())
    codes.copy_(torch.cat([plain, torch.from_numpy(fitted.cluster_centers_)]).float())
    codes.copy_(tokenizer.entries())


PHASES: dict[str, Callable[[ImageTokenizer, Tensor], Tensor]] = {
    "auto": autoencoder_loss,
    "quantised": quantised_loss,
    "decoder": decoder_loss,
}
