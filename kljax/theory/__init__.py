"""The analytic side: exact laws, fixed points, bounds and fits."""
