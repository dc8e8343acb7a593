"""The parts of the logit fusion experiment."""
