"""Networks over images: denoisers, discriminator heads, the classifier that judges."""
