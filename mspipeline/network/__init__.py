"""Networks as data: operations, graphs, costs, initial weights. No framework is needed to build, count or hash one.

May import: NumPy; `errors`, `files`.
"""
