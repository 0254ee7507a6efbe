"""Proof that two backends have the same network: forward, gradients, running statistics, one step of each optimizer.

trial.py        weights, a batch, a loss and optimizers, the same for all
evidence.py     what one backend made of it; node_errors.py where two part
certify.py      two of them compared
certificate.py  the signed file, and which of them covers a run

May import: NumPy; `arrays`, `backends.base`, `backends.registry`, `config`, `errors`, `files`, `losses`,
`models.catalogue`, `network`, `optimizers`, `provenance`.
"""
