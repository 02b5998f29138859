from ._deprecated import score as score
from .data.images import load_images as load_images
from .densities import Density as Density
from .densities import fit as fit
from .fokker_planck.embedding import embed as embed
from .fokker_planck.operators.differences import gradient as gradient
from .fokker_planck.operators.drift import AffineDrift as AffineDrift
from .fokker_planck.pixel_density import log_density as log_density
from .fokker_planck.solution import Solution as Solution
from .fokker_planck.solve import solve as solve
from .methods.samplers.heun import heun as heun
from .methods.samplers.rk45 import rk45 as rk45
from .restoration.denoising import denoise as denoise
from .restoration.denoising import estimate_noise as estimate_noise
from .restoration.inpainting import inpaint as inpaint
from .restoration.noise import Noise as Noise
from .sde import VarianceExploding as VarianceExploding
from .sde import VariancePreserving as VariancePreserving

__version__: str
