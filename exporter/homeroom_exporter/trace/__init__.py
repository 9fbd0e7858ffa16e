"""Tracing of training and prediction steps to ONNX graphs."""
