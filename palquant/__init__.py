"""PalQuant on an open accelerator: train, compile, simulate in RTL, compare every value."""

__version__ = "0.1.0"
