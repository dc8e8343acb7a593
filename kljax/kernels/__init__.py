"""How divergences are computed: arrays in, arrays out; knows nothing of papers."""
