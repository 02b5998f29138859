import pytest
import skimage.data
import torch
import torch.nn.functional as F

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def photograph(name, h, w):
    pixels = torch.from_numpy(getattr(skimage.data, name)().copy()).to(torch.float64) / 255
    resized = F.interpolate(
        pixels.permute(2, 0, 1)[None], size=(h, w), mode="bicubic", antialias=True
    )
    return resized.clamp(0, 1)


@pytest.fixture(scope="session")
def photographs():
    """Real photographs, float64 (n, 3, h, w) in [0, 1], by size and number."""
    cache = {}

    def load(h, w=None, n=4):
        size = (h, w or h)
        for name in PHOTOGRAPHS[:n]:
            if (name, size) not in cache:
                cache[name, size] = photograph(name, *size)
        return torch.cat([cache[name, size] for name in PHOTOGRAPHS[:n]])

    return load


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(20240410)
