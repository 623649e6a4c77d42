"""Finds, describes and edits the convolutions of an ONNX graph; `graph.openvino` does it for an `ov.Model`."""
