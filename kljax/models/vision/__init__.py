"""Networks over images: denoisers, discriminator heads, the classifier that judges."""

__all__ = [
    "classifier",
    "discriminator",
    "dit",
    "edm",
    "images",
    "unet",
]
