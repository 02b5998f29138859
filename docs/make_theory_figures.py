"""The figures of docs/theory.md: python docs/make_theory_figures.py (about a minute)

One photograph that scikit-image ships, 32 x 32, sigma_base 5, N = 20; closed forms; no network, no
random numbers. Prints the figures that the text quotes.
"""

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import skimage.data
import torch
from matplotlib.figure import Figure
from torch.nn.functional import interpolate

import score_embedding as se
from score_embedding.fokker_planck.solve import AffineDrift
from score_embedding.report import figures
from score_embedding.sde import VariancePreserving

IMAGES = Path(__file__).parent / "images"
SDE = se.VarianceExploding(sigma=5.0)
TIMES = torch.linspace(1e-3, 1.0, 20, dtype=torch.float64)
STYLE = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False}


def photograph_density(size=32):
    """Pixel log-density of the green channel of scikit-image's cat, (1, 1, size, size)."""
    pixels = torch.from_numpy(skimage.data.chelsea()[:300, 75:375].copy()).permute(2, 0, 1)
    image = interpolate(pixels[None].double() / 255, (size, size), mode="bicubic", antialias=True)
    return se.log_density(image.clamp(0, 1))[:, 1:2]


def schemes():
    """log p of one channel by three schemes, over time."""
    m0, shown = photograph_density(), (0, 4, 9, 14, 19)
    fields = {
        name: se.solve(m0, SDE, TIMES, scheme=name).log_density[0, :, 0].numpy()
        for name in ("spectral", "implicit", "published")
    }
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots(3, len(shown))
    for row, (name, m) in zip(axes, fields.items(), strict=True):
        for axis, k in zip(row, shown, strict=True):
            axis.imshow(m[k], cmap="viridis")
            axis.set_axis_off()
            axis.set_title(
                f"{name}, t = {TIMES[k]:.2f}\n[{m[k].min():.2g}, {m[k].max():.2g}]", fontsize=8
            )
    figures.save(figure, IMAGES / "schemes.png")
    for name in ("implicit", "published"):
        apart = np.abs(fields[name] - fields["spectral"])
        print(
            f"{name} - spectral, largest, at each t shown:",
            *(f"{apart[k].max():.2g}" for k in shown),
        )


def observed_order(x, errors):
    return float(np.polyfit(np.log(x), np.log(errors), 1)[0])


def cosine(size, tau):
    """log p on [0, 1]^2 between reflecting walls, p a product of two damped cosines."""
    x = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    along = [
        1 + a * math.exp(-tau / 2 * (math.pi * k) ** 2) * torch.cos(math.pi * k * x)
        for a, k in ((0.6, 1), (0.4, 2))
    ]
    return (along[0][:, None] * along[1]).log()[None, None]


