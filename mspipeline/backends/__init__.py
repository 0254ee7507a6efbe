"""What realises a graph: the abstract backend, the table of backends, one adapter a framework, and proof of sameness.

base.py        what every backend does; losses, optimiser and results as data
registry.py    the table of backends: what each needs, and what brings it
keras.py       what the engines of Keras 3 share; `keras_layers` (operation -> layer), `keras_losses`; for each engine
               its steps (`keras_tensorflow`, `keras_torch`, `keras_jax`) and layers of its own (`..._layers`)
eddl.py        PyEDDL: `eddl_library` (loading, threads, noise), `eddl_layers` (operation -> layers, refusals),
               `eddl_network`, `eddl_races`, `eddl_training`
onnxruntime.py prediction alone
certify.py     compares what two backends made of a trial: `trial`, `evidence`, `node_errors`, the file `certificate`

May import: `network`, `models.catalogue`, `provenance`, `config`, `files`, `errors`. A framework is imported inside
its own adapter, when a network is built.
"""
