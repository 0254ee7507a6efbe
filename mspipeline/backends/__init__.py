"""What realises a graph: the abstract backend, the table of backends, one adapter a framework, and proof of sameness.

base.py        what every backend does; optimizer and results as data
registry.py    the table of backends: what each needs, and what brings it
keras/         one adapter for three engines: TensorFlow, PyTorch, JAX
eddl/          PyEDDL
onnxruntime.py prediction alone
certification/ proof that two backends have the same network
process_group.py  the processes that train one network together
dropout_masks.py  what dropout drops, the same on every backend
user_settings.py  what of a user's settings of the frameworks is put aside

May import: NumPy, onnxruntime; `errors`, `interchange.onnx`, `losses`, `network`, `optimizers`,
`plugins`. A framework is imported inside its own adapter, when a network is built.
"""
