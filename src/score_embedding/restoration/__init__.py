"""Denoising and inpainting of photographs, as arrays and as files."""
