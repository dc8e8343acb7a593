"""Networks over images: denoisers, discriminator heads, classifiers."""

__all__ = ["classifier", "discriminator", "dit", "edm", "images", "resnet", "unet"]
