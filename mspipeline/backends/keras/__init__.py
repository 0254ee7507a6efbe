"""Keras 3: a graph becomes a functional model; the engine below it is chosen once per process.

backend.py  what the engines share. layers.py: operation -> layer
tensorflow.py, torch.py, jax.py  the steps of each engine, and where it has them layers of its own (`..._layers`)
joint.py    what processes that share a batch exchange; torch_group.py on PyTorch
torch_updates.py  an optimizer's updates on PyTorch

May import: NumPy, Keras, TensorFlow, PyTorch, JAX; `arrays`, `backends.base`, `backends.dropout_masks`,
`backends.process_group`, `backends.user_settings`, `errors`, `files`, `losses`, `network`, `optimizers`. Keras and the
engines are imported inside their own modules, when a network is built.
"""
