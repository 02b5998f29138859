"""Makes the README's pictures from a run folder: python docs/make_images.py saves/quickstart"""

import sys
from pathlib import Path

from score_embedding import atomic_files
from score_embedding.report import figures
from score_embedding.runs import folder as run_folder

IMAGES = Path(__file__).parent / "images"

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    IMAGES.mkdir(exist_ok=True)
    samples = atomic_files.read_arrays(folder / run_folder.SAMPLES)
    scores = atomic_files.read_arrays(folder / run_folder.SCORES)
    figures.save(figures.strip(samples), IMAGES / "strip.png")
    figures.save(figures.score_fields(scores), IMAGES / "scores.png")
