"""What is minimized: pure functions of model outputs, losses per example.

Each file is one subject; it knows divergences but no models and no training loop.
"""
