"""Predictions for many images."""
