"""nnU-Net v2: trained folders, and the zips that it exports; inference without nnU-Net, label for label."""

from bts.inference.foreign.nnunet.convert import convert, recognises
from bts.inference.foreign.nnunet.predict import NnunetPredictor as predictor

__all__ = ["convert", "predictor", "recognises"]
