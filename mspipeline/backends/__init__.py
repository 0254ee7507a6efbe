"""What realises a graph: the abstract backend, the table of backends, one adapter a framework, and proof of sameness.

base.py        what every backend does; losses, optimiser and results as data
registry.py    the table of backends: what each needs, and what brings it
keras/         one adapter for three engines: TensorFlow, PyTorch, JAX
eddl/          PyEDDL
onnxruntime.py prediction alone
certification/ proof that two backends have the same network
process_group.py  the processes that train one network together

May import: NumPy, onnxruntime; `config`, `errors`, `network`. A framework is imported inside its own adapter, when a
network is built.
"""
