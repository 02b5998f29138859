"""What a trained model is measured by: samples, denoising of held-out photographs, distances."""
