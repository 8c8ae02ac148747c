"""The laboratory of knowledge transfer between already-trained image classifiers."""

__version__ = "0.1.0"
