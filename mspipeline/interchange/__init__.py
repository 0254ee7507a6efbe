"""Networks in files of others: ONNX (`onnx`), published weights (`nicms_weights`), and runs made of them (`runs`).

May import: NumPy; `errors`, `hdf5`, `network`.
"""
