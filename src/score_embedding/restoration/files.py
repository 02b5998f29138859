"""Photograph files denoised and inpainted: what the commands denoise and inpaint do."""

from score_embedding.restoration.denoising_files import Options, denoise
from score_embedding.restoration.inpainting_files import inpaint

__all__ = ["Options", "denoise", "inpaint"]
