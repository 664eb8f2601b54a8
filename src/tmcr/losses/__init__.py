"""Losses as pure functions on tensors."""

from tmcr.losses.contrastive import rank_n_contrast_loss, supcon_loss
from tmcr.losses.emd import emd_loss
from tmcr.losses.traversal import traversal_loss

__all__ = ["emd_loss", "rank_n_contrast_loss", "supcon_loss", "traversal_loss"]
