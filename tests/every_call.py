"""Every public numerical function once, under torch's defaults of argv: `every_call.py FILE
[DTYPE] [DEVICE]` writes the results as a safetensors file. For test_public_api.py."""

import sys

import torch
from safetensors.torch import save_file

path, dtype, device = sys.argv[1:]
torch.set_default_dtype(getattr(torch, dtype))
torch.set_default_device(device)

import score_embedding as se  # noqa: E402 - what is made at import must not depend on the defaults
from score_embedding import densities  # noqa: E402
from score_embedding.config.sections import DataLoader, HeldOut  # noqa: E402
from score_embedding.data.datasets import load_dataset, load_held_out  # noqa: E402
from score_embedding.kinds import DENSITIES, PIXEL_DENSITIES, SCHEMES  # noqa: E402
from score_embedding.methods.samplers import start  # noqa: E402

found = {}


def keep(name, value):
    found[name] = value.detach().contiguous()


def random(*shape, dtype=torch.float64):
    generator = torch.Generator(device="cpu").manual_seed(len(shape))
    return torch.rand(shape, generator=generator, dtype=dtype, device="cpu")


for sde in (se.VarianceExploding(3.0), se.VarianceExploding(1.0), se.VariancePreserving()):
    for t in (0.3, random(4)):
        which = f"{sde} {type(t).__name__}"
        for name in ("g", "std"):
            keep(f"{which} {name}", getattr(sde, name)(t))
        keep(f"{which} integral", sde.integral_g2(0.1, t))
        keep(f"{which} f", sde.f(random(3), 0.5))
SDE = se.VarianceExploding(3.0)
keep("time of std", SDE.time_of(0.7))

images = random(3, 3, 8, 9, dtype=torch.float32)
for method in PIXEL_DENSITIES:
    keep(f"log_density {method}", se.log_density(images, method=method))
m0, times = se.log_density(images), random(3).cumsum(0)
settings = [
    (scheme, boundary, drift)
    for scheme, about in SCHEMES.items()
    for boundary in about.boundaries
    for drift in (None, se.AffineDrift(0.3))
    if drift is None or boundary in about.drift_boundaries
]
for scheme, boundary, drift in settings:
    options = {"scheme": scheme, "boundary": boundary, "drift": drift, "tolerance": 1e-4}
    for given in (m0.float(), m0.half(), m0.numpy()) if drift is None else (m0.float(),):
        solution = se.solve(given, SDE, times, **options)
        which = f"{scheme} {boundary} {drift} {given.dtype}"
        keep(f"{which} m", solution.log_density)
        keep(f"{which} score", solution.score())
for scheme, linear in (("implicit", "direct"), ("implicit", "iterative"), ("krylov", "iterative")):
    options = {"scheme": scheme, "linear": linear, "boundary": "zero", "drift": random(1, 7)}
    keep(f"{scheme} {linear} array", se.solve(m0[..., 0, :7], SDE, times, **options).log_density)
keep("deep", se.solve(40 * random(1, 1, 6), SDE, times).log_density)
keep("deep, zero", se.solve(40 * random(1, 1, 6), SDE, times, boundary="zero").log_density)
keep("transform", se.solve(random(1, 1, 220), SDE, times).log_density)
keep("3-D", se.solve(random(1, 1, 4, 5, 6), SDE, times).score())
scores = se.solve(m0, SDE, times).score()
keep("embed", se.embed(images, scores, SDE, times))
keep("embed, dt", se.embed(images.half(), scores.half(), SDE, times.numpy(), dt=0.1))
for k, part in enumerate(se.gradient(m0.float(), dh=0.5, boundary="zero")):
    keep(f"gradient {k}", part)

for kind in DENSITIES:
    listed = [random(3, 12, 14, dtype=torch.float32), random(3, 5, 6, dtype=torch.float32)]
    density = se.fit(kind, listed, side=4, arrays=150, components=3, rank=4)
    densities.save(density, f"{path}.density")
    density = densities.load(f"{path}.density").to(images)
    for given in (images[..., :4, :4], images[..., :4, :4].half().numpy()):
        for name in ("denoise", "score", "log_density")[: 2 + DENSITIES[kind].likelihood]:
            keep(f"{kind} {name} {given.dtype}", getattr(density, name)(given, [0.1, 0.3, 0.1]))
    keep(f"{kind} windows", density.denoise(images.double(), 0.4))

for given in (random(2, 3, 4, 4).float(), 3 * random(2, 3, 4, 4)):
    for sampler in (se.heun, se.rk45):
        samples = sampler(lambda x, t: -x / (1 + SDE.std(t[0]).to(x) ** 2), SDE, given, 1e-3)
        for name in ("x", "path", "path_times"):
            keep(f"{sampler.__name__} {given.dtype} {name}", getattr(samples, name))
keep("start", start(images, 2.0, 5))

arrays = images.permute(0, 2, 3, 1).numpy()
for channels in (1, 3):
    keep(f"arrays {channels}", se.load_images(arrays, size=6, channels=channels))
    keep(f"tensors {channels}", se.load_images([images, images[0].half()], channels=channels))
sample = {"dataset": "sample", "image": ["astronaut", "coffee"], "rotate_augment": True}
keep("data set", load_dataset(DataLoader(**sample)))
keep("crops", load_dataset(DataLoader(**sample, crops=True, shrink=4, num_images=3)))
for name, picture in load_held_out(HeldOut(image=["camera"], shrink=8), 1).items():
    keep(name, picture)
save_file(found, path)
