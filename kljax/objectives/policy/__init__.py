"""What the gradient of a penalty on a policy estimates, and objectives built on it.

A penalty is a function of log-probabilities of samples. `penalty` makes the two forms
that are right for every divergence, `space` holds all sequences of a small vocabulary,
`certify` says there, exactly, what any function's expected gradient is, `legacy` is the
table of formulas in use, each certified before it is handed out. `dpg` draws a policy
to an unnormalized target.

``python -m kljax.objectives.policy certify --estimator k3 --placement loss``
"""
