"""Datasets, their images as tensors, and batches of them for training and evaluation."""
