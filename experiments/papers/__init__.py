"""Papers: a file each, or a folder of at most three for the heaviest."""
