"""Pictures of every kind for denoising: photographs, drawings, patterns, halftones, night skies,
medical pictures, noise alone; all made here or part of scikit-image."""

import functools
import io

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

RNG = np.random.default_rng
SIDE = 96


def _crop(name, top, left, side=SIDE, channels=None):
    image = getattr(skimage.data, name)()
    image = np.asarray(image[0] if isinstance(image, tuple) else image)
    image = image[top : top + side, left : left + side, ...]
    image = image / 255 if image.dtype == np.uint8 else image.astype(np.float64)
    return image if channels is None else image[..., :channels]


def _rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def _grid(h=SIDE, w=SIDE):
    return np.mgrid[:h, :w].astype(np.float64)


def _checkerboard(period):
    y, x = _grid()
    return ((y // period + x // period) % 2) * 0.6 + 0.2


def _stripes(period, angle=0.0):
    y, x = _grid()
    along = x * np.cos(angle) + y * np.sin(angle)
    return 0.5 + 0.3 * np.sin(2 * np.pi * along / period)


def _sharp_stripes(period):
    return np.tile((np.arange(SIDE) // period) % 2 * 0.5 + 0.25, (SIDE, 1))


def _dithered(grey):
    """Floyd and Steinberg's error diffusion."""
    left = grey.copy()
    h, w = left.shape
    for i in range(h):
        for j in range(w):
            value = round(left[i, j].clip(0, 1))
            error, left[i, j] = left[i, j] - value, value
            for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if i + down < h and 0 <= j + right < w:
                    left[i + down, j + right] += error * share / 16
    return left


def _halftone(grey, period=5):
    y, x = _grid(*grey.shape)
    turned = (x + y) * np.pi / period, (x - y) * np.pi / period
    dots = 0.5 + 0.25 * (np.cos(turned[0]) + np.cos(turned[1]))
    return (grey > dots).astype(np.float64)


def _line_art():
    y, x = _grid()
    rings = np.abs(np.hypot(y - 48, x - 48) % 14 - 7) < 0.6
    rays = np.abs((y - 48) - 0.4 * (x - 48)) < 0.7
    return 1.0 - (rings | rays)


def _gradient():
    y, x = _grid()
    return np.dstack([x / SIDE, y / SIDE, (x + y) / (2 * SIDE)])


def _night_sky(stars=60):
    sky = np.full((SIDE, SIDE), 0.03)
    random = RNG(5)
    sky[tuple(random.integers(0, SIDE, (2, stars)))] = random.uniform(0.3, 1, stars)
    return sky


def _bright_dots():
    sky = np.full((SIDE, SIDE), 0.3)
    sky[5::11, 7::11] = 0.9
    return sky


def _screenshot():
    page = np.full((SIDE, SIDE, 3), 0.94)
    page[:16] = (0.2, 0.35, 0.6)
    page[30:60, 8:88] = 1.0
    text = _crop("page", 20, 30)[:26, :76]
    page[32:58, 10:86] = text[..., None]
    page[70:84, 10:40] = (0.85, 0.3, 0.2)
    return page


def _smooth(seed, blur, spread):
    field = gaussian_filter(RNG(seed).normal(size=(SIDE, SIDE)), blur, mode="wrap")
    return (0.5 + spread * field / field.std()).clip(0, 1)


def _drawn(draw):
    """What `draw` leaves on white, at four times the size, made smaller: with soft edges."""
    page = Image.new("RGB", (4 * SIDE, 4 * SIDE), "white")
    draw(ImageDraw.Draw(page))
    return np.asarray(page.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) / 255


def _soft_text(draw):
    font = ImageFont.load_default(40)
    for line, text in enumerate(
        ("score of a", "density at", "each level", "of noise,", "diffused")
    ):
        draw.text((10, 75 * line), text, "black", font)


def _coloured_lines(draw):
    random = RNG(8)
    for _ in range(15):
        colour = tuple(int(v) for v in random.integers(0, 255, 3))
        draw.line([int(v) for v in random.integers(0, 4 * SIDE, 4)], colour, 6)


def _plot():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 2), dpi=SIDE // 2)
    axes = figure.subplots()
    x = np.linspace(0, 6, 50)
    axes.plot(x, np.sin(x), x, np.cos(2 * x))
    axes.grid(True)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB")) / 255


MAKERS = {
    # photographs
    "astronaut": lambda: _crop("astronaut", 30, 180),
    "coffee": lambda: _crop("coffee", 100, 200),
    "chelsea": lambda: _crop("chelsea", 80, 120),
    "rocket": lambda: _crop("rocket", 200, 260),
    "motorcycle": lambda: _crop("stereo_motorcycle", 200, 300),
    "camera": lambda: _crop("camera", 60, 180),
    "coins": lambda: _crop("coins", 60, 60),
    "moon": lambda: _crop("moon", 200, 200),
    "clock": lambda: _crop("clock", 100, 100),
    "astronaut_grey_as_rgb": lambda: _rgb(_crop("astronaut", 30, 180).mean(axis=2)),
    "camera_as_rgb": lambda: _rgb(_crop("camera", 60, 180)),
    # top left cut-outs
    "astronaut_corner": lambda: _crop("astronaut", 0, 0),
    "coffee_corner": lambda: _crop("coffee", 0, 0),
    "chelsea_corner": lambda: _crop("chelsea", 0, 0),
    "rocket_corner": lambda: _crop("rocket", 0, 0),
    "motorcycle_corner": lambda: _crop("stereo_motorcycle", 0, 0),
    "camera_corner": lambda: _crop("camera", 0, 0),
    # medical
    "phantom": lambda: _crop("shepp_logan_phantom", 120, 150),
    "cell": lambda: _crop("cell", 200, 200),
    "retina": lambda: _crop("retina", 600, 600),
    "retina_corner": lambda: _crop("retina", 0, 0),
    "immunohistochemistry": lambda: _crop("immunohistochemistry", 200, 200),
    "microaneurysms": lambda: _crop("microaneurysms", 0, 0),
    # drawings and text
    "horse": lambda: _crop("horse", 100, 100),
    "blobs": lambda: _crop("binary_blobs", 0, 0),
    "line_art": _line_art,
    "page": lambda: _crop("page", 40, 60),
    "text": lambda: _crop("text", 40, 60),
    "screenshot": _screenshot,
    "logo": lambda: _crop("logo", 200, 200, channels=3),
    "soft_text": lambda: _drawn(_soft_text),
    "coloured_lines": lambda: _drawn(_coloured_lines),
    "plot": _plot,
    "colorwheel": lambda: _crop("colorwheel", 100, 100),
    "dithered": lambda: _dithered(_crop("camera", 60, 180)),
    "dithered_gradient": lambda: _dithered(_gradient()[..., 0]),
    "halftone": lambda: _halftone(_crop("camera", 60, 180)),
    "halftone_gradient": lambda: _halftone(_gradient()[..., 0], 4),
    # patterns
    "checkerboard_1": lambda: _checkerboard(1),
    "checkerboard_2": lambda: _checkerboard(2),
    "checkerboard_5": lambda: _checkerboard(5),
    "checkerboard_16": lambda: _checkerboard(16),
    "stripes_2.5": lambda: _stripes(2.5),
    "stripes_4": lambda: _stripes(4),
    "stripes_7_turned": lambda: _stripes(7, 0.5),
    "stripes_20": lambda: _stripes(20, 1.0),
    "sharp_stripes_1": lambda: _sharp_stripes(1),
    "sharp_stripes_3": lambda: _sharp_stripes(3),
    # smooth and flat
    "gradient": _gradient,
    "grey_gradient": lambda: _gradient()[..., 0],
    "faint_gradient": lambda: 0.4 + 0.05 * _gradient()[..., 0],
    "flat_grey": lambda: np.full((SIDE, SIDE), 0.5),
    "flat_colour": lambda: np.tile(np.array([0.8, 0.4, 0.1]), (SIDE, SIDE, 1)),
    "black": lambda: np.zeros((SIDE, SIDE)),
    "white": lambda: np.ones((SIDE, SIDE, 3)),
    "soft_blobs": lambda: _smooth(3, 4, 0.15),
    # points
    "night_sky": _night_sky,
    "night_sky_colour": lambda: _rgb(_night_sky()) * np.array([1, 0.95, 0.8]),
    "hubble": lambda: _crop("hubble_deep_field", 300, 300),
    "hubble_corner": lambda: _crop("hubble_deep_field", 0, 0),
    "bright_dots": _bright_dots,
    # fine texture
    "brick": lambda: _crop("brick", 100, 100),
    "grass": lambda: _crop("grass", 100, 100),
    "gravel": lambda: _crop("gravel", 100, 100),
    "fine_texture": lambda: _smooth(4, 1, 0.15),
    "noise_alone": lambda: RNG(6).normal(0.5, 0.12, (SIDE, SIDE)).clip(0, 1),
    "uniform_noise": lambda: RNG(7).uniform(0, 1, (SIDE, SIDE, 3)),
    # sizes
    "tiny_8": lambda: _crop("chelsea", 100, 150, 8),
    "tiny_12_grey": lambda: _crop("camera", 100, 220, 12),
    "tiny_16": lambda: _crop("coffee", 120, 240, 16),
    "tiny_24_grey": lambda: _crop("coins", 80, 80, 24),
    "tiny_40": lambda: _crop("astronaut", 60, 200, 40),
    "face_25": lambda: skimage.data.lfw_subset()[0],
    "wide": lambda: _crop("coffee", 150, 100, 300)[:10, :300],
    "tall_grey": lambda: _crop("camera", 50, 200, 300)[:300, :12],
    "row_of_9": lambda: _crop("chelsea", 100, 50, 200)[:9, :200],
}


@functools.cache
def picture(name):
    """Float64 (h, w) or (h, w, 3) in 0 to 1, whole grey levels of 255; to be read only."""
    image = np.round(255 * MAKERS[name]()) / 255
    image.setflags(write=False)
    return image


def white(image, level, seed=0, one_for_all_channels=False):
    """With white noise of a standard deviation in grey levels of 255."""
    shape = (*image.shape[:2], 1) if one_for_all_channels else image.shape
    return image + level / 255 * RNG(seed).normal(size=shape)


def correlated(image, level, seed=0):
    """White noise after a 3 x 3 kernel, of standard deviation `level`."""
    noise = RNG(seed).normal(size=image.shape)
    for axis in (0, 1):
        noise = np.roll(noise, 1, axis) + 2 * noise + np.roll(noise, -1, axis)
    return image + level / 255 * noise / 6


def counts(image, largest, seed=0):
    """Poisson counts, `largest` at white."""
    return RNG(seed).poisson(image * largest) / largest


def stored(image):
    """As a file of 8 bits holds it."""
    return np.round(255 * image.clip(0, 1)) / 255
