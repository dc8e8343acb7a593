"""Runnable reproductions of papers: ``python -m experiments list``."""
