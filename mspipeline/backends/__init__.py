"""What realises a graph: the abstract backend, the table of backends, one adapter a framework.

May import: `network`, `errors`, `config`. A framework is imported inside its own adapter, when a network is built.
"""
