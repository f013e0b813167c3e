"""The interactive pieces: ``lab()`` trains a VAE in a page, ``show()`` looks into trained ones."""

from explorer.explorer import show
from explorer.lab import lab

__all__ = ["lab", "show"]
