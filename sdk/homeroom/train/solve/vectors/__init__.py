"""Vectors of samples for statistics: raw numbers by block, projected and brought to the grid."""