def orders():
    """Errors against closed forms over the grid's size and over the number of time steps."""
    brownian, end = se.VarianceExploding(1.0), 0.05
    sizes, space = [8, 16, 32, 64], {}
    affine_sizes = [16, 32, 64, 128]
    for name in ("spectral", "implicit"):
        space[name] = []
        for n in sizes:
            times = torch.linspace(0, end, 2 + n**2 // 8, dtype=torch.float64)
            m = se.solve(cosine(n, 0), brownian, times, scheme=name, dh=1 / n, tolerance=1e-10)
            space[name].append(float((m.log_density[:, -1] - cosine(n, end)).abs().max()))
    counts = [5, 10, 20, 40, 80]
    m0 = cosine(16, 0)
    fine = richardson(m0, brownian, end)
    time_errors = {"implicit": []}
    for count in counts:
        times = torch.linspace(0, end, count + 1, dtype=torch.float64)
        m = se.solve(m0, brownian, times, scheme="implicit", dh=1 / 16, tolerance=1e-12).log_density
        time_errors["implicit"].append(float((m[:, -1] - fine).abs().max()))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        curves = [(name, sizes, errors) for name, errors in space.items()]
        curves.append(
            ("spectral, affine drift", affine_sizes, [affine_error(n) for n in affine_sizes])
        )
        for name, pixels, errors in curves:
            label = f"{name}: order {-observed_order(pixels, errors):.2f}"
            left.loglog(pixels, errors, "o-", ms=3, label=label)
            print("space,", label)
        for name, errors in time_errors.items():
            label = f"{name}: order {-observed_order(counts, errors):.2f}"
            right.loglog(counts, errors, "o-", ms=3, label=label)
            print("time,", label)
        for axis, ticks, name in (
            (left, [*sizes, 128], "pixels an axis"),
            (right, counts, "time steps"),
        ):
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
            axis.set_xlabel(name)
            axis.set_ylim(top=10 * axis.get_ylim()[1])
            axis.legend(loc="upper right", fontsize=8)
        left.set_ylabel("largest error of log p")
    figures.save(figure, IMAGES / "orders.png")


def richardson(m0, sde, end):
    """The implicit scheme's limit of vanishing steps, extrapolated from 640 and 1280."""
    ends = [
        se.solve(
            m0,
            sde,
            torch.linspace(0, end, count + 1, dtype=torch.float64),
            scheme="implicit",
            dh=1 / 16,
            tolerance=1e-12,
        ).log_density[:, -1]
        for count in (640, 1280)
    ]
    return 2 * ends[1] - ends[0]


def affine_error(n):
    """Largest error of log p for a Gaussian on 12 x 12 units under a variance-preserving drift,
    against its closed form, within three units of the centre."""
    sde, dh = VariancePreserving(1.0, 3.0), 12 / n
    x = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * dh
    variance, mean = 0.64, 0.5
    decay = math.exp(-float(sde.integral_g2(0.0, 1.0)))
    later = variance * decay + 1 - decay
    m0 = -((x - mean) ** 2) / (2 * variance)
    exact = -((x - mean * math.sqrt(decay)) ** 2) / (2 * later) + 0.5 * math.log(variance / later)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    m = se.solve(
        (m0[:, None] + m0)[None, None], sde, ends, dh=dh, drift=AffineDrift(sde.rate)
    ).log_density[0, -1, 0]
    near = x.abs() < 3
    return float((m - exact[:, None] - exact)[near][:, near].abs().max())


def gap():
    """RMS difference of implicit and spectral on a photograph's pixel log-density, and on the same
    field interpolated to twice and four times the pixels at half and a quarter of dh."""
    m0 = photograph_density()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axis = figure.subplots()
        for factor in (1, 2, 4):
            finer = m0
            if factor > 1:
                finer = interpolate(m0, scale_factor=factor, mode="bicubic")
            for count, style in ((20, "-"), (160, "--")):
                times = torch.linspace(1e-3, 1.0, count, dtype=torch.float64)
                a, b = (
                    se.solve(
                        finer, SDE, times, scheme=name, dh=1 / factor, tolerance=1e-7
                    ).log_density
                    for name in ("spectral", "implicit")
                )
                apart = (a - b).square().mean(dim=(0, 2, 3, 4)).sqrt()
                label = f"{32 * factor}x{32 * factor}, dh = 1/{factor}, N = {count}"
                axis.plot(
                    times[1:], apart[1:], style, color=f"C{int(math.log2(factor))}", label=label
                )
                print(
                    "gap,",
                    label,
                    f"at most {float(apart.max()):.3f}, at t = 1 {float(apart[-1]):.4f}",
                )
        axis.set_yscale("log")
        axis.set_xlabel("t")
        axis.set_ylabel("implicit - spectral, RMS of log p")
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figures.save(figure, IMAGES / "gap.png")


def stability():
    """The published scheme's score and the bounds of its stable region."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, scale in zip(axes, (1, 10), strict=True):
            m0, N = scale * photograph_density(), len(TIMES)
            solution = se.solve(m0, SDE, TIMES, scheme="published")
            g2 = SDE.g(TIMES) ** 2
            largest = solution.score().abs().amax(dim=(0, 2, 3, 4))
            axis.semilogy(TIMES[1:], largest[1:], label="largest |s|")
            axis.semilogy(TIMES[1:], 2 + N / g2[1:], label="regular below 2/dh + dh/(g² dt)")
            axis.axhline(2, color="C2", label="no growth below 2/dh")
            axis.set_title("a photograph" if scale == 1 else f"its log-density times {scale}")
            axis.set_xlabel("t")
            print(f"stability, times {scale}:", *solution.diagnostics.warnings)
        axes[0].legend(fontsize=7)
    figures.save(figure, IMAGES / "stability.png")


if __name__ == "__main__":
    schemes()
    orders()
    gap()
    stability()
