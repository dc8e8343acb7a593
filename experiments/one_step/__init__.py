"""What experiments with one-step generators share: training, judging, pictures.

Images (any data set): `data`, `networks`, `training`, `judge`, `session`, `verdicts`,
`figures`. Points in the plane and laws on a line, where all is known exactly:
`ring_training`, `ring_line`, `ring_session`, `ring_verdicts`, `ring_figures`.
"""
