"""A model from its run folder."""

from __future__ import annotations

import logging

import torch

from score_embedding.config.schema import AnyConfig
from score_embedding.methods.base import method_of
from score_embedding.methods.model import TrainedModel, build_network
from score_embedding.runs.folder import RunFolder
from score_embedding.training import checkpoints

log = logging.getLogger(__name__)


def load_model(
    folder: RunFolder, config: AnyConfig, num_images: int, device: torch.device
) -> TrainedModel:
    """The model of a run folder, which was trained on N images, on the device.

    Raises
    ------
    CheckpointError, RunFolderError : a file is missing, damaged, or another model's.
    """
    method, network = method_of(config), None
    if method.trained:
        network = build_network(method, num_images, device)
        state = checkpoints.load(folder, network)
        log.info("model of %d steps loaded from %s", state["step"], folder.path)
    return TrainedModel(method, network, method.load(folder.path, device))
