"""Quantization and compression of backbones."""
