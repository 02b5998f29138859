"""Photograph files denoised and inpainted: what the commands denoise and inpaint do."""

from score_embedding.restoration.denoising_batch import Options
from score_embedding.restoration.denoising_files import denoise
from score_embedding.restoration.file_noise import FileNoise
from score_embedding.restoration.inpainting_files import inpaint
from score_embedding.restoration.preview import preview

__all__ = ["FileNoise", "Options", "denoise", "inpaint", "preview"]
